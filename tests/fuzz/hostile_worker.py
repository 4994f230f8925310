"""Lets a worker that means harm fill run folders, and the driver's own functions read them.

Each case is drawn from a seed and a number: which files it leaves, what is in them, and of which
kind they are. Then everything that the driver reads, copies, lists, removes or prints of a run
folder is done in this process. A failure is a traceback, a call that computes for more than
LIMIT_S or has not ended after HANG_S, a file of the user's that changed, or numbers that JSON has
not.

    python tests/fuzz/hostile_worker.py --seed 0 --count 1000
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from hpo.console import TerminalConsole  # noqa: E402
from hpo.dataset.intervals import Grouping  # noqa: E402
from hpo.errors import HpoError  # noqa: E402
from hpo.folders import WorkFolders  # noqa: E402
from hpo.launchers.log import read_tail, shortened  # noqa: E402
from hpo.launchers.probe import parse_capabilities  # noqa: E402
from hpo.launchers.warm import WarmWorker  # noqa: E402
from hpo.objective import Objective  # noqa: E402
from hpo.results.metrics import read_figures, read_scores  # noqa: E402
from hpo.results.model_folder import checkpoint_identity, refused_checkpoint  # noqa: E402
from hpo.results.models import remove_checkpoints  # noqa: E402
from hpo.run.attempt import prepare_attempt  # noqa: E402
from hpo.run.final_test import read_test_score  # noqa: E402
from hpo.run.score_log import ScoreLog  # noqa: E402
from hpo.worker_files import copy_file, remove, tree_size  # noqa: E402
from trainer import rundir  # noqa: E402
from trainer.errors import TrainerError  # noqa: E402
from trainer.figures import MAX_FIGURE  # noqa: E402

LIMIT_S = 5.0  # of computing: a machine that others load makes no failure
HANG_S = 30.0
MEMORY_LIMIT_BYTES = 512 * 2**20  # more than before the first case
NUM_EPOCHS, NUM_IMAGES = 3, 4
CONFIG = {"num_epochs": NUM_EPOCHS, "checkpoints": {"resume": True}}
NUMBERS = (
    "0", "1", "-1", "0.5", "1.0000001", "5", "1e308", "1e999", "nan", "NaN", "inf", "-Infinity",
    "1e-400", "9" * 30, "9" * 5000, "0x10", "1_000", "٣", "", "-0", "+.5e+3", "true", "null",
)  # fmt: skip
TEXTS = ("a", "\x1b[2J", "\u202e", "\u200b", ":smile:", "\ud800", "é漢", '"', "\\", "\n", "\r",
         "\0", "x" * 3000, "[red]", "../../x", "/etc/passwd")  # fmt: skip


@dataclass
class Results:
    """What a fuzz has found: cases by what the worker left, and each failure with its seed."""

    seed: int
    num_cases: int = 0
    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    slowest_s: float = 0.0
    slowest: str = ""
    grown_bytes: int = 0
    failures: list[str] = field(default_factory=list)

    def table(self) -> str:
        """Return the figures in lines."""
        kinds = "\n".join(f"{count:8d}  {name}" for name, count in sorted(self.counts.items()))
        return (
            f"seed {self.seed}: {self.num_cases} folders of a hostile worker, "
            f"{len(self.failures)} failures; slowest call {self.slowest_s:.2f} s "
            f"({self.slowest}); memory grew by {self.grown_bytes >> 20} MiB\n{kinds}"
        )


class _Process:
    """A serving worker's ends of its pipes, for what talks to it."""

    oom_killed = False

    def __init__(self, said: bytes) -> None:
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            os.write(writer, said)
        os.close(writer)
        self.pipes = (Path(os.devnull).open("wb"), os.fdopen(reader, "rb"))  # noqa: SIM115
        self._code: int | None = None

    def poll(self) -> int | None:
        return self._code

    def stop(self, grace_s: float = 0.0, *, keep_state: bool = False) -> None:
        self._code = 137

    def log_tail(self, num_lines: int = 20) -> str:
        return ""


