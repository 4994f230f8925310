"""The Sunnybrook Cardiac Data: DICOM slices, and contours as text files beside or apart.

Two conventions: the challenge's (`SC-HF-I-1/…/IM-0004-0048.dcm`), and the Cardiac Atlas's
(`SCD0000101/…/48.dcm` with a CSV that says which `SC-…` each patient is).
"""

from __future__ import annotations

import csv
import io
import re
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from studies.prepare.samples import Content, Found, Publisher, Sample, Skipped
from studies.sunnybrook.dicom import Window, fill_contour, read_contour, read_slice
from trainer.bounded import read_bytes
from trainer.data.dicom import is_dicom
from trainer.errors import DataError

PUBLISHER = Publisher(
    "the Sunnybrook Cardiac Data (Radau et al. 2009)",
    "https://www.cardiacatlas.org/sunnybrook-cardiac-data/",
    (
        "either …/SC-HF-I-1/…/IM-0004-0048.dcm",
        "or     …/SCD0000101/…/48.dcm (or IM-0004-0048.dcm), with a CSV of the columns",
        "       patient_id,original_id (SCD0000101,SC-HF-I-1)",
        "and    …/SC-HF-I-1/…/IM-0001-0048-icontour-manual.txt",
    ),
)

MAX_TABLE_BYTES = 2**24

# The short-axis series of each patient, as users of the challenge's data have established it:
# the contours are numbered as if there were one series only.
SHORT_AXIS = {
    "SC-HF-I-1": 4, "SC-HF-I-2": 106, "SC-HF-I-4": 116, "SC-HF-I-5": 156, "SC-HF-I-6": 180,
    "SC-HF-I-7": 209, "SC-HF-I-8": 226, "SC-HF-I-9": 241, "SC-HF-I-10": 24, "SC-HF-I-11": 43,
    "SC-HF-I-12": 62, "SC-HF-I-40": 134, "SC-HF-NI-3": 379, "SC-HF-NI-4": 501,
    "SC-HF-NI-7": 523, "SC-HF-NI-11": 270, "SC-HF-NI-12": 286, "SC-HF-NI-13": 304,
    "SC-HF-NI-14": 331, "SC-HF-NI-15": 359, "SC-HF-NI-31": 401, "SC-HF-NI-33": 424,
    "SC-HF-NI-34": 446, "SC-HF-NI-36": 474, "SC-HYP-1": 550, "SC-HYP-3": 650, "SC-HYP-6": 767,
    "SC-HYP-7": 7, "SC-HYP-8": 796, "SC-HYP-9": 3, "SC-HYP-10": 579, "SC-HYP-11": 601,
    "SC-HYP-12": 629, "SC-HYP-37": 702, "SC-HYP-38": 734, "SC-HYP-40": 755, "SC-N-2": 898,
    "SC-N-3": 915, "SC-N-5": 963, "SC-N-6": 981, "SC-N-7": 1009, "SC-N-9": 1031,
    "SC-N-10": 851, "SC-N-11": 878, "SC-N-40": 944,
}  # fmt: skip

_CONTOUR = re.compile(r"^IM-(\d+)-(\d+)-([io])contour-manual$", re.IGNORECASE)
_SLICE = re.compile(r"^(?:IM-(\d+)-)?(\d+)$", re.IGNORECASE)
_CASE = re.compile(r"^(SC-(?:HF-I|HF-NI|HYP|N))-0*(\d+)$")
_PATIENT = re.compile(r"^SCD\d+$")

Slices = dict[tuple[int, int], Path]  # (series, slice) -> file; series 0 where it is not named


def find_samples(
    source: Path,
    *,
    contours: Literal["inner", "outer"] = "inner",
    channels: Literal["gray", "rgb"] = "gray",
    window: Window = "file",
) -> Found:
    """Pair each contour of the kind with its slice.

    Raises:
        DataError: no such archive, no slices, no contours, or no table of patients.
    """
    if not source.is_dir():
        raise PUBLISHER.missing(source)
    files = sorted(path for path in source.rglob("*") if not path.name.startswith("."))
    wanted = [p for p in files if p.suffix.lower() == ".txt" and _CONTOUR.match(p.stem)]
    images = [path for path in files if is_dicom(path)]
    missing = [
        what for what, there in (("DICOM files", images), ("contour files", wanted)) if not there
    ]
    if missing:
        raise PUBLISHER.missing(source, missing if len(missing) < 2 else ())
    slices, skipped = _index(images, source)
    samples: list[Sample] = []
    for path in wanted:
        match = _CONTOUR.match(path.stem)
        assert match is not None
        if match[3].lower() != contours[0]:
            continue
        case, number = _case_of(path, source), int(match[2])
        if case is None:
            skipped.append(Skipped(str(path), "no folder above it is named like SC-HF-I-1"))
            continue
        try:
            image = _choose(slices.get(case, {}), case, number)
        except DataError as error:
            skipped.append(Skipped(str(path), str(error)))
            continue
        samples.append(
            Sample(
                name=f"{case}_{number:04d}",
                group=case,
                sources=(image, path),
                read=partial(_read, image, path, channels, window),
            )
        )
    return Found(_unique(samples, skipped), skipped)


