"""Reading what a worker left costs what a real run's files cost, and its numbers are checked."""

from __future__ import annotations

import json
import math
import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from hpo.dataset.intervals import Grouping, interval_of_runs
from hpo.folders import WorkFolders
from hpo.results.metrics import read_figures
from hpo.results.model_folder import refused_checkpoint
from hpo.run import attempt
from hpo.run.attempt import prepare_attempt
from hpo.run.final_test import read_test_score
from trainer import rundir
from trainer.rundir import Evaluation, TestLogReader, read_metrics

NUM_IMAGES, EPOCHS = 6, 3


def costs_little(function: Callable[[], object], seconds: float = 5.0) -> object:
    """Call a function within time and memory that a hostile file would exceed by far."""
    tracemalloc.start()
    began = time.monotonic()
    try:
        result = function()
        assert time.monotonic() - began < seconds
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()
    return result


@pytest.mark.parametrize(
    "content",
    [b"1 0.5\n" * 1_300_000, b"1 " * 4_000_000, b"\n" * 8_000_000, b"[" * 8_000_000],
    ids=["short lines", "one line", "empty lines", "brackets"],
)
def test_a_large_log_costs_what_a_real_one_does(tmp_path: Path, content: bytes) -> None:
    for name in (rundir.TEST_LOG, rundir.METRICS, rundir.PER_IMAGE):
        (tmp_path / name).write_bytes(content)
    log = TestLogReader(tmp_path / rundir.TEST_LOG, num_epochs=EPOCHS, is_score=True)
    assert len(costs_little(log.read_new)) < 100  # type: ignore[arg-type]
    assert costs_little(lambda: read_metrics(tmp_path, EPOCHS)) == []
    grouping = Grouping(tmp_path, None)
    found = costs_little(lambda: interval_of_runs([tmp_path], grouping, num_images=NUM_IMAGES))
    assert found is None


def test_a_log_is_read_anew_so_many_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rundir, "MAX_REPLACED", 3)
    path, aside = tmp_path / rundir.TEST_LOG, tmp_path / "aside"
    reader = TestLogReader(path, num_epochs=EPOCHS)
    found = []
    for number in range(9):
        aside.write_text(f"1 0.{number}\n")
        aside.replace(path)
        found.append(len(reader.read_new()))
    assert found == [1] * 5 + [0] * 4


def test_a_score_is_a_dice_of_an_epoch_of_the_run(tmp_path: Path) -> None:
    path = tmp_path / rundir.TEST_LOG
    path.write_text("1 5\n2 1e308\n1 -0.1\n1 nan\n99 0.9\n3 0.5\n0 1.0000001\n")
    reader = TestLogReader(path, num_epochs=EPOCHS, is_score=True)
    assert reader.read_new() == [Evaluation(3, 0.5), Evaluation(0, 1.0000001)]


def write_evaluation(folder: Path, rows: list[str], **changes: object) -> None:
    entry = {"epoch": 0, "classes_averaged": ["a"], "dice_per_image": 0.5} | changes
    (folder / rundir.METRICS).write_text(json.dumps(entry) + "\n")
    header = "name,a_intersection,a_predicted,a_target"
    (folder / rundir.PER_IMAGE).write_text("\n".join([header, *rows]) + "\n")


GOOD = [f"img{n}.png,{n + 1},10,10" for n in range(NUM_IMAGES)]


def test_the_interval_is_that_of_the_rows(tmp_path: Path) -> None:
    write_evaluation(tmp_path, GOOD)
    found = interval_of_runs([tmp_path], Grouping(tmp_path, None), num_images=NUM_IMAGES)
    assert found is not None
    assert found.bounds is not None
    assert 0.1 <= found.bounds[0] <= 0.35 <= found.bounds[1] <= 0.6


@pytest.mark.parametrize(
    ("rows", "changes"),
    [
        ([f"img{n},{10**21},10,10" for n in range(6)], {}),
        ([f"img{n},-36,10,10" for n in range(6)], {}),
        ([f"img{n},30,10,10" for n in range(6)], {}),
        ([f"img{n},{'9' * 5000},10,10" for n in range(6)], {}),
        ([f"img{n},nan,10,10" for n in range(6)], {}),
        ([f"img{n},0,0,0" for n in range(6)], {}),
        (["x" * 5000 + ",1,10,10", *GOOD[1:]], {}),
        ([*GOOD, "one more.png,1,10,10"], {}),
        (GOOD, {"classes_averaged": ["a"] * 3000}),
        (GOOD, {"classes_averaged": [f"class {n}" for n in range(20_000)]}),
        (GOOD, {"classes_averaged": [["a"]]}),
        (GOOD, {"classes_averaged": "a"}),
        (GOOD, {"classes_averaged": None}),
    ],
)
def test_a_table_that_cannot_be_gives_no_interval(
    tmp_path: Path, rows: list[str], changes: dict[str, object]
) -> None:
    write_evaluation(tmp_path, rows, **changes)
    grouping = Grouping(tmp_path, None)
    found = costs_little(lambda: interval_of_runs([tmp_path], grouping, num_images=NUM_IMAGES))
    assert found is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 5.0, -0.5, 10**400, "0.5", True])
