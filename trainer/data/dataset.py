"""Gives the images and masks of a config as arrays: from the cache, or decoded into memory."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from trainer.config import Data, Tiles
from trainer.data.cache import (
    CacheUnusableError,
    Entry,
    ImageCache,
    cache_root,
    max_cache_bytes,
)
from trainer.data.fingerprint import data_key
from trainer.data.images import Array, Pair, list_samples
from trainer.data.intensity import IntensityRange, fit_range
from trainer.data.locks import FileLock
from trainer.data.reading import TRAIN_INPUTS, Reader, num_threads_of_worker
from trainer.data.reporting import ReadingProgress
from trainer.data.stores import MemoryStore, Store
from trainer.data.survey import MaskCoding, decide_coding
from trainer.data.transforms import Steps, plan_transforms
from trainer.errors import DataError
from trainer.log import Log

# More threads than this only wait for the disk, and each holds an image at its full size.
MAX_THREADS = 16


@dataclass(frozen=True)
class ImageSet:
    """A part of the data (training or test) as arrays at the network's size.

    Attributes:
        names: the inputs' file names, N of them.
        inputs_NHWC: 8 or 16 bits; value / full_scale lies in [0, 1]. Read-only, and perhaps
            mapped from a file: take rows by a NumPy index, which copies them.
        targets_NHW: class ids (uint8), continuous targets (stored values), or None; likewise.
        steps: what remains to be done to a batch of inputs.
        target_steps: likewise for continuous targets.
        tiles: how images larger than the network's input are cut; None if they are not.
        intensity_range: the stored values that become 0 and 1; None for the full scale.
    """

    names: tuple[str, ...]
    inputs_NHWC: Array
    targets_NHW: Array | None
    steps: Steps
    target_steps: Steps
    tiles: Tiles | None = None
    intensity_range: IntensityRange | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of what the network is given: of each image, or of a tile."""
        _, height, width, channels = self.inputs_NHWC.shape
        if self.tiles is not None:
            height, width = self.tiles.size
        return height, width, channels


@dataclass(frozen=True)
class LoadedData:
    """Both parts of a config's data and what their masks hold.

    Keep it as long as the arrays: it keeps them in the cache.

    Attributes:
        fitted_range: of the training inputs, if they have 16 bits.
    """

    train: ImageSet | None
    test: ImageSet | None
    coding: MaskCoding | None
    lock: FileLock | None = None
    fitted_range: IntensityRange | None = None

    @property
    def bits(self) -> int:
        """Bits a channel of the inputs: of the training ones, if there are any."""
        images = self.train or self.test
        assert images is not None  # the config has one of the two
        return 8 * images.inputs_NHWC.dtype.itemsize

    def with_range(self, intensity_range: IntensityRange | None) -> LoadedData:
        """Return both parts as they are to be scaled.

        Raises:
            DataError: one range cannot hold for both, as they differ in their bits.
        """
        train, test = self.train, self.test
        bits = [8 * part.inputs_NHWC.dtype.itemsize for part in (train, test) if part is not None]
        if intensity_range is not None and len(set(bits)) > 1:
            raise DataError(
                f"training images have {bits[0]} bits a channel, test images {bits[1]}: no "
                "intensity range holds for both; convert one kind, or set data.intensity_range "
                'to "full"'
            )
        return replace(
            self,
            train=train and replace(train, intensity_range=intensity_range),
            test=test and replace(test, intensity_range=intensity_range),
        )


def load_data(data: Data, resolve: Resolve, log: Log | None = None) -> LoadedData:
    """Read everything that a config names, or find it in the cache.

    Masks of both parts are surveyed together, so that a class that only one of them shows is
    known to both.

    Args:
        data: the section of the config.
        resolve: finds its paths.
        log: where it says what it does; standard output if not given.

    Raises:
        DataError: see `list_samples`, `read_image`, `read_checked_mask` and `decide_coding`.
    """
    log = log or Log()
    steps = plan_transforms(data)
    parts = _list_parts(data, resolve)

    def decide(counts: Mapping[str, Counter[int]]) -> MaskCoding | None:
        return _decide(counts, data)

    def read(store: Store, num_threads: int) -> dict[str, Counter[int]]:
        with ReadingProgress(log, sum(map(len, parts.values()))) as progress:
            return Reader(data, steps, num_threads, progress.advance).read(parts, store, decide)

    arrays: Mapping[str, Array]
    counts: Mapping[str, Counter[int]]
    entry = _from_cache(parts, data, steps, log, read)
    if entry is not None:
        arrays, counts, lock = entry.arrays, entry.counts, entry.lock
    else:
        memory = MemoryStore()
        counts = read(memory, num_threads_of_worker())
        arrays, lock = memory.arrays, None
    sets = {
        part: ImageSet(
            tuple(pair.name for pair in pairs),
            arrays[f"{part}_inputs"],
            arrays.get(f"{part}_targets"),
            *steps,
            data.tiles,
        )
        for part, pairs in parts.items()
    }
    _check_sizes(sets, data.tiles)
    fitted = fit_range(counts[TRAIN_INPUTS])
    return LoadedData(sets.get("train"), sets.get("test"), decide(counts), lock, fitted)


