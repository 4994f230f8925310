"""What others make of the module: ONNX Runtime, torch.export, torch.compile, autocast."""

import numpy as np
import pytest
import torch

from trainer.networks import network_json, parse_network
from trainer.networks.export import export_onnx
from trainer.networks.module import build_module


def build(spec, shape, classes=1):
    module = build_module(parse_network(network_json(spec, shape, classes), spec), shape)
    for tensor in module.state_dict().values():
        if tensor.ndim == 1:
            tensor.uniform_(0.5, 1.0)
    return module.eval()


@pytest.mark.parametrize(
    "spec, classes",
    [
        ("unet:width=8,depth=2", 1),
        pytest.param("pets", 3, marks=pytest.mark.slow),
        pytest.param("fcn", 6, marks=pytest.mark.slow),
    ],
)
def test_onnx_runtime_gives_the_same_output(spec, classes, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    shape = (32, 48, 3)
    module = build(spec, shape, classes)
    path = tmp_path / "a b'.onnx"
    export_onnx(module, shape, path)
    session = onnxruntime.InferenceSession(str(path))
    for batch in (1, 3):
        x = torch.rand(batch, 3, 32, 48)
        (y,) = session.run(["output"], {"image": x.numpy()})
        np.testing.assert_allclose(y, module(x).detach().numpy(), atol=1e-5)


def test_torch_export_gives_the_same_output():
    module = build("unet:width=8,depth=2", (32, 32, 1))
    x = torch.rand(2, 1, 32, 32)
    program = torch.export.export(module, (x,))
    torch.testing.assert_close(program.module()(x), module(x))


def test_compile_has_no_graph_break_in_training():
    module = build("unet:width=8,depth=2", (32, 32, 1)).train()
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    x = torch.rand(2, 1, 32, 32)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    y = compiled(x)
    y.sum().backward()
    after = {key: value.clone() for key, value in module.state_dict().items()}
    module.load_state_dict(before)
    torch.testing.assert_close(module(x), y)
    for key, value in module.state_dict().items():
        torch.testing.assert_close(after[key], value)


def test_channels_last_and_autocast_stay_close():
    module = build("unet:width=8,depth=2", (32, 32, 3))
    x = torch.rand(2, 3, 32, 32)
    expected = module(x)
    fast = module.to(memory_format=torch.channels_last)
    torch.testing.assert_close(fast(x.to(memory_format=torch.channels_last)), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(fast(x).float(), expected, atol=3e-2, rtol=0)


def test_logits_become_the_output_through_the_last_activation():
    module = build("unet:width=8,depth=2", (32, 32, 3), classes=4)
    x = torch.rand(1, 3, 32, 32)
    assert module.final_activation == "softmax"
    torch.testing.assert_close(torch.softmax(module.logits(x), 1), module(x))
