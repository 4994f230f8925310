"""A captured step repeats the eager one: for every optimizer, whatever changes from step to step.

On a CPU a tape stands for the CUDA graph, see tape.py; tests/gpu compares real graphs.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import torch
from tape import Operators, Tape
from torch import Tensor
from worker import Result, Worker

from trainer.commands import run
from trainer.errors import OutOfMemoryError
from trainer.training import capture
from trainer.training.capture import CapturedSteps
from trainer.training.step import TrainingStep

OPTIMIZERS = {
    "sgd": {"type": "SGD", "weight_decay": 0.01},
    "momentum": {"type": "SGD", "momentum": 0.9, "dampening": 0.1},
    "nesterov": {"type": "SGD", "momentum": 0.9, "nesterov": True},
    "lars": {"type": "LARS", "learning_rate": 5.0, "weight_decay": 0.01},
    "lars momentum": {"type": "LARS", "learning_rate": 5.0, "momentum": 0.9, "dampening": 0.2},
    "rmsprop": {"type": "RMSprop", "weight_decay": 0.01},
    "rmsprop momentum": {"type": "RMSprop", "momentum": 0.8, "centered": True},
    "adagrad": {"type": "Adagrad", "lr_decay": 0.3, "weight_decay": 0.01},
    "adam": {"type": "Adam", "weight_decay": 0.01},
    "amsgrad": {"type": "Adam", "amsgrad": True},
    "adamw": {"type": "AdamW", "weight_decay": 0.1},
    "lamb": {"type": "LAMB", "weight_decay": 0.01},
    "lamb amsgrad": {"type": "LAMB", "amsgrad": True},
}
EPOCHS = 5  # of two full batches and a smaller one: the fourth of a size is the first captured
TRANSFORMS = [
    {"resize": [32, 32]},
    {"random_horizontal_flip": 0.5},
    {"random_rotate": 20},
    {"intensity_jitter": {"brightness": 0.1, "contrast": 0.1}},
    {"normalize": {"mean": 0.4, "std": 0.3}},
]


def network_json() -> dict:
    """A network with what has a state, or draws: BatchNormalization (one only shifts), Dropout."""

    def layer(kind: str, name: str, before: str | None, **config: object) -> dict:
        inbound = [[[before, 0, 0, {}]]] if before else []
        return {
            "class_name": kind,
            "name": name,
            "config": {"name": name, **config},
            "inbound_nodes": inbound,
        }

    convolution = {"kernel_size": [3, 3], "padding": "same"}
    layers = [
        layer("InputLayer", "in", None, batch_input_shape=[None, 32, 32, 1]),
        layer("Conv2D", "a", "in", filters=4, **convolution),
        layer("BatchNormalization", "b", "a", axis=[3], scale=False),
        layer("Activation", "c", "b", activation="relu"),
        layer("Dropout", "d", "c", rate=0.3),
        layer("Conv2D", "e", "d", filters=4, **convolution),
        layer("BatchNormalization", "f", "e", axis=[3]),
        layer("Conv2D", "g", "f", filters=1, kernel_size=[1, 1], activation="sigmoid"),
    ]
    config = {
        "name": "small",
        "layers": layers,
        "input_layers": [["in", 0, 0]],
        "output_layers": [["g", 0, 0]],
    }
    return {"class_name": "Functional", "config": config}


class Recorded:
    """Lets the worker capture its steps on the CPU, and keeps what it captured them with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tapes: list[Tape] = []
        self._step: TrainingStep | None = None
        real = capture.captured

        def captured(step: TrainingStep, *args: object, **kwargs: object) -> object:
            self._step = step
            return real(step, *args, **kwargs)

        def recorder_on(device: torch.device) -> Tape:
            self.tapes.append(Tape(self.state))
            return self.tapes[-1]

        monkeypatch.setattr(run, "captured", captured)
        monkeypatch.setattr(run, "recorder_on", recorder_on)
        # what torch allows on GPUs only is the same code on a CPU
        for name in ("rmsprop", "adam"):
            module = importlib.import_module(f"torch.optim.{name}")
            monkeypatch.setattr(
                module, "_get_capturable_supported_devices", lambda *args, **kwargs: ["cpu"]
            )

    def state(self) -> list[Tensor]:
        assert self._step is not None
        states = self._step.optimizer.state.values()
        return [
            *self._step.network.parameters(),
            *self._step.network.buffers(),
            *(value for state in states for value in state.values() if isinstance(value, Tensor)),
        ]

    @property
    def num_replays(self) -> int:
        return self.tapes[-1].num_replays


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    return Recorded(monkeypatch)


def train(worker: Worker, optimizer: dict, tmp_path: Path, **changes: object) -> Result:
    layers = tmp_path / "layers.json"
    layers.write_text(json.dumps(network_json()))
    section = {"learning_rate": 0.01, **optimizer}
    section.setdefault("lr_scheduler", {"type": "Exponential", "gamma": 0.5})
    settings = {
        "layers": str(layers),
        "num_epochs": EPOCHS,
        "data__batch_size": 5,  # of 12 images
        "data__transforms": TRANSFORMS,
        "optimizer": section,
        **changes,
    }
    return worker(**settings).succeeded()


