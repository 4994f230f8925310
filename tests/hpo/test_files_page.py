"""docs/files.md has every field of the files that real runs write, and no other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import cv2
import pytest
from plugin_package import write_broken
from support import (
    Run,
    data_section,
    list_acc,
    optimize,
    standin_settings,
    write_config,
    write_discs,
)

from hpo.records import ModelEntry
from hpo.run.final_test import TestScore
from trainer import rundir

PAGE = (Path(__file__).parents[2] / "docs/files.md").read_text(encoding="utf-8")
TYPES = {
    "null": type(None), "text": str, "object": dict, "list of two": list, "list of texts": list,
    "integer": int, "number": (int, float),
}  # fmt: skip
# Only where the memory does not suffice, see test_worker_failures.py; of a classification.
ELSEWHERE = {"samples_at_once", "accuracy"}
Table = Mapping[str, str]


def tables(file: str) -> list[Table]:
    """Return the page's tables of a file, each as field -> type."""
    (section,) = re.findall(rf"^## `{re.escape(file)}`\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    parts = section.split("| field | type |")[1:]
    return [dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", part, re.M)) for part in parts]


(ENTRY, MINIMIZED), (TRIAL,), (TEST,) = map(tables, ("list_acc.json", "trial.json", "test.json"))
RUN, SEGMENTATION, CLASS, REGRESSION = tables(rundir.METRICS)


def check(entry: Mapping[str, Any], *parts: Table) -> set[str]:
    """Compare an object with the page: its fields, their types; return the fields."""
    page = {name: kind for part in parts for name, kind in part.items()}
    assert not entry.keys() - page.keys(), "docs/files.md lacks these"
    for name, value in entry.items():
        known = [TYPES[kind] for kind in page[name].split(", ") if kind in TYPES]
        assert any(isinstance(value, kind) for kind in known), (name, page[name], value)
    assert not {name for name, kind in page.items() if "if " not in kind} - entry.keys()
    return set(entry)


def check_metrics(lines: Iterable[Mapping[str, Any]]) -> tuple[set[str], set[str]]:
    """Compare evaluations of segmentations; return their fields, and those of classes."""
    seen: set[str] = set()
    of_classes: set[str] = set()
    for line in lines:
        seen |= check(line, RUN, SEGMENTATION)
        parts = [line]
        if "own_size" in line:
            parts.append(line["own_size"])
            check(line["own_size"], SEGMENTATION, {"num_images": RUN["num_images"]})
        for part in parts:
            for figures in part["per_class"].values():
                of_classes |= check(figures, CLASS)
    return seen, of_classes


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def lines_of(folder: Path) -> list[dict[str, Any]]:
    paths = folder.rglob(rundir.METRICS)
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def train(run: Run, folder: Path, data: object, **sections: object) -> list[dict[str, Any]]:
    """Train for one epoch, and return its evaluations."""
    config = write_config(folder / "config.json", folder, **sections)
    written = json.loads(config.read_text())
    written["neural_network"]["data"] = data
    config.write_text(json.dumps(written))
    done = run("rmldnn", f"--config={config}")
    assert done.returncode == 0, done.stdout + done.stderr
    return lines_of(folder)


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """A data set whose masks hold three classes."""
    data = write_discs(tmp_path / "data")
    for path in data.glob("*/targets/*.png"):
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) // 255
        mask[:, :16] *= 2
        cv2.imwrite(str(path), mask)
    return data


def test_a_search_writes_what_the_page_has(classes: Path, run: Run, tmp_path: Path) -> None:
    write_broken(
        tmp_path / "site", "flat", "[rml_optimize.metrics]\nflat = flat:metric\n",
        "def metric(predicted, target):\n    return 0.5\n",
    )  # fmt: skip
    done = run(
        "rml-optimize", *optimize(classes, "--num-trials", 1, "--num-epochs", 1),
        "--select-on", "validation", "--objective", "dice_dataset.class_1",
        "--set", 'metrics.plugins=["flat"]', "--set", "metrics.at_size=both",
        "--set", "metrics.hd95=true", "--launcher", "local", PYTHONPATH=str(tmp_path / "site"),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (entry,) = list_acc(tmp_path)
    assert check(entry, ENTRY) == ENTRY.keys()
    trial = check(read(tmp_path / "best_model/trial.json"), TRIAL)
    assert trial | {"direction"} == TRIAL.keys() >= ModelEntry.__annotations__.keys()
    test = check(read(tmp_path / "best_model/test.json"), TEST)
    assert test == TEST.keys() == {field.name for field in fields(TestScore)}
    metrics, of_classes = check_metrics(lines_of(tmp_path / "runs"))
    assert metrics == (RUN.keys() | SEGMENTATION.keys()) - ELSEWHERE
    assert of_classes == CLASS.keys()


def test_a_network_with_one_channel_lacks_only_what_the_page_says(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    check_metrics(train(run, tmp_path, data_section(discs)))


def test_a_classification_writes_what_the_page_has(discs: Path, run: Run, tmp_path: Path) -> None:
    for part in ("train", "test"):
        for index, path in enumerate(sorted((discs / part / "inputs").iterdir())):
            folder = tmp_path / part / "ab"[index % 2]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / path.name).write_bytes(path.read_bytes())
    layers = [
        {"class_name": "InputLayer", "config": {"batch_input_shape": [None, 32, 32, 1]}},
        {"class_name": "Flatten", "config": {}},
        {"class_name": "Dense", "config": {"units": 2, "activation": "log_softmax"}},
    ]
    data = {
        "input_type": "images", "input_path": str(tmp_path / "train"),
        "test_input_path": str(tmp_path / "test"), "target_type": "labels", "grayscale": True,
    }  # fmt: skip
    (line,) = train(run, tmp_path, data, layers=layers, loss={"function": "NLL"})
    assert "accuracy" in check(line, RUN, SEGMENTATION)


def test_a_regression_writes_what_the_page_has(discs: Path, run: Run, tmp_path: Path) -> None:
    data = data_section(discs, target_is_mask=False, target_grayscale=True)
    data |= {f"{part}target_path": data[f"{part}input_path"] for part in ("", "test_")}
    (line,) = train(run, tmp_path, data, loss={"function": "MSE"})
    assert check(line, RUN, REGRESSION) >= REGRESSION.keys()


def test_a_minimized_study_says_so(discs: Path, run: Run, tmp_path: Path) -> None:
    metrics = {"all": [{"dice_dataset": 0.5, "distance": 3.0}, {"distance": 2.0}]}
    worker = standin_settings(tmp_path, {"metrics": metrics})
    how = ("--objective", "distance:minimize", "--num-epochs", 2, "--num-trials", 1)
    done = run("rml-optimize", *optimize(discs, "--worker", worker, *how))
    assert done.returncode == 0, done.stdout + done.stderr
    (entry,) = list_acc(tmp_path)
    assert check(entry, ENTRY, MINIMIZED) == ENTRY.keys() | MINIMIZED.keys()
    model = read(tmp_path / "best_model/trial.json")
    assert check(model, TRIAL) >= {"objective", "direction", "score"}
