"""Tries every reader on broken and crafted files: `make fuzz`.

Each input follows from the seed and its number, and is read in a process of its own pool, with a
limit of memory and time. What is no refusal in one clear line is printed with what brings it back:

    python scripts/fuzz.py --seed 7 --only 1234
"""

from __future__ import annotations

import argparse
import collections
import itertools
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

LIMIT_S = 5.0  # of a processor
WALL_S = 120.0  # a machine may be busy
MEMORY_BYTES = 2**31  # an image of the limit, for which OpenCV makes room twice
SPARE_BYTES = 2 * 2**30  # of address space, beyond what is mapped before


@dataclass
class Tally:
    """What has become of one reader's inputs."""

    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    tracebacks: int = 0
    hangs: int = 0
    worst_s: float = 0.0
    worst_bytes: int = 0
    failures: list[str] = field(default_factory=list)


def _work(connection: Connection, seed: int, folder: Path) -> None:
    """Read inputs until told to stop."""
    warnings.simplefilter("ignore")
    os.environ["OMP_NUM_THREADS"] = "1"
    import fuzz_inputs
    import fuzz_readers
    import torch

    torch.set_num_threads(1)
    # Mapped tensors of a file that is cut off while it is mapped are the kernel's to end.
    templates: dict[tuple[str, int], bytes] = {}
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + SPARE_BYTES, resource.RLIM_INFINITY))
    os.chdir(folder)
    while (task := connection.recv()) is not None:
        number, name = task
        rng = random.Random(f"{seed}-{number}")
        reader = fuzz_readers.READERS[name]
        scratch = Path(tempfile.mkdtemp(dir=folder))
        path = scratch / reader.name
        try:
            what = fuzz_inputs.make(rng, name, reader, path, templates)
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
            before, started = _memory("VmRSS"), time.process_time()
            connection.send(("begin", number))
            outcome, detail = "accepted", ""
            try:
                reader.read(path)
            except fuzz_readers.REFUSALS as error:
                outcome, detail = "refused", str(error)
            except BaseException:  # noqa: BLE001  (whatever comes is what is looked for)
                outcome, detail = "traceback", traceback.format_exc()
            taken_s = time.process_time() - started
            connection.send((outcome, number, what, detail, taken_s, _memory("VmHWM") - before))
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _memory(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    return 0


class _Worker:
    """A process, and what it is at."""

    def __init__(self, seed: int, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_work, args=(other, seed, folder), daemon=True)
        self.process.start()
        other.close()
        self.task: tuple[int, str] | None = None
        self.began: tuple[float, float] | None = None  # wall, processor

    def give(self, task: tuple[int, str] | None) -> None:
        self.task, self.began = task, None
        self.connection.send(task)

    def processor_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def hangs(self) -> bool:
        if self.began is None:
            return False
        wall, processor = self.began
        return self.processor_s() - processor > 2 * LIMIT_S or time.monotonic() - wall > WALL_S

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def run(
    seed: int, numbers: list[int], jobs: int, names: list[str], minutes: float = 1e6
) -> dict[str, Tally]:
    """Try inputs, none after so many minutes; return what has become of them by reader."""
    deadline = time.monotonic() + 60 * minutes
    tallies: dict[str, Tally] = collections.defaultdict(Tally)
    folder = Path(tempfile.mkdtemp(prefix="rml-fuzz-"))
    listed = iter([(number, names[number % len(names)]) for number in numbers])
    tasks = itertools.takewhile(lambda task: time.monotonic() < deadline, listed)
    workers = [_Worker(seed, folder) for _ in range(jobs)]
    busy: list[_Worker] = []
    try:
        for worker in workers:
            task = next(tasks, None)
            worker.give(task)
            busy += [worker] if task is not None else []
        while busy:
            ready = wait([worker.connection for worker in busy], timeout=0.5)
            for worker in list(busy):
                if worker.connection in ready and _heard(worker, tallies):
                    continue
                if worker.connection not in ready and not worker.hangs():
                    continue
                if worker.connection not in ready or not worker.process.is_alive():
                    _lost(worker, tallies)
                    worker.end()
                    busy.remove(worker)
                    worker = _Worker(seed, folder)
                    workers.append(worker)
                    busy.append(worker)
                task = next(tasks, None)
                worker.give(task)
                if task is None:
                    busy.remove(worker)
    finally:
        for worker in workers:
            if worker.process.is_alive():
                worker.end()
        shutil.rmtree(folder, ignore_errors=True)
    return tallies


def _heard(worker: _Worker, tallies: dict[str, Tally]) -> bool:
    """Take a message; say whether the worker is still at its task."""
    try:
        message: Any = worker.connection.recv()
    except (EOFError, OSError):
        worker.process.join()
        return False
    if message[0] == "begin":
        worker.began = (time.monotonic(), worker.processor_s())
        return True
    outcome, number, what, detail, taken_s, num_bytes = message
    assert worker.task is not None
    tally = tallies[worker.task[1]]
    tally.inputs += 1
    tally.accepted += outcome == "accepted"
    tally.refused += outcome == "refused"
    tally.worst_s = max(tally.worst_s, taken_s)
    tally.worst_bytes = max(tally.worst_bytes, num_bytes)
    where = f"input {number} ({worker.task[1]}, {what})"
    if outcome == "traceback":
        tally.tracebacks += 1
        tally.failures.append(f"{where}: {detail}")
    if outcome == "refused" and not detail.strip():
        tally.failures.append(f"{where}: refused without a word")
    if taken_s > LIMIT_S:
        tally.hangs += 1
        tally.failures.append(f"{where}: {taken_s:.1f} s")
    if num_bytes > MEMORY_BYTES:
        tally.failures.append(f"{where}: {num_bytes:,} bytes")
    return False


def _lost(worker: _Worker, tallies: dict[str, Tally]) -> None:
    assert worker.task is not None
    tally = tallies[worker.task[1]]
    tally.inputs += 1
    died = not worker.process.is_alive()
    tally.tracebacks += died
    tally.hangs += not died
    how = f"the process died ({worker.process.exitcode})" if died else "no end"
    tally.failures.append(f"input {worker.task[0]} ({worker.task[1]}): {how}")


def table(tallies: dict[str, Tally]) -> str:
    """Return the table of docs/security.md."""
    lines = [
        "| reader | inputs | accepted | refused | tracebacks | hangs | worst s | worst MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, each in sorted(tallies.items()):
        lines.append(
            f"| {name} | {each.inputs} | {each.accepted} | {each.refused} | {each.tracebacks} "
            f"| {each.hangs} | {each.worst_s:.2f} | {each.worst_bytes / 1e6:.0f} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=None, help="default: another each time")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--only", type=int, default=None, help="the number of one input")
    parser.add_argument("--reader", action="append", help="one of them, or several")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--minutes", type=float, default=1e6, help="begin no input after these")
    about = "also so many run folders of hostile workers (default: a tenth)"
    parser.add_argument("--workers", type=int, default=None, metavar="COUNT", help=about)
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    import fuzz_readers

    names = options.reader or sorted(fuzz_readers.READERS)
    numbers = range(options.count) if options.only is None else [options.only]
    tallies = run(seed, list(numbers), options.jobs, names, options.minutes)
    print(table(tallies))
    failures = [text for tally in tallies.values() for text in tally.failures]
    num_folders = options.count // 10 if options.workers is None else options.workers
    if options.only is None and num_folders:
        failures += _hostile_workers(seed, num_folders)
    for text in failures:
        print(f"\nFAILED {text}")
    print(f"seed {seed}: {len(failures)} failures")
    return 1 if failures else 0


def _hostile_workers(seed: int, count: int) -> list[str]:
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "fuzz"))
    import hostile_worker

    results = hostile_worker.run(seed, count)
    print(results.table())
    return list(results.failures)


if __name__ == "__main__":
    sys.exit(main())
