"""A run that was killed goes on to the numbers that it would have reached."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from support import BIN, HASTY, clean_environment
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


def test_run_paused_twice_ends_as_one_that_was_not(worker: Worker) -> None:
    checkpoints = {"keep": "best", "resume_when_done": False}
    scheduler = {"type": "Exponential", "gamma": 0.7}
    changes = {"layers": dropout_network(), "data__transforms": FLIPS, "num_epochs": 4}
    changes["optimizer__lr_scheduler"] = scheduler
    whole = worker(checkpoints=checkpoints | {"save": "whole"}, **changes).succeeded()
    for epoch in (1, 3):
        paused = worker(checkpoints=checkpoints | RESUME | {"pause_after": epoch}, **changes)
        assert len(paused.succeeded().accuracies) == epoch
        assert torch.load(paused.folder / "ck/resume.pt", weights_only=True)["epoch"] == epoch
        again = worker(checkpoints=checkpoints | RESUME | {"pause_after": epoch}, **changes)
        assert numbers(again.succeeded()) == numbers(paused)
    resumed = worker(checkpoints=checkpoints | RESUME, **changes).succeeded()
    assert numbers(resumed) == numbers(whole)
    (best,) = (whole.folder / "whole").glob("model*")
    assert [path.name for path in (whole.folder / "ck").iterdir()] == [best.name]
    assert same_weights(best, whole.folder / "ck" / best.name)


def test_pause_without_a_state_is_refused(worker: Worker) -> None:
    result = worker(checkpoints={"save": "ck", "pause_after": 1})
    assert "checkpoints: pause_after needs resume" in result.error()


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


def start(folder: Path, *command: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*map(str, command), "--config=config.json"], cwd=folder, env=clean_environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def num_lines(folder: Path) -> int:
    log = folder / "out_test.txt"
    return log.read_text().count("\n") if log.exists() else 0


def make_folders(tmp_path: Path, discs: Path, **changes: object) -> tuple[Path, Path]:
    """Make a folder for a run that nothing disturbs, and one for a run that is."""
    config = base_config(discs)
    config["neural_network"] |= changes
    folders = tmp_path / "whole", tmp_path / "cut off"
    for folder in folders:
        folder.mkdir()
        write_json(folder / "config.json", config)
    return folders


def run_in(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Result:
    monkeypatch.chdir(folder)
    capsys.readouterr()
    code = main(["--config=config.json"])
    return Result.of(code, *capsys.readouterr(), folder).succeeded()


@pytest.mark.parametrize("keep", ["all", "best"])
def test_run_killed_at_any_moment_goes_on_to_the_same_numbers(
    discs: Path, tmp_path: Path, monkeypatch, capsys, keep: str
) -> None:
    checkpoints = RESUME | {"keep": keep}
    folders = make_folders(tmp_path, discs, num_epochs=80, checkpoints=checkpoints)
    whole, killed = folders
    rng = random.Random(keep)
    for _ in range(2):
        before = num_lines(killed)
        process = start(killed, sys.executable, HASTY)
        # as soon as the first try has a line more; at a moment that is different each time
        while num_lines(killed) in (0, before):
            assert process.poll() is None
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.communicate()
    assert num_lines(killed) < 80
    (killed / "ck/.resume.pt.0123.tmp").write_bytes(b"half")
    results = [run_in(folder, monkeypatch, capsys) for folder in folders]
    assert "Resuming after epoch" in results[1].out
    assert numbers(results[0]) == numbers(results[1])
    names = [sorted(path.name for path in (folder / "ck").iterdir()) for folder in folders]
    assert names[0] == names[1]
    for name in names[0]:
        if name != "resume.pt":
            assert same_weights(whole / "ck" / name, killed / "ck" / name)


def test_sigterm_loses_no_epoch(discs: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """The state is written then: not half a minute has passed."""
    folders = make_folders(tmp_path, discs, num_epochs=60, checkpoints=RESUME | {"keep": "best"})
    process = start(folders[1], BIN / "rmldnn")
    while num_lines(folders[1]) < 3:
        assert process.poll() is None
        time.sleep(0.002)
    assert not (folders[1] / "ck/resume.pt").exists()
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)  # as a scheduler and a driver may do
    _, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (143, b"rmldnn: stopped on request (SIGTERM)\n")
    reached = num_lines(folders[1])
    assert 3 <= reached < 60
    results = [run_in(folder, monkeypatch, capsys) for folder in folders]
    assert f"Resuming after epoch {reached}\n" in results[1].out
    assert numbers(results[0]) == numbers(results[1])


def test_checkpoints_that_a_killed_run_no_longer_wants_are_removed(worker: Worker) -> None:
    # a GPU may find another best epoch the second time
    checkpoints = RESUME | {"keep": "best"}
    first = worker(num_epochs=2, checkpoints=checkpoints).succeeded()
    for epoch in (0, 3, 9):
        (first.folder / f"ck/model_checkpoint_{epoch}.pt").write_bytes(b"of the killed run")
    state = torch.load(first.folder / "ck/resume.pt", weights_only=True)
    state["replaced"] = ["ck/model_checkpoint_0.pt"]  # when it was written; then came the kill
    torch.save(state, first.folder / "ck/resume.pt")
    resumed = worker(num_epochs=4, checkpoints=checkpoints).succeeded()
    best = resumed.accuracies.index(max(resumed.accuracies)) + 1
    assert sorted(path.name for path in (first.folder / "ck").iterdir()) == [
        f"model_checkpoint_{best}.pt", "resume.pt"
    ]  # fmt: skip


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
