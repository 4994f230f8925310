"""`load_model` on a GPU: the predictions of the CPU."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from trainer import load_model
from trainer.networks import load_network, network_json
from trainer.networks.module import build_module
from trainer.output.checkpoints import weights_content, write_checkpoint

TILES = {"tiles": {"size": [32, 32], "overlap": 0.5}}
RESIZE = {"transforms": [{"resize": [32, 32]}]}


@pytest.mark.parametrize("data", [RESIZE, TILES], ids=["resized", "tiles"])
@pytest.mark.parametrize("num_classes", [1, 3])
def test_predicts_what_the_cpu_does(
    num_classes: int, data: dict[str, object], device: torch.device, tmp_path: Path
) -> None:
    shape = (32, 32, 3)
    path = tmp_path / "layers.json"
    path.write_text(json.dumps(network_json("unet:width=8,depth=3", shape, num_classes)))
    torch.manual_seed(0)
    module = build_module(load_network(path), shape)
    write_checkpoint(weights_content(module, epoch=1), tmp_path / "model.pt")
    config = {
        "layers": "./layers.json",
        "checkpoints": {"load": "./model.pt"},
        "relative_to": "config",
        "data": {"type": "images", "test_input_path": ".", **data},
    }
    (tmp_path / "config.json").write_text(json.dumps({"neural_network": config}))
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    expected = load_model(tmp_path, device="cpu").predict(image)
    model = load_model(tmp_path, device=device.type)
    found = model.predict(image)
    assert next(model.parameters()).device.type == device.type
    np.testing.assert_allclose(found.output, expected.output, atol=1e-5)
    np.testing.assert_allclose(found.probability, expected.probability, atol=1e-5)
    assert np.mean(found.mask != expected.mask) < 0.001
    # moved there later, too
    moved = load_model(tmp_path, device="cpu").to(device).predict(image)
    np.testing.assert_allclose(moved.output, expected.output, atol=1e-5)
