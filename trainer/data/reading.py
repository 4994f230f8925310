"""Decodes images and masks in parallel and hands them to a store, one after the other.

No list of images: at most two per thread wait in memory, however large the set.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from trainer.config import Data
from trainer.data.bands import bands
from trainer.data.findings import Findings, Seen, describe_depths, see
from trainer.data.geometry import read_through
from trainer.data.headers import Header, read_header
from trainer.data.images import Array, Pair, read_image, read_mask
from trainer.data.room import ROOM
from trainer.data.stores import Store
from trainer.data.survey import MaskCoding, count_values
from trainer.data.targets import TargetKind
from trainer.data.transforms import Steps
from trainer.errors import DataError

TRAIN_INPUTS = "train_inputs"

Counts = Counter[int]
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Reader:
    """Reads samples as a config says.

    Attributes:
        data: the config's section.
        steps: the transforms of inputs and of targets.
        num_threads: how many images are decoded at once; OpenCV releases the GIL.
        advance: called after each image.
        note: called with what a user should know of the files.
        kind: what the targets are.
    """

    data: Data
    steps: tuple[Steps, Steps]
    num_threads: int
    advance: Callable[[], None]
    note: Callable[[str], None] = lambda text: None
    kind: TargetKind = "mask"

    def read(
        self,
        parts: Mapping[str, Sequence[Pair]],
        store: Store,
        decide: Callable[[Mapping[str, Counts]], MaskCoding | None],
    ) -> dict[str, Counts]:
        """Fill a store with PART_inputs and, where there are masks, PART_targets.

        Args:
            parts: the samples of each part.
            store: where the arrays go.
            decide: says what the masks mean, from the pixels per stored value of all parts.

        Returns:
            Pixels per stored mask value of each part, and per stored value of the training
            inputs, if they have 16 bits, under TRAIN_INPUTS.
        """
        counts: dict[str, Counts] = {}
        histogram = np.zeros(2**16, np.int64)
        num_samples = sum(map(len, parts.values()))
        findings = Findings()
        for part, pairs in parts.items():
            num_expected = None if counts else num_samples
            gathered = (histogram, findings)
            counts[part] = self._read_part(part, pairs, store, gathered, num_expected)
        if (
            self.data.target_is_mask
        ):  # before their values are judged, for which a copy is a riddle
            findings.refuse_copies()
        for text in findings.notes():
            self.note(text)
        coding = decide(counts)
        if coding is not None and coding.kind != "continuous":
            findings.refuse_copies()
        for part, pairs in parts.items():
            if pairs and pairs[0].target is not None and coding is not None:
                self._encode(part, pairs, store, coding)
        values = np.flatnonzero(histogram)
        pixels = histogram[values].tolist()
        counts[TRAIN_INPUTS] = Counter(dict(zip(values.tolist(), pixels, strict=True)))
        return counts

    def _read_part(
        self,
        part: str,
        pairs: Sequence[Pair],
        store: Store,
        gathered: tuple[NDArray[np.int64], Findings],
        num_expected: int | None,
    ) -> Counts:
        histogram, findings = gathered
        images = _Uniform(store, f"{part}_inputs", len(pairs))
        masks = _Uniform(store, f"{part}_values", len(pairs))
        counts: Counts = Counter()
        with ThreadPoolExecutor(self.num_threads) as pool:
            samples = _in_order(pool, self._read_sample, pairs, 2 * self.num_threads)
            for pair, (image, mask, sample_counts, seen) in zip(pairs, samples, strict=True):
                findings.add(seen)
                if num_expected is not None:
                    # Twice the masks: as stored, and as class ids.
                    num_bytes = image.nbytes + (0 if mask is None else 2 * mask.nbytes)
                    store.expect(num_expected * num_bytes)
                    num_expected = None
                images.append(pair.name, image)
                if part == "train" and image.dtype == np.uint16:
                    for band in bands(image):
                        histogram += np.bincount(band.ravel(), minlength=len(histogram))
                if mask is not None:
                    masks.append(pair.name, mask, any_depth=True)
                    counts.update(sample_counts)
                self.advance()
        images.check("images", "data.transforms")
        masks.check("masks", "data.transforms or data.target_transforms")
        images.check_depths()
        return counts

    def _read_sample(self, pair: Pair) -> tuple[Array, Array | None, Counts, Seen]:
        header = read_header(pair.input)
        other = None if pair.target is None else read_header(pair.target)
        with ROOM.of(header, other):
            return self._read_both(pair, header, other)

    def _read_both(
        self, pair: Pair, header: Header, mask_header: Header | None
    ) -> tuple[Array, Array | None, Counts, Seen]:
        stored = read_image(pair.input, gray=self.data.is_input_gray, header=header)
        try:
            image = read_through(stored, self.steps[0].reading, nearest=False)
        except DataError as error:
            raise DataError(f"{pair.input}: {error}") from None
        if pair.target is None:
            return image, None, Counter(), see(pair, (header, None), stored)
        if self.kind != "mask":
            target = self._read_as_image(pair)
            seen = see(pair, (header, None), stored)
            if self.kind == "colour":
                return image, self._through(target, nearest=False), Counter(), seen
            return image, self._through(target, nearest=True), count_values(target), seen
        size_HW = None if self._has_own_size else stored.shape[:2]
        mask = read_checked_mask(pair, size_HW, mask_header)
        # Nearest keeps the stored values, so the full size need not wait for their meaning.
        seen = see(pair, (header, mask_header), stored, mask)
        return image, self._through(mask, nearest=True), count_values(mask), seen

    @property
    def _has_own_size(self) -> bool:
        """Whether targets are resized by a list of their own, so that any size will do."""
        return any(entry.resize is not None for entry in self.data.target_transforms)

    def _read_as_image(self, pair: Pair) -> Array:
        assert pair.target is not None
        image = read_image(pair.target, gray=self.kind == "gray")
        return image if self.kind == "colour" else image[:, :, 0]

    def _through(self, mask: Array, *, nearest: bool) -> Array:
        background = self.data.mask_values[0] if self.data.mask_values else 0
        return read_through(mask, self.steps[1].reading, nearest=nearest, fill=background)

    def _encode(self, part: str, pairs: Sequence[Pair], store: Store, coding: MaskCoding) -> None:
        values, targets = f"{part}_values", f"{part}_targets"
        dtype = store.dtype(values)
        if self.kind == "colour":
            store.rename(values, targets)
        elif coding.kind == "continuous" and self.steps[1].reading:
            # Rare, and known only now: these are no classes, so they go the way of images.
            shape = (len(pairs), *next(store.rows(values)).shape)
            store.drop(values)
            store.start(targets, shape, dtype)
            with ThreadPoolExecutor(self.num_threads) as pool:
                for mask in _in_order(pool, self._read_smooth, pairs, 2 * self.num_threads):
                    store.append(targets, mask)
        elif coding.kind == "continuous" or (coding.kind == "classes" and dtype == np.uint8):
            store.rename(values, targets)
        else:
            rows = store.rows(values)
            for index, mask in enumerate(rows):
                if index == 0:
                    store.start(targets, (len(pairs), *mask.shape), np.dtype(np.uint8))
                store.append(targets, coding.encode(mask))
            store.drop(values)

    def _read_smooth(self, pair: Pair) -> Array:
        assert pair.target is not None
        with ROOM.of(read_header(pair.target)):
            target = read_mask(pair.target) if self.kind == "mask" else self._read_as_image(pair)
            return self._through(target, nearest=False)


class _Uniform:
    """Hands rows of one shape to a store; others are only noted, for the error's sake."""

    def __init__(self, store: Store, name: str, num_rows: int) -> None:
        self._store = store
        self._name = name
        self._num_rows = num_rows
        self._shapes: dict[tuple[int, ...], str] = {}
        self._depths: dict[np.dtype[Any], str] = {}

    def append(self, sample: str, row: Array, *, any_depth: bool = False) -> None:
        self._shapes[row.shape] = sample
        self._depths.setdefault(row.dtype, sample)
        if len(self._shapes) > 1 or (len(self._depths) > 1 and not any_depth):
            return
        if self._num_rows:
            self._store.start(self._name, (self._num_rows, *row.shape), row.dtype)
            self._num_rows = 0
        self._store.append(self._name, row)

    def check(self, what: str, where: str) -> None:
        if len(self._shapes) > 1:
            shown = ", ".join(f"{name} {shape}" for shape, name in list(self._shapes.items())[:3])
            raise DataError(f'{what} differ in size: {shown}; add {{"resize": [H, W]}} to {where}')

    def check_depths(self) -> None:
        if len(self._depths) > 1:
            raise DataError(
                describe_depths({8 * d.itemsize: name for d, name in self._depths.items()})
            )


