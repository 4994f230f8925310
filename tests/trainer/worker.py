"""What tests of the worker share: a config, what a run printed and left, images with values."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from support import data_section


@dataclass(frozen=True)
class Result:
    """One run of the worker."""

    code: int
    out: str
    err: str
    folder: Path

    files: dict[str, str]  # the run's texts as it left them: the next run replaces them

    @classmethod
    def of(cls, code: int, out: str, err: str, folder: Path) -> Result:
        names = ("out_train.txt", "out_test.txt", "metrics.jsonl")
        texts = {name: (folder / name).read_text() for name in names if (folder / name).exists()}
        return cls(code, out, err, folder, texts)

    @property
    def scores(self) -> list[list[float]]:
        """The lines of out_test.txt: epoch, seconds, loss, accuracy."""
        lines = self.files["out_test.txt"].splitlines()
        return [[float(number) for number in line.split()] for line in lines]

    @property
    def accuracies(self) -> list[float]:
        return [line[-1] for line in self.scores]

    @property
    def losses(self) -> list[float]:
        """The loss of each training step."""
        return [float(line.split()[3]) for line in self.files["out_train.txt"].splitlines()]

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The evaluations, without what the first says of the settings."""
        lines = self._metrics_lines
        return [{key: entry[key] for key in entry if key != "used"} for entry in lines]

    @property
    def used(self) -> list[dict[str, Any]]:
        """What the run says of the settings that it used; once."""
        return [entry["used"] for entry in self._metrics_lines if "used" in entry]

    @property
    def _metrics_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.files["metrics.jsonl"].splitlines()]

    def succeeded(self) -> Result:
        assert self.code == 0, self.err
        return self

    def error(self, code: int = 2) -> str:
        """Check that the run ended in one clear error, and return it."""
        assert self.code == code, self.out + self.err
        assert "Traceback" not in self.err
        lines = self.err.splitlines()
        assert lines, "no word about the failure"
        assert all(line.startswith("rmldnn: error: ") for line in lines), self.err
        return self.err


Worker = Callable[..., Result]  # the fixture `worker` of conftest.py


def base_config(data: Path) -> dict[str, Any]:
    """Return a config that trains a tiny network for one epoch on `data`."""
    return {
        "neural_network": {
            "outfile": "out.txt",
            "num_epochs": 1,
            "layers": "unet:width=2,depth=1",
            "data": data_section(data),
            "optimizer": {"type": "adam", "learning_rate": 0.01},
            "loss": {"function": "Dice", "source": "sigmoid"},
        }
    }


def write_json(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value))
    return path


def write_png(path: Path, pixels: object, dtype: type = np.uint8) -> Path:
    """Write an image through OpenCV: (H, W), (H, W, 3) in BGR or (H, W, 4)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.asarray(pixels, dtype=dtype))
    return path


def write_pairs(
    root: Path, masks: list[np.ndarray], *, parts: tuple[str, ...] = ("train", "test")
) -> Path:
    """Write a data set whose images are noise and whose masks hold the values given."""
    rng = np.random.default_rng(0)
    for part in parts:
        for index, mask in enumerate(masks):
            name = f"{index:02d}.png"
            write_png(root / part / "inputs" / name, rng.integers(0, 256, mask.shape[:2]))
            write_png(root / part / "targets" / name, mask, mask.dtype.type)
    return root
