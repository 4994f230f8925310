"""Draws a few of the winner's images with mask and prediction, as small pictures for a dashboard.

They are drawn from the folder of cases that the report has (`hpo.run.cases`), so that no worker
runs for them.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hpo.report.cases import read_arrays, read_index
from trainer.data.overlay import dashed_outlines, overlay
from trainer.errors import DataError

NUM_WORST, NUM_BEST = 3, 3
SIDE_PX = 256  # of the longer side, less where that is too large a file
MAX_BYTES = 60_000
_SMALLER = 0.8


def case_pictures(folder: Path, trial: int, attempt: int) -> dict[str, bytes]:
    """Return file name -> PNG of the worst and the best cases of a trial's model.

    Tinted is what the model finds, dashed the outline of the mask. None where there are no cases.
    """
    entry = read_index(folder, trial, attempt)
    if entry is None:
        return {}
    scores = entry["scores"]
    means = {
        name: math.fsum(row) / len(row)
        for name, row in zip(scores["names"], scores["dice"], strict=True)
    }
    ranked = sorted(entry["cases"], key=lambda case: means[case["name"]])
    rest = ranked[NUM_WORST:][::-1]
    # nothing where nothing is: right, and nothing to be seen
    best = [case for case in rest if means[case["name"]] < 1] or rest
    pictures = {}
    for kind, cases in (("worst", ranked[:NUM_WORST]), ("best", best[:NUM_BEST])):
        for place, case in enumerate(cases, start=1):
            try:
                picture = _picture(*read_arrays(folder, case, entry["data"]))
            except (OSError, KeyError, DataError):  # the worker wrote no mask
                continue
            name = f"{entry['part']}_{kind}_{place}_dice_{means[case['name']]:.3f}.png"
            pictures[name] = picture
    return pictures


def _picture(
    image_HW3: NDArray[np.uint8], truth_HW: NDArray[Any], predicted_HW: NDArray[Any]
) -> bytes:
    side = float(SIDE_PX)
    while True:
        drawn = _drawn(image_HW3, truth_HW, predicted_HW, side)
        done, encoded = cv2.imencode(".png", drawn, [cv2.IMWRITE_PNG_COMPRESSION, 6])
        if not done:
            raise DataError("a picture cannot be encoded")
        if len(encoded) <= MAX_BYTES:
            return bytes(encoded.tobytes())
        side *= _SMALLER


def _drawn(
    image_HW3: NDArray[np.uint8],
    truth_HW: NDArray[Any],
    predicted_HW: NDArray[Any],
    side: float,
) -> NDArray[np.uint8]:
    """Return the image with mask and prediction, its longer side so many pixels."""
    height, width = image_HW3.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    small = np.asarray(cv2.resize(image_HW3, size, interpolation=way), np.uint8)
    truth, predicted = (
        cv2.resize(np.asarray(classes, np.int32), size, interpolation=cv2.INTER_NEAREST)
        for classes in (truth_HW, predicted_HW)
    )
    return dashed_outlines(overlay(small, predicted), truth)
