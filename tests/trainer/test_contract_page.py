"""docs/contract.md says of each documented entry what the code really does with it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from trainer.cli import main
from trainer.config import EXTENSIONS, OPTIMIZERS, Data, Slicer, Transform, parse_config
from trainer.config.data import INPUTS
from trainer.config.loss import LOSSES, Loss
from trainer.config.network import Checkpoints, NeuralNetwork
from trainer.config.optimizers import SCHEDULERS
from trainer.errors import ConfigError, NetworkError
from trainer.networks import parse_network
from trainer.networks.functions import FUNCTIONS
from trainer.networks.layers import LAYERS

PAGE = Path(__file__).parents[2] / "docs/contract.md"
Entry = tuple[str, str, str]  # section, name, status


def entries() -> list[Entry]:
    found, section = [], ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            section = line[3:].strip("`")
        elif row := re.fullmatch(r"\| `(.+?)` \| (\w+) \| .*\|", line):
            found.append((section, row[1], row[2]))
    return found


def named(section: str, *statuses: str) -> set[str]:
    return {name for part, name, status in entries() if part == section and status in statuses}


ACCEPTED = ("supported", "differs")
OUR_TRANSFORMS = {"random_affine", "intensity_jitter"}


@pytest.mark.parametrize(
    ("section", "known"),
    [
        ("neural_network", set(NeuralNetwork.model_fields) - set(EXTENSIONS)),
        ("data", {key for key in Data.model_fields if f"data.{key}" not in EXTENSIONS}),
        ("data.type", {*INPUTS, "labels"}),
        ("data.slicers", set(Slicer.model_fields)),
        ("data.transforms", set(Transform.model_fields) - OUR_TRANSFORMS),
        ("loss", {key for key in Loss.model_fields if f"loss.{key}" not in EXTENSIONS}),
        ("loss.function", set(LOSSES)),
        ("optimizer.type", set(OPTIMIZERS)),
        ("optimizer.lr_scheduler.type", set(SCHEDULERS)),
        (
            "checkpoints",
            {key for key in Checkpoints.model_fields if f"checkpoints.{key}" not in EXTENSIONS},
        ),
    ],
)
def test_page_accepts_what_the_config_does(section: str, known: set[str]) -> None:
    assert named(section, *ACCEPTED) == known


# The list of operations in the reference engine's documentation ("Input" is Keras's InputLayer).
OPERATIONS = [
    "InputLayer", "Dense", "Conv1D", "Conv2D", "Conv3D", "DepthwiseConv1D", "DepthwiseConv2D",
    "DepthwiseConv3D", "SeparableConv1D", "SeparableConv2D", "Conv1DTranspose",
    "Conv2DTranspose", "Conv3DTranspose", "MaxPooling1D", "MaxPooling2D", "MaxPooling3D",
    "AveragePooling1D", "AveragePooling2D", "AveragePooling3D", "GlobalMaxPooling1D",
    "GlobalMaxPooling2D", "GlobalMaxPooling3D", "GlobalAveragePooling1D",
    "GlobalAveragePooling2D", "GlobalAveragePooling3D", "BatchNormalization",
    "InstanceNormalization", "LayerNormalization", "Dropout", "SpatialDropout2D",
    "SpatialDropout3D", "Reshape", "Flatten", "UpSampling1D", "UpSampling2D", "UpSampling3D",
    "ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D", "Cropping1D", "Cropping2D",
    "Cropping3D", "Add", "Subtract", "Multiply", "Average", "Concatenate", "ReLU", "LeakyReLU",
    "Softmax",
]  # fmt: skip


def test_page_names_every_documented_layer_and_says_which_are_read() -> None:
    assert named("Layers", *ACCEPTED, "refused") == set(OPERATIONS)
    assert named("Layers", *ACCEPTED) == set(OPERATIONS) & set(LAYERS)
    assert named("Activations", "supported") <= set(FUNCTIONS)


@pytest.mark.parametrize("kind", sorted(named("Layers", "refused")))
def test_refused_layers_are_refused_by_name(kind: str) -> None:
    layers = [
        {"class_name": "InputLayer", "config": {"name": "i", "batch_input_shape": [None, 8, 1]}},
        {"class_name": kind, "config": {"name": "layer"}},
    ]
    network = {"class_name": "Sequential", "config": {"name": "net", "layers": layers}}
    with pytest.raises(NetworkError, match=kind):
        parse_network(network, "layers.json")


def _config(**sections: Any) -> dict[str, Any]:
    data = {"input_path": "a", "target_path": "b"}
    return {
        "neural_network": {"layers": "l", "loss": {"function": "NLL"}, "data": data} | sections
    }


@pytest.mark.parametrize(
    "config",
    [
        *(_config(loss={"function": name}) for name in sorted(named("loss.function", "refused"))),
        *(
            _config(data={"type": name, "input_path": "a", "target_path": "b"})
            for name in sorted(named("data.type", "refused"))
        ),
    ],
    ids=lambda config: str(config["neural_network"]["loss"] | config["neural_network"]["data"]),
)
def test_refused_names_are_refused_by_name(config: dict[str, Any]) -> None:
    network = config["neural_network"]
    name = network["data"].get("type", network["loss"]["function"])
    with pytest.raises(ConfigError, match=f"unknown name '{name}'"):
        parse_config(config)


@pytest.mark.parametrize("option", sorted(named("Command line", "refused")))
def test_refused_applications_are_refused_by_name(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([option, "--config=config.json"]) == 2
    assert option in capsys.readouterr().err
