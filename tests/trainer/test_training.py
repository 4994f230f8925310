"""Training learns, repeats by seed, keeps what it should, and says what it does."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from worker import Worker, write_pairs

from trainer.training.step import TrainingStep

STAMP = r"\[\d{4}-[A-Z][a-z]{2}-\d\d \d\d:\d\d:\d\d\.\d{6}\] "


def test_loss_falls_and_dice_rises_on_discs(worker: Worker) -> None:
    result = worker(num_epochs=15, data__batch_size=2, layers="unet:width=4,depth=2").succeeded()
    first, last = result.losses[:3], result.losses[-3:]
    assert np.mean(last) < 0.5 * np.mean(first)
    assert max(result.accuracies) > 0.8


def test_same_seed_gives_the_same_numbers_and_another_seed_others(worker: Worker) -> None:
    flips = [{"resize": [32, 32]}, {"random_horizontal_flip": 0.5}]
    changes = {"num_epochs": 2, "data__transforms": flips}
    first, again, other = (worker(**changes, seed=seed).succeeded() for seed in (4, 4, 5))
    assert (again.losses, again.accuracies) == (first.losses, first.accuracies)
    assert all(a != b for a, b in zip(first.losses, other.losses, strict=True))


def test_train_log_has_one_line_per_step(worker: Worker) -> None:
    result = worker(num_epochs=2, data__batch_size=5).succeeded()
    rows = [line.split() for line in (result.folder / "out_train.txt").read_text().splitlines()]
    assert [(row[1], row[2]) for row in rows] == [(e, b) for e in "12" for b in "123"]
    seconds = [float(row[0]) for row in rows]
    assert seconds == sorted(seconds)
    assert all(float(row[4]) > 0 for row in rows)


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        (None, [0.01, 0.01, 0.01, 0.01]),
        ({"type": "Exponential", "gamma": 0.5}, [0.01, 0.005, 0.0025, 0.00125]),
        ({"type": "Step", "gamma": 0.1, "step_size": 2}, [0.01, 0.01, 0.001, 0.001]),
        ({"type": "MultiStep", "gamma": 0.1, "milestones": [1, 3]}, [0.01, 0.001, 0.001, 0.0001]),
        (
            {"type": "Warmup", "num_epochs": 2, "start_factor": 0.5},
            [0.005, 0.0075, 0.01, 0.01],
        ),
    ],
)
def test_learning_rate_changes_at_the_end_of_each_epoch(worker, scheduler, expected) -> None:
    result = worker(num_epochs=4, optimizer__lr_scheduler=scheduler).succeeded()
    assert [entry["learning_rate"] for entry in result.metrics] == pytest.approx(expected)


def test_verbose_scheduler_says_the_new_rate(worker: Worker) -> None:
    scheduler = {"type": "Exponential", "gamma": 0.5, "verbose": True}
    assert "Learning rate: 0.005" in worker(optimizer__lr_scheduler=scheduler).succeeded().out


OPTIMIZERS = ("sgd", "rmsprop", "adagrad", "adam", "adamw", "lars", "lamb", "hessian")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_trains(worker: Worker, name: str) -> None:
    section = {"type": name, "learning_rate": 0.1 if name in ("sgd", "hessian") else 0.01}
    if name == "hessian":
        section["max_iterations"] = 4
    result = worker(optimizer=section, num_epochs=2).succeeded()
    assert result.losses[-1] < result.losses[0]


def test_hessian_without_limits_ends_a_run(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """12 images in batches of 4; what is counted is evaluations of the network, not seconds."""
    calls = []
    backward = TrainingStep._backward
    monkeypatch.setattr(
        TrainingStep, "_backward", lambda *given: calls.append(1) or backward(*given)
    )
    result = worker(optimizer={"type": "Hessian"}, data__batch_size=4, num_epochs=2).succeeded()
    assert len(result.losses) == 6
    assert 6 * 5 < len(calls) <= 6 * (1 + 40 + 25)
    assert result.losses[-1] < result.losses[0]


@pytest.mark.parametrize("name", ["NLL", "BCE", "MSE", "Dice", "Jaccard", "Focal", "Lovasz"])
def test_every_loss_trains(worker: Worker, name: str) -> None:
    result = worker(loss={"function": name, "source": "sigmoid"}, num_epochs=2).succeeded()
    assert all(math.isfinite(loss) for loss in result.losses)
    assert result.losses[-1] < result.losses[0]


def test_weights_by_inverse_frequency_are_printed(worker: Worker) -> None:
    loss = {"function": "BCE", "weight": "inverse_frequency^0.35"}
    found = re.search(r"Weight +: \[(.*), (.*)\]", worker(loss=loss).succeeded().out)
    assert found is not None
    background, foreground = float(found[1]), float(found[2])
    assert background < 1 < foreground
    assert background + foreground == pytest.approx(2)


def test_bf16_trains_on_a_cpu_and_scores_in_float32(worker: Worker) -> None:
    result = worker(precision="bf16", num_epochs=6).succeeded()
    assert "bfloat16 (evaluation: float32)" in result.out
    assert result.losses[-1] < result.losses[0]
    plain = worker(num_epochs=6).succeeded()
    assert result.losses != plain.losses
    assert result.losses[0] == pytest.approx(plain.losses[0], rel=0.02)


def test_loss_that_is_no_number_ends_the_run_and_names_the_step(worker: Worker) -> None:
    result = worker(
        optimizer={"type": "sgd", "learning_rate": 1e30}, loss={"function": "BCE"}, num_epochs=3
    )
    error = result.error(code=3)
    assert re.search(r"the loss is (nan|inf) at epoch \d+, batch \d+; try a smaller", error)
    assert re.search(r"Batch \[ *\d+/ *\d+\] \(Loss = (nan|inf);", result.out)  # that led to it
    assert "optimizer.learning_rate" in error
    assert all(math.isfinite(accuracy) for accuracy in result.accuracies)


def test_evaluation_that_is_no_number_ends_the_run_too(worker: Worker, monkeypatch) -> None:
    # The last step of an epoch may break the weights: no further step sees it.
    step = torch.optim.Adam.step

    def break_weights(self: torch.optim.Adam, *arguments: object) -> None:
        step(self, *arguments)
        for group in self.param_groups:
            for weight in group["params"]:
                weight.data.fill_(math.nan)

    monkeypatch.setattr(torch.optim.Adam, "step", break_weights)
    result = worker(data__batch_size=1000)
    assert "the loss is nan in the evaluation after epoch 1" in result.error(code=3)
    assert result.scores == []


def test_masks_of_one_value_are_nothing_to_train_on(worker, tmp_path) -> None:
    empty = write_pairs(tmp_path / "empty", [np.zeros((32, 32), np.uint8)] * 3)
    assert "every mask holds one value only" in worker(data=empty).error()


def test_log_has_the_contract_s_sections_in_order(worker: Worker) -> None:
    result = worker(num_epochs=2, optimizer__lr_scheduler={"type": "Exponential", "gamma": 0.9})
    lines = result.succeeded().out.splitlines()
    assert all(re.match(STAMP, line) for line in lines)
    titles = [line[len("[2026-Nov-21 22:41:20.211970] ") :] for line in lines]
    frames = [re.fullmatch(r"-+ (\S.*\S) -+", title) for title in titles]
    assert [frame[1] for frame in frames if frame] == [
        "Device(s)", "Neural Network", "Optimizer", "Learning rate scheduler", "Loss", "Dataset",
    ]  # fmt: skip
    assert all(len(frame[0]) == 45 for frame in frames if frame)
    for entry in (
        r"   Total parameters    : \d+",
        r"   Trainable parameters: \d+",
        r"   Num images  \(total\)      : 12",
        r"   Num images  \(per process\): 12",
        r"   Batch size  \(requested\)  : 4",
        r"   Num batches \(per process\): 3",
        r"      resize                : \[32, 32\]",
        r"   Type +: Adam",
        r"   Gamma +: 0\.9",
        r"   Function +: Dice",
    ):
        assert any(re.fullmatch(entry, title) for title in titles), entry
    assert titles[-1] == "All done (return value = 0)."


def test_log_lines_of_batches_are_those_of_the_contract(worker: Worker) -> None:
    lines = worker(num_epochs=2).succeeded().out.splitlines()
    train = (
        STAMP + r"Train Epoch \[  1/  2\] : Batch \[    3/    3\] "
        r"\(Loss = \d\.\d{4}; \|g\| = \d+\.\d{4}\) \[Data: \d+%; Compute: \d+%\]"
    )
    evaluation = (
        STAMP + r"Eval  Epoch \[  2/  2\] : Batch \[    1/    1\] "
        r"\(Loss: \d\.\d{4}\) \| Accuracy: [01]\.\d{3}"
    )
    for pattern in (train, evaluation):
        assert any(re.fullmatch(pattern, line) for line in lines), pattern
    both = r".*dice_dataset = [\d.]+, dice_per_image = [\d.]+ \(classes averaged: foreground; 5 im"
    assert sum(bool(re.match(both, line)) for line in lines) == 2


def test_without_outfile_no_file_is_written(worker: Worker) -> None:
    result = worker(outfile=None).succeeded()
    assert [path.name for path in result.folder.iterdir()] == ["config.json"]
