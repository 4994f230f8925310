"""What epochs leave is written in one order, by a thread that training seldom waits for."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from worker import Worker

from trainer.output import resume
from trainer.output.files import OutputFiles
from trainer.output.snapshot import Snapshots
from trainer.output.writer import EpochOutput, Writer
from trainer.stopping import forget_stop, request_stop

SAVE = torch.save
KEEP_BEST = {"save": "ck", "keep": "best", "resume": True}


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> None:
    yield
    assert "writer" not in [thread.name for thread in threading.enumerate()]


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


def look(folder: Path) -> list[str]:
    """Say what is not as a driver, and who takes over from this moment, rely on."""
    curve, found = accuracies(folder), []
    if curve and not (folder / f"ck/model_checkpoint_{best_of(curve)}.pt").exists():
        found.append(f"no checkpoint of {best_of(curve)}, the best so far")
    if (folder / "ck/resume.pt").exists():
        state = torch.load(folder / "ck/resume.pt", weights_only=True)
        if state["epoch"] not in curve:
            found.append(f"a state of {state['epoch']} before its line")
        if not Path(state["keeper"][1]).exists():
            found.append(f"the state of {state['epoch']} names a file that is gone")
    return found


@pytest.mark.parametrize(
    ("epochs_a_state", "is_slow"), [(1, True), (4, False)], ids=["slow disk", "slow training"]
)
def test_at_every_moment_the_files_are_what_others_rely_on(
    worker: Worker, tmp_path: Path, monkeypatch, epochs_a_state: int, is_slow: bool
) -> None:
    found: list[str] = []

    def looking(function: Callable) -> Callable:
        def wrapped(*args: object, **options: object) -> object:
            found.extend(look(tmp_path))
            result = function(*args, **options)
            found.extend(look(tmp_path))
            return result

        return wrapped

    # all that changes the files, in the thread that does it: nothing changes while one looks
    for owner, name in [
        (torch, "save"), (Path, "replace"), (Path, "unlink"), (OutputFiles, "add_evaluations")
    ]:  # fmt: skip
        monkeypatch.setattr(owner, name, looking(getattr(owner, name)))
    calls = itertools.count()
    monkeypatch.setattr(resume.Pace, "is_due", lambda *_: next(calls) % epochs_a_state == 0)
    put = Writer.put

    def put_and_wait(writer: Writer, output: EpochOutput) -> None:
        put(writer, output)
        wait_until(lambda: len(accuracies(tmp_path)) == output.state["epoch"])

    if not is_slow:
        monkeypatch.setattr(Writer, "put", put_and_wait)
    result = worker(num_epochs=15, checkpoints=KEEP_BEST).succeeded()
    assert found == []
    assert [int(line[0]) for line in result.scores] == list(range(1, 16))
    assert sorted(path.name for path in (tmp_path / "ck").iterdir()) == [
        f"model_checkpoint_{best_of(accuracies(tmp_path))}.pt", "resume.pt"
    ]  # fmt: skip


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


@pytest.mark.parametrize(
    ("error", "code"), [(MemoryError(), 4), (KeyboardInterrupt(), 130)], ids=["memory", "Ctrl-C"]
)
def test_waiting_state_is_kept_until_its_successor_is_copied(
    worker: Worker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
) -> None:
    monkeypatch.setattr(resume.Pace, "is_due", lambda *_: False)
    take = Snapshots.take

    def take_or_fail(self: Snapshots, value: object) -> object:
        if isinstance(value, dict) and "keeper" in value and value["epoch"] == 3:
            raise error
        return take(self, value)

    monkeypatch.setattr(Snapshots, "take", take_or_fail)
    assert worker(num_epochs=5, checkpoints=KEEP_BEST).code == code
    state = torch.load(tmp_path / "ck/resume.pt", weights_only=True)
    assert state["epoch"] == 2
    assert look(tmp_path) == []
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    result = worker(num_epochs=5, checkpoints=KEEP_BEST).succeeded()
    assert "Resuming after epoch 2" in result.out
    assert [int(line[0]) for line in result.scores] == [1, 2, 3, 4, 5]


def test_state_is_not_written_where_nobody_goes_on(worker: Worker, disk: Callable) -> None:
    written = disk(lambda name: None)
    worker(num_epochs=3, checkpoints=KEEP_BEST | {"resume_when_done": False}).succeeded()
    diverged = {"type": "sgd", "learning_rate": 1e30}
    worker(num_epochs=9, checkpoints=KEEP_BEST, optimizer=diverged).error(code=3)
    assert "resume" not in written


def test_finished_run_leaves_no_state_of_an_earlier_epoch(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the same run, started again, would go back to it and remove the best checkpoint."""
    dues = iter([False, True, False, False, False, False])
    monkeypatch.setattr(resume.Pace, "is_due", lambda self, cost_s: next(dues))
    result = worker(num_epochs=6, checkpoints=KEEP_BEST | {"resume_when_done": False}).succeeded()
    best = result.accuracies.index(max(result.accuracies)) + 1
    assert sorted(path.name for path in (tmp_path / "ck").iterdir()) == [
        f"model_checkpoint_{best}.pt"
    ]


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
