"""What a publisher's module hands over: samples to read, and files that it had to leave out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from trainer.data.dicom import is_dicom
from trainer.data.images import Array
from trainer.errors import DataError

NUM_NAMES_SHOWN = 10
# Formats of volumes and series, and a program that turns each into images.
CONVERTERS = {
    ".nii": "NIfTI volumes are not read; med2image (PyPI) turns them into PNG slices",
    ".nii.gz": "NIfTI volumes are not read; med2image (PyPI) turns them into PNG slices",
    ".mha": "MetaImage volumes are not read; SimpleITK (PyPI) writes their slices as PNG",
    ".mhd": "MetaImage volumes are not read; SimpleITK (PyPI) writes their slices as PNG",
    ".nrrd": "NRRD volumes are not read; SimpleITK (PyPI) writes their slices as PNG",
    ".dcm": "DICOM is read for Sunnybrook only; dcm2img of DCMTK writes slices as PNG",
    ".dicom": "DICOM is read for Sunnybrook only; dcm2img of DCMTK writes slices as PNG",
}


@dataclass(frozen=True)
class Content:
    """A sample's image and mask: a file to copy byte for byte, or pixels to write as PNG.

    Image (H, W) or (H, W, 3), uint8 or uint16; mask (H, W) with one value a pixel.
    """

    image: Path | Array
    mask: Path | Array


@dataclass(frozen=True)
class Sample:
    """An image with its mask, not read yet.

    Attributes:
        name: stem of both files in the prepared folder; unique.
        group: the patient, or the sample's own name; a group is never split.
        sources: files that it is read from; a change of one has it read anew.
        read: reads it; raises DataError with the file's name where it cannot be used.
        part: the publisher's own split, None to draw one.
        stratum: the split is drawn within each (benign, malignant, …).
    """

    name: str
    group: str
    sources: tuple[Path, ...]
    read: Callable[[], Content]
    part: Literal["train", "test"] | None = None
    stratum: str = ""


@dataclass(frozen=True)
class Skipped:
    """A file that is left out, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class Found:
    """All that an archive holds.

    Attributes:
        samples: to be read, sorted by name.
        skipped: left out already.
        num_classes: 2 for masks of {0, 255}, more for class ids from 0; None: as they come.
        notes: what a user should know of the archive.
    """

    samples: list[Sample]
    skipped: list[Skipped] = field(default_factory=list)
    num_classes: int | None = 2
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Publisher:
    """Where an archive is offered, and what it looks like when it is unpacked."""

    title: str
    page: str
    tree: tuple[str, ...]

    def missing(self, source: Path, what: Iterable[str] = ()) -> DataError:
        """Return the error for an archive that is not there, or not all of it."""
        names = list(what)
        if names:
            lines = [f"{source}: not the whole archive of {self.title}; missing: {shown(names)}"]
        else:
            lines = [f"--source: no archive of {self.title} in {source}"]
        lines.append(f"its publisher offers it at {self.page}; unpacked, it looks like this:")
        return DataError("\n".join([*lines, *(f"  {line}" for line in self.tree)]))


def shown(names: list[str]) -> str:
    """Join names, the first ten of them."""
    more = f", … ({len(names)} in all)" if len(names) > NUM_NAMES_SHOWN else ""
    return ", ".join(names[:NUM_NAMES_SHOWN]) + more


def plain_name(text: str) -> str:
    """Return a text as a file name without blanks, brackets and other traps of a shell."""
    return re.sub(r"[^\w.+-]+", "_", text).strip("_") or "_"


def refuse_volume(path: Path) -> None:
    """Refuse volumes and series with the name of a converter.

    Raises:
        DataError: the file's suffix is that of one.
    """
    for suffix, advice in CONVERTERS.items():
        if path.name.lower().endswith(suffix):
            raise DataError(f"{path}: {advice}")
    if is_dicom(path):  # without a suffix
        raise DataError(f"{path}: {CONVERTERS['.dcm']}")
