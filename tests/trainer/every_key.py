"""A config in which every key of the contract stands, and a walk over its fields."""

from __future__ import annotations

from collections.abc import Iterator

from trainer.keypath import join_path

FULL = {
    "outfile": "out.txt",
    "num_epochs": 3,
    "debug": False,
    "debug_interval": 2,
    "layers": "./layers.json",
    "checkpoints": {
        "load": "model.h5",
        "save": "temp_model",
        "interval": 2,
        "keep": "best",
        "allow_partial": True,
        "resume": True,
        "resume_when_done": False,
        "pause_after": 2,
    },
    "data": {
        "type": "images",
        "input_type": "images",
        "target_type": "images",
        "input_path": "a",
        "target_path": "b",
        "test_input_path": "c",
        "test_target_path": "d",
        "test_output_path": "e",
        "batch_size": 8,
        "test_batch_size": 16,
        "preload": True,
        "target_is_mask": True,
        "grayscale": True,
        "input_grayscale": False,
        "target_grayscale": True,
        "transforms": [
            {"resize": [32, 48]},
            {"random_horizontal_flip": 0.5},
            {"random_vertical_flip": 0.5},
            {"normalize": {"mean": [0.1, 0.2, 0.3], "std": 0.5}},
        ],
        "input_transforms": [{"normalize": {"mean": 0.5, "std": 2}}],
        "target_transforms": [],
        "channels_first": False,
        "hdf5_precision": "half",
        "mask_values": [0, 128],
        "mask_resize": "opencv",
        "rotate_direction": "counterclockwise",
        "class_names": ["tissue", "lesion"],
        "cache": "off",
        "tiles": {"size": [16, 24], "overlap": 0.5, "per_image": 2},
        "intensity_range": [0.0, 4095.0],
        "halve_batch_on_oom": True,
        "follow_symlinks": True,
    },
    "optimizer": {
        "type": "adam",
        "learning_rate": 0.001,
        "beta1": 0.8,
        "beta2": 0.99,
        "weight_decay": 0.1,
        "eps": 1e-7,
        "amsgrad": True,
        "lr_scheduler": {"type": "Exponential", "gamma": 0.95, "verbose": True},
    },
    "loss": {
        "function": "Focal",
        "source": "softmax",
        "weight": [0.2, 0.8],
        "ignore_index": 255,
        "eps": 1e-6,
        "gamma": 1.5,
    },
    "cuda_graph": False,
    "metrics": {"include_background": True, "hd95": True, "at_size": "network"},
    "relative_to": "config",
    "written_at": "/home/me/project/best_model",
    "log_interval_s": 2.0,
    "seed": 7,
    "precision": "bf16",
    "device": "cpu",
}


def leaves(tree: object, keys: tuple = ()) -> Iterator[tuple[str, object]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, (*keys, key))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from leaves(value, (*keys, index))
    else:
        yield join_path(keys), tree
