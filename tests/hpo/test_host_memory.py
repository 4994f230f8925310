"""What a search makes of a worker that the kernel killed for want of the machine's memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import Run, one_error, optimize, write_config

from hpo.launchers import Handle
from hpo.run.outcome import classify
from trainer.compute.memory import memory_errors_named
from trainer.config import load_config
from trainer.errors import HostMemoryError, OutOfMemoryError


class Killed:
    """A worker that the kernel ended."""

    oom_killed = True

    def poll(self) -> int | None:
        return 137

    def stop(self, grace_s: float = 0) -> None:
        """It is gone."""

    def log_tail(self, num_lines: int = 20) -> str:
        return ""


@pytest.mark.parametrize("code", [137, 4])
def test_a_kill_for_host_memory_says_nothing_of_the_gpus(code: int) -> None:
    handle: Handle = Killed()
    on_gpu = classify(code, {}, handle, on_gpu=True)
    assert (on_gpu.end, on_gpu.is_crash) == ("failed", True)  # and not told to the sampler
    assert "want of the machine's memory, not the GPU's" in on_gpu.message
    # on a CPU the machine's memory is what the batch has to fit
    assert classify(code, {}, handle).end == "out of memory"


@pytest.mark.parametrize(
    ("error", "is_on_gpu", "expected"),
    [
        (MemoryError("no room for an array"), True, HostMemoryError),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True, HostMemoryError),
        (torch.OutOfMemoryError("CUDA out of memory."), True, OutOfMemoryError),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling"), True, OutOfMemoryError),
        (MemoryError("no room for an array"), False, OutOfMemoryError),
    ],
)
def test_a_worker_tells_the_machines_memory_from_its_gpus(
    error: Exception, is_on_gpu: bool, expected: type[Exception], discs: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    config = load_config(write_config(tmp_path / "config.json", discs), {})
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: is_on_gpu)
    with pytest.raises(expected), memory_errors_named(config):
        raise error


def test_limits_of_containers_are_refused_where_there_are_none(
    discs: Path, run: Run, standin: str
) -> None:
    def refused(*options: object) -> str:
        given = optimize(discs, "--worker", standin, *options)
        return one_error(run("rml-optimize", *given))

    assert "--docker-memory has no effect on local workers" in refused("--docker-memory", "4g")
    assert "--docker-shm-size: expected a size such as 24g" in refused("--docker-shm-size", "big")
    result = run("rml-optimize", *optimize(discs, "--worker", standin, "--dry-run"))
    assert "64 MiB of log" in result.stdout
