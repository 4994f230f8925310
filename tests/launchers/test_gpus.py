"""How CUDA_VISIBLE_DEVICES is read; NVML is a fake here (see tests/hpo/test_gpu_slots.py)."""

from __future__ import annotations

import sys

import pytest

from hpo.errors import UsageError
from hpo.launchers.gpus import survey_gpus


class FakeNvmlError(Exception):
    pass


class FakeNvml:
    """Three cards; the last is partitioned into two MIG instances, with an empty place between."""

    NVMLError = FakeNvmlError
    NVML_DEVICE_MIG_ENABLE = 1
    CARDS = ("GPU-aa11", "GPU-ab22", "GPU-cc33")
    INSTANCES = ("MIG-11", None, "MIG-22")

    def __init__(self):
        self.num_open = 0

    def nvmlInit(self):  # noqa: N802
        self.num_open += 1

    def nvmlShutdown(self):  # noqa: N802
        self.num_open -= 1

    def nvmlDeviceGetCount(self):  # noqa: N802
        return len(self.CARDS)

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        return self.CARDS[index]

    def nvmlDeviceGetMigMode(self, card):  # noqa: N802
        if card != self.CARDS[2]:
            raise FakeNvmlError("not supported")
        return [1, 1]

    def nvmlDeviceGetMaxMigDeviceCount(self, card):  # noqa: N802
        return len(self.INSTANCES)

    def nvmlDeviceGetMigDeviceHandleByIndex(self, card, place):  # noqa: N802
        if self.INSTANCES[place] is None:
            raise FakeNvmlError("not found")
        return self.INSTANCES[place]

    def nvmlDeviceGetComputeRunningProcesses(self, handle):  # noqa: N802
        raise FakeNvmlError("no permission")

    def nvmlDeviceGetUUID(self, handle):  # noqa: N802
        return handle.encode()

    def nvmlDeviceGetName(self, handle):  # noqa: N802
        return f"card {handle}"

    def nvmlDeviceGetMinorNumber(self, handle):  # noqa: N802
        raise FakeNvmlError("not supported")


@pytest.fixture
def nvml(monkeypatch):
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return fake


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (None, "GPU-aa11 GPU-ab22 MIG-11 MIG-22"),
        ("", ""),
        ("-1", ""),
        ("NoDevFiles", ""),
        ("1", "GPU-ab22"),
        ("1,0", "GPU-ab22 GPU-aa11"),
        (" 0 , 1 ", "GPU-aa11 GPU-ab22"),
        ("0,7,1", "GPU-aa11"),  # CUDA stops at the first that does not exist
        ("0,0", "GPU-aa11"),
        ("GPU-ab22,MIG-22", "GPU-ab22 MIG-22"),
        ("GPU-aa", "GPU-aa11"),
        ("GPU-a", ""),  # ambiguous
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_does(nvml, monkeypatch, selection, expected):
    if selection is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", selection)
    assert [gpu.uuid for gpu in survey_gpus().visible()] == expected.split()


def test_an_index_that_means_several_instances_is_refused_with_their_uuids(nvml, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2")
    with pytest.raises(UsageError, match=r"CUDA_VISIBLE_DEVICES: '2' .* MIG-11, MIG-22"):
        survey_gpus().visible()
