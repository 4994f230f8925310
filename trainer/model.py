"""`load_model`: a trained model as a plain PyTorch module, with its preprocessing."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from trainer.compute.device import choose_device
from trainer.compute.parallel import ALONE
from trainer.config import LOSSES, NeuralNetwork, parse_config
from trainer.data.dataset import Resolve
from trainer.data.geometry import classes_at, final_size, read_through, undo
from trainer.data.images import Array, read_image
from trainer.data.imageset import ImageSet
from trainer.data.intensity import IntensityRange, choose_range
from trainer.data.pixels import as_stored
from trainer.data.slicing import Slice
from trainer.data.transforms import Steps, plan_transforms
from trainer.errors import ConfigError, DataError
from trainer.evaluation.evaluator import Evaluator
from trainer.evaluation.predictions import Floats, Write
from trainer.loading.augment import channels_last
from trainer.loading.batches import Batches
from trainer.log import Log
from trainer.networks import Network
from trainer.networks.blueprint import Blueprint, make_blueprint
from trainer.networks.forward import activate
from trainer.networks.network_module import NetworkModule
from trainer.networks.spec import Activation
from trainer.networks.weights import load_weights
from trainer.rundir import CONFIG
from trainer.setup.adapt import load_graph, output_size, with_scoring_rules
from trainer.setup.fit import resolve_activation

UNKNOWN_SIZE = 256  # divisible by every stride of a usual network
BINARY_VALUES = (0, 255)  # of masks whose data set's values are not known


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image, whose size is (H, W).

    Attributes:
        mask: (H, W), the data set's own mask values, as `rmldnn --predict` writes them.
        classes: (H, W) uint8, class ids; with one channel 1 is the foreground.
        probability: (C, H, W) float32, each class's, or the foreground's alone with one channel;
            0 where a crop cut the image off. Of a network trained with MSE its values.
        output: (C, h, w) float32, the network's output at its own size, as in `output_1.h5`.
    """

    mask: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
    classes: npt.NDArray[np.uint8]
    probability: Floats
    output: Floats


