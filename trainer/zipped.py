"""Reads members of zip archives that nobody vouches for: .keras, .pt, .npz.

What an archive says of its members may be wrong, and a few kB may unpack to gigabytes: each member
is unpacked piece by piece, to no more than the caller needs.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
from pathlib import Path
from typing import IO

from trainer.bounded import BoundError, open_regular

MAX_DIRECTORY_BYTES = 8 * 2**20  # of the list of members: some 100,000 of them
_PIECE = 2**16
_END, _END_BYTES, _MAX_COMMENT = b"PK\x05\x06", 22, 2**16
_LOCAL_BYTES = 30


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open an archive whose list of members is no longer than a real one's.

    Raises:
        BoundError: it is no regular file, or the list is.
        zipfile.BadZipFile, OSError: it is no archive, or cannot be read.
    """
    file = io.BufferedReader(Window(path))
    size = _directory_bytes(file)
    if size > MAX_DIRECTORY_BYTES:
        raise BoundError(f"{path}: its list of members has {size} bytes")
    return zipfile.ZipFile(file)


def _directory_bytes(file: IO[bytes]) -> int:
    total = file.seek(0, os.SEEK_END)
    file.seek(max(0, total - _END_BYTES - _MAX_COMMENT))
    end = file.read()
    at = end.rfind(_END)
    file.seek(0)
    if at < 0 or len(end) < at + _END_BYTES:
        return 0  # no archive, as zipfile will say
    (size,) = struct.unpack_from("<I", end, at + 12)
    # The long form has 64 bits, before this one.
    long = end.rfind(b"PK\x06\x06", 0, at)
    if size == 0xFFFFFFFF and 0 <= long <= at - 56:
        (size,) = struct.unpack_from("<Q", end, long + 40)
    return int(size)


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, max_bytes: int) -> bytes:
    """Return what a member holds.

    Raises:
        BoundError: it is more than `max_bytes`.
        zipfile.BadZipFile, zlib.error, …: it is damaged.
    """
    if info.file_size > max_bytes:
        raise BoundError(f"{info.filename} unpacks to {info.file_size} bytes")
    content = bytearray()
    with archive.open(info) as member:
        while piece := member.read(_PIECE):  # all at once would unpack first and count then
            content += piece
            if len(content) > max_bytes:
                raise BoundError(f"{info.filename} unpacks to more than {max_bytes} bytes")
    return bytes(content)


def stored_at(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> int:
    """Return where the bytes of a member that is not packed begin in the file.

    Raises:
        BoundError: it is packed or encrypted, or reaches beyond the file.
    """
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise BoundError(f"{info.filename} is packed; write it anew without compression")
    file = archive.fp
    assert file is not None
    file.seek(info.header_offset)
    head = file.read(_LOCAL_BYTES)
    if len(head) < _LOCAL_BYTES or head[:4] != b"PK\x03\x04":
        raise BoundError(f"{info.filename} is not where the archive says")
    name, extra = struct.unpack_from("<HH", head, 26)
    start = info.header_offset + _LOCAL_BYTES + int(name) + int(extra)
    if info.file_size != info.compress_size or start + info.file_size > file.seek(0, os.SEEK_END):
        raise BoundError(f"{info.filename} is cut off")
    return start


def refuse_packed(archive: zipfile.ZipFile, folder: str) -> None:
    """Refuse an archive that holds more than its file: packed members, or shared bytes.

    Args:
        archive: it.
        folder: "/data/", say; members without it in their name are not looked at.

    Raises:
        BoundError: it does.
    """
    members = [info for info in archive.infolist() if folder in info.filename]
    file = archive.fp
    assert file is not None
    for info in members:
        if info.compress_type != zipfile.ZIP_STORED:
            raise BoundError(f"{info.filename} is packed; write it anew without compression")
    if sum(info.file_size for info in members) > file.seek(0, os.SEEK_END):
        raise BoundError("its members have more bytes than the file")


class Window(io.RawIOBase):
    """The bytes of a file from `start` on, `size` of them, as a file to read."""

    def __init__(self, path: Path, start: int = 0, size: int | None = None) -> None:
        super().__init__()
        self._descriptor = open_regular(path, follow_links=True)
        self._start, self._at = start, 0
        self._size = os.fstat(self._descriptor).st_size if size is None else size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        wanted = max(0, min(len(view), self._size - self._at))
        found = os.pread(self._descriptor, wanted, self._start + self._at)
        view[: len(found)] = found
        self._at += len(found)
        return len(found)

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()
