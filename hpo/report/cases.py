"""The winner's images: the Dice of each, and the worst and typical ones to be looked at.

They are in one folder, which `hpo.run.cases` fills with the worker's help: copies of a few images
with their masks and with what the winner segments there, and `index.json`.
"""

from __future__ import annotations

import base64
import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hpo.dataset.intervals import MAX_CLASSES, classes_averaged, read_rows
from hpo.folders import read_json
from hpo.results.metrics import parse_dice
from trainer import rundir
from trainer.bounded import finite
from trainer.data.images import read_image, read_mask
from trainer.data.overlay import shown
from trainer.data.survey import MaskCoding
from trainer.errors import DataError
from trainer.metrics.bootstrap import column

INDEX = "index.json"
NUM_WORST, NUM_TYPICAL, NUM_BEST = 12, 6, 3
BEST = "best"  # cases for Optuna's dashboard, not for the report
OWN_SIZE = "_own_size"  # ends a column of per_image.csv, see docs/config.md
SIZE_PX = 320  # the longer side of a picture
JPEG_QUALITY = 80
MAX_OUTLINES = 64  # classes of a picture
TOLERANCE_PX = 0.4  # of an outline, in the picture


@dataclass(frozen=True, kw_only=True)
class ImageScores:
    """The Dice of each image and class, of one evaluation.

    Attributes:
        at_own_size: at the images' own size, or else at the network's.
        dice: of each image, the classes' as in `classes`.
        per_class: the pooled figures of each class (dice, iou, sensitivity, …).
        names_by_id: of all classes, be they averaged or not; the first is that of id 0.
    """

    at_own_size: bool
    classes: tuple[str, ...]
    names: tuple[str, ...]
    dice: tuple[tuple[float, ...], ...]
    per_class: Mapping[str, Mapping[str, float]]
    names_by_id: tuple[str, ...] = ()

    def means(self) -> list[float]:
        """Return the mean over the classes, of each image."""
        return [math.fsum(row) / len(row) for row in self.dice]

    def chosen(self) -> list[tuple[int, str]]:
        """Return which images are shown: the worst, typical ones around the median, the best."""
        means = self.means()
        ranked = sorted(range(len(means)), key=lambda index: (means[index], self.names[index]))
        worst, rest = ranked[:NUM_WORST], ranked[NUM_WORST:]
        middle = max(0, len(ranked) // 2 - NUM_TYPICAL // 2 - len(worst))
        typical = rest[min(middle, max(0, len(rest) - NUM_TYPICAL)) :][:NUM_TYPICAL]
        # 1 is nothing found where nothing is, and nothing to look at
        found = [index for index in rest if means[index] < 1]
        best = [index for index in found[-NUM_BEST:] if index not in typical]
        groups = (("worst", worst), ("typical", typical), (BEST, best))
        return [(index, kind) for kind, indices in groups for index in indices]


def read_image_scores(run_dir: Path, num_images: int) -> ImageScores | None:
    """Read what an evaluation of so many images left in its folder, which is the worker's.

    None of an engine that leaves no such table, or one that cannot be of these images.
    """
    try:
        entry = rundir.read_metrics(run_dir, num_epochs=0)[-1]
        classes = classes_averaged(run_dir)
        rows, at_own_size = _rows(run_dir, classes, num_images)
        figure = f"dice{OWN_SIZE}" if at_own_size else "dice"
        dice = tuple(
            tuple(parse_dice(row[column(name, figure)]) for name in classes) for row in rows
        )
        scores = entry["own_size"] if at_own_size else entry
        per_class = {
            name: {
                str(key): value
                for key, each in scores["per_class"][name].items()
                if (value := finite(each)) is not None
            }
            for name in classes
        }
        if not rows or not classes:
            return None
    except (LookupError, TypeError, ValueError, AttributeError, csv.Error, DataError):
        return None
    return ImageScores(
        at_own_size=at_own_size,
        classes=tuple(classes),
        names=tuple(row["name"] for row in rows),
        dice=dice,
        per_class=per_class,
        names_by_id=tuple(map(str, entry["per_class"]))[:MAX_CLASSES],
    )


def _rows(
    run_dir: Path, classes: Sequence[str], num_images: int
) -> tuple[list[dict[str, str]], bool]:
    """Return the Dice of each image, at its own size (True) where that is known."""
    own, at_network = (
        [column(name, figure) for name in classes] for figure in (f"dice{OWN_SIZE}", "dice")
    )
    try:
        return read_rows(run_dir, own, num_images), True
    except KeyError:
        return read_rows(run_dir, at_network, num_images), False


def write_index(
    folder: Path,
    scores: ImageScores,
    *,
    of: Mapping[str, Any],
    cases: Iterable[Mapping[str, Any]],
    data: Mapping[str, Any],
) -> None:
    """Write what the folder holds.

    Args:
        folder: the folder.
        scores: of all images.
        of: trial, attempt and part ("test" or "validation").
        cases: name, kind, image, target and mask (files in the folder) of each that is shown.
        data: `mask_values` and `mask_threshold` of the model's config.
    """
    entry = {**of, "scores": asdict(scores), "cases": [*cases], "data": dict(data)}
    rundir.write_atomic(folder / INDEX, json.dumps(entry))


@dataclass(frozen=True, kw_only=True)
class Case:
    """An image to look at, as the page draws it; the outlines are SVG paths by class."""

    name: str
    kind: str
    dice: float
    picture: str  # a data URI
    size: tuple[int, int]  # width, height
    truth: Mapping[int, str]
    predicted: Mapping[int, str]


@dataclass(frozen=True, kw_only=True)
class Cases:
    """All that is known of a model's images."""

    part: str
    scores: ImageScores
    shown: tuple[Case, ...]


def read_index(folder: Path, trial: int, attempt: int) -> dict[str, Any] | None:
    """Return what `write_index` has written of one trial's model; None of another or none."""
    entry = read_json(folder / INDEX)
    return entry if (entry.get("trial"), entry.get("attempt")) == (trial, attempt) else None


def read_cases(folder: Path, trial: int, attempt: int) -> Cases | None:
    """Return the cases of one trial's model; None where there are none, or another attempt's."""
    entry = read_index(folder, trial, attempt)
    if entry is None:
        return None
    stored = entry["scores"]
    scores = ImageScores(
        at_own_size=stored["at_own_size"],
        classes=tuple(stored["classes"]),
        names=tuple(stored["names"]),
        dice=tuple(map(tuple, stored["dice"])),
        per_class=stored["per_class"],
        names_by_id=tuple(stored.get("names_by_id", ())),
    )
    means = dict(zip(scores.names, scores.means(), strict=True))
    cases = []
    for case in entry["cases"]:
        if case["kind"] == BEST:
            continue
        try:
            cases.append(_read_case(folder, case, means[case["name"]], entry["data"]))
        except (OSError, KeyError, DataError):  # the worker wrote no mask, or somebody removed one
            continue
    return Cases(part=entry["part"], scores=scores, shown=tuple(cases))


def read_arrays(
    folder: Path, case: Mapping[str, str], data: Mapping[str, Any]
) -> tuple[NDArray[np.uint8], NDArray[Any], NDArray[Any]]:
    """Return the image of a case, 8 bits (BGR), and the classes of its mask and prediction.

    Args:
        folder: of the cases.
        case: one of the index.
        data: what the index says of masks.
    """
    image = shown(read_image(folder / case["image"], gray=False))
    truth, predicted = (read_mask(folder / case[key]) for key in ("target", "mask"))
    values, threshold = data.get("mask_values"), data.get("mask_threshold")
    if threshold is not None:
        truth = np.asarray(truth >= threshold, np.uint8)
        predicted = np.asarray(predicted > 0, np.uint8)
    elif values:
        coding = MaskCoding("values", len(values), tuple(values), {})
        truth, predicted = coding.encode(truth), coding.encode(predicted)
    return image, truth, predicted


def _read_case(
    folder: Path, case: Mapping[str, str], dice: float, data: Mapping[str, Any]
) -> Case:
    image, truth, predicted = read_arrays(folder, case, data)
    height, width = image.shape[:2]
    scale = min(1.0, SIZE_PX / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image
    done, encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise DataError(f"{case['image']}: cannot be encoded")
    return Case(
        name=case["name"],
        kind=case["kind"],
        dice=dice,
        picture="data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode(),
        size=size,
        truth=outlines(truth, scale),
        predicted=outlines(predicted, scale),
    )


def outlines(classes_HW: NDArray[Any], scale: float) -> dict[int, str]:
    """Return the outline of each class but the background, as the `d` of an SVG path.

    Args:
        classes_HW: class ids.
        scale: of the picture that the outline is drawn on.
    """
    found = {}
    # a worker's mask of noise would be thousands of regions
    for class_id in np.unique(classes_HW[classes_HW != 0])[:MAX_OUTLINES].tolist():
        region = np.asarray(classes_HW == class_id, np.uint8)
        # the outlines of pixels, not of their centres: else a small lesion would be drawn smaller
        grown = cv2.resize(region, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
        lines, _ = cv2.findContours(grown, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        found[int(class_id)] = "".join(_path(line, scale) for line in lines)
    return found


def _path(line: NDArray[Any], scale: float) -> str:
    line = cv2.approxPolyDP(line, 2 * TOLERANCE_PX / scale, closed=True)
    points: Sequence[Sequence[float]] = ((line.reshape(-1, 2) + 0.5) / 2 * scale).tolist()
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + "Z"
