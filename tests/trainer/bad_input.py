"""What users get wrong, each with the words that the worker's one error must hold."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from support import write_disc
from worker import write_json, write_pairs, write_png

SHAPE = [None, 32, 32, 1]
Break = Callable[[dict, Path], object]


def keras(*layers: dict) -> dict:
    return {"class_name": "Sequential", "config": {"name": "mine", "layers": list(layers)}}


def conv(**changes: object) -> dict:
    settings = {"name": "conv", "filters": 1, "kernel_size": [1, 1], "activation": "sigmoid"}
    return {"class_name": "Conv2D", "config": settings | changes}


def named(kind: str) -> dict:
    return {"class_name": kind, "config": {"name": "it", "batch_input_shape": SHAPE}}


def layers(network: object) -> Break:
    def write(config: dict, data: Path) -> None:
        config["layers"] = str(write_json(data / "network.json", network))

    return write


def cycle(config: dict, data: Path) -> None:
    def node(name: str, source: str) -> dict:
        return {
            "class_name": "Conv2D", "name": name, "inbound_nodes": [[[source, 0, 0, {}]]],
            "config": conv(name=name)["config"],
        }  # fmt: skip

    network = {
        "class_name": "Functional",
        "config": {
            "name": "round",
            "layers": [
                {
                    "class_name": "InputLayer", "name": "in", "inbound_nodes": [],
                    "config": {"batch_input_shape": SHAPE, "name": "in"},
                },
                node("a", "b"), node("b", "a"),
            ],
            "input_layers": [["in", 0, 0]],
            "output_layers": [["b", 0, 0]],
        },
    }  # fmt: skip
    layers(network)(config, data)


def put(key: str, value: object) -> Break:
    def change(config: dict, data: Path) -> None:
        *parents, last = key.split(".")
        node = config
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value

    return change


def no_folder(name: str) -> Break:
    return lambda config, data: shutil.rmtree(data / name)


def content(name: str, what: bytes) -> Break:
    return lambda config, data: (data / name).write_bytes(what)


def other_weights(config: dict, data: Path) -> None:
    torch.save({"state_dict": {"elsewhere.weight": torch.zeros(3)}}, data / "other.pt")
    config["checkpoints"] = {"load": str(data / "other.pt")}


def bad_weights(config: dict, data: Path) -> None:
    (data / "bad.pt").write_bytes(b"PK\x03\x04 not a checkpoint")
    config["checkpoints"] = {"load": str(data / "bad.pt")}


def gray_levels(change: Break) -> Break:
    """Make the masks continuous, for a network of two channels."""

    def write(config: dict, data: Path) -> None:
        write_pairs(data, [np.arange(1024, dtype=np.uint8).reshape(32, 32)])
        config["data"]["target_is_mask"] = False
        change(config, data)

    return write


FIRST = "img 00.png"
TWO_CHANNELS = layers(keras(conv(filters=2, activation="softmax", batch_input_shape=SHAPE)))
# What is broken -> the words that the one error must hold: the key or file, and the remedy.
CASES: dict[str, tuple[Break, tuple[str, ...]]] = {
    "no inputs": (no_folder("train/inputs"), ("data.input_path: no such folder", "train/inputs")),
    "no targets": (no_folder("train/targets"), ("data.target_path: no such folder",)),
    "no test inputs": (no_folder("test/inputs"), ("data.test_input_path: no such folder",)),
    "no mask": (
        lambda config, data: (data / "train/targets" / FIRST).unlink(),
        ("1 of 12 images", FIRST, "add the masks or move the images away"),
    ),
    "corrupt image": (content(f"train/inputs/{FIRST}", b"\x89PNG...."), (FIRST, "replace or")),
    "empty image": (content(f"test/inputs/{FIRST}", b""), (FIRST, "the file is empty")),
    "corrupt mask": (content(f"train/targets/{FIRST}", b"GIF89a"), (FIRST, "replace or remove")),
    "mask of another size": (
        lambda config, data: write_png(data / "train/targets" / FIRST, np.zeros((8, 9))),
        (FIRST, "the mask is 8x9, its image", "32x32"),
    ),
    "coloured mask": (
        lambda config, data: write_png(
            data / "train/targets" / FIRST, np.eye(32)[..., None] * [9, 0, 0]
        ),
        (FIRST, "the mask is coloured", "one value a pixel"),
    ),
    "unclear mask values": (
        lambda config, data: write_png(data / "train/targets" / FIRST, np.eye(32) * 127),
        ("127 (32 pixels)", "data.mask_values", "data.mask_threshold"),
    ),
    "images of two sizes": (
        lambda config, data: (
            write_disc(data / "train", "a.png", np.random.default_rng(0), 48),
            config["data"].pop("transforms"),
        ),
        ("images differ in size", '{"resize": [H, W]} to data.transforms'),
    ),
    "test images of another size": (
        lambda config, data: (
            shutil.rmtree(data / "test"),
            write_disc(data / "test", "a.png", np.random.default_rng(0), 48),
            config["data"].pop("transforms"),
        ),
        ("training images are 32x32, test images 48x48", "data.transforms"),
    ),
    "unknown optimizer": (put("optimizer.type", "adamm"), ("optimizer", "did you mean 'Adam'?")),
    "unknown loss": (put("loss.function", "dise"), ("loss.function", "did you mean 'Dice'?")),
    "unknown key": (put("data.bach_size", 3), ("data.bach_size", "did you mean 'batch_size'?")),
    "wrong type": (put("num_epochs", "many"), ("num_epochs: expected an integer", "'many'")),
    "nothing to do": (
        put("data", {"type": "images"}), ("set data.input_path to train or data.test_input_path",)
    ),
    "no network file": (put("layers", "./nowhere.json"), ("nowhere.json",)),
    "unknown built-in": (put("layers", "unett"), ("unett",)),
    "network is no JSON": (
        lambda config, data: (
            (data / "network.json").write_text("{"),
            config.update(layers=str(data / "network.json")),
        ),
        ("network.json",),
    ),
    "network is no Keras": (layers({"a": 1}), ("network.json", "expected a list of layers")),
    "network has a cycle": (cycle, ("network.json", "cycle")),
    "unknown layer": (layers(keras(named("Magic"))), ("Magic",)),
    "too many channels": (
        layers(keras(conv(filters=5, batch_input_shape=SHAPE))),
        ("5 output channels", "masks"),
    ),
    "too few channels": (
        lambda config, data: (
            write_pairs(data, [np.eye(32, dtype=np.uint8) * 2 + 1]),
            layers(keras(conv(batch_input_shape=SHAPE)))(config, data),
            config["data"].update(mask_values=[0, 1, 3, 255]),
        ),
        ("1 output channel", "4 classes", "softmax"),
    ),
    "continuous targets, two channels": (
        lambda config, data: (
            gray_levels(TWO_CHANNELS)(config, data), config["loss"].pop("source")
        ),
        ("2 output channels", "continuous", "data.mask_values"),
    ),
    "continuous targets, ignored value": (
        gray_levels(put("loss.ignore_index", 255)),
        ("loss.ignore_index: 255", "continuous", "data.mask_values"),
    ),
    "continuous targets, means of channels": (
        gray_levels(
            lambda config, data: config["data"].update(
                grayscale=False, transforms=[{"normalize": {"mean": [1, 2, 3]}}]
            )
        ),
        ("data.transforms[0].normalize", "data.input_transforms"),
    ),
    "means of other channels": (
        put("data.transforms", [{"normalize": {"std": 1, "mean": [0.1, 0.2, 0.3]}}]),
        ("data.transforms[0].normalize.mean: 3 numbers for 1 channel(s)",),
    ),
    "output is no image": (
        layers(keras(named("Flatten"))),
        ("(height, width, classes)",),
    ),
    "source contradicts": (put("loss.source", "softmax"), ("loss.source", "set it to 'sigmoid'")),
    "no checkpoint": (put("checkpoints.load", "no.pt"), ("no.pt",)),
    "corrupt checkpoint": (bad_weights, ("bad.pt",)),
    "checkpoint of another network": (other_weights, ("other.pt",)),
    "class names": (put("data.class_names", ["one"]), ("data.class_names: 1 names for 2",)),
    "class weights": (put("loss.weight", [1, 2, 3]), ("loss.weight: 3 weights for 2 classes",)),
    "no GPU here": (put("device", "cuda"), ("device: 'cuda'",)),
}  # fmt: skip
