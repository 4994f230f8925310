"""A GPU against the CPU. `RML_TEST_DEVICE=cpu` runs these tests without one, to test the tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

# Before CUDA starts: cuBLAS computes in one order only with workspaces of its own for each stream.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import pytest
import torch
from support import require, write_discs

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session", autouse=True)
def device() -> torch.device:
    """The GPU that is compared with the CPU."""
    name = os.environ.get("RML_TEST_DEVICE", "cuda")
    if name == "cuda" and not torch.cuda.is_available():
        require("gpu", "torch sees no GPU here (RML_TEST_DEVICE=cpu tests the tests)")
    return torch.device(name, 0) if name == "cuda" else torch.device(name)


@pytest.fixture
def gpu(device: torch.device) -> torch.device:
    """The GPU, for what a CPU has not: graphs, and memory of its own."""
    if device.type != "cuda":
        pytest.skip("needs a GPU itself")
    return device


@pytest.fixture(autouse=True)
def _one_order() -> Iterator[None]:
    """Sums in one order where cuDNN can, one thread, and SIGTERM as it was found."""
    torch.set_num_threads(1)
    before, torch.backends.cudnn.deterministic = torch.backends.cudnn.deterministic, True
    handler = signal.getsignal(signal.SIGTERM)
    yield
    torch.backends.cudnn.deterministic = before
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Discs: 14 images to train on, 4 to test on."""
    return write_discs(tmp_path_factory.mktemp("gpu data"), num_train=14, num_test=4)
