"""Losses, batches, counts, tiles and optimizers on a GPU against the CPU."""

from __future__ import annotations

import pytest
import torch
from training_cases import (
    LOSS_CASES,
    OPTIMIZERS,
    LossCase,
    Training,
    batches_on,
    image_sets,
)

from trainer.compute.device import compute_stream, exact_float32
from trainer.evaluation.tiles import blend_tiles
from trainer.loading.augment import channels_last
from trainer.metrics.pixelcounts import count_pixels

SETS = image_sets()
CPU = torch.device("cpu")


@pytest.mark.parametrize("case", LOSS_CASES, ids=str)
def test_loss_equals_the_cpus_and_repeats_to_the_bit(case: LossCase, device: torch.device) -> None:
    loss, results = case.build(), []
    for where, dtype in ((CPU, torch.float64), (device, torch.float32), (device, torch.float32)):
        logits, target = case.logits_and_target(12, 20)
        inputs = logits.to(where, dtype).contiguous(memory_format=torch.channels_last)
        inputs.requires_grad_()
        value = loss(inputs, target.to(where))
        value.backward()
        assert inputs.grad is not None
        results.append((value.detach().cpu(), inputs.grad.cpu()))
    expected, *ours = results
    torch.testing.assert_close(ours[0][0].double(), expected[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours[0][1].double(), expected[1], rtol=1e-4, atol=1e-7)
    assert torch.equal(ours[0][0], ours[1][0])
    assert torch.equal(ours[0][1], ours[1][1])


@pytest.mark.parametrize("is_resident", [True, False], ids=["there", "here"])
@pytest.mark.parametrize("kind", SETS)
def test_batches_equal_the_cpus(kind: str, is_resident: bool, device: torch.device) -> None:
    images, continuous = SETS[kind], kind == "continuous"
    here = batches_on(CPU, images, is_resident=False, continuous=continuous)
    there = batches_on(device, images, is_resident=is_resident, continuous=continuous)
    for ours, theirs in zip(
        there.epoch(seed=3, epoch=2), here.epoch(seed=3, epoch=2), strict=True
    ):
        batch, expected = there.make(ours), here.make(theirs)
        assert batch.inputs_NCHW.device.type == device.type
        rank = batch.inputs_NCHW.ndim - 2
        assert batch.inputs_NCHW.is_contiguous(memory_format=channels_last(rank))
        torch.testing.assert_close(
            batch.inputs_NCHW.cpu(), expected.inputs_NCHW, rtol=1e-4, atol=1e-3
        )
        assert batch.targets is not None
        assert expected.targets is not None
        # Half way between two pixels either may be the nearest.
        same = (batch.targets.cpu() == expected.targets).float().mean()
        assert same >= (0.99 if images.steps.warps else 1 - 1e-9) or continuous
        if continuous:
            torch.testing.assert_close(batch.targets.cpu(), expected.targets)
    for ours, theirs in zip(there.in_order(), here.in_order(), strict=True):
        assert ours is not None
        assert theirs is not None
        torch.testing.assert_close(ours.inputs_NCHW.cpu(), theirs.inputs_NCHW)
        torch.testing.assert_close(ours.targets.cpu(), theirs.targets)


@pytest.mark.parametrize("size", [(3, 40, 60), (3, 6, 7, 8), (50,)], ids=str)
def test_counts_equal_the_cpus(size: tuple[int, ...], device: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    predicted = torch.randint(0, 4, size, generator=generator)
    target = torch.randint(-1, 6, size, generator=generator)
    ours = count_pixels(predicted.to(device), target.to(device), 4, 3)
    for one, other in zip(ours, count_pixels(predicted, target, 4, 3), strict=True):
        assert torch.equal(one.cpu(), other)


def test_blended_tiles_equal_the_cpus(device: torch.device) -> None:
    torch.manual_seed(0)
    network, image = torch.nn.Conv2d(2, 3, 5, padding="same"), torch.randn(1, 2, 80, 56)
    results = []
    for where in (CPU, device):
        with torch.inference_mode(), exact_float32():
            blended = blend_tiles(
                network.to(where), image.to(where), (32, 32), overlap=0.25, batch_size=4
            )
        results.append(blended.cpu())
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


def figures_of(training: Training, device: torch.device, *, num_epochs: int = 2) -> torch.Tensor:
    """Return loss and norm of each step."""
    figures = []
    with compute_stream(device), exact_float32():
        for epoch in range(1, num_epochs + 1):
            for picked in training.step.batches.epoch(seed=0, epoch=epoch):
                figures.append(training.step(picked).clone())
            training.rate.advance()
        return torch.stack(figures).cpu()


@pytest.mark.parametrize(
    "section", [*OPTIMIZERS, {"type": "Hessian", "max_iterations": 3}], ids=str
)
def test_optimizer_trains_as_on_the_cpu(section: dict, device: torch.device) -> None:
    ours = figures_of(Training.on(device, section), device)
    expected = figures_of(Training.on(CPU, section), CPU)
    is_sensitive = section["type"] == "Hessian"  # its line search turns on a last digit
    torch.testing.assert_close(
        ours[:, 0], expected[:, 0], rtol=0.05 if is_sensitive else 0.01, atol=1e-4
    )


@pytest.mark.parametrize("section", OPTIMIZERS, ids=str)
def test_bfloat16_trains_nearly_as_float32(section: dict, device: torch.device) -> None:
    ours = figures_of(Training.on(device, section, precision=torch.bfloat16), device)
    expected = figures_of(Training.on(CPU, section), CPU)
    torch.testing.assert_close(ours[:, 0], expected[:, 0], rtol=0.1, atol=0.02)