class SegmentationModel(nn.Module):
    """A trained network with its preprocessing; see `load_model`.

    Attributes:
        network: the network alone, which gives logits by `network.logits`.
        config: the config of the model's folder.
        class_names: of the classes, the background first.
        input_shape: (H, W, C) that the network was made for.
    """

    def __init__(
        self,
        network: NetworkModule,
        config: NeuralNetwork,
        blueprint: Blueprint,
        stored_range: IntensityRange | None,
    ) -> None:
        super().__init__()
        self.network = network
        self.config = config
        self.input_shape = blueprint.facts.input_shape
        self.activation: Activation = resolve_activation(config, blueprint.facts)
        self.class_names = class_names(config, blueprint.facts.output_shape[-1])
        self._blueprint = blueprint
        self._stored_range = stored_range

    def forward(self, inputs_NCHW: Tensor) -> Tensor:
        """Return probabilities (N, C, h, w) of inputs as `preprocess` makes them."""
        return activate(self.network.logits(inputs_NCHW), self.activation)

    def preprocess(self, image: Any, *, order: str = "rgb") -> Tensor:
        """Return an image as the network takes it: (1, C, h, w) float32, on the model's device.

        Args:
            image: an array or a file, see `predict`.
            order: of an array's colours.

        Raises:
            DataError, ConfigError: see `predict`.
        """
        images = self._as_set(self._read(image, order))
        batch = next(iter(self._batches(images).in_order()))
        assert batch is not None
        return batch.inputs_NCHW

    def predict(self, image: Any, *, order: str = "rgb") -> Prediction:
        """Segment one image, as `rmldnn --predict` does.

        Args:
            image: a file, or an array (H, W), (H, W, 1) or (H, W, 3 or 4) of uint8 or uint16, the
                values that a file would store; a fourth channel is left out.
            order: "rgb" as Pillow, imageio and scikit-image read files, or "bgr" as OpenCV does.

        Raises:
            DataError: the file cannot be read, or the array is no image, or of other bits than
                the training images.
            ConfigError: the model is not of images with masks.
            NetworkError: the network does not take images of this size.
        """
        if self.config.data.inputs != "images" or self.config.data.has_labels:
            raise ConfigError(
                "predict: segments images, and this model is for other data; give its tensors to "
                "the model itself"
            )
        stored = self._read(image, order)
        output = self._output_of(self._as_set(stored))
        size_HW = (int(stored.shape[0]), int(stored.shape[1]))
        reading = self._steps[0].reading
        classes = classes_at(output, size_HW, reading)
        values = np.exp(output) if self.activation == "log_softmax" else output
        moved = [undo(channel, reading, size_HW) for channel in values]
        probability = np.stack([np.where(inside, channel, 0) for channel, inside in moved])
        mask = mask_of(classes, self.config, len(output))
        return Prediction(mask, classes, probability.astype(np.float32), output)

    @cached_property
    def _steps(self) -> tuple[Steps, Steps]:
        return plan_transforms(self.config.data)

    @property
    def _device(self) -> torch.device:
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    def _read(self, image: Any, order: str) -> Array:
        gray = self.config.data.is_input_gray
        if isinstance(image, str | Path):
            path = Path(image)
            if path.is_dir():
                raise DataError(f"{path}: a folder; expected one image: call predict for each")
            if not path.is_file():
                raise DataError(f"{path}: no such file")
            return read_image(path, gray=gray)
        return as_stored(np.asarray(image), gray=gray, order=order)

    def _as_set(self, stored: Array) -> ImageSet:
        data = self.config.data
        row = read_through(stored, self._steps[0].reading, nearest=False)
        bits = 8 * row.dtype.itemsize
        span = choose_range(
            data.intensity_range, bits=bits, fitted=None, stored=self._stored_range
        )
        images = ImageSet(
            ("image",), row[np.newaxis], None, *self._steps, data.tiles, intensity_range=span
        )
        if data.tiles and any(a < b for a, b in zip(row.shape[:2], data.tiles.size, strict=True)):
            raise DataError(
                f"the image is {row.shape[0]}x{row.shape[1]} (height x width), less than a tile "
                f"of the model, {data.tiles.size[0]}x{data.tiles.size[1]}; enlarge it"
            )
        if images.input_shape != self.input_shape:
            self._blueprint.check(images.input_shape)
        return images

    def _batches(self, images: ImageSet) -> Batches:
        batch_size = self.config.data.test_batch_size
        return Batches(images, batch_size=batch_size, device=self._device, continuous=False)

    def _output_of(self, images: ImageSet) -> Floats:
        kept: list[Floats] = []
        evaluator = Evaluator(
            batches=self._batches(images),
            world=ALONE,
            activation=self.activation,
            loss=None,
            new_counts=None,
            log_batch=lambda *entry: None,
            output_size=output_size(self.config, self._blueprint.facts, images),
        )
        is_training = self.network.training
        try:
            evaluator.run(self.network, 1, _Kept(kept))
        finally:
            self.network.train(is_training)
        return kept[0]


