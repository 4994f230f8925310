"""What tests of one device against another train: data of every kind, losses, optimizers."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import numpy as np
import torch
from pydantic import TypeAdapter

from trainer import config as cfg
from trainer.compute.memory import BatchFitter
from trainer.compute.parallel import ALONE
from trainer.config import IntensityJitter, Loss, Normalize, RandomPatches, Tiles
from trainer.config.loss import LOSSES
from trainer.data.imageset import ImageSet
from trainer.data.intensity import IntensityRange
from trainer.data.transforms import Steps
from trainer.loading.augment import channels_last
from trainer.loading.batches import Batches
from trainer.losses import LossFunction, build_loss
from trainer.networks import network_json, parse_network
from trainer.networks.module import KerasModule, build_module
from trainer.networks.spec import Activation
from trainer.optimizers import build_optimizer, needs_closure
from trainer.optimizers.schedule import LearningRate
from trainer.training.step import TrainingStep

SCHEDULE = {"type": "Exponential", "gamma": 0.5}
OPTIMIZERS: list[dict[str, Any]] = [
    {"type": "SGD"},
    {"type": "SGD", "momentum": 0.9, "dampening": 0.1, "weight_decay": 0.02},
    {"type": "SGD", "momentum": 0.9, "nesterov": True},
    {"type": "Adagrad", "lr_decay": 0.3, "weight_decay": 0.02},
    {"type": "RMSprop", "weight_decay": 0.02, "learning_rate": 0.001},
    {"type": "RMSprop", "momentum": 0.8, "centered": True, "eps": 1e-3, "learning_rate": 0.001},
    {"type": "Adam", "weight_decay": 0.02},
    {"type": "Adam", "amsgrad": True},
    {"type": "AdamW", "weight_decay": 0.3},
    {"type": "LARS", "momentum": 0.9, "weight_decay": 0.1, "eta": 0.1},
    {"type": "LARS", "momentum": 0.5, "dampening": 0.2, "nesterov": False, "eta": 0.1},
    {"type": "LAMB", "weight_decay": 0.2},
    {"type": "LAMB", "amsgrad": True},
]
NORMALIZE = (Normalize(mean=0.4, std=0.3),)
# Nothing below is interpolated but what is meant to be: a pixel on the border between two would
# take the one on a CPU and the other on a GPU.
STEPS = Steps((), ((1, 0.5), (0, 0.5)), NORMALIZE)
TONES = replace(STEPS, tones=(IntensityJitter(brightness=0.2, contrast=0.2),))
PATCHES = replace(STEPS, patches=(RandomPatches(number=2, size=(5, 5)),))
WARPS = replace(TONES, warps=(("random_rotate", 20.0), ("random_zoom", 0.2)))
SIZE = (16, 24)
NUM_SAMPLES = 10
BATCH_SIZE = 4  # the last one of an epoch is smaller


def optimizer_config(section: dict[str, Any], **changes: Any) -> cfg.Optimizer:
    settings = {"learning_rate": 0.01, "lr_scheduler": SCHEDULE, **section, **changes}
    config: cfg.Optimizer = TypeAdapter(cfg.Optimizer).validate_python(settings)
    return config


@dataclass(frozen=True)
class LossCase:
    """A loss on logits of one kind."""

    config: Loss
    activation: Activation
    num_channels: int

    def __str__(self) -> str:
        config = self.config
        extra = (
            f"{'-weighted' if config.weight else ''}{'-ignoring' if config.ignore_index else ''}"
        )
        return f"{config.function}-{self.activation}{self.num_channels}{extra}"

    def build(self) -> LossFunction:
        return build_loss(self.config, self.activation, self.num_channels)

    def logits_and_target(self, *sizes: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        num_classes = max(2, self.num_channels)
        logits = torch.randn(2, self.num_channels, *sizes, generator=generator)
        target = torch.randint(0, num_classes, (2, *sizes), generator=generator)
        if self.config.ignore_index is not None:
            target[:, 0] = self.config.ignore_index
        return logits, target


def _loss_cases() -> list[LossCase]:
    kinds: list[tuple[Activation, int]] = [
        ("sigmoid", 1), ("sigmoid", 3), ("softmax", 2), ("softmax", 3), ("log_softmax", 3),
        ("linear", 1),
    ]  # fmt: skip
    cases = []
    for name, (activation, num_channels) in itertools.product(LOSSES, kinds):
        if activation == "linear" and name != "MSE":
            continue
        weight = (0.2, 0.5, 0.3)[: max(2, num_channels)]
        for one, ignored in itertools.product((None, weight), (None, 255)):
            config = Loss(function=name, weight=one, ignore_index=ignored)
            cases.append(LossCase(config, activation, num_channels))
    return cases


LOSS_CASES = _loss_cases()


def _images(
    values: np.ndarray, targets: np.ndarray | None, steps: Steps, **options: Any
) -> ImageSet:
    names = tuple(f"{index}.png" for index in range(len(values)))
    return ImageSet(names, values, targets, steps, Steps((), (), NORMALIZE), **options)


def image_sets() -> dict[str, ImageSet]:
    """Return a set of each kind of data."""
    rng = np.random.default_rng(0)
    size, volume = (NUM_SAMPLES, *SIZE), (NUM_SAMPLES, 8, 8, 8)
    masks = rng.integers(0, 2, size, dtype=np.uint8)
    gray = rng.integers(0, 256, (*size, 1), dtype=np.uint8)
    bits16 = rng.integers(0, 2**16, (*size, 1), dtype=np.uint16)
    floats = rng.normal(size=(*volume, 2)).astype(np.float32)
    large = rng.integers(0, 256, (NUM_SAMPLES, 40, 37, 1), dtype=np.uint8)
    large_masks = rng.integers(0, 2, large.shape[:3], dtype=np.uint8)
    continuous = rng.integers(0, 2**16, size, dtype=np.uint16)
    labels = rng.integers(0, 2, NUM_SAMPLES, dtype=np.uint8)
    volumes = rng.integers(0, 2, volume, dtype=np.uint8)
    rgb = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    return {
        "8 bits": _images(gray, masks, STEPS),
        "colour, warped": _images(rgb, masks, WARPS),
        "tones": _images(gray, masks, TONES),
        "patches": _images(gray, masks, PATCHES),
        "16 bits": _images(bits16, masks, STEPS),
        "16 bits, range": _images(
            bits16, masks, STEPS, intensity_range=IntensityRange(1000, 50000, 16, "given")
        ),
        "continuous": _images(gray, continuous, STEPS),
        "volumes": _images(floats, volumes, replace(STEPS, normalize=())),
        "classes": _images(rgb, labels, STEPS),
        "tiles": _images(large, large_masks, STEPS, tiles=Tiles(size=SIZE, per_image=2)),
    }


def _set_of_steps() -> ImageSet:
    """Return samples for six batches and a smaller one."""
    rng = np.random.default_rng(1)
    size = (6 * BATCH_SIZE + 2, *SIZE)
    inputs = rng.integers(0, 256, (*size, 1), dtype=np.uint8)
    return _images(inputs, rng.integers(0, 2, size, dtype=np.uint8), STEPS)


SET_OF_STEPS = _set_of_steps()


def batches_on(
    device: torch.device, images: ImageSet, *, is_resident: bool, continuous: bool = False
) -> Batches:
    with mock.patch("trainer.loading.batches.DEVICE_SHARE", 0.0):
        batches = Batches(images, batch_size=BATCH_SIZE, device=device, continuous=continuous)
    if is_resident:
        batches.move_to_device()
    return batches


def unet(shape: tuple[int, ...] = (*SIZE, 1), spec: str = "unet:width=4,depth=2") -> KerasModule:
    """Return a small network, the same one each time."""
    torch.manual_seed(0)
    assert len(shape) == 3
    return build_module(parse_network(network_json(spec, shape, 1), spec), shape)


@dataclass(frozen=True)
class Training:
    """All that a training needs, on one device."""

    step: TrainingStep
    rate: LearningRate

    @classmethod
    def on(
        cls,
        device: torch.device,
        section: dict[str, Any],
        *,
        images: ImageSet | None = None,
        network: KerasModule | None = None,
        loss: LossFunction | None = None,
        precision: torch.dtype = torch.float32,
        continuous: bool = False,
    ) -> Training:
        capturable = device.type != "cpu"
        network = network or unet()
        is_flattened = section["type"] == "Hessian"
        network.place(device, torch.contiguous_format if is_flattened else channels_last(2))
        network.train()
        config = optimizer_config(section)
        optimizer = build_optimizer(config, network.parameters(), capturable=capturable)
        rate = LearningRate(config, optimizer, tensor=capturable and not needs_closure(optimizer))
        step = TrainingStep(
            network=network,
            batches=batches_on(
                device,
                images or image_sets()["8 bits"],
                is_resident=True,
                continuous=continuous,
            ),
            loss=loss or build_loss(Loss(function="Dice"), "sigmoid", 1),
            optimizer=optimizer,
            precision=precision,
            world=ALONE,
            fitter=BatchFitter(BATCH_SIZE, 1, False, reserve=list, log=lambda line: None),
        )
        return cls(step, rate)
