"""Tells DICOM files, whose names need not say what they are."""

from __future__ import annotations

from pathlib import Path

SUFFIXES = (".dcm", ".dicom")
_PREAMBLE = 128  # bytes that mean nothing, then DICM
# How a file without them begins: a tag of the group 2 or 8, least byte first, with a low element.
_FIRST_TAGS = (b"\x02\x00\x00\x00", b"\x02\x00\x01\x00", b"\x02\x00\x02\x00", b"\x08\x00\x00\x00",
               b"\x08\x00\x01\x00", b"\x08\x00\x05\x00", b"\x08\x00\x08\x00", b"\x08\x00\x12\x00",
               b"\x08\x00\x16\x00")  # fmt: skip


def is_dicom(path: Path) -> bool:
    """Say whether a file is DICOM: by its suffix in any case or, where it has none, by its bytes.

    Writers name files after their UID (1.2.840.113619), whose end is no suffix either.
    """
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return True
    if suffix and not suffix[1:].isdecimal():
        return False
    try:
        if not path.is_file():  # a pipe would block
            return False
        with path.open("rb") as file:
            start = file.read(_PREAMBLE + 4)
    except OSError:
        return False
    return start[_PREAMBLE:] == b"DICM" or start[:4] in _FIRST_TAGS
