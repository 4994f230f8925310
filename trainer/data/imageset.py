"""What training and evaluation see of a data set, whatever kind it is."""

from __future__ import annotations

from dataclasses import dataclass, replace

from trainer.config import Tiles
from trainer.data.images import Array, Pair
from trainer.data.intensity import IntensityRange
from trainer.data.labels import LabelCoding
from trainer.data.locks import FileLock
from trainer.data.rows import LazyRows
from trainer.data.slicing import Slice
from trainer.data.survey import MaskCoding
from trainer.data.transforms import Steps
from trainer.errors import DataError


@dataclass(frozen=True)
class ImageSet:
    """A part of the data (training or test) as arrays at the network's size.

    Volumes have three axes where images have H and W.

    Attributes:
        names: the inputs' file names, N of them.
        inputs_NHWC: images of 8 or 16 bits, value / full scale lies in [0, 1]; or arrays of
            float32, as they are. Read-only, and perhaps mapped from a file: take rows by a NumPy
            index, which copies them.
        targets_NHW: class ids (uint8), continuous targets (stored values), or None; likewise.
            Continuous ones with several channels are (N, H, W, C). Their size may be another.
            Of a classification class ids (N,).
        steps: what remains to be done to a batch of inputs.
        target_steps: likewise for continuous targets.
        tiles: how images larger than the network's input are cut; None if they are not.
        intensity_range: the stored values that become 0 and 1; None for the full scale.
        slices: where the samples are in the arrays that they were cut from, if they were.
        pairs: the files of images with masks.
        sizes: of each input, without channels, where they differ; only those of one size are
            taken together.
    """

    names: tuple[str, ...]
    inputs_NHWC: Array | LazyRows
    targets_NHW: Array | LazyRows | None
    steps: Steps
    target_steps: Steps
    tiles: Tiles | None = None
    intensity_range: IntensityRange | None = None
    slices: tuple[Slice, ...] = ()
    pairs: tuple[Pair, ...] = ()
    sizes: tuple[tuple[int, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def stored_range(self) -> IntensityRange | None:
        """What a model trained on these images has to know of them; None for arrays of floats."""
        dtype = self.inputs_NHWC.dtype
        if self.intensity_range is not None or dtype.kind != "u":
            return self.intensity_range
        return IntensityRange(0, 2 ** (8 * dtype.itemsize) - 1, 8 * dtype.itemsize, "full scale")

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(H, W, C) or (D, H, W, C) of what the network is given: of each input, or of a tile."""
        shape = tuple(self.inputs_NHWC.shape[1:])
        return shape if self.tiles is None else (*self.tiles.size, shape[-1])

    @property
    def target_size(self) -> tuple[int, ...] | None:
        """(H, W) of the targets where it is not that of the inputs."""
        targets, rank = self.targets_NHW, len(self.input_shape) - 1
        if targets is None or len(targets.shape) <= rank or self.tiles is not None:
            return None
        size = tuple(targets.shape[1 : rank + 1])
        return None if self.sizes or size == self.input_shape[:-1] else size

    @property
    def input_shapes(self) -> list[tuple[int, ...]]:
        """Each shape of which there are inputs, once."""
        if not self.sizes:
            return [self.input_shape]
        return [(*size, self.input_shape[-1]) for size in dict.fromkeys(self.sizes)]


@dataclass(frozen=True)
class LoadedData:
    """Both parts of a config's data and what their masks hold.

    Keep it as long as the arrays: it keeps them in the cache.

    Attributes:
        fitted_range: of the training inputs, if they have 16 bits.
        pad_id: the class id of what slices have beyond their array, if there are slices.
    """

    train: ImageSet | None
    test: ImageSet | None
    coding: MaskCoding | None
    lock: FileLock | None = None
    fitted_range: IntensityRange | None = None
    pad_id: int | None = None

    @property
    def bits(self) -> int:
        """Bits a channel of the inputs: of the training ones, if there are any."""
        images = self.train or self.test
        assert images is not None  # the config has one of the two
        return 8 * images.inputs_NHWC.dtype.itemsize

    def with_range(
        self, intensity_range: IntensityRange | None, *, is_full: bool = False
    ) -> LoadedData:
        """Return both parts as they are to be scaled.

        Args:
            intensity_range: of both; None for the full scale.
            is_full: somebody has said so, of images of whatever bits.

        Raises:
            DataError: one range cannot hold for both, as they differ in their bits.
        """
        train, test = self.train, self.test
        bits = [8 * part.inputs_NHWC.dtype.itemsize for part in (train, test) if part is not None]
        if not is_full and len(set(bits)) > 1:
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

    @property
    def is_classification(self) -> bool:
        """Whether each sample as a whole is of a class."""
        return isinstance(self.coding, LabelCoding)
