"""A copy holds the values of its moment, whatever becomes of the original or of older copies."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trainer.output.snapshot import Snapshots

CPU = torch.device("cpu")


def state() -> dict:
    weight = torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last)
    return {
        "network": {"weight": weight, "count": torch.tensor(7), "none": torch.empty(0, 3)},
        "optimizer": {
            "state": {0: {"step": torch.tensor(2.0), "exp_avg": torch.randn(4, 3, 5, 5)}},
            "param_groups": [{"lr": torch.tensor(0.1), "betas": (0.9, 0.99), "params": [0]}],
        },
        "transposed": torch.randn(6, 2).t(),
        "expanded": torch.randn(1, 3).expand(4, 3),
        "half": torch.randn(5).to(torch.bfloat16),
        "mask": torch.tensor([True, False]),
        "epoch": 3,
    }


def tensors(value: object) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    entries = value.values() if isinstance(value, dict) else value
    return [t for e in entries if isinstance(e, torch.Tensor | dict | list) for t in tensors(e)]


def test_copy_is_whole_and_stays_as_it_was(tmp_path: Path) -> None:
    original = state()
    expected = [t.clone() for t in tensors(original)]
    copy = Snapshots(CPU).take(original).content()
    for tensor in tensors(original):
        if not tensor._is_view() or tensor.is_contiguous():
            tensor.zero_()
    original["optimizer"]["param_groups"][0]["params"].append(9)
    assert copy["optimizer"]["param_groups"][0] == {
        "lr": torch.tensor(0.1), "betas": (0.9, 0.99), "params": [0]
    }  # fmt: skip
    assert copy["epoch"] == 3
    assert copy["network"]["weight"].is_contiguous(memory_format=torch.channels_last)
    torch.save(copy, tmp_path / "file.pt")
    read = torch.load(tmp_path / "file.pt", weights_only=True)
    for found in (copy, read):
        for tensor, value in zip(tensors(found), expected, strict=True):
            assert tensor.dtype == value.dtype
            assert torch.equal(tensor, value)


def test_what_is_read_of_a_file_holds_no_more_than_itself(tmp_path: Path) -> None:
    torch.save(Snapshots(CPU).take(state()).content(), tmp_path / "file.pt")
    read = torch.load(tmp_path / "file.pt", weights_only=True)
    for tensor in tensors(read):
        assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_memory_is_used_again_once_it_is_released() -> None:
    snapshots, weight = Snapshots(CPU), torch.zeros(3)
    first = snapshots.take([weight])
    second = snapshots.take([weight + 1])
    places = [snapshot.content()[0].data_ptr() for snapshot in (first, second)]
    assert places[0] != places[1]
    first.release()
    third = snapshots.take([weight + 2])
    assert third.content()[0].data_ptr() == places[0]
    assert second.content()[0].tolist() == [1, 1, 1]


@pytest.mark.parametrize("other", [torch.zeros(3), torch.zeros(2, dtype=torch.int64)])
def test_another_layout_gets_another_memory(other: torch.Tensor) -> None:
    snapshots = Snapshots(CPU)
    first = snapshots.take([torch.ones(2)])
    second = snapshots.take([other])
    first.release()
    third = snapshots.take([other + 1])
    assert [s.content()[0].tolist() for s in (first, second)] == [[1, 1], other.tolist()]
    assert third.content()[0].dtype == other.dtype


def test_what_is_on_another_device_is_copied_too() -> None:
    # as a GPU's run does with a count that its optimizer keeps on the host
    count = torch.tensor(1.0)
    snapshot = Snapshots(torch.device("meta")).take({"step": count})
    count += 1
    assert snapshot.content()["step"] == 1