class _Case:
    """One run folder and what is done with it."""

    def __init__(self, rng: random.Random, root: Path, results: Results, name: str) -> None:
        self.rng, self.results, self.name = rng, results, name
        self.folders = WorkFolders.of(root, "s")
        self.victim = root / "victim"
        self.victim.mkdir(parents=True)
        (self.victim / "file").write_text("1 0.5 0.1 0.987\n")
        (self.victim / "file").chmod(0o644)
        self.run_dir = prepare_attempt(self.folders, 0, 1, CONFIG).run_dir

    def number(self) -> str:
        return self.rng.choice(NUMBERS)

    def text(self) -> str:
        return "".join(self.rng.choices(TEXTS, k=self.rng.randint(0, 4)))

    def line(self) -> str:
        fields = self.rng.choices((*NUMBERS, *TEXTS), k=self.rng.randint(0, 6))
        return self.rng.choice(["1 0.5 0.1 0.7", "2 1 1 0.8", " ".join(fields)])

    def value(self, depth: int = 0) -> str:
        kind = self.rng.randint(0, 7)
        if kind == 0 and depth < 4:
            return "[" + ",".join(self.value(depth + 1) for _ in range(3)) + "]"
        if kind == 1:
            return json.dumps(self.text())
        if kind == 2:
            opened = self.rng.choice(['[{"a":', "[", '{"a":'])
            return opened * self.rng.choice([3, 70, 5000, 50_000])
        return self.rng.choice(["0.5", "0.25", "1", self.number()])

    def metrics(self) -> str:
        names = ("epoch", "dice_per_image", "dice_with_background", "own_size", "exit_code",
                 "capabilities", "classes_averaged")  # fmt: skip
        entry = {name: self.value() for name in self.rng.sample(names, self.rng.randint(0, 7))}
        if self.rng.random() < 0.3:
            entry["plugins"] = f'{{"own": {self.value()}}}'
        if self.rng.random() < 0.3:
            entry["used"] = (
                f'{{"optimizer.momentum": {self.value()}, "loss.function": {self.value()}}}'
            )
        if self.rng.random() < 0.5:
            entry["classes_averaged"] = self.rng.choice(['["a"]', '["a","a"]', '["a","b"]'])
        if self.rng.random() < 0.3:
            entry["own_size"] = f'{{"dice_dataset": {self.value()}}}'
        return "{" + ",".join(f'"{key}": {value}' for key, value in entry.items()) + "}"

    def table(self) -> str:
        header = self.rng.choice(
            ["name,a_intersection,a_predicted,a_target", "name", "", "name,a_target,,,", "\0"]
        )
        counts = ("3", "5", "10", "0", *NUMBERS)
        rows = [
            ",".join([f"img{n}.png", *self.rng.choices(counts[: self.rng.choice([4, 99])], k=3)])
            for n in range(self.rng.choice([0, 1, NUM_IMAGES, 5, 300]))
        ]
        return "\n".join([header, *rows])

    def content(self, name: str) -> bytes:
        """Return what is in a file: what belongs there, more or less broken."""
        makers: dict[str, Callable[[], str]] = {
            rundir.TEST_LOG: self.line, rundir.TRAIN_LOG: self.line, rundir.METRICS: self.metrics,
            rundir.PER_IMAGE: self.table,
        }  # fmt: skip
        make = makers.get(name, self.text)
        number = 1 if name == rundir.PER_IMAGE else self.rng.choice([0, 1, 3, 3, 500])
        text = "".join(f"{make()}\n" for _ in range(number))[: 2**20]
        content = text.encode("utf-8", errors="surrogatepass")
        kind = self.rng.randint(0, 9)
        if kind == 0:  # cut off, as by a power cut
            content = content[: self.rng.randint(0, len(content))] + bytes(self.rng.randint(0, 99))
        elif kind == 1:
            content = self.rng.randbytes(self.rng.choice([0, 10, 5000]))
        elif kind == 2:
            content = self.rng.choice([b"\n", b"1 ", b"[", b"{}\n", b"1 0.5\n"]) * 100_000
        return content

    def leave(self, path: Path) -> None:
        """Put something in the place of a file or folder."""
        kinds = ["file"] * 12 + ["absent", "link", "link to folder", "loop", "fifo", "folder",
                                 "closed folder", "deep folder", "hole", "hard link"]  # fmt: skip
        kind = self.rng.choice(kinds)
        self.results.counts[kind] += 1
        remove(path)
        if kind == "file":
            path.write_bytes(self.content(path.name))
        elif kind == "link":
            path.symlink_to(self.victim / "file")
        elif kind == "link to folder":
            path.symlink_to(self.victim)
        elif kind == "loop":
            path.symlink_to(path.name)
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind == "folder":
            (path / "sub").mkdir(parents=True)
            (path / "sub/link").symlink_to(self.victim)
        elif kind == "closed folder":
            path.mkdir()
            (path / "s").symlink_to(self.victim / "file")
            path.chmod(self.rng.choice([0o000, 0o500]))
        elif kind == "deep folder":
            self.dig(path, self.rng.choice([20, 100, 1200]))
        elif kind == "hole":
            path.touch()
            os.truncate(path, self.rng.choice([2**20, 2**33, 2**40]))
        elif kind == "hard link":
            (path.parent / "other").write_bytes(b"1 0.5 0.1 0.2\n")
            with contextlib.suppress(FileExistsError):
                path.hardlink_to(path.parent / "other")

    def dig(self, path: Path, depth: int) -> None:
        path.mkdir()
        folder = os.open(path, os.O_RDONLY)
        for _ in range(depth):
            os.mkdir("dddd", dir_fd=folder)
            inner = os.open("dddd", os.O_RDONLY, dir_fd=folder)
            os.close(folder)
            folder = inner
        os.close(folder)

    def fill(self) -> None:
        """Do what a worker may do in its folder."""
        names = (rundir.TEST_LOG, rundir.TRAIN_LOG, rundir.METRICS, rundir.PER_IMAGE,
                 rundir.WORKER_LOG)  # fmt: skip
        for name in names:
            self.leave(self.run_dir / name)
        checkpoints = self.run_dir / rundir.CHECKPOINTS
        if self.rng.random() < 0.2:
            self.leave(checkpoints)
            return
        checkpoints.mkdir()
        for name in (rundir.RESUME, "model_checkpoint_1.pt", "model_checkpoint_9.pt",
                     f"model_checkpoint_{self.number()}.pt"[:200], "e\x1b[2J\n.pt"):  # fmt: skip
            self.leave(checkpoints / name)

    @contextlib.contextmanager
    def call(self, what: str) -> Iterator[None]:
        """Time a call of the driver; our own errors are lines, any other is a failure."""
        began, computed = time.monotonic(), time.process_time()
        try:
            signal.setitimer(signal.ITIMER_REAL, HANG_S)
            yield
        except (HpoError, TrainerError) as error:
            if not str(error) or "\x1b" in str(TerminalText(error)):
                self.fail(what, f"a message with orders: {error!r}")
        except Exception:  # noqa: BLE001  # what is looked for
            self.fail(what, traceback.format_exc())
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        took = time.monotonic() - began
        if took > self.results.slowest_s:
            self.results.slowest_s, self.results.slowest = took, f"{what}, {self.name}"
        computed = time.process_time() - computed
        if computed > LIMIT_S:
            self.fail(what, f"computed for {computed:.1f} s")

    def fail(self, what: str, why: str) -> None:
        self.results.failures.append(f"{self.name}: {what}: {why}")

    def drive(self) -> None:
        """Do all that the driver does with a run folder."""
        run_dir, path = self.run_dir, self.run_dir / rundir.TEST_LOG
        with self.call("test log"):
            log = rundir.TestLogReader(path, num_epochs=NUM_EPOCHS, is_score=True)
            entries = log.read_new()
            self.leave(path)
            for entry in (*entries, *log.read_new()):
                assert 0 <= entry.epoch <= NUM_EPOCHS
                assert 0 <= entry.accuracy <= 1 + rundir.SCORE_SLACK
        for objective in (Objective(), Objective("dice_per_image"), Objective("own")):
            with self.call("score log"):
                asked = {"optimizer.momentum": 0.9, "loss.function": "BCE"}
                score_log = ScoreLog(run_dir, NUM_EPOCHS, objective, asked)
                for entry in (*score_log.read_new(), *score_log.read_new()):
                    assert 0 <= entry.epoch <= NUM_EPOCHS
                    assert abs(entry.accuracy) <= MAX_FIGURE
                score_log.end()
                assert len(score_log.problem) + len(score_log.refusal) < 3000
                assert (score_log.problem + score_log.refusal).isprintable()
                read_scores(run_dir, NUM_EPOCHS, objective)
        with self.call("figures"):
            json.dumps(read_figures(run_dir, NUM_EPOCHS, 1), allow_nan=False)
        with self.call("test score"):
            grouping = Grouping(self.victim, None)
            score = read_test_score(run_dir, 0, 0.5, num_images=NUM_IMAGES, grouping=grouping)
            score.write(self.victim)
            text = (self.victim / "test.json").read_text()
            json.dumps(json.loads(text), allow_nan=False)
            assert score.interval is None or 0 <= score.interval[0] <= score.interval[1] <= 1
        with self.call("log"):
            tail = shortened(read_tail(run_dir, 20))
            assert "\x1b" not in TerminalText(tail)
            parse_capabilities(read_tail(run_dir, 200))
        with self.call("serving"):
            self.serve()
        with self.call("resume"):
            prepare_attempt(self.folders, 0, 2, CONFIG)
        checkpoint = run_dir / rundir.CHECKPOINTS / "model_checkpoint_1.pt"
        with self.call("checkpoint"):
            refused, identity = refused_checkpoint(checkpoint), checkpoint_identity(checkpoint)
            if refused is None:
                assert identity is not None
                copy_file(checkpoint, self.victim / "copy")
                assert (self.victim / "copy").stat().st_blocks * 512 < 2**24
        with self.call("sizes"):
            tree_size(self.folders.trial(0))
        with self.call("checkpoints removed"):
            keep = checkpoint if self.rng.random() < 0.5 else None
            remove_checkpoints(self.folders, 0, keep=keep)
        with self.call("all removed"):
            assert remove(self.folders.study) is None
            assert not self.folders.study.exists()
        status = (self.victim / "file").stat()
        if status.st_mode & 0o777 != 0o644 or status.st_size != 16:
            self.fail("victim", "a file of the user's was changed")

    def serve(self) -> None:
        """Read what a serving worker says."""
        lines = [self.metrics() for _ in range(3)]
        lines += [f'{{"exit_code": {self.number()}}}' for _ in range(3)]
        worker = WarmWorker(_Process("\n".join(lines).encode("utf-8", "surrogatepass")[:60_000]))
        answer = worker.answer(0.02)
        worker.send({"run": "x"})
        worker.end(0.0)
        assert answer is None or 0 <= answer["exit_code"] <= 255


