"""Runs a worker once, outside of a search: no reports, no pruning, no lease."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpo.launchers import Launcher, Slot, WorkerJob
from hpo.launchers.log import shortened
from hpo.launchers.stop_times import KEEP_STATE_GRACE_S
from trainer import rundir
from trainer.bounded import whole
from trainer.keypath import get_path

POLL_INTERVAL_S = 0.1
TARGETS_OPTION = "--targets"  # of --predict: a worker that has it names it among its capabilities
DEFAULT_EPOCHS = 1000  # where nothing is said: an engine may say any in a log of its own


@dataclass(frozen=True)
class RunResult:
    """A worker that has ended by itself: its exit code, the end of its log, its evaluations."""

    exit_code: int
    log_tail: str
    evaluations: list[rundir.Evaluation]


def run_config(
    launcher: Launcher,
    slot: Slot,
    run_dir: Path,
    network: Mapping[str, Any],
    stopping: threading.Event | None = None,
    *,
    sees_tests: bool = False,
) -> RunResult | None:
    """Run a `neural_network` object, less keys unknown to the worker; None if it was stopped.

    With `sees_tests`, the worker gets the test images.
    """
    from hpo.plan.space import without_extensions  # pydantic, which no other command needs

    known = launcher.capabilities()
    text = rundir.dump_config(without_extensions(network, known=known))
    rundir.write_atomic(run_dir / rundir.CONFIG, text)
    num_epochs = whole(network.get("num_epochs"), 0, rundir.MAX_EPOCHS) or DEFAULT_EPOCHS
    job = WorkerJob(run_dir=run_dir, slot=slot, sees_tests=sees_tests)
    keeps_state = get_path(network, "checkpoints.resume") is True
    return run_worker(
        launcher, job, num_epochs=num_epochs, stopping=stopping, keeps_state=keeps_state
    )


def run_worker(
    launcher: Launcher,
    job: WorkerJob,
    *,
    num_epochs: int = DEFAULT_EPOCHS,
    stopping: threading.Event | None = None,
    keeps_state: bool = False,
) -> RunResult | None:
    """Start a worker in its folder and wait for its end; None if it was stopped before.

    Args:
        num_epochs: of what is run.
        keeps_state: it has a state to write then, from which the next call goes on.
    """
    handle = launcher.start(job)
    try:
        while (code := handle.poll()) is None:
            if stopping is None:
                time.sleep(POLL_INTERVAL_S)
            elif stopping.wait(POLL_INTERVAL_S):
                return None
    finally:
        if keeps_state:
            handle.stop(KEEP_STATE_GRACE_S, keep_state=True)
        else:
            handle.stop()
    log = rundir.TestLogReader(job.run_dir / rundir.TEST_LOG, num_epochs=num_epochs, is_score=True)
    return RunResult(code, shortened(handle.log_tail()), log.read_new())