def _in_order(
    pool: ThreadPoolExecutor, function: Callable[[T], R], items: Sequence[T], num_ahead: int
) -> Iterator[R]:
    """Map in parallel with a bound on the results that wait, which Executor.map has not."""
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) >= num_ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def read_checked_mask(
    pair: Pair, size_HW: tuple[int, ...] | None, header: Header | None = None
) -> Array:
    """Read a pair's mask and refuse one of another size than its image, if that is given."""
    assert pair.target is not None
    header = header or read_header(pair.target)
    mask = read_mask(pair.target, header)
    if size_HW is not None and mask.shape != size_HW:
        tags = [read_header(pair.input).orientation, header.orientation]
        raise DataError(
            f"{pair.target}: the mask is {mask.shape[0]}x{mask.shape[1]}, its image "
            f"{pair.input.name} {size_HW[0]}x{size_HW[1]} (height x width)"
            + (
                "; one of them has an orientation tag that the other has not: remove it "
                "(exiftool -Orientation= FILE) if the mask was drawn on the image as it is stored"
                if tags[0] != tags[1] and mask.shape == (*size_HW[::-1],)
                else ""
            )
        )
    return mask


def num_threads_of_worker() -> int:
    """Return the share of cores that the driver gives each worker by OMP_NUM_THREADS."""
    # OpenMP also takes lists ("4,2") and leaves nonsense alone, so that is no error here either.
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return max(1, int(wanted)) if wanted.isdecimal() else os.cpu_count() or 1
