"""A run that was killed goes on to the numbers that it would have reached."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest
import torch
from support import BIN, clean_environment
from worker import Result, Worker, base_config, write_json

from trainer.cli import main

RESUME = {"save": "ck", "resume": True}
FLIPS = [{"resize": [32, 32]}, {"random_horizontal_flip": 0.5}, {"random_rotate": 20}]


def dropout_network() -> dict:
    def layer(kind: str, name: str, **settings: object) -> dict:
        return {"class_name": kind, "config": {"name": name, **settings}}

    kernel = {"kernel_size": [3, 3], "padding": "same"}
    return {
        "class_name": "Sequential",
        "config": {
            "name": "dropping",
            "layers": [
                layer("InputLayer", "image", batch_input_shape=[None, 32, 32, 1]),
                layer("Conv2D", "first", filters=4, activation="relu", **kernel),
                layer("BatchNormalization", "norm"),
                layer("Dropout", "drop", rate=0.4),
                layer("Conv2D", "last", filters=1, activation="sigmoid", **kernel),
            ],
        },
    }


def numbers(result: Result) -> list[list[str]]:
    """Return what the run wrote, without the times."""
    train = [line.split()[1:] for line in result.files["out_train.txt"].splitlines()]
    test = [line.split() for line in result.files["out_test.txt"].splitlines()]
    return train + [[line[0], *line[2:]] for line in test]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def same_weights(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adagrad", "adam", "lars", "lamb"])
def test_resumed_run_ends_with_the_same_numbers(worker: Worker, optimizer: str) -> None:
    section = {"type": optimizer, "learning_rate": 0.02}
    if optimizer in ("sgd", "lars"):
        section["momentum"] = 0.9
    changes = {"optimizer": section, "layers": dropout_network(), "data__transforms": FLIPS}
    whole = worker(num_epochs=4, checkpoints={"save": "whole"}, **changes).succeeded()
    worker(num_epochs=2, checkpoints=RESUME, **changes).succeeded()
    resumed = worker(num_epochs=4, checkpoints=RESUME, **changes).succeeded()
    assert "Resuming after epoch 2" in resumed.out
    assert numbers(resumed) == numbers(whole)
    last = "model_checkpoint_4.pt"
    assert same_weights(whole.folder / "whole" / last, whole.folder / "ck" / last)


@pytest.mark.parametrize(
    "scheduler",
    [
        {"type": "Exponential", "gamma": 0.5},
        {"type": "Step", "gamma": 0.1, "step_size": 3},
        {"type": "MultiStep", "gamma": 0.1, "milestones": [1, 3]},
        {"type": "Warmup", "num_epochs": 4, "start_factor": 0.1},
    ],
)
def test_learning_rate_goes_on_where_it_was(worker: Worker, scheduler: dict) -> None:
    changes = {"optimizer__lr_scheduler": scheduler}
    whole = worker(num_epochs=5, **changes).succeeded()
    worker(num_epochs=2, checkpoints=RESUME, **changes).succeeded()
    resumed = worker(num_epochs=5, checkpoints=RESUME, **changes).succeeded()
    rates = [[entry["learning_rate"] for entry in run.metrics] for run in (whole, resumed)]
    assert rates[0] == rates[1]
    assert numbers(resumed) == numbers(whole)


def test_best_checkpoint_is_remembered(worker: Worker) -> None:
    checkpoints = RESUME | {"keep": "best"}
    worker(num_epochs=3, checkpoints=checkpoints).succeeded()
    resumed = worker(num_epochs=6, checkpoints=checkpoints).succeeded()
    best = resumed.accuracies.index(max(resumed.accuracies)) + 1
    assert [path.name for path in (resumed.folder / "ck").glob("model*")] == [
        f"model_checkpoint_{best}.pt"
    ]


def test_run_that_was_done_does_nothing_more(worker: Worker) -> None:
    first = worker(num_epochs=2, checkpoints=RESUME).succeeded()
    again = worker(num_epochs=2, checkpoints=RESUME).succeeded()
    assert again.files == first.files


def test_lines_of_an_unfinished_epoch_are_done_anew(worker: Worker) -> None:
    whole = worker(num_epochs=3).succeeded()
    first = worker(num_epochs=2, checkpoints=RESUME).succeeded()
    for name, line in (
        ("out_train.txt", "9.5 3 1 0.1 0.1\n9.6 3 2 0."),
        ("out_test.txt", "3 9.9 0.1 0.5\n3 "),
        ("metrics.jsonl", '{"epoch": 3}\n{"ep'),
    ):
        with (first.folder / name).open("a") as file:
            file.write(line)
    resumed = worker(num_epochs=3, checkpoints=RESUME).succeeded()
    assert numbers(resumed) == numbers(whole)
    assert [entry["epoch"] for entry in resumed.metrics] == [1, 2, 3]
    times = [line[1] for line in resumed.scores]
    assert times == sorted(times)


def test_killed_process_goes_on_to_the_same_numbers(
    discs: Path, tmp_path: Path, monkeypatch
) -> None:
    config = base_config(discs)
    config["neural_network"] |= {"num_epochs": 25, "checkpoints": RESUME}
    folders = [tmp_path / "whole", tmp_path / "killed"]
    for folder in folders:
        folder.mkdir()
        write_json(folder / "config.json", config)
    process = subprocess.Popen(
        [str(BIN / "rmldnn"), "--config=config.json"], cwd=folders[1], env=clean_environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    log = folders[1] / "out_test.txt"
    while not log.exists() or log.read_text().count("\n") < 3:
        assert process.poll() is None
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert log.read_text().count("\n") < 25
    results = []
    for folder in folders:
        monkeypatch.chdir(folder)
        assert main(["--config=config.json"]) == 0
        results.append(Result.of(0, "", "", folder))
    assert numbers(results[0]) == numbers(results[1])
    last = "ck/model_checkpoint_25.pt"
    assert same_weights(folders[0] / last, folders[1] / last)


def test_other_settings_are_refused_by_name(worker: Worker) -> None:
    worker(num_epochs=2, checkpoints=RESUME).succeeded()
    error = worker(num_epochs=3, checkpoints=RESUME, seed=5, loss__eps=0.1).error()
    assert "ck/resume.pt is of a run with other settings (loss, seed)" in error
    assert "checkpoints.save" in error
    assert len((Path.cwd() / "out_test.txt").read_text().splitlines()) == 2


def test_broken_state_is_refused_by_name(worker: Worker) -> None:
    for content in (b"", b"PK\x03\x04 no", json.dumps({}).encode()):
        (Path.cwd() / "ck").mkdir(exist_ok=True)
        (Path.cwd() / "ck/resume.pt").write_bytes(content)
        assert "ck/resume.pt: cannot be read; remove it" in worker(checkpoints=RESUME).error()


def test_resume_without_a_folder_is_refused(worker: Worker) -> None:
    assert "checkpoints: resume needs save" in worker(checkpoints={"resume": True}).error()


def test_without_resume_no_state_is_kept_and_a_run_begins_anew(worker: Worker) -> None:
    first = worker(num_epochs=2, checkpoints={"save": "ck"}).succeeded()
    assert not (first.folder / "ck/resume.pt").exists()
    assert numbers(worker(num_epochs=2).succeeded()) == numbers(first)