def test_what_is_no_dice_gets_into_no_json(tmp_path: Path, value: object) -> None:
    names = ("dice_per_image", "dice_with_background", "dice_without_background")
    own = {"dice_dataset": value, "dice_per_image": value}
    write_evaluation(tmp_path, GOOD, **dict.fromkeys(names, value), own_size=own)
    assert read_figures(tmp_path, EPOCHS) == {}
    score = read_test_score(
        tmp_path, 0, 0.5, num_images=NUM_IMAGES, grouping=Grouping(tmp_path, None)
    )
    score.write(tmp_path)
    text = (tmp_path / "test.json").read_text()
    assert json.dumps(json.loads(text), allow_nan=False)
    assert score.dice_per_image is None


CONFIG = {"num_epochs": EPOCHS, "checkpoints": {"resume": True}}


@pytest.fixture
def folders(tmp_path: Path) -> WorkFolders:
    """A study whose trial 0 has an attempt with a state."""
    folders = WorkFolders(output=tmp_path, study=tmp_path / "runs/s")
    run_dir = prepare_attempt(folders, 0, 1, CONFIG).run_dir
    (run_dir / rundir.TEST_LOG).write_text("1 0.5 0.1 0.7\n2 5 5 5\n")
    (run_dir / rundir.CHECKPOINTS).mkdir()
    (run_dir / rundir.CHECKPOINTS / rundir.RESUME).write_text("state")
    return folders


def test_a_state_of_holes_stays_one_of_holes(folders: WorkFolders) -> None:
    checkpoints = folders.attempt(0, 1) / rundir.CHECKPOINTS
    os.truncate(checkpoints / rundir.RESUME, 2**33)
    for epoch in range(2000):
        (checkpoints / f"model_checkpoint_{epoch}.pt").touch()
    began = time.monotonic()
    found = prepare_attempt(folders, 0, 2, CONFIG)
    assert time.monotonic() - began < 10
    assert found.resumed == 1
    assert found.evaluated == {1: 0.7}, "and 5 is no Dice"
    copies = found.run_dir / rundir.CHECKPOINTS
    assert (copies / rundir.RESUME).stat().st_size == 2**33
    assert sum(path.stat().st_blocks for path in copies.iterdir()) * 512 < 2**20
    assert len(list(copies.iterdir())) == EPOCHS + 2, "those of the trial's epochs"


@pytest.mark.parametrize(
    ("name", "value"), [("MAX_STATE_BYTES", 5), ("MAX_ENTRIES", 2), ("MAX_LOG_BYTES", 3)]
)
def test_a_state_beyond_the_bounds_is_none(
    folders: WorkFolders, monkeypatch: pytest.MonkeyPatch, name: str, value: int
) -> None:
    checkpoints = folders.attempt(0, 1) / rundir.CHECKPOINTS
    for epoch in range(3):
        (checkpoints / f"model_checkpoint_{epoch}.pt").write_text("weights")
    monkeypatch.setattr(attempt, name, value)
    found = prepare_attempt(folders, 0, 2, CONFIG)
    kept = [path.name for path in found.run_dir.iterdir()]
    if name == "MAX_LOG_BYTES":  # a log that is no log: the state is one without it
        assert found.resumed == 1
        assert rundir.TEST_LOG not in kept
    else:
        assert found.resumed is None
        assert kept == [rundir.CONFIG]


def test_a_checkpoint_too_large_is_refused_before_it_is_announced(tmp_path: Path) -> None:
    file = tmp_path / rundir.CHECKPOINTS / rundir.checkpoint_file(1)
    assert "left no checkpoint temp_model/model_checkpoint_1.pt" in str(refused_checkpoint(file))
    file.parent.mkdir()
    file.write_bytes(b"weights")
    assert refused_checkpoint(file) is None
    os.truncate(file, 2**36)
    assert "model_checkpoint_1.pt: 68719476736 bytes, more than" in str(refused_checkpoint(file))