def _check_sizes(sets: Mapping[str, ImageSet], tiles: Tiles | None) -> None:
    # Not while reading: what is read for one config may be found in the cache for another.
    sizes = {part: images.inputs_NHWC.shape[1:3] for part, images in sets.items()}
    remedy = '(height x width); add {"resize": [H, W]} to data.transforms'
    if tiles is None and len(set(sizes.values())) > 1:
        train, test = (f"{height}x{width}" for height, width in sizes.values())
        raise DataError(f"training images are {train}, test images {test} {remedy}")
    for part, (height, width) in sizes.items():
        if tiles is not None and (height < tiles.size[0] or width < tiles.size[1]):
            name = "training" if part == "train" else part
            raise DataError(
                f"data.tiles.size: {list(tiles.size)} is too large: {name} images are "
                f"{height}x{width} {remedy}, or choose smaller tiles"
            )


def _list_parts(data: Data, resolve: Resolve) -> dict[str, list[Pair]]:
    parts = {}
    if data.input_path is not None:
        assert data.target_path is not None  # checked with the config
        parts["train"] = list_samples(resolve(data.input_path), resolve(data.target_path), "data.")
    if data.test_input_path is not None:
        target = data.test_target_path
        parts["test"] = list_samples(
            resolve(data.test_input_path), resolve(target) if target else None, "data.test_"
        )
    return parts


def _decide(counts: Mapping[str, Counter[int]], data: Data) -> MaskCoding | None:
    pooled: Counter[int] = Counter()
    for part, values in counts.items():
        if part != TRAIN_INPUTS:
            pooled.update(values)
    if not pooled:
        return None
    return decide_coding(
        pooled,
        where=data.target_path or data.test_target_path or "masks",
        mask_values=data.mask_values,
        mask_threshold=data.mask_threshold,
        continuous_allowed=not data.target_is_mask,
    )


def _from_cache(
    parts: Mapping[str, Sequence[Pair]],
    data: Data,
    steps: tuple[Steps, Steps],
    log: Log,
    read: Callable[[Store, int], dict[str, Counter[int]]],
) -> Entry | None:
    """Return the data from the cache, decoded into it if need be; None where there is none."""

    def build(store: Store) -> dict[str, Counter[int]]:
        # All cores, whatever this worker's share: the others of the node wait for the result.
        counts = read(store, min(MAX_THREADS, os.cpu_count() or 1))
        if data_key(parts, data, steps) != key:
            raise CacheUnusableError("files changed while they were read")
        return counts

    try:
        root = cache_root(data.cache, os.environ)
        if root is None:
            return None
        started = time.monotonic()
        cache = ImageCache(root, max_bytes=max_cache_bytes(os.environ), log=log)
        key = data_key(parts, data, steps)
        entry, is_new = cache.open_or_build(key, build)
    except CacheUnusableError as error:
        log(f"Image cache: not used, images stay in memory: {error}")
        return None
    except OSError as error:
        log(f"Image cache: not used, images stay in memory: {error.strerror or error}")
        return None
    num_mb = sum(array.nbytes for array in entry.arrays.values()) / 1e6
    verb = "decoded into" if is_new else "found in"
    log(f"Image cache: {num_mb:.1f} MB {verb} {root} ({time.monotonic() - started:.2f} s)")
    return entry


class Resolve:
    """Finds what a config's relative path means: from the current folder, as the reference
    engine does, or, where nothing is there, from the config's own folder. A config that says
    `relative_to: config` has it the other way round, so that its folder can be moved anywhere."""

    def __init__(self, config_dir: Path, *, config_first: bool = False) -> None:
        self._config_dir = config_dir
        self._config_first = config_first

    def __call__(self, path: str) -> Path:
        here, beside = Path(path), self._config_dir / path
        first, second = (beside, here) if self._config_first else (here, beside)
        return second if not first.exists() and second.exists() else first
