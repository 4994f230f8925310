"""What epochs leave is written in one order, by a thread that training seldom waits for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from worker import Worker

from trainer import resume
from trainer.stopping import forget_stop, request_stop

SAVE = torch.save
KEEP_BEST = {"save": "ck", "keep": "best", "resume": True}


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> None:
    yield
    assert "writer" not in [thread.name for thread in threading.enumerate()]


@pytest.fixture
def every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the state after each epoch."""
    monkeypatch.setattr(resume, "RESUME_INTERVAL_S", 0.0)
    monkeypatch.setattr(resume, "MAX_SHARE", float("inf"))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Do something before each file is written; return the files' names so far."""

    def slow(before: Callable[[str], None]) -> list[str]:
        written: list[str] = []

        def save(content: object, path: Path) -> None:
            name = path.name.removeprefix(".").rpartition(".pt")[0]
            before(name)
            SAVE(content, path)
            written.append(name)

        monkeypatch.setattr(torch, "save", save)
        return written

    return slow


def accuracies(folder: Path) -> dict[int, float]:
    log = folder / "out_test.txt"
    lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    return {int(line[0]): float(line[-1]) for line in lines}


def best_of(curve: dict[int, float]) -> int:
    return min(epoch for epoch, value in curve.items() if value == max(curve.values()))


def last_trained(folder: Path) -> int:
    lines = (folder / "out_train.txt").read_text().splitlines()
    return int(lines[-1].split()[1]) if lines else 0


def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def look_as_a_driver(folder: Path, over: threading.Event, seen: list[str]) -> None:
    """Poll the files; note what is not as a driver relies on."""
    while not over.is_set():
        curve = accuracies(folder)
        if curve:
            best = best_of(curve)
            is_there = (folder / f"ck/model_checkpoint_{best}.pt").exists()
            if not is_there and best_of(accuracies(folder)) == best:
                seen.append(f"no checkpoint of {best}")
        try:
            state = torch.load(folder / "ck/resume.pt", weights_only=True)
        except FileNotFoundError:
            continue
        curve = accuracies(folder)
        if len(curve) < state["epoch"]:
            seen.append(f"a state of {state['epoch']} before its line")
        is_gone = not Path(state["keeper"][1]).exists()
        later = torch.load(folder / "ck/resume.pt", weights_only=True)
        if is_gone and later["epoch"] == state["epoch"]:
            seen.append(f"the state of {state['epoch']} names a file that is gone")
        seen.append("looked")
        time.sleep(0.002)  # training shall get on meanwhile


@pytest.mark.usefixtures("every_epoch")
def test_who_reads_of_an_epoch_finds_its_checkpoint_however_slow_the_disk(
    worker: Worker, disk: Callable, tmp_path: Path
) -> None:
    written = disk(lambda name: time.sleep(0.02))
    seen: list[str] = []
    over = threading.Event()
    driver = threading.Thread(target=look_as_a_driver, args=(tmp_path, over, seen))
    driver.start()
    try:
        result = worker(num_epochs=15, checkpoints=KEEP_BEST).succeeded()
    finally:
        over.set()
        driver.join()
    assert set(seen) == {"looked"}
    assert [int(line[0]) for line in result.scores] == list(range(1, 16))
    assert [path.name for path in (tmp_path / "ck").glob("model*")] == [
        f"model_checkpoint_{best_of(accuracies(tmp_path))}.pt"
    ]
    assert not list((tmp_path / "ck").glob(".*"))
    assert written[-1] == "resume"


def test_training_goes_on_while_a_best_checkpoint_is_written(
    worker: Worker, disk: Callable, tmp_path: Path
) -> None:
    curves = []

    def wait_for_training(name: str) -> None:
        if name == "model_checkpoint_1":
            wait_until(lambda: last_trained(tmp_path) >= 8)
            curves.append(accuracies(tmp_path))

    written = disk(wait_for_training)
    result = worker(num_epochs=8, checkpoints={"save": "ck", "keep": "best"}).succeeded()
    assert curves == [{}]  # no line before the checkpoint
    # of those that waited, the last one alone
    assert not {f"model_checkpoint_{epoch}" for epoch in range(2, 7)} & set(written)
    assert written[-1] == f"model_checkpoint_{best_of(accuracies(tmp_path))}"
    assert len(result.scores) == len(result.metrics) == 8