class TerminalText(str):
    """What a terminal is sent for a text."""

    __slots__ = ()

    def __new__(cls, text: object) -> TerminalText:
        """Print it with the driver's console."""
        console = TerminalConsole()
        console.file = io.StringIO()
        console.print(str(text), markup=False)
        return super().__new__(cls, console.file.getvalue())


def _hang(*_: object) -> None:
    raise TimeoutError(f"it has not ended after {HANG_S:.0f} s")


def run(seed: int, count: int) -> Results:
    """Carry out `count` cases; the same seed gives the same ones."""
    results = Results(seed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    memory = Path("/dev/shm")  # where there is one: it is not the disk that is looked at
    place = memory if os.access(memory, os.W_OK) else None
    scratch = Path(tempfile.mkdtemp(prefix="rml-fuzz-", dir=place))
    former = signal.signal(signal.SIGALRM, _hang)
    try:
        for number in range(count):
            root = scratch / str(number)
            case = _Case(random.Random(f"{seed}-{number}"), root, results, f"{seed}-{number}")
            case.fill()
            case.drive()
            remove(root)
            results.num_cases += 1
    finally:
        signal.signal(signal.SIGALRM, former)
        remove(scratch)
    results.grown_bytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    if results.grown_bytes > MEMORY_LIMIT_BYTES:
        results.failures.append(f"memory grew by {results.grown_bytes} bytes")
    return results


def main(arguments: Any = None) -> int:
    """Print the table and each failure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    options = parser.parse_args(arguments)
    results = run(options.seed, options.count)
    sys.stdout.write("".join(f"{failure}\n" for failure in results.failures))
    sys.stdout.write(f"{results.table()}\n")
    return 1 if results.failures else 0


if __name__ == "__main__":
    sys.exit(main())
