"""A stand-in for a worker: it runs `worker.sh` of the run folder."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from hpo.launchers import Handle, Slot, WorkerJob

STAND_IN = """\
#!/bin/sh
if [ "$1" = --capabilities ]; then eval "${STAND_IN_ANSWER:-exit 2}"; exit; fi
exec sh ./worker.sh "$@"
"""
ANSWER = 'echo warning: slow >&2; echo \'{"engine": "e", "capabilities": ["a.b", "c"]}\''
SERVING = """\
#!/bin/sh
case "$1" in
--capabilities) echo '{"capabilities": ["--serve"]}' ;;
--serve)
    GREETING
    while read -r line; do
        folder=${line#*'"run": "'}
        cd "${folder%'"'*}" || exit
        RUN
        echo "{\\"exit_code\\": $?, \\"reusable\\": true}"
        cd /
    done ;;
*) OTHERWISE ;;
esac
"""
SESSION_LABEL = {"rml.session": f"test-{os.getpid()}"}


def serving(run: str, *, otherwise: str, greeting: str = ":") -> str:
    """Return a script that does `run` in one folder after the other when it is told to serve."""
    script = SERVING.replace("GREETING", greeting)
    return script.replace("RUN", run).replace("OTHERWISE", otherwise)


def write_job(run_dir: Path, script: str, **fields) -> WorkerJob:
    """Make a run folder with what the stand-in shall do."""
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "config.json").write_text("{}")
    (run_dir / "worker.sh").write_text(script)
    return WorkerJob(run_dir=run_dir, **{"slot": Slot(index=0, num_threads=1)} | fields)


def wait(handle: Handle, timeout_s: float = 20.0) -> int:
    """Poll until the worker has ended."""
    return until(handle.poll, timeout_s)


def until(question: Callable, timeout_s: float = 20.0):
    """Ask until the answer is neither None nor False."""
    deadline = time.monotonic() + timeout_s
    while (answer := question()) is None or answer is False:
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)
    return answer
