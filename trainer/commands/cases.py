"""Compares predictions with masks, image by image, at the images' own size."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.config import NeuralNetwork
from trainer.data.images import list_images, read_mask
from trainer.data.matching import NUM_NAMES_SHOWN, Pair, match_masks
from trainer.data.survey import MaskCoding, count_values, decide_coding
from trainer.errors import DataError
from trainer.log import Log
from trainer.metrics.bootstrap import column
from trainer.metrics.counts import SegmentationCounts
from trainer.rundir import write_atomic
from trainer.wording import counted

TABLE = "cases.csv"
NUM_SHOWN = 20


class Cases:
    """The masks of some images, and what a model's predictions score on them.

    Raises:
        DataError: an image has no mask, or several; masks hold what the model does not know.
    """

    def __init__(
        self, config: NeuralNetwork, paths: Sequence[Path], images: Path, targets: Path
    ) -> None:
        links = config.data.follow_symlinks
        masks = list_images(targets, "--targets", follow_symlinks=links)
        found = match_masks(paths, masks, images, targets)
        without = [*found.alone, *(path for path, _ in found.several)]
        if without:
            names = ", ".join(path.name for path in without[:NUM_NAMES_SHOWN])
            raise DataError(
                f"--targets: {len(without)} of {counted(len(paths), 'image')} have no mask of "
                f"the same name in {targets}, or several: {names}"
            )
        self._masks = {pair.input: _target(pair) for pair in found.pairs}
        self._coding = self._decide_coding(config, targets)
        self._config = config
        self._counts: SegmentationCounts | None = None

    def compare(
        self, path: Path, name: str, classes_HW: NDArray[np.uint8], num_channels: int
    ) -> NDArray[np.uint8]:
        """Count an image's prediction; return the class ids of its mask, (H, W)."""
        target = read_mask(self._masks[path])
        if target.shape[:2] != classes_HW.shape:
            sizes = ["{}x{}".format(*each.shape[:2]) for each in (target, classes_HW)]
            raise DataError(
                f"{self._masks[path]}: the mask is {sizes[0]}, its image {sizes[1]} "
                "(height x width)"
            )
        truth = self._coding.encode(target)
        if self._counts is None:
            self._counts = SegmentationCounts(
                num_channels,
                self._config.data.class_names,
                include_background=self._config.metrics.include_background is not False,
                ignore_index=self._config.loss.ignore_index if self._config.loss else None,
            )
        self._counts.update(
            [name],
            torch.from_numpy(classes_HW[np.newaxis].astype(np.int64)),
            torch.from_numpy(truth[np.newaxis].astype(np.int64)),
        )
        return truth

    def write(self, folder: Path, log: Log) -> None:
        """Write `cases.csv`, the worst image first, and log its first lines and the scores."""
        assert self._counts is not None  # there is an image, or listing them had failed
        scores = self._counts.scores()
        rows = [
            {"name": row["name"], "dice": _mean(row, scores.classes_averaged), **row}
            for row in self._counts.per_image_rows()
        ]
        rows.sort(key=lambda row: (row["dice"], row["name"]))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomic(folder / TABLE, text.getvalue())
        for row in rows[:NUM_SHOWN]:
            log(f"Dice {row['dice']:.4f}  {row['name']}")
        if len(rows) > NUM_SHOWN:
            log(f"… and {len(rows) - NUM_SHOWN} better ones in {folder / TABLE}")
        log(
            f"dice_dataset {scores.dice_dataset:.4f}, dice_per_image {scores.dice_per_image:.4f} "
            f"of {counted(len(rows), 'image')} at their own size"
        )

    def _decide_coding(self, config: NeuralNetwork, targets: Path) -> MaskCoding:
        counts: Counter[int] = Counter()
        for path in self._masks.values():
            counts.update(count_values(read_mask(path)))
        return decide_coding(
            counts,
            where=f"--targets: {targets}",
            mask_values=config.data.mask_values,
            mask_threshold=config.data.mask_threshold,
        )


def _target(pair: Pair) -> Path:
    assert pair.target is not None  # of a pair that was matched
    return pair.target


def _mean(row: Mapping[str, Any], classes: Sequence[str]) -> float:
    """Return the mean Dice of the classes that the scores average; 0 classes: all empty."""
    values = [row[column(name, "dice")] for name in classes]
    if not values:
        values = [value for key, value in row.items() if key.endswith("_dice")]
    return math.fsum(values) / len(values)
