"""Gives the images and masks of a config as arrays: from the cache, or decoded into memory."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Self

from trainer.config import Data, NeuralNetwork
from trainer.data.arraydata import list_classes, load_arrays
from trainer.data.arrayset import Wanted
from trainer.data.cache import (
    CacheUnusableError,
    Entry,
    ImageCache,
    cache_root,
    max_cache_bytes,
)
from trainer.data.digits import load_digits
from trainer.data.fingerprint import data_key
from trainer.data.images import Array, Pair, list_images, list_samples
from trainer.data.imageset import ImageSet, LoadedData
from trainer.data.intensity import fit_range
from trainer.data.labels import Labelled, code_labels
from trainer.data.locks import NO_LOCKS
from trainer.data.reading import TRAIN_INPUTS, Reader, num_threads_of_worker
from trainer.data.reporting import ReadingProgress
from trainer.data.stores import MemoryStore, Store
from trainer.data.survey import MaskCoding, decide_coding
from trainer.data.targets import TargetKind, target_kind
from trainer.data.transforms import Steps, plan_transforms
from trainer.errors import ConfigError, DataError
from trainer.log import Log

# More threads than this only wait for the disk, and each holds an image at its full size.
MAX_THREADS = 16
PART_NAMES = {"train": "training", "test": "test"}


def load_data(
    data: Data,
    resolve: Resolve,
    log: Log | None = None,
    wanted: Wanted | None = None,
) -> LoadedData:
    """Read everything that a config names, or find it in the cache.

    Masks of both parts are surveyed together, so that a class that only one of them shows is
    known to both.

    Args:
        data: the section of the config.
        resolve: finds its paths.
        log: where it says what it does; standard output if not given.
        wanted: what the network and the loss want of arrays; images are what they are.

    Raises:
        DataError: see `list_samples`, `read_image`, `read_checked_mask` and `decide_coding`.
    """
    log = log or Log()
    if data.inputs == "mnist":
        return load_digits(data, resolve)
    if data.inputs != "images":
        return load_arrays(data, resolve, log, wanted or Wanted())
    steps = plan_transforms(data)
    labelled: dict[str, Labelled[Pair]] = {}
    classes: tuple[str, ...] = ()
    if data.has_labels:
        list_folder = partial(_list_images, follow_symlinks=data.follow_symlinks)
        labelled, classes = list_classes(data, resolve, list_folder)
    notes: list[str] = []
    parts = {name: part.samples for name, part in labelled.items()}
    parts = parts or _list_parts(data, resolve, notes)
    for text in notes:
        _noting(log)(text)

    kind = target_kind(parts, data)
    has_targets = any(pair.target for pairs in parts.values() for pair in pairs)

    def decide(counts: Mapping[str, Counter[int]]) -> MaskCoding | None:
        return _decide(counts, data, kind) if has_targets else None

    def read(store: Store, num_threads: int) -> dict[str, Counter[int]]:
        with ReadingProgress(log, sum(map(len, parts.values()))) as progress:
            reader = Reader(data, steps, num_threads, progress.advance, _noting(log), kind)
            return reader.read(parts, store, decide)

    arrays: Mapping[str, Array]
    counts: Mapping[str, Counter[int]]
    entry = _from_cache(parts, data, steps, log, read, kind)
    if entry is not None:
        arrays, counts, lock = entry.arrays, entry.counts, entry.lock
    else:
        memory = MemoryStore()
        counts = read(memory, num_threads_of_worker())
        arrays, lock = memory.arrays, None
    sets = {
        part: ImageSet(
            tuple(labelled[part].names if data.has_labels else (pair.name for pair in pairs)),
            arrays[f"{part}_inputs"],
            labelled[part].labels if data.has_labels else arrays.get(f"{part}_targets"),
            *steps,
            data.tiles,
            pairs=tuple(pairs) if pairs and pairs[0].target is not None else (),
        )
        for part, pairs in parts.items()
    }
    _check_sizes(sets, data, kind)
    fitted = fit_range(counts[TRAIN_INPUTS])
    coding = code_labels(classes, [*labelled.values()]) if data.has_labels else decide(counts)
    targets = next((s.targets_NHW for s in sets.values() if s.targets_NHW is not None), None)
    if coding is not None and targets is not None and len(targets.shape) == 4:
        coding = replace(coding, num_channels=targets.shape[-1])
    return LoadedData(sets.get("train"), sets.get("test"), coding, lock, fitted_range=fitted)


def _noting(log: Log) -> Callable[[str], None]:
    return lambda text: log(f"Images: {text}")


def _list_images(folder: Path, *, follow_symlinks: bool) -> tuple[list[Pair], list[str]]:
    files = list_images(folder, "data.input_path", follow_symlinks=follow_symlinks)
    pairs = [Pair(path, folder=folder) for path in files]
    return pairs, [pair.name for pair in pairs]


def _check_sizes(sets: Mapping[str, ImageSet], data: Data, kind: TargetKind) -> None:
    tiles, patches = data.tiles, data.patches
    may_differ = tiles is None and (kind != "mask" or data.sizes_differ)
    # Not while reading: what is read for one config may be found in the cache for another.
    sizes = {part: images.inputs_NHWC.shape[1:3] for part, images in sets.items()}
    for part, images in sets.items():
        masks = images.targets_NHW
        if masks is None or len(masks.shape) < 3 or may_differ:
            continue
        if masks.shape[1:3] != sizes[part]:
            found = [f"{height}x{width}" for height, width in (sizes[part], masks.shape[1:3])]
            raise DataError(
                f"data.transforms: {PART_NAMES[part]} images become {found[0]}, their masks "
                f"{found[1]} (height x width); put what resizes both there, not into "
                "input_transforms or target_transforms"
            )
    remedy = '(height x width); add {"resize": [H, W]} to data.transforms'
    if tiles is None and len(set(sizes.values())) > 1:
        train, test = (f"{height}x{width}" for height, width in sizes.values())
        raise DataError(f"training images are {train}, test images {test} {remedy}")
    for part, (height, width) in sizes.items():
        if tiles is not None and (height < tiles.size[0] or width < tiles.size[1]):
            raise DataError(
                f"data.tiles.size: {list(tiles.size)} is too large: {PART_NAMES[part]} images are "
                f"{height}x{width} {remedy}, or choose smaller tiles"
            )
        if patches is not None and (height < patches.size[0] or width < patches.size[1]):
            raise DataError(
                f"data.transforms: random_patches.size: {list(patches.size)} is too large: "
                f"{PART_NAMES[part]} images are {height}x{width} (height x width)"
            )


def _list_parts(data: Data, resolve: Resolve, notes: list[str]) -> dict[str, list[Pair]]:
    parts = {}
    if data.input_path is not None:
        # Without one, `random_patches` makes the targets: checked with the config.
        parts["train"] = list_samples(
            resolve(data.input_path),
            resolve(data.target_path or data.input_path),
            "data.",
            follow_symlinks=data.follow_symlinks,
            notes=notes,
            own_targets=not data.says_mask,
        )
    if data.test_input_path is not None:
        target = data.test_target_path
        parts["test"] = list_samples(
            resolve(data.test_input_path),
            resolve(target) if target else None,
            "data.test_",
            follow_symlinks=data.follow_symlinks,
            notes=notes,
            own_targets=not data.says_mask,
        )
    return parts


def _decide(counts: Mapping[str, Counter[int]], data: Data, kind: TargetKind) -> MaskCoding | None:
    if kind == "colour" or data.patches is not None:
        return MaskCoding("continuous", 0, (), {})
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
    kind: TargetKind,
) -> Entry | None:
    """Return the data from the cache, decoded into it if need be; None where there is none."""

    def build(store: Store) -> dict[str, Counter[int]]:
        # All cores, whatever this worker's share: the others of the node wait for the result.
        counts = read(store, min(MAX_THREADS, os.cpu_count() or 1))
        if data_key(parts, data, steps, kind) != key:
            raise CacheUnusableError("files changed while they were read")
        return counts

    try:
        root = cache_root(data.cache, os.environ)
        if root is None:
            return None
        started = time.monotonic()
        cache = ImageCache(root, max_bytes=max_cache_bytes(os.environ), log=log)
        key = data_key(parts, data, steps, kind)
        entry, is_new = cache.open_or_build(key, build)
    except CacheUnusableError as error:
        log(f"Image cache: not used, images stay in memory: {error}")
        return None
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in NO_LOCKS:
            reason = f"its file system has no locks ({reason}); name another in $RML_CACHE_DIR"
        log(f"Image cache: not used, images stay in memory: {reason}")
        return None
    num_mb = sum(array.nbytes for array in entry.arrays.values()) / 1e6
    verb = "decoded into" if is_new else "found in"
    log(f"Image cache: {num_mb:.1f} MB {verb} {root} ({time.monotonic() - started:.2f} s)")
    return entry


class Resolve:
    """Finds what a config's relative path means: from the current folder, as the reference
    engine does, or, where nothing is there, from the config's own folder. A config that says
    `relative_to: config` has it the other way round, so that its folder can be moved anywhere.

    An absolute path where nothing is any more is looked for where it would be if everything had
    been moved along with the config, from the folder that this says it was `written_at`."""

    def __init__(
        self, config_dir: Path, *, config_first: bool = False, written_at: str | None = None
    ) -> None:
        self._config_dir = config_dir
        self._config_first = config_first
        self._written_at = written_at

    @classmethod
    def of(cls, config: NeuralNetwork, config_dir: Path) -> Self:
        """Find paths as a config wants it."""
        config_first = config.relative_to == "config"
        return cls(config_dir, config_first=config_first, written_at=config.written_at)

    def __call__(self, path: str) -> Path:
        here, beside = Path(path), self._config_dir / path
        first, second = (beside, here) if self._config_first else (here, beside)
        try:
            if not _is_there(first) and _is_there(second):
                return second
            if here.is_absolute() and self._written_at is not None and not _is_there(here):
                way = os.path.relpath(here, self._written_at)
                moved = Path(os.path.normpath(self._config_dir.absolute() / way))
                return moved if _is_there(moved) else here
            return first
        except OSError as error:  # a name that is too long, say
            raise ConfigError(f"{path[:80]!r}: no such path ({error.strerror})") from None


def _is_there(path: Path) -> bool:
    """Say whether a path leads to something, if need be to an array in a file: FILE/NAME."""
    return path.exists() or any(parent.is_file() for parent in path.parents)