def _index(images: list[Path], source: Path) -> tuple[dict[str, Slices], list[Skipped]]:
    table: dict[str, str] | None = None
    slices: dict[str, Slices] = {}
    skipped: list[Skipped] = []
    for path in images:
        match = _SLICE.match(path.stem)
        case = _case_of(path, source)
        if case is None:
            patient = next((p.name for p in path.parents if _PATIENT.match(p.name)), None)
            if patient is not None and table is None:
                table = _read_table(source)
            case = (table or {}).get(patient or "")
        if case is None or match is None:
            reason = "no slice number in its name" if case else "of no patient that is known"
            skipped.append(Skipped(str(path), reason))
            continue
        slices.setdefault(case, {}).setdefault((int(match[1] or 0), int(match[2])), path)
    return slices, skipped


def _case_of(path: Path, source: Path) -> str | None:
    """Return the case that the nearest folder names, `SC-HF-I-01` as `SC-HF-I-1`."""
    for part in reversed(path.relative_to(source).parent.parts):
        match = _CASE.match(part)
        if match is not None:
            return f"{match[1]}-{match[2]}"
    match = _CASE.match(source.name)
    return f"{match[1]}-{match[2]}" if match else None


def _read_table(source: Path) -> dict[str, str]:
    """Read which SC-… each SCD… is from any CSV with both columns."""
    for path in sorted(source.rglob("*.csv")):
        try:
            content = read_bytes(path, MAX_TABLE_BYTES, follow_links=True)
            rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))
        except (OSError, ValueError, csv.Error):
            continue
        columns = {
            re.sub(r"[^a-z]", "", (key or "").lower()): key for key in (rows[0] if rows else {})
        }
        if "patientid" not in columns or "originalid" not in columns:
            continue
        table = {}
        for row in rows:
            match = _CASE.match((row[columns["originalid"]] or "").strip())
            if match is not None:
                patient = (row[columns["patientid"]] or "").strip()
                table[patient] = f"{match[1]}-{match[2]}"
        return table
    raise DataError(
        f"{source}: patients are named SCD…, contours SC-…; expected a CSV with the columns "
        "patient_id,original_id (the Cardiac Atlas calls it scd_patientdata.csv)"
    )


def _choose(slices: Slices, case: str, number: int) -> Path:
    """Return the slice that a contour was drawn on."""
    series = sorted({key[0] for key in slices})
    if not series:
        raise DataError(f"no slice of {case} is there")
    known = SHORT_AXIS.get(case)
    if len(series) > 1 and known not in series:
        raise DataError(f"{case} has the series {', '.join(map(str, series))}; which is unknown")
    chosen = known if known in series else series[0]
    if (chosen, number) not in slices:
        raise DataError(f"slice {number} of {case} is missing")
    return slices[chosen, number]


def _unique(samples: list[Sample], skipped: list[Skipped]) -> list[Sample]:
    kept: dict[str, Sample] = {}
    for sample in samples:
        first = kept.setdefault(sample.name, sample)
        if first is not sample:
            skipped.append(
                Skipped(str(sample.sources[1]), f"a second contour, after {first.sources[1]}")
            )
    return [kept[name] for name in sorted(kept)]


def _read(image: Path, contour: Path, channels: Literal["gray", "rgb"], window: Window) -> Content:
    pixels = read_slice(image, window)
    height, width = pixels.shape
    points = read_contour(contour)
    low, high = points.min(axis=0), points.max(axis=0)
    if low.min() < -0.5 or high[0] > width - 0.5 or high[1] > height - 0.5:
        raise DataError(
            f"{contour}: the contour leaves the image: x {low[0]:g} to {high[0]:g}, y {low[1]:g} "
            f"to {high[1]:g}, in {width}x{height} pixels"
        )
    mask = fill_contour(points, (height, width))
    if not mask.any():
        raise DataError(f"{contour}: the contour holds no pixel")
    if channels == "rgb":
        return Content(np.repeat(pixels[:, :, np.newaxis], 3, axis=2), mask)
    return Content(pixels, mask)
