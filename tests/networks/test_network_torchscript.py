"""Checkpoints that libtorch saves, TorchScript archives: read as tensors, no code is run."""

import json
import os
import pickle
import shlex
import warnings
import zipfile

import numpy as np
import pytest
import torch
from support import data_section, write_discs

from trainer.cli import main
from trainer.errors import WeightsError
from trainer.networks import network_json, parse_network
from trainer.networks.module import build_module
from trainer.networks.torch_weights import stored_mask_resize
from trainer.networks.torchscript import is_torchscript, read_torchscript
from trainer.networks.weights import load_weights

# how the archives of these tests are made, in want of libtorch
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
SHAPE = (16, 16, 1)
SPEC = "unet:width=4,depth=2"


class Inner(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.kernel = torch.nn.Parameter(torch.randn(4, 3, 2))
        self.register_buffer("count", torch.tensor(7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.kernel.sum() + self.count


class Outer(torch.nn.Module):
    """What archives hold: nested modules, buffers, strides, types, numbers, lists, None."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 2, 3, bias=False)
        self.bn = torch.nn.BatchNorm2d(2)
        self.inner = Inner()
        self.inner.double()
        self.turned = torch.nn.Parameter(torch.randn(3, 5).t())
        self.halved = torch.nn.Parameter(torch.randn(4).half())
        self.sizes = [1, 2, 3]
        self.rate = 0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(self.bn(self.conv(x))) * self.rate + self.sizes[0] + self.halved.sum()


def test_tensors_are_those_of_the_state_dict(tmp_path):
    module = torch.jit.script(Outer())
    path = tmp_path / "m.pt"
    module.save(str(path))
    found, expected = read_torchscript(path), module.state_dict()
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def archive_of(state, path):
    """Save tensors under dotted names as libtorch saves a module."""
    root = torch.nn.Module()
    for name, value in state.items():
        *owners, last = name.split(".")
        owner = root
        for part in owners:
            if not hasattr(owner, part):
                owner.add_module(part, torch.nn.Module())
            owner = getattr(owner, part)
        owner.register_buffer(last, value)
    torch.jit.script(root).save(str(path))


def network():
    graph = parse_network(network_json(SPEC, SHAPE, 1), "unet")
    return graph, build_module(graph, SHAPE).eval()


def test_weights_of_an_archive_are_loaded_by_name_without_a_warning(tmp_path):
    graph, source = network()
    path = tmp_path / "a b.pt"
    archive_of(source.state_dict(), path)
    _, target = network()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = load_weights(target, graph, path, lambda line: None)
        assert stored_mask_resize(path) is None
    assert (report.num_skipped, report.num_missing) == (0, 0)
    x = torch.rand(1, 1, 16, 16)
    torch.testing.assert_close(target(x), source(x))


def test_worker_starts_from_an_archive(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = write_discs(tmp_path / "data", num_train=4, num_test=2)
    graph = parse_network(network_json(SPEC, (32, 32, 1), 1), "unet")
    archive_of(build_module(graph, (32, 32, 1)).state_dict(), tmp_path / "w.pt")
    command = ["--config=c.json"]
    section = data_section(data)
    for key in ("input_path", "target_path"):
        del section[key]
    (tmp_path / "c.json").write_text(
        json.dumps(
            {"neural_network": {"layers": SPEC, "data": section, "checkpoints": {"load": "w.pt"}}}
        )
    )
    assert main(command) == 0
    captured = capsys.readouterr()
    assert "(0 skipped, 0 of the model not in the file)" in captured.out
    assert captured.err == ""


def with_pickle(path, target, content):
    """Copy an archive with another data.pkl."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            is_data = name.endswith("/data.pkl")
            copy.writestr(name, content if is_data else source.read(name))


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch '{self.path}'",))


def test_archive_with_code_in_its_pickle_is_refused_with_how_to_convert(tmp_path):
    graph, module = network()
    archive_of(module.state_dict(), tmp_path / "m.pt")
    path = tmp_path / "evil.pt"
    with_pickle(tmp_path / "m.pt", path, pickle.dumps(Evil(tmp_path / "owned"), protocol=2))
    assert is_torchscript(path)
    with pytest.raises(WeightsError, match=r"it holds (posix|nt).system.*convert it: python -c"):
        load_weights(module, graph, path, print)
    assert not (tmp_path / "owned").exists()


def test_the_command_that_converts_takes_any_path(tmp_path, monkeypatch):
    folder = tmp_path / 'it\'s "mine" $HOME'
    folder.mkdir()
    path = folder / "odd.pt"
    torch.jit.script(torch.nn.Linear(2, 1)).save(str(path))
    with_pickle(path, folder / "broken.pt", b"no pickle")
    with pytest.raises(WeightsError) as caught:
        read_torchscript(folder / "broken.pt")
    command = shlex.split(str(caught.value).split("convert it: ", 1)[1])
    assert command[:2] == ["python", "-c"]
    assert command[3:] == [str(folder / "broken.pt")]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["-c", str(path)])
    exec(command[2], {})
    assert set(torch.load("weights.pt", weights_only=True)) == {"weight", "bias"}


def test_pickle_cannot_reach_into_a_tensor(tmp_path):
    """BUILD would call torch's `__setstate__`, which gives a tensor any size."""
    graph, module = network()
    archive_of(module.state_dict(), tmp_path / "m.pt")
    storage = b"(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI1\ntQ"
    state = b"(" + storage + b"I0\n(I1000000\nt(I0\ntt"
    with_pickle(tmp_path / "m.pt", tmp_path / "e.pt", b"\x80\x02}Va\n" + storage + state + b"bs.")
    with pytest.raises(WeightsError, match="cannot be read as an archive"):
        load_weights(module, graph, tmp_path / "e.pt", print)


def test_records_that_name_each_other_twice_end(tmp_path, monkeypatch):
    from trainer.networks import torchscript

    monkeypatch.setattr(torchscript, "MAX_VISITS", 1000)
    graph, module = network()
    archive_of(module.state_dict(), tmp_path / "m.pt")
    item = {}
    for _ in range(40):
        item = {"a": item, "b": item}
    with_pickle(tmp_path / "m.pt", tmp_path / "e.pt", pickle.dumps(item, protocol=2))
    with pytest.raises(WeightsError, match="more than 1000 attributes"):
        load_weights(module, graph, tmp_path / "e.pt", print)


@pytest.mark.parametrize(
    "size, stride, offset",
    [((100,), (1,), 0), ((2, 2), (1, 50), 0), ((9,), (0,), 0), ((1,), (1,), 4)],
)
def test_tensor_beyond_its_storage_is_refused(size, stride, offset, tmp_path):
    from trainer.networks.torchscript import _rebuilt

    with pytest.raises(ValueError, match="beyond its storage"):
        _rebuilt(torch.zeros(4), offset, size, stride)


def test_tensors_are_bounded_together_and_take_their_storage_once(tmp_path, monkeypatch):
    from trainer.networks import torchscript

    graph, module = network()
    archive_of(module.state_dict(), tmp_path / "m.pt")
    tensors = torchscript.read_torchscript(tmp_path / "m.pt")
    sizes = [tensor.untyped_storage().nbytes() for tensor in tensors.values()]
    monkeypatch.setattr(torchscript, "MAX_TENSOR_BYTES", sum(sizes))
    load_weights(module, graph, tmp_path / "m.pt", print)
    monkeypatch.setattr(torchscript, "MAX_TENSOR_BYTES", sum(sizes) - 1)
    with pytest.raises(WeightsError, match=r"data/\d+ unpacks to \d+ bytes"):
        load_weights(module, graph, tmp_path / "m.pt", print)
    storage = torch.arange(4)
    assert torchscript._rebuilt(storage, 1, (2,), (1,)).data_ptr() == storage[1:].data_ptr()


def test_damaged_archive_is_one_clear_error(tmp_path):
    graph, module = network()
    archive_of(module.state_dict(), tmp_path / "m.pt")
    content = (tmp_path / "m.pt").read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for number in range(60):
        damaged = bytearray(content)
        if number % 3 == 0:
            del damaged[int(rng.integers(len(damaged))) :]
        for place in rng.integers(len(damaged), size=20):
            damaged[place] = rng.integers(256)
        (tmp_path / "d.pt").write_bytes(damaged)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                load_weights(
                    module, graph, tmp_path / "d.pt", lambda line: None, allow_partial=True
                )
        except WeightsError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 20
