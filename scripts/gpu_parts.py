"""Runs a part of gpu_check.py within its time, and judges how it ended."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parents[1]
GRACE_S = 5  # from the request to end until the end
OURS = {"trainer", "hpo", "studies"}


@dataclass(frozen=True)
class Part:
    """One thing that is run.

    Attributes:
        command: arguments of this Python.
        report: the file that it writes: JUnit's XML of tests, JSON of a benchmark.
        num_lines: how many of the last lines of what it says are shown.
    """

    name: str
    command: list[str]
    limit_s: float
    report: Path | None = None
    num_lines: int = 4

    @property
    def is_tests(self) -> bool:
        return self.report is not None and self.report.suffix == ".xml"


@dataclass
class Ran:
    """How a part ended; `notes` are lines for the summary."""

    part: Part
    ok: bool
    text: str
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


def run_part(part: Part, limit_s: float, environment: dict[str, str], log: TextIO) -> Ran:
    """Run a part in a session of its own, and end all of it when its time is over."""
    if part.name == "tests gpu" and not (ROOT / "tests/gpu").is_dir():
        return Ran(part, True, "left out: there is no tests/gpu")
    log.write(f"\n===== {part.name}: python {' '.join(part.command)}\n")
    log.flush()
    began, start = time.monotonic(), log.tell()
    process = subprocess.Popen(
        [sys.executable, *part.command],
        cwd=ROOT,
        env=environment | ({"OMP_NUM_THREADS": "1"} if part.is_tests else {}),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    in_time = True
    try:
        process.wait(limit_s)
    except subprocess.TimeoutExpired:
        in_time = False
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGINT)  # pytest writes its report
            process.wait(GRACE_S)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    ran = Ran(part, in_time and process.returncode == 0, "ok", time.monotonic() - began)
    if not in_time:
        ran.text = f"FAILED: not done within {limit_s:.0f} s"
    elif not ran.ok:
        ran.text = f"FAILED: exit code {process.returncode}"
    if part.is_tests and part.report is not None and part.report.exists():
        _judge_tests(ran, part.report, in_time)
    said = Path(log.name).read_bytes()[start:].decode(errors="replace").splitlines()
    if part.is_tests and not (part.report and part.report.exists()):  # ended before its report
        failed = {line.split()[-1] for line in said if re.search(r"\] (FAILED|ERROR) tests", line)}
        ran.notes += [f"{part.name}: {name}" for name in sorted(failed)]
    print("\n".join(f"    {line}" for line in said[-part.num_lines :]), flush=True)
    return ran


def _judge_tests(ran: Ran, report: Path, in_time: bool) -> None:
    """Read pytest's report: what fails for want of somebody else's package does not count."""
    num_passed, num_skipped, missing = 0, 0, set()
    failed = []
    for case in ET.parse(report).iter("testcase"):
        problems = [*case.iter("failure"), *case.iter("error")]
        text = " ".join(f"{found.get('message')} {found.text}" for found in problems)
        modules = {name.split(".")[0] for name in re.findall(r"No module named '([\w.]+)'", text)}
        if not problems:
            is_skipped = case.find("skipped") is not None
            num_skipped += is_skipped
            num_passed += not is_skipped
        elif modules and not modules & OURS:
            missing |= modules
        else:
            failed.append(f"{case.get('classname')}::{case.get('name')}".strip(":"))
    ran.notes += [f"{ran.part.name}: {name}" for name in failed]
    has_run = num_passed + num_skipped > 0
    ran.ok = in_time and not failed and has_run
    if in_time:
        ran.text = "ok" if ran.ok else "FAILED" if has_run else "FAILED, nothing ran"
    ran.text += f": {num_passed} passed, {len(failed)} failed, {num_skipped} skipped"
    if missing:
        ran.text += f"; left out for want of {', '.join(sorted(missing))}"
