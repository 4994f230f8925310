"""Carries out one run after the other in one process: `rmldnn --serve`.

A search starts a worker for every trial. The imports, the CUDA context and the warmed-up
allocator cost seconds each time, so this worker stays. It is told what to do by JSON lines on
standard input and answers on standard output, where nothing else is written:

    {"run": "/path/of/a/run/folder"}   run its config.json with that folder as the current one;
                                       what is printed goes to worker.log there
    {"stop": true}                     stop that run at its next step; with "keep_state": true,
                                       write its last whole epoch's state before
    {"exit_code": 0, "reusable": true} the answer, once per run

Only a run that ended well, or was stopped at a step, leaves a process that is used again: after
anything else it says so and ends. The end of standard input ends it, whatever it is doing.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import queue
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from trainer.errors import StopRequestedError
from trainer.rundir import CONFIG, WORKER_LOG
from trainer.stopping import forget_stop, is_stop_requested, request_stop

Run = Callable[[list[str]], int]

MAX_GROWTH_BYTES = 2**30  # of what a process keeps from run to run, before another replaces it
MAX_LEFT_ON_DEVICE_BYTES = 2**26


def serve(run: Run) -> None:
    """Answer requests until standard input ends.

    Args:
        run: carries out the arguments of one command line and returns its exit code.
    """
    # what the first run would wait for: the engine, and what torch's optimizers import when made

    import trainer.commands.run  # noqa: F401

    requests: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), name="requests", daemon=True).start()
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0) as answers:
        # what a library prints between runs must not be taken for an answer
        _point_output_at(os.devnull)
        baseline: int | None = None
        while (folder := requests.get()) is not None:
            exit_code = _carry_out(run, Path(folder))
            _clean_up()
            baseline = _resident_bytes() if baseline is None else baseline
            reusable = _is_well(exit_code) and _is_clean(baseline)
            _answer(answers, {"exit_code": exit_code, "reusable": reusable})
            if not reusable:
                break


def _listen(requests: queue.SimpleQueue[str | None]) -> None:
    # Unbuffered, by the descriptor: sys.stdin's lock would be held at the interpreter's end.
    with contextlib.suppress(OSError, ValueError), os.fdopen(0, "rb", closefd=False) as lines:
        for line in lines:
            request: Any = json.loads(line)
            if "stop" in request:
                request_stop(keep_state=request.get("keep_state") is True)
            else:
                forget_stop()
                requests.put(str(request["run"]))
    requests.put(None)
    os.kill(os.getpid(), signal.SIGTERM)  # nobody is left to hear of the run that goes on


def _carry_out(run: Run, folder: Path) -> int:
    try:
        os.chdir(folder)
        _point_output_at(WORKER_LOG)
    except OSError as error:
        sys.stderr.write(f"rmldnn: error: {folder}: {error.strerror}\n")
        return 1
    try:
        return run([f"--config={CONFIG}"])
    except BaseException:  # ours to mend, and this run's log is the place to read of it
        traceback.print_exc()
        raise
    finally:
        with contextlib.suppress(OSError):  # a full disk; the run has said so
            sys.stdout.flush()
            sys.stderr.flush()
        _point_output_at(os.devnull)
        os.chdir("/")  # the folder may be moved or removed


def _is_well(exit_code: int) -> bool:
    # SIGTERM has the same code as a request, and may have left anything half done
    return exit_code == 0 or (exit_code == StopRequestedError.exit_code and is_stop_requested())


def _point_output_at(path: str) -> None:
    """Let both standard outputs, of C libraries too, go to a file that grows."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _clean_up() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        with contextlib.suppress(RuntimeError):  # a GPU that failed; the run has said so
            torch.cuda.synchronize()
            # What matrix products work in, 32 MiB for each thread on an H100: else it looks like a
            # leak. No public function frees it.
            torch._C._cuda_clearCublasWorkspaces()
            _empty_pinned_cache()
            torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # of glibc alone
        ctypes.CDLL(None).malloc_trim(0)


def _empty_pinned_cache() -> None:
    """Give back pinned host memory; torch has had no public name for it so far."""
    import torch

    for name in ("_accelerator_emptyHostCache", "_host_emptyCache"):  # since 2.12, 2.6 or so
        empty = getattr(torch._C, name, None)
        if empty is not None:
            empty()
            return


def _is_clean(baseline: int) -> bool:
    """Say whether the last run has left no more behind than the first one did."""
    import torch

    # no bytes where CUDA was never started
    is_device_clear = torch.cuda.memory_allocated() < MAX_LEFT_ON_DEVICE_BYTES
    return is_device_clear and _resident_bytes() < baseline + MAX_GROWTH_BYTES


def _resident_bytes() -> int:
    """Return the private memory that the process holds now; 0 where the system does not say."""
    try:
        resident, shared = Path("/proc/self/statm").read_text().split()[1:3]
    except OSError:
        return 0
    return (int(resident) - int(shared)) * resource.getpagesize()


def _answer(answers: BinaryIO, answer: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):
        answers.write(json.dumps(answer).encode() + b"\n")
