"""Layers that work pixel by pixel: activations, dropout, rescaling, input."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.networks.config import Config, show
from trainer.networks.functions import FUNCTIONS
from trainer.networks.layers.normalization import axis_index
from trainer.networks.spec import (
    ZEROS,
    Function,
    Initializer,
    LayerSpec,
    Shape,
    ShapeError,
    Weight,
    describe,
)


@dataclass(frozen=True, kw_only=True)
class Identity(LayerSpec):
    """A layer that does nothing but (perhaps) its activation, such as Activation."""

    @classmethod
    def read(cls, config: Config) -> Identity:
        return cls()


def read_activity_regularization(config: Config) -> Identity:
    if config.get("l1", 0) or config.get("l2", 0):
        config.note("l1 and l2 are ignored (the optimizer's weight_decay regularizes instead)")
    return Identity()


def read_activation(config: Config) -> Identity:
    if config.values.get("activation") is None:
        raise config.error("activation", "missing; expected the name of an activation function")
    return Identity(activation=config.activation())


def read_relu(config: Config) -> Identity:
    """ReLU: max_value above, x above the threshold, negative_slope × (x − threshold) below."""
    top = config.optional_number("max_value")
    slope = config.number("negative_slope", 0.0)
    threshold = config.number("threshold", 0.0)
    if top is not None and top < 0:
        raise config.error("max_value", f"expected a number from 0 on, received {top:g}")
    if slope < 0:
        raise config.error("negative_slope", f"expected a number from 0 on, received {slope:g}")
    if threshold < 0:
        raise config.error("threshold", f"expected a number from 0 on, received {threshold:g}")
    if threshold:
        limit = () if top is None else (top,)
        return Identity(activation=Function("general_relu", (slope, threshold, *limit)))
    if slope and top is None:
        return Identity(activation=Function("leaky_relu", (slope,)))
    if slope:
        return Identity(activation=Function("general_relu", (slope, 0.0, top or 0.0)))
    if top == 6:
        return Identity(activation=FUNCTIONS["relu6"])
    if top is not None:
        return Identity(activation=Function("clipped_relu", (top,)))
    return Identity(activation=FUNCTIONS["relu"])


def read_leaky_relu(config: Config) -> Identity:
    key = "negative_slope" if config.get("negative_slope") is not None else "alpha"
    return Identity(activation=Function("leaky_relu", (config.number(key, 0.3),)))


def read_elu(config: Config) -> Identity:
    return Identity(activation=Function("elu", (config.number("alpha", 1.0),)))


def read_thresholded_relu(config: Config) -> Identity:
    return Identity(activation=Function("general_relu", (0.0, config.number("theta", 1.0))))


@dataclass(frozen=True, kw_only=True)
class Softmax(LayerSpec):
    """Softmax over one axis; over the channels it becomes the layer's activation."""

    axis: int

    @classmethod
    def read(cls, config: Config) -> Softmax:
        axis = config.get("axis", -1)
        axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
        if isinstance(axis, bool) or not isinstance(axis, int) or abs(axis) > 16:
            raise config.error("axis", f"expected one whole number, received {show(axis)}")
        # -1 is the channels' axis: known here, so that losses can take the logits before it
        return cls(
            axis=axis, activation=FUNCTIONS["softmax"] if axis == -1 else FUNCTIONS["linear"]
        )

    def output_shape(self, *shapes: Shape) -> Shape:
        axis_index(self.axis, shapes[0])
        return shapes[0]


@dataclass(frozen=True, kw_only=True)
class PReLU(LayerSpec):
    """PReLU with one slope per position, shared along the shared axes."""

    shared_axes: tuple[int, ...]
    init: Initializer

    @classmethod
    def read(cls, config: Config) -> PReLU:
        shared = config.integer_list("shared_axes") if config.get("shared_axes") else ()
        return cls(shared_axes=shared, init=config.initializer("alpha_initializer", ZEROS))

    def output_shape(self, *shapes: Shape) -> Shape:
        self._shared(shapes[0])
        return shapes[0]

    def _shared(self, shape: Shape) -> set[int]:
        """Return the shared axes as indices of a shape without batch.

        Keras takes axis − 1 as Python's index: 0 is the last axis, −1 the last but one.
        """
        for axis in self.shared_axes:
            if not -len(shape) <= axis - 1 < len(shape):
                raise ShapeError(f"shared_axes: axis {axis} does not exist in {describe(shape)}")
        return {(axis - 1) % len(shape) for axis in self.shared_axes}

    def weights(self, *shapes: Shape) -> tuple[Weight, ...]:
        shared = self._shared(shapes[0])
        shape = tuple(1 if i in shared else n for i, n in enumerate(shapes[0]))
        last = len(shape) - 1
        return (Weight("alpha", shape, "weight", self.init, (last, *range(last))),)


@dataclass(frozen=True, kw_only=True)
class Dropout(LayerSpec):
    """Dropout; `whole_channels` for the spatial forms; a noise shape has 1 where it is shared."""

    rate: float
    whole_channels: bool
    noise_shape: tuple[int | None, ...] | None = None
    whole_images: bool = False

    @classmethod
    def read(cls, config: Config, whole_channels: bool = False) -> Dropout:
        if whole_channels:
            config.channels_last()
        noise = config.get("noise_shape")
        if noise is not None:
            if not isinstance(noise, list) or len(noise) > 16:
                raise config.error("noise_shape", f"expected a list, received {show(noise)}")
            if not all(n is None or n == 1 for n in noise[1:]):
                raise config.refusal("noise_shape")
            noise = (noise[0], *noise[1:]) if noise else None
        return cls(
            rate=config.number("rate", 0.5, 0.0, 1.0),
            whole_channels=whole_channels,
            noise_shape=noise,
        )

    def output_shape(self, *shapes: Shape) -> Shape:
        if self.noise_shape is not None and len(self.noise_shape) != len(shapes[0]) + 1:
            raise ShapeError(
                f"noise_shape {list(self.noise_shape)} does not fit {describe(shapes[0])}"
            )
        return shapes[0]


def read_stochastic_depth(config: Config) -> Dropout:
    """ConvNeXt's: drops the whole residual path of an image."""
    rate = config.number("drop_path_rate", maximum=1.0, minimum=0.0)
    return Dropout(rate=rate, whole_channels=False, whole_images=True)


@dataclass(frozen=True, kw_only=True)
class Input(LayerSpec):
    """InputLayer; None where the file leaves a size open."""

    shape: tuple[int | None, ...]

    @classmethod
    def read(cls, config: Config) -> Input:
        batch_shape = config.get("batch_shape", config.get("batch_input_shape"))
        shape = config.get("shape", config.get("input_shape"))
        if isinstance(batch_shape, list) and batch_shape:
            shape = batch_shape[1:]
        key = "batch_shape" if "batch_shape" in config.values else "batch_input_shape"
        if not isinstance(shape, list) or not 1 <= len(shape) <= 4:
            raise config.error(key, f"expected [null, H, W, C], received {show(shape)}")
        sizes = tuple(None if n is None else config.with_value(key, n).integer(key) for n in shape)
        return cls(shape=sizes)
