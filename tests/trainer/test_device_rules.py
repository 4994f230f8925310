"""A training step and an evaluation keep to what CUDA accepts, and wait for nothing."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable

import pytest
import torch
from cuda_rules import META, cuda_rules
from layer_cases import Case
from torch import Tensor
from training_cases import (
    BATCH_SIZE,
    LOSS_CASES,
    OPTIMIZERS,
    LossCase,
    Training,
    batches_on,
    image_sets,
    unet,
)

from trainer.compute.launch import Launch
from trainer.compute.parallel import ALONE, World
from trainer.config import Loss
from trainer.errors import DeviceError
from trainer.evaluation.evaluator import Evaluator, _Tally
from trainer.loading.augment import channels_last
from trainer.losses import build_loss
from trainer.metrics.counts import SegmentationCounts
from trainer.metrics.pixelcounts import count_pixels

SETS = image_sets()


@pytest.fixture
def meta(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Let the meta device take the place of a GPU in code that asks for one's abilities."""

    def with_meta(function: Callable[..., list[str]]) -> Callable[..., list[str]]:
        return lambda *args, **kwargs: [*function(*args, **kwargs), "meta"]

    for module in ("optimizer", "rmsprop"):
        for name in ("_get_fused_kernels_supported_devices", "_get_capturable_supported_devices"):
            place = importlib.import_module(f"torch.optim.{module}")
            if hasattr(place, name):
                monkeypatch.setattr(place, name, with_meta(getattr(place, name)))
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    return META


@pytest.mark.parametrize("section", OPTIMIZERS, ids=str)
def test_step_stays_on_the_device(meta, section: dict) -> None:
    training = Training.on(meta, section)
    for number, picked in enumerate(training.step.batches.epoch(seed=0, epoch=1)):
        with cuda_rules(is_step=number > 0, is_ordered=True):  # the first makes the state
            figures = training.step.whole(picked)
        assert (figures.shape, figures.device) == ((2,), meta)
        training.rate.advance()


@pytest.mark.parametrize("is_resident", [True, False], ids=["there", "here"])
@pytest.mark.parametrize("kind", SETS)
def test_batches_are_made_on_the_device(meta, kind: str, is_resident: bool) -> None:
    images = SETS[kind]
    batches = batches_on(meta, images, is_resident=is_resident, continuous=kind == "continuous")
    sizes = []
    for picked in batches.epoch(seed=0, epoch=1):
        with cuda_rules(is_step=True):
            batch = batches.make(picked)
        assert batch.inputs_NCHW.device == batch.targets.device == meta
        assert batch.inputs_NCHW.shape[2:] == images.input_shape[:-1]
        sizes.append(len(batch.inputs_NCHW))
    assert sum(sizes) == batches.num_samples
    assert max(sizes) == BATCH_SIZE


@pytest.mark.parametrize("case", LOSS_CASES, ids=str)
def test_loss_stays_on_the_device_and_adds_in_one_order(meta, case: LossCase) -> None:
    for sizes in ((6, 5), (4, 3, 5)):
        loss = case.build()
        logits, target = (values.to(META) for values in case.logits_and_target(*sizes))
        loss(logits, target)  # copies the weights, once
        logits.requires_grad_()
        with cuda_rules(is_step=True, is_ordered=True):
            loss(logits, target).backward()
        assert logits.grad is not None


@pytest.mark.parametrize("kind", SETS)
def test_batch_of_an_evaluation_waits_for_nothing(meta, kind: str) -> None:
    images, shape = SETS[kind], SETS[kind].input_shape
    assert images.targets_NHW is not None
    is_classification = images.targets_NHW.ndim == 1
    if is_classification:
        network = Case("GlobalAveragePooling2D", shape, {}).build()
    elif len(shape) == 4:
        network = Case("Conv3D", shape, {"filters": 2, "kernel_size": [1] * 3}).build()
    else:
        network = unet(shape)
    network.place(meta, channels_last(len(shape) - 1))
    network.eval()
    num_channels = network.shapes[list(network.shapes)[-1]][-1]
    activation = "sigmoid" if num_channels == 1 else "softmax"
    evaluator = Evaluator(
        batches=batches_on(meta, images, is_resident=True, continuous=kind == "continuous"),
        world=ALONE,
        activation=activation,
        loss=build_loss(Loss(function="BCE"), activation, num_channels),
        new_counts=None,
        log_batch=lambda *args: None,
    )
    counts = SegmentationCounts(num_channels, None, is_classification=is_classification)
    tally = _Tally(counts)
    for batch in evaluator.batches.in_order():
        assert batch is not None
        with torch.inference_mode(), cuda_rules(is_step=True):
            evaluator._evaluate(network, batch, tally)
    assert tally.num_seen == len(images)
    assert tally.loss_sum.device == meta


@pytest.mark.parametrize("ignored", [None, 255])
def test_counting_waits_for_nothing(ignored: int | None) -> None:
    predicted = torch.empty(2, 8, 9, dtype=torch.long, device=META)
    with cuda_rules(is_step=True, is_ordered=True):
        counts, invalid = count_pixels(predicted, predicted, 3, ignored)
    assert (counts.shape, invalid.shape) == ((2, 3, 3), (2,))


def test_gpu_that_cannot_be_used_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for one process of several: it has not lost the others."""

    def fail(*args: object, device: torch.device) -> None:
        raise RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable\nmore")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "empty", fail)
    world = World(Launch(rank=1, size=2, local_rank=1, local_size=2))
    with pytest.raises(DeviceError, match=r"cuda:1 cannot be used: CUDA error: all [a-zA-Z -]*$"):
        world.connect("auto")