def test_training_waits_rather_than_keep_all_checkpoints_in_memory(
    worker: Worker, disk: Callable, tmp_path: Path
) -> None:
    reached = []

    def wait_for_training(name: str) -> None:
        if name == "model_checkpoint_1":
            wait_until(lambda: last_trained(tmp_path) >= 3)
            time.sleep(0.3)  # of a few milliseconds each, many would follow
            reached.append(last_trained(tmp_path))

    written = disk(wait_for_training)
    worker(num_epochs=30, checkpoints={"save": "ck"}).succeeded()
    assert reached == [3]  # one is written, one waits, of one there is no copy yet
    assert written == [f"model_checkpoint_{epoch}" for epoch in range(1, 31)]


def test_failure_of_the_disk_ends_training_and_nothing_is_written_after_it(
    worker: Worker, disk: Callable, tmp_path: Path
) -> None:
    def fail(name: str) -> None:
        if name == "model_checkpoint_3":
            raise OSError(28, "No space left on device")

    written = disk(fail)
    result = worker(num_epochs=100_000, checkpoints={"save": "ck"})
    assert result.error(code=1) == (
        "rmldnn: error: ck/model_checkpoint_3.pt: the checkpoint cannot be written "
        "(No space left on device)\n"
    )
    assert written == ["model_checkpoint_1", "model_checkpoint_2"]
    assert list(accuracies(tmp_path)) == [1, 2]
    assert last_trained(tmp_path) < 1000


def test_failure_in_the_last_moment_is_told_too(worker: Worker, disk: Callable) -> None:
    def fail(name: str) -> None:
        if name == "resume":
            raise OSError(28, "No space left on device")

    disk(fail)
    result = worker(num_epochs=2, checkpoints=KEEP_BEST)
    assert "ck/resume.pt: the checkpoint cannot be written (No space" in result.error(code=1)
    assert len(result.scores) == 2


@pytest.mark.parametrize(("keep_state", "states"), [(False, []), (True, ["resume"])])
def test_stopped_run_writes_its_state_for_who_goes_on_with_it_alone(
    worker: Worker, disk: Callable, tmp_path: Path, keep_state: bool, states: list[str]
) -> None:
    written = disk(lambda name: None)

    def stop() -> None:
        wait_until(lambda: len(accuracies(tmp_path)) >= 3)
        request_stop(keep_state=keep_state)

    (tmp_path / "out_test.txt").write_text("")
    driver = threading.Thread(target=stop)
    driver.start()
    try:
        result = worker(num_epochs=100_000, checkpoints=KEEP_BEST)
    finally:
        driver.join()
        forget_stop()
    assert result.code == 143
    assert [name for name in written if name == "resume"] == states
    if keep_state:
        state = torch.load(tmp_path / "ck/resume.pt", weights_only=True)
        assert state["epoch"] == len(result.scores)


def test_state_is_not_written_where_nobody_goes_on(worker: Worker, disk: Callable) -> None:
    written = disk(lambda name: None)
    worker(num_epochs=3, checkpoints=KEEP_BEST | {"resume_when_done": False}).succeeded()
    diverged = {"type": "sgd", "learning_rate": 1e30}
    worker(num_epochs=9, checkpoints=KEEP_BEST, optimizer=diverged).error(code=3)
    assert "resume" not in written


def test_state_that_costs_much_is_written_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def times(epoch_s: float, cost_s: float) -> list[float]:
        now[0] = 0.0
        pace = resume.Pace()
        due = []
        while now[0] < 240:
            now[0] += epoch_s
            if pace.is_due(cost_s):
                due.append(now[0])
        return due

    assert times(10, 0.1) == list(range(20, 241, 20))  # not after 30: the next one ends at 40
    assert times(1, 0.1)[:2] == [29, 58]
    assert times(40, 0.1) == list(range(40, 241, 40))
    assert times(1, 3.0) == [100, 200]  # 3 % of the time
