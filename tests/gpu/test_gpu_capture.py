"""A step captured as a CUDA graph gives the numbers of its eager twin, and waits for nothing."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from training_cases import OPTIMIZERS, SET_OF_STEPS, Training, image_sets, unet

from trainer.compute.device import compute_stream
from trainer.compute.parallel import ALONE
from trainer.config import Loss
from trainer.evaluation.evaluator import Evaluator, _Tally
from trainer.loading.batches import BatchSelection
from trainer.losses import build_loss
from trainer.metrics.counts import SegmentationCounts
from trainer.networks.module import KerasModule
from trainer.training import capture
from trainer.training.capture import WARM_UP_STEPS, CapturedSteps, CudaRecorder, recorder_on

Steps = Callable[[BatchSelection], Tensor]
NUM_EPOCHS = 2
OTHER_NETWORKS = ("volumes", "classes")


@contextlib.contextmanager
def waiting_is_an_error(device: torch.device) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


class _Repeating:
    """What takes a graph's place where there is no GPU: the same step on the same tensors."""

    def watched(self, step: Callable[[], Tensor]) -> tuple[Tensor, str | None]:
        return step(), None

    def record(self, step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        return step


def captured(training: Training, log: list[str]) -> CapturedSteps:
    on_gpu = training.step.batches._device.type == "cuda"
    recorder = CudaRecorder() if on_gpu else _Repeating()
    steps = CapturedSteps(training.step, recorder, log.append)
    training.step.fitter.free = steps.release
    return steps


def follow(
    training: Training, steps: Steps, device: torch.device, *, num_epochs: int = NUM_EPOCHS
) -> tuple[Tensor, list[Tensor]]:
    """Return loss and norm of each step, and the weights after the last."""
    figures = []
    with compute_stream(device):
        for epoch in range(1, num_epochs + 1):
            for picked in training.step.batches.epoch(seed=0, epoch=epoch):
                figures.append(steps(picked).clone())
            training.rate.advance()
        values = training.step.network.state_dict().values()
        return torch.stack(figures).cpu(), [value.cpu() for value in values]


def same_as_eager(
    device: torch.device,
    section: dict,
    network: Callable[[], KerasModule] = unet,
    precision: torch.dtype = torch.float32,
    num_epochs: int = NUM_EPOCHS,
) -> list[str]:
    """Compare; return the log."""
    images, log = SET_OF_STEPS, []
    runs = []
    for is_captured in (False, False, True):
        training = Training.on(
            device, section, images=images, network=network(), precision=precision
        )
        torch.manual_seed(0)
        steps = captured(training, log) if is_captured else training.step
        runs.append(follow(training, steps, device, num_epochs=num_epochs))
    (eager, weights), (again, _), (ours, own_weights) = runs
    if torch.equal(eager, again):
        assert torch.equal(ours, eager)
        assert all(map(torch.equal, own_weights, weights))
    else:  # a kernel adds in no fixed order
        torch.testing.assert_close(ours, eager, rtol=1e-3, atol=1e-4)
    return log


@pytest.mark.parametrize("section", OPTIMIZERS, ids=str)
def test_graph_equals_its_eager_twin(section: dict, device: torch.device) -> None:
    log = same_as_eager(device, section)
    assert log == ["Training step: captured as a CUDA graph (batches of 4)"]


def test_last_batch_has_a_graph_of_its_own(device: torch.device) -> None:
    log = same_as_eager(device, {"type": "Adam"}, num_epochs=WARM_UP_STEPS + 2)
    assert [line[-2:] for line in log] == ["4)", "2)"]


def test_graph_of_bfloat16_equals_its_eager_twin(device: torch.device) -> None:
    assert len(same_as_eager(device, {"type": "Adam"}, precision=torch.bfloat16)) == 1


def dropping() -> KerasModule:
    from layer_cases import Case
    from training_cases import SIZE

    torch.manual_seed(0)
    return Case("Dropout", (*SIZE, 1), {"rate": 0.4}).build()


def test_graph_drops_others_in_each_step(device: torch.device) -> None:
    assert len(same_as_eager(device, {"type": "SGD"}, network=dropping)) == 1


@pytest.mark.parametrize("kind", [name for name in image_sets() if name not in OTHER_NETWORKS])
def test_steps_and_evaluation_wait_for_nothing(kind: str, device: torch.device) -> None:
    images = image_sets()[kind]
    training = Training.on(
        device,
        {"type": "Adam"},
        images=images,
        network=unet(images.input_shape),
        continuous=kind == "continuous",
    )
    steps = capture.captured(training.step, recorder_on(device), lambda line: None, wanted=True)
    follow(training, steps, device)  # what is made once: states, graphs
    with compute_stream(device):
        for number, picked in enumerate(training.step.batches.epoch(seed=0, epoch=1)):
            with waiting_is_an_error(device):
                steps(picked)
                if number == 0:
                    training.step.whole(picked)
        evaluator = Evaluator(
            batches=training.step.batches,
            world=ALONE,
            activation="sigmoid",
            loss=build_loss(Loss(function="BCE"), "sigmoid", 1),
            new_counts=None,
            log_batch=lambda *args: None,
        )
        tally = _Tally(SegmentationCounts(1, None))
        training.step.network.eval()
        with torch.inference_mode(), waiting_is_an_error(device):
            for batch in training.step.batches.in_order():
                assert batch is not None
                evaluator._evaluate(training.step.network, batch, tally)
        assert tally.num_seen == len(images)
        assert tally.counts is not None
        assert 0 <= tally.counts.scores().dice_dataset <= 1


def waiting_loss(logits: Tensor, target: Tensor) -> Tensor:
    value = (logits.squeeze(1).sigmoid() - target).square().mean()
    return value * (2.0 if value.item() > 1e9 else 1.0)


def test_loss_that_waits_is_not_captured_and_says_so_once(gpu: torch.device) -> None:
    log: list[str] = []
    training = Training.on(gpu, {"type": "Adam"}, images=SET_OF_STEPS, loss=waiting_loss)
    figures, _ = follow(training, captured(training, log), gpu)
    assert len(log) == 1
    assert "it waits for the GPU" in log[0]
    assert "test_gpu_capture.py" in log[0]
    other = Training.on(gpu, {"type": "Adam"}, images=SET_OF_STEPS, loss=waiting_loss)
    expected, _ = follow(other, other.step, gpu)
    torch.testing.assert_close(figures, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fault", ["memory", "a wait", "an error"])
def test_failed_capture_goes_on_eagerly(fault: str, gpu: torch.device) -> None:
    """Also where memory is short: that is no trial's out-of-memory."""
    log: list[str] = []
    training = Training.on(gpu, {"type": "Adam"}, images=SET_OF_STEPS, network=dropping())
    torch.manual_seed(0)

    class Failing(CudaRecorder):
        def record(self, step: Callable[[], Tensor]) -> Callable[[], Tensor]:
            def fail() -> Tensor:
                figures = step()
                if fault == "memory":
                    torch.empty(2**50, device=gpu)
                elif fault == "a wait":
                    figures.cpu()
                else:
                    raise ValueError("of a plug-in")
                return figures

            return super().record(fail)

    steps = CapturedSteps(training.step, Failing(), log.append)
    training.step.fitter.free = steps.release
    figures, _ = follow(training, steps, gpu)
    assert len(log) == 1
    assert log[0].startswith("Training step: not as a CUDA graph for batches of 4: ")
    other = Training.on(gpu, {"type": "Adam"}, images=SET_OF_STEPS, network=dropping())
    torch.manual_seed(0)
    expected, _ = follow(other, other.step, gpu)
    # The failed capture drew masks of its own, so later steps see others.
    assert torch.isfinite(figures).all()
    torch.testing.assert_close(figures[:WARM_UP_STEPS], expected[:WARM_UP_STEPS])
    assert len(set(figures[:, 0].tolist())) == len(figures)


def test_graphs_give_their_memory_back(gpu: torch.device) -> None:
    log: list[str] = []
    training = Training.on(gpu, {"type": "Adam"}, images=SET_OF_STEPS)
    steps = captured(training, log)
    follow(training, steps, gpu)
    held = torch.cuda.memory_reserved(gpu)
    assert steps.release()
    assert torch.cuda.memory_reserved(gpu) < held
    follow(training, steps, gpu)  # eagerly
    assert not steps.release()
    assert [line for line in log if "not as" in line] == [
        "Training step: not as a CUDA graph from here on: their memory is needed"
    ]