def load_model(folder: str | PathLike[str], device: str = "auto") -> SegmentationModel:
    """Load a model such as `best_model/`: a module in evaluation mode, with its preprocessing.

    Args:
        folder: has a config.json beside weights and network.
        device: "auto" (a GPU if there is one), "cpu" or "cuda".

    Raises:
        ConfigError: no folder, no config of rmldnn in it, or no GPU where one is asked for.
        NetworkError, WeightsError: the network or its weights cannot be read.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device: {device!r} is not one of 'auto', 'cpu', 'cuda'")
    if not isinstance(folder, str | PathLike):
        raise ConfigError(
            f"load_model: expected a folder such as best_model/, received {folder!r} (a search's "
            "best_model is None where the model is not on this machine)"
        )
    folder = Path(folder)
    config = model_config(folder, "load_model")
    resolve = Resolve.of(config, folder)
    if config.checkpoints.load is None:
        raise ConfigError(f"load_model: {folder / CONFIG} names no weights (checkpoints.load)")
    network = load_graph(config, resolve, (), None)
    blueprint = make_blueprint(network, network_input_shape(network, config))
    module = blueprint.build()
    report = load_weights(
        module,
        network,
        resolve(config.checkpoints.load),
        Log(silent=True),
        allow_partial=config.checkpoints.allow_partial,
    )
    module.place(choose_device(device), channels_last(len(blueprint.facts.input_shape) - 1))
    stored = IntensityRange.of_checkpoint(report.intensity_range)
    return SegmentationModel(module, config, blueprint, stored).eval()


def model_config(folder: Path, where: str, **data: str) -> NeuralNetwork:
    """Return the config of a model's folder, without the data that it was evaluated on.

    Args:
        folder: of the model.
        where: who asks, for errors.
        data: keys of the section `data` to set.

    Raises:
        ConfigError: there is none, or it is wrong.
    """
    path = folder / CONFIG
    try:
        obj: Any = json.loads(path.read_text(encoding="utf-8-sig"))
        network = obj["neural_network"]
        section = network["data"]
        if not isinstance(section, dict):
            raise TypeError
    except OSError as error:
        raise ConfigError(f"{where}: {path} cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{where}: {path} is no config of rmldnn") from None
    for key in ("input_path", "target_path", "test_target_path"):
        section.pop(key, None)
    section.update(data)
    network.pop("outfile", None)
    metrics = network.get("metrics")
    if isinstance(metrics, dict):  # its plug-ins may not be installed; which classes count stays
        network["metrics"] = {k: v for k, v in metrics.items() if k == "include_background"}
    _forget_plugin_loss(network)
    config = parse_config(obj, str(path))
    # Masks are brought back the way that the images were turned.
    return with_scoring_rules(config, Resolve.of(config, folder), Log(silent=True))


def network_input_shape(network: Network, config: NeuralNetwork) -> tuple[int, ...]:
    """Return (H, W, C): the size of tiles, what the config resizes to, or the file's own."""
    steps, _ = plan_transforms(config.data)
    size_HW = config.data.tiles.size if config.data.tiles else final_size(steps.reading)
    if size_HW:
        return (*size_HW, network.input_shape[-1] or 3)
    return tuple(UNKNOWN_SIZE if size is None else size for size in network.input_shape)


def class_names(config: NeuralNetwork, num_channels: int) -> tuple[str, ...]:
    """Return the names of a model's classes, the background first."""
    if config.data.class_names is not None:
        return tuple(config.data.class_names)
    if num_channels == 1:
        return ("background", "foreground")
    return ("background", *(f"class_{index}" for index in range(1, num_channels)))


def mask_of(
    classes: npt.NDArray[np.uint8], config: NeuralNetwork, num_channels: int
) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """Return class ids as the data set's own mask values, 8 bits where they suffice."""
    values = config.data.mask_values or (BINARY_VALUES if num_channels == 1 else None)
    mask = classes if values is None else np.asarray(values, dtype=np.uint16)[classes]
    is_small = mask.max(initial=0) <= np.iinfo(np.uint8).max
    return mask.astype(np.uint8) if is_small else mask.astype(np.uint16)


@dataclass(frozen=True)
class _Kept:
    """Keeps outputs instead of writing them."""

    outputs: list[Floats]

    @contextlib.contextmanager
    def open(self, slices: Sequence[Slice]) -> Iterator[Write]:
        yield lambda names, outputs: self.outputs.extend(outputs)


def _forget_plugin_loss(network: dict[str, Any]) -> None:
    """Let a model that was trained with a plug-in's loss predict where that is not installed.

    Of the loss only `source` matters here, and MSE, which takes the output as it is.
    """
    loss = network.get("loss")
    if isinstance(loss, dict) and str(loss.get("function")).lower() not in map(str.lower, LOSSES):
        network["loss"] = {"function": "BCE", "source": loss.get("source")}
