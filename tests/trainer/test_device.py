"""Which device a run computes on, and what it says of a GPU that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import Run, write_config

from trainer.compute.device import choose_device
from trainer.errors import DeviceError

GIVEN = {"CUDA_VISIBLE_DEVICES": "GPU-of-nobody"}


@pytest.mark.parametrize(("wanted", "code"), [(None, 5), ("cuda", 5), ("cpu", 0)])
def test_a_gpu_that_is_given_and_not_seen_is_no_reason_to_train_on_the_cpu(
    wanted: str | None, code: int, run: Run, discs: Path, tmp_path: Path
) -> None:
    write_config(tmp_path / "config.json", discs, device=wanted)
    result = run("rmldnn", "--config=config.json", cwd=tmp_path, **GIVEN)
    assert result.returncode == code, result.stdout + result.stderr
    if code:
        assert "gives GPU-of-nobody, but torch sees no GPU here" in result.stderr
        assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("none", ["", "-1", "NoDevFiles"])
def test_no_gpu_is_given_in_several_words(
    none: str, run: Run, discs: Path, tmp_path: Path
) -> None:
    write_config(tmp_path / "config.json", discs)
    result = run("rmldnn", "--config=config.json", cwd=tmp_path, CUDA_VISIBLE_DEVICES=none)
    assert result.returncode == 0, result.stderr


def test_a_gpu_that_refuses_its_first_byte_is_told_from_a_full_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    errors = [
        RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable\nmore"),
        torch.OutOfMemoryError("CUDA out of memory."),
    ]

    def fail(*sizes: int, device: torch.device) -> None:
        raise errors.pop(0)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch, "empty", fail)
    with pytest.raises(DeviceError, match=r"cuda:0 cannot be used: CUDA error: all .* busy or u"):
        choose_device("auto")
    with pytest.raises(torch.OutOfMemoryError):
        choose_device("auto")
