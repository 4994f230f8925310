"""Counts pixels per image and class, and makes every score of `trainer.metrics.scores` of them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.errors import ConfigError, DataError
from trainer.metrics.bootstrap import (
    COUNTS,
    TARGET,
    Counts,
    column,
    dice_of_counts,
    mean_of_present,
)
from trainer.metrics.pixelcounts import count_pixels
from trainer.metrics.plugin_metrics import PluginMetrics
from trainer.metrics.scores import Scores, or_none, ratio
from trainer.metrics.surface import hd95_px
from trainer.rundir import write_atomic

OWN_SIZE = "_own_size"  # ends a column of what was counted at the images' own size


def predict_classes(probabilities_NCHW: Tensor) -> Tensor:
    """Return class ids (N,H,W) int64: the most probable, or p > 0.5 with one channel.

    Exactly 0.5 is background, as NumPy's rounding of the stored probability has it.
    """
    if probabilities_NCHW.shape[1] == 1:
        return (probabilities_NCHW.squeeze(1) > 0.5).long()
    return probabilities_NCHW.argmax(1)


class SegmentationCounts:
    """Collects the pixel counts of an evaluation, batch after batch.

    Only integers are summed, and fractions by `math.fsum`, so the scores are the same, to the
    last bit, however the images are batched or ordered.
    """

    def __init__(
        self,
        num_channels: int,
        class_names: Sequence[str] | None,
        include_background: bool = True,
        ignore_index: int | None = None,
        *,
        with_hd95: bool = False,
        is_classification: bool = False,
        plugins: Sequence[str] = (),
    ) -> None:
        """Prepare for the output of a network.

        Args:
            num_channels: 1 for one foreground class, else the number of classes.
            class_names: one per channel; with one channel also (background, foreground).
            include_background: average class 0 as well, as the tutorials do ("averaged across
                all classes"); of no effect with one channel.
            ignore_index: class id of pixels that count nowhere.
            with_hd95: also measure the 95 % Hausdorff distance. Costs two distance transforms
                per image and class on the CPU, so it is for a final evaluation.
            is_classification: each image has one class, as if it were one pixel.
            plugins: names of the user's own metrics, see docs/plugins.md.
        """
        self._plugins = PluginMetrics(plugins)
        self._num_classes = max(2, num_channels)
        self._first = 1 if num_channels == 1 else 0  # one channel: the foreground only
        self._names = _class_names(num_channels, class_names)
        self._averaged = slice(0 if include_background or num_channels == 1 else 1, None)
        self._ignore_index = ignore_index
        self._with_hd95 = with_hd95
        self._is_classification = is_classification
        self._image_names: list[str] = []
        self._counts: list[Counts] = []  # per image (classes shown, 3)
        self._dice: list[list[float]] = []  # per image and class shown
        self._hd95: list[list[float]] = []
        self._pooled = np.zeros((len(self._names), len(COUNTS)), dtype=np.int64)
        self._correct = 0
        self._pixels = 0
        self._pending: list[tuple[list[str], Tensor, Tensor]] = []  # of batches, on the device
        self._batch_ends: list[int] = []  # images pending at each, see `end_batch`
        self._running: list[float] = []

    def __getstate__(self) -> dict[str, Any]:
        """Return what processes send each other: numbers."""
        self._settle()
        return self.__dict__

    def update(self, names: Sequence[str], predicted_NHW: Tensor, target_NHW: Tensor) -> None:
        """Add a batch of predicted and true class ids; they are counted where they are."""
        counts = count_pixels(predicted_NHW, target_NHW, self._num_classes, self._ignore_index)
        self._pending.append((list(names), *counts))
        if self._with_hd95:
            self._measure_surfaces(predicted_NHW, target_NHW)
        if self._plugins.names:
            self._plugins.update(predicted_NHW.cpu().numpy(), target_NHW.cpu().numpy())

    def end_batch(self) -> None:
        """Want the accuracy of what was added so far, see `running_accuracies`."""
        self._batch_ends.append(sum(len(names) for names, _, _ in self._pending))

    def running_accuracies(self) -> list[float]:
        """Return the accuracy at each `end_batch` since the last call."""
        self._settle()
        found, self._running = self._running, []
        return found

    def merge(self, other: SegmentationCounts) -> None:
        """Add what another process counted, of other images."""
        self._settle()
        other._settle()
        self._image_names.extend(other._image_names)
        self._counts.extend(other._counts)
        self._dice.extend(other._dice)
        self._hd95.extend(other._hd95)
        self._plugins.merge(other._plugins)
        self._pooled += other._pooled
        self._correct += other._correct
        self._pixels += other._pixels

    def scores(self) -> Scores:
        """Return the scores of the images seen so far; NaN where there is nothing to score.

        Raises:
            DataError: a target holds an id that is neither a class nor ignored.
        """
        self._settle()
        kept = []
        if self._has_foreground():
            occurs = self._pooled[self._averaged, TARGET] > 0
            names = zip(self._names[self._averaged], occurs, strict=True)
            kept = [name for name, is_kept in names if is_kept]
        has_background = self._first == 0 and not self._is_classification
        return Scores(
            dice_dataset=self._dice_dataset(self._averaged),
            dice_with_background=self._dice_dataset(slice(None)) if has_background else None,
            dice_without_background=self._dice_dataset(slice(1, None)) if has_background else None,
            dice_per_image=self._dice_per_image(kept),
            per_class={name: self._figures(c) for c, name in enumerate(self._names)},
            pixel_accuracy=ratio(self._correct, self._pixels),
            classes_averaged=tuple(kept),
            num_images=len(self._image_names),
            is_classification=self._is_classification,
            plugins=self._plugins.means(),
        )

    def per_image_rows(self) -> list[dict[str, Any]]:
        """Return for each image its name and, per class, its counts and Dice (HD95 if measured).

        An HD95 is None where it is undefined: prediction or target is empty.
        """
        self._settle()
        rows = []
        for index, name in enumerate(self._image_names):
            row: dict[str, Any] = {"name": name}
            for c, class_name in enumerate(self._names):
                for figure, count in zip(COUNTS, self._counts[index][c].tolist(), strict=True):
                    row[column(class_name, figure)] = count
                row[column(class_name, "dice")] = self._dice[index][c]
                if self._with_hd95:
                    row[column(class_name, "hd95_px")] = or_none(self._hd95[index][c])
            own = self._plugins.of_image(index)
            rows.append(row | {name: or_none(value) for name, value in own.items()})
        return rows

    def write_per_image_csv(self, path: Path, own_size: SegmentationCounts | None = None) -> None:
        """Write `per_image_rows` as CSV, at once or not at all.

        Args:
            path: the table.
            own_size: what was counted of the same images at their own size, in further columns.
        """
        figures = [*COUNTS, "dice", *(["hd95_px"] if self._with_hd95 else [])]
        header = ["name", *(column(name, figure) for name in self._names for figure in figures)]
        header += self._plugins.names
        rows = self.per_image_rows()
        if own_size is not None:
            further = [name for name in header if name not in ("name", *self._plugins.names)]
            header += [f"{name}{OWN_SIZE}" for name in further]
            own = {row["name"]: row for row in own_size.per_image_rows()}
            for row in rows:
                row |= {f"{name}{OWN_SIZE}": own[row["name"]][name] for name in further}
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, header, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomic(path, text.getvalue())

    def _settle(self) -> None:
        """Bring the counts to the host, all at once: reading them waits for the device."""
        if not self._pending:  # batches of other processes alone may have ended
            self._running += [self._accuracy() for _ in self._batch_ends]
            self._batch_ends = []
            return
        names = [name for batch, _, _ in self._pending for name in batch]
        counts_NC3 = torch.cat([counts for _, counts, _ in self._pending]).cpu().numpy()
        invalid_N = torch.cat([invalid for _, _, invalid in self._pending]).cpu().numpy()
        self._pending.clear()
        self._check_ids(names, invalid_N)
        ends, self._batch_ends = self._batch_ends, []
        for number, part_NC3 in enumerate(np.split(counts_NC3, ends)):
            self._correct += int(part_NC3[..., 0].sum())
            self._pixels += int(part_NC3[..., 2].sum())
            self._pooled += part_NC3[:, self._first :].sum(0)
            if number < len(ends):
                self._running.append(self._accuracy())
        shown = counts_NC3[:, self._first :]
        self._image_names.extend(names)
        self._counts.extend(shown)
        self._dice.extend(dice_of_counts(shown).tolist())

    def _check_ids(self, names: Sequence[str], invalid_N: npt.NDArray[np.int64]) -> None:
        if invalid_N.any():
            first = int(invalid_N.argmax())
            raise DataError(
                f"{names[first]}: {invalid_N[first]} pixels of the target have a class id outside "
                f"0..{self._num_classes - 1}; the network has {self._num_classes} classes"
            )

    def _measure_surfaces(self, predicted_NHW: Tensor, target_NHW: Tensor) -> None:
        predicted, target = predicted_NHW.cpu().numpy(), target_NHW.cpu().numpy()
        if self._ignore_index is not None:
            # Neither in the prediction nor in the target: no surface there for any class.
            ignored = target == self._ignore_index
            predicted = np.where(ignored, -1, predicted)
            target = np.where(ignored, -1, target)
        classes = range(self._first, self._num_classes)
        self._hd95.extend(
            [hd95_px(p == c, t == c) for c in classes]
            for p, t in zip(predicted, target, strict=True)
        )

    def _accuracy(self) -> float:
        if self._is_classification:
            value = ratio(self._correct, self._pixels)
        else:
            value = self._dice_dataset(self._averaged)
        return 0.0 if math.isnan(value) else value

    def _dice_dataset(self, classes: slice) -> float:
        if not self._has_foreground():
            return math.nan
        counts = self._pooled[classes]
        return float(mean_of_present(dice_of_counts(counts), counts))

    def _has_foreground(self) -> bool:
        """Say whether a class but the background occurs; each is as good as another of labels."""
        first = 0 if self._is_classification else 1 - self._first
        return bool(self._pooled[first:, TARGET].any())

    def _dice_per_image(self, classes: Sequence[str]) -> float:
        if not classes:
            return math.nan
        wanted = [self._names.index(name) for name in classes]
        total = math.fsum(row[c] for row in self._dice for c in wanted)
        return total / (len(self._dice) * len(wanted))

    def _figures(self, c: int) -> dict[str, float]:
        both, predicted, target = self._pooled[c].tolist()
        figures = {
            "dice": ratio(2 * both, predicted + target),
            "iou": ratio(both, predicted + target - both),
            "sensitivity": ratio(both, target),
            "precision": ratio(both, predicted),
            "share": ratio(target, self._pixels),
        }
        if self._with_hd95:
            defined = [row[c] for row in self._hd95 if not math.isnan(row[c])]
            figures["hd95_px"] = math.fsum(defined) / len(defined) if defined else math.nan
            # A mean over fewer images leaves out misses: it must be seen beside the distance.
            figures["hd95_images"] = float(len(defined))
        return figures


def _class_names(num_channels: int, names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the classes shown: one for one channel, else one per channel."""
    if names is None:
        if num_channels == 1:
            return ("foreground",)
        return ("background", *(f"class_{c}" for c in range(1, num_channels)))
    if num_channels == 1 and len(names) == 2:
        return (names[1],)
    if len(names) != num_channels:
        raise ConfigError(
            f"data.class_names: expected {num_channels} names, one for each channel of the "
            f"network, received {len(names)}"
        )
    if len(set(names)) != len(names):
        raise ConfigError("data.class_names: expected distinct names")
    return tuple(names)