def curves(result: Result) -> tuple[list[float], list[list[float]]]:
    return result.losses, [[line[0], *line[2:]] for line in result.scores]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_captured_steps_give_the_numbers_of_eager_ones(
    worker: Worker, tmp_path: Path, recorded: Recorded, name: str
) -> None:
    one = train(worker, OPTIMIZERS[name], tmp_path)
    assert "captured as a CUDA graph (batches of 5)" in one.out
    assert "captured as a CUDA graph (batches of 2)" in one.out
    assert recorded.num_replays == EPOCHS * 3 - 3 - 3
    eager = train(worker, OPTIMIZERS[name], tmp_path, cuda_graph=False)
    assert "not as a CUDA graph: cuda_graph is false" in eager.out
    assert curves(one) == curves(eager)
    assert len(set(one.losses)) == len(one.losses)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_two_later_steps_issue_the_same_operators_with_the_same_numbers(
    worker: Worker, tmp_path: Path, recorded: Recorded, monkeypatch, name: str
) -> None:
    scripts = []

    class AttemptResult(CapturedSteps):
        def __call__(self, picked):
            with Operators() as operators:
                figures = self._step.whole(picked)
            assert not operators.waits
            if len(picked) == 5:
                scripts.append(operators.script())
            return figures

    monkeypatch.setattr(capture, "CapturedSteps", AttemptResult)
    train(worker, OPTIMIZERS[name], tmp_path, num_epochs=2)
    # the first one makes the optimizer's state; the third is of the second epoch, at another rate
    assert scripts[1] == scripts[2] == scripts[3]


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bf16"},
        {"loss": {"function": "Lovasz", "source": "sigmoid"}},
        {"loss": {"function": "BCE", "source": "sigmoid", "weight": [0.2, 0.8]}},
        {"data__intensity_range": [10, 200]},
        {
            "data__transforms": [*TRANSFORMS, {"random_patches": {"number": 3, "size": 9}}],
            "data__target_is_mask": None,
            "data__target_grayscale": True,
            "loss": {"function": "MSE"},
        },
    ],
    ids=str,
)
def test_other_steps_are_captured_as_well(
    worker: Worker, tmp_path: Path, recorded: Recorded, changes: dict
) -> None:
    one = train(worker, OPTIMIZERS["adam"], tmp_path, **changes)
    assert recorded.num_replays > 0
    assert curves(one) == curves(
        train(worker, OPTIMIZERS["adam"], tmp_path, cuda_graph=False, **changes)
    )


def test_line_search_is_not_captured(worker: Worker, tmp_path: Path, recorded: Recorded) -> None:
    optimizer = {"type": "Hessian", "max_iterations": 2, "learning_rate": 0.1}
    result = train(worker, optimizer, tmp_path, num_epochs=2)
    assert "not as a CUDA graph: the optimizer computes each step several times" in result.out
    assert recorded.num_replays == 0


def test_step_that_waits_is_not_captured(
    worker: Worker, tmp_path: Path, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = TrainingStep._gradient_norm

    def waiting(self: TrainingStep) -> Tensor:
        norm = real(self)
        assert norm.item() >= 0
        return norm

    with monkeypatch.context() as patch:
        patch.setattr(TrainingStep, "_gradient_norm", waiting)
        result = train(worker, OPTIMIZERS["adam"], tmp_path)
    assert "not as a CUDA graph from here on: it waits: aten._local_scalar_dense" in result.out
    assert result.out.count("CUDA graph") == 1
    assert curves(result) == curves(train(worker, OPTIMIZERS["adam"], tmp_path))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), ValueError("no")])
def test_capture_that_fails_costs_the_graph_and_nothing_else(
    worker: Worker, tmp_path: Path, recorded: Recorded, monkeypatch, error: Exception
) -> None:
    def fail(self: Tape, step: object) -> object:
        raise error

    monkeypatch.setattr(Tape, "record", fail)
    result = train(worker, OPTIMIZERS["sgd"], tmp_path)
    assert f"not as a CUDA graph for batches of 5: {error}" in result.out
    assert result.out.count("CUDA graph") == 2  # once for each size of batch
    eager = train(worker, OPTIMIZERS["sgd"], tmp_path, cuda_graph=False)
    assert curves(result) == curves(eager)


def test_memory_of_the_graphs_goes_to_who_needs_it(
    worker: Worker, tmp_path: Path, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An eager step, and an evaluation, that are short of memory get it, and are done again."""
    eager = train(worker, OPTIMIZERS["adam"], tmp_path, cuda_graph=False)
    real = run.Evaluator._run
    shortages = []

    def short(self, network, epoch, destination):
        if recorded.num_replays and not shortages:
            shortages.append(epoch)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, network, epoch, destination)

    monkeypatch.setattr(run.Evaluator, "_run", short)
    result = train(worker, OPTIMIZERS["adam"], tmp_path)
    assert shortages
    assert "not as a CUDA graph from here on: their memory is needed" in result.out
    assert curves(result) == curves(eager)


def test_shortage_without_a_graph_is_the_trial_s_own(
    worker: Worker, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(run.Evaluator, "_run", short)
    assert "batch_size" in worker(num_epochs=1).error(OutOfMemoryError.exit_code)


def test_batches_in_pieces_are_not_captured(
    worker: Worker, tmp_path: Path, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = TrainingStep._gradients

    def short(self: TrainingStep, batch: object, size: int) -> Tensor:
        if size > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, batch, size)

    monkeypatch.setattr(TrainingStep, "_gradients", short)
    result = train(worker, OPTIMIZERS["adam"], tmp_path, data__halve_batch_on_oom=True)
    assert "from now on gradients are summed over pieces of 3" in result.out
    assert "not as a CUDA graph from here on: batches are computed in pieces" in result.out
    assert result.out.count("CUDA graph") == 1
    assert recorded.num_replays == 0
