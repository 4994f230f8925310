"""Compares predictions with masks at the images' own size, whatever size the network computes at.

Probabilities are brought back to where they were, as `--predict` does it, and then become classes.
Masks are read again, one batch at a time: at their own size they may not fit the memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.data.geometry import classes_at
from trainer.data.images import read_mask
from trainer.data.imageset import ImageSet
from trainer.data.reading import num_threads_of_worker
from trainer.data.survey import MaskCoding
from trainer.errors import ConfigError
from trainer.metrics.counts import SegmentationCounts


class OwnSize:
    """Counts pixels at the images' own size.

    Raises:
        ConfigError: the set has no masks of classes in files of their own.
    """

    def __init__(self, images: ImageSet, coding: MaskCoding | None) -> None:
        if not images.pairs or coding is None or coding.kind == "continuous":
            raise ConfigError(
                "metrics.at_size: only images with masks of classes have a size of their own; "
                'leave it at "network"'
            )
        self._images = images
        self._coding = coding

    def update(
        self,
        counts: SegmentationCounts,
        indices: Sequence[int],
        probabilities_NCHW: torch.Tensor,
    ) -> None:
        """Add a batch of the network's outputs to counts."""
        outputs = probabilities_NCHW.float().cpu().numpy()  # waits for the device

        def compare(entry: tuple[int, NDArray[np.float32]]) -> tuple[NDArray[np.uint8], ...]:
            index, output_CHW = entry
            path = self._images.pairs[index].target
            assert path is not None
            mask = read_mask(path)
            height, width = mask.shape[:2]
            predicted = classes_at(output_CHW, (height, width), self._images.steps.reading)
            return predicted, self._coding.encode(mask)

        with ThreadPoolExecutor(num_threads_of_worker()) as pool:
            compared = pool.map(compare, zip(indices, outputs, strict=True))
            for index, (predicted, target) in zip(indices, compared, strict=True):
                counts.update(
                    [self._images.names[index]],
                    torch.from_numpy(predicted[np.newaxis].astype(np.int64)),
                    torch.from_numpy(target[np.newaxis].astype(np.int64)),
                )
