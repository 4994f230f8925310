"""Checkpoints are whole, are those that the config asks for, and start a run where they ended."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import names
from worker import Worker

from trainer.config import Checkpoints
from trainer.errors import TrainerError
from trainer.output.checkpoints import (
    MASK_RESIZE,
    CheckpointKeeper,
    weights_content,
    write_checkpoint,
)


def saved(folder: Path) -> list[int]:
    return sorted(int(path.stem.rpartition("_")[2]) for path in folder.iterdir())


@pytest.mark.parametrize(
    ("interval", "expected"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (9, [5])]
)
def test_checkpoints_are_kept_every_interval_and_at_the_end(worker, interval, expected) -> None:
    result = worker(
        num_epochs=5, checkpoints={"save": "my models/temp", "interval": interval}
    ).succeeded()
    assert saved(result.folder / "my models/temp") == expected


def test_keep_best_leaves_one_file_of_the_best_epoch(worker: Worker) -> None:
    result = worker(num_epochs=6, checkpoints={"save": "temp_model", "keep": "best"}).succeeded()
    best = result.accuracies.index(max(result.accuracies)) + 1
    assert saved(result.folder / "temp_model") == [best]


@pytest.mark.parametrize(
    ("accuracies", "kept"),
    [([0.1, 0.3, 0.2], [1, 2, 2]), ([0.5, 0.5], [1, 1]), ([None, None], [1, 2])],
)
def test_best_is_the_first_of_the_highest(accuracies, kept) -> None:
    keeper = CheckpointKeeper(Checkpoints(save="ck", keep="best"), num_epochs=9)
    for epoch, (accuracy, expected) in enumerate(zip(accuracies, kept, strict=True), 1):
        keeper.after_epoch(epoch, accuracy)
        assert keeper.kept == Path(f"ck/model_checkpoint_{expected}.pt")


def test_loaded_weights_score_as_they_did_when_saved(worker: Worker) -> None:
    trained = worker(num_epochs=5, checkpoints={"save": "ck"}).succeeded()
    for epoch in (2, 5):
        result = worker(
            checkpoints={"load": f"ck/model_checkpoint_{epoch}.pt"},
            data__input_path=None,
            data__target_path=None,
        ).succeeded()
        assert result.accuracies == [trained.accuracies[epoch - 1]]
        assert "Loaded " in result.out


def test_training_goes_on_from_loaded_weights(worker: Worker) -> None:
    trained = worker(num_epochs=8, checkpoints={"save": "ck"}).succeeded()
    result = worker(checkpoints={"load": "ck/model_checkpoint_8.pt"}, seed=1).succeeded()
    assert result.losses[0] < trained.losses[0]


def test_checkpoint_is_read_without_running_code_from_it(worker: Worker) -> None:
    result = worker(checkpoints={"save": "ck"}).succeeded()
    content = torch.load(result.folder / "ck/model_checkpoint_1.pt", weights_only=True)
    assert content["epoch"] == 1
    assert all(value.device.type == "cpu" for value in content["state_dict"].values())


def test_relative_path_is_found_beside_the_config(worker: Worker, monkeypatch, capsys) -> None:
    from trainer.cli import main

    result = worker(checkpoints={"save": "ck"}).succeeded()
    worker(checkpoints={"load": "ck/model_checkpoint_1.pt"})
    elsewhere = result.folder / "else where"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert main(["--config=../config.json"]) == 0
    assert names(list(elsewhere.iterdir())) == [
        "metrics.jsonl", "out_test.txt", "out_train.txt", "per_image.csv"
    ]  # fmt: skip


def test_stop_in_the_middle_of_a_save_leaves_no_half_file(tmp_path: Path, monkeypatch) -> None:
    def stop(state: object, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint({}, tmp_path / "a.pt")
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainerError, match=r"file/a\.pt: the checkpoint cannot be written \("):
        write_checkpoint({}, tmp_path / "file/a.pt")


def test_checkpoint_of_any_kind_of_data_says_by_which_rules_it_was_scored() -> None:
    """Without the key it is taken for one of earlier rules, which averaged other classes."""
    content = weights_content(torch.nn.Linear(1, 1), epoch=1)
    assert content[MASK_RESIZE] == "exact"


@pytest.mark.parametrize("key", ["dice_per_image", "dice_dataset.foreground"])
def test_best_epoch_is_the_best_by_the_figure_that_is_named(worker: Worker, key: str) -> None:
    checkpoints = {"save": "temp_model", "keep": "best", "best_by": key}
    result = worker(num_epochs=6, checkpoints=checkpoints).succeeded()
    values = [
        entry["dice_per_image"] if "." not in key else entry["per_class"]["foreground"]["dice"]
        for entry in result.metrics
    ]
    assert saved(result.folder / "temp_model") == [values.index(max(values)) + 1]


def test_figure_that_is_not_there_is_named_with_those_that_are(worker: Worker) -> None:
    checkpoints = {"save": "temp_model", "keep": "best", "best_by": "dice_dataset.lesion"}
    result = worker(num_epochs=2, checkpoints=checkpoints)
    message = result.error()
    assert "checkpoints.best_by: the evaluation has no 'dice_dataset.lesion'; it has " in message
    assert "dice_dataset.foreground" in message
    assert [entry["epoch"] for entry in result.metrics] == [1], "whoever reads on sees it too"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"keep": "all", "best_by": "dice_per_image"}, 'best_by needs keep: "best"'),
        ({"keep": "best", "best_by": "loss"}, "loss is no figure to compare by"),
    ],
)
def test_best_by_that_cannot_work_is_refused(worker: Worker, settings, expected) -> None:
    message = worker(checkpoints={"save": "temp_model", **settings}).error()
    assert expected in message


def test_what_is_used_is_written_once_also_by_a_run_that_goes_on(worker: Worker) -> None:
    settings = {"type": "SGD", "learning_rate": 0.02, "momentum": 0.5}
    settings["lr_scheduler"] = {"type": "Exponential", "gamma": 0.5}
    checkpoints = {"save": "temp_model", "resume": True}
    paused = {**checkpoints, "pause_after": 1}
    first = worker(num_epochs=2, checkpoints=paused, optimizer=settings).succeeded()
    (used,) = first.used
    assert (used["optimizer.type"], used["optimizer.learning_rate"]) == ("SGD", 0.02)
    assert (used["optimizer.momentum"], used["optimizer.lr_scheduler.gamma"]) == (0.5, 0.5)
    assert "data.input_path" not in used
    again = worker(num_epochs=2, checkpoints=checkpoints, optimizer=settings).succeeded()
    assert again.used == [used]
    assert [entry["epoch"] for entry in again.metrics] == [1, 2]
