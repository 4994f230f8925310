"""A metric of one's own that is the better the lower: which epoch is kept, and what never is."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from plugin_package import write_broken

from trainer.metrics.plugin_metrics import PluginMetrics

METRICS = """[rml_optimize.metrics]
missed = own_metrics:missed
found = own_metrics:found
endless = own_metrics:endless
rises = own_metrics:rises
late = own_metrics:late
nonsense = own_metrics:nonsense
"""
CODE = """
import itertools
calls = itertools.count()
def missed(predicted, target): return float((predicted != target).mean())
def found(predicted, target): return -missed(predicted, target)
def endless(predicted, target): return float("inf") if next(calls) % 5 == 0 else 1.0
def rises(predicted, target): return float("inf") if next(calls) % 5 == 0 else 1.0
def late(predicted, target): return float("nan") if next(calls) < 10 else 7.0
def nonsense(predicted, target): return 1.0
missed.direction = endless.direction = late.direction = "minimize"
endless.worst = late.worst = 1000
nonsense.worst = "poor"
"""
SETTINGS = {"num_epochs": 6, "checkpoints__save": "temp_model", "checkpoints__keep": "best"}


@pytest.fixture(autouse=True)
def _site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_broken(tmp_path / "site", "own_metrics", METRICS, CODE)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "own_metrics", raising=False)  # it counts its calls


def saved(folder: Path) -> list[int]:
    return [int(path.stem.rpartition("_")[2]) for path in folder.glob("model_checkpoint_*.pt")]


def test_lowest_is_kept_as_the_highest_of_the_negative(worker) -> None:
    kept = []
    for name, first in (("missed", min), ("found", max)):
        measured = {"metrics__plugins": [name], "checkpoints__best_by": name}
        result = worker(**SETTINGS, **measured).succeeded()
        values = [entry["plugins"][name] for entry in result.metrics]
        assert len(set(values)) > 1
        assert saved(result.folder / "temp_model") == [values.index(first(values)) + 1]
        (used,) = result.used
        assert (
            used["checkpoints.best_direction"] == {"missed": "minimize", "found": "maximize"}[name]
        )
        kept += saved(result.folder / "temp_model")
        for path in (result.folder / "temp_model").iterdir():
            path.unlink()
    assert kept[0] == kept[1]


@pytest.mark.parametrize(
    ("name", "asked", "expected"),
    [
        (
            "missed",
            "maximize",
            "maximize was asked for, and plug-in 'missed' (own_metrics:missed of",
        ),
        ("found", "minimize", "minimize was asked for, and plug-in 'found' (own_metrics:found of"),
        ("dice_per_image", "minimize", "dice_per_image is the better the higher"),
        (None, "minimize", "best_direction needs best_by"),
        ("missed", "lowest", "'lowest'"),
    ],
)
def test_direction_that_a_figure_has_not_is_refused(worker, name, asked, expected) -> None:
    own = [name] if name in ("missed", "found") else []
    result = worker(
        **SETTINGS, metrics__plugins=own, checkpoints__best_by=name,
        checkpoints__best_direction=asked,
    )  # fmt: skip
    assert expected in result.error()
    assert not (result.folder / "temp_model").exists()


def test_distance_that_is_infinite_for_an_image_is_no_figure_to_win_by(worker) -> None:
    """Left out, the image that a model fails at would make it the better model."""
    result = worker(**SETTINGS, metrics__plugins=["endless"], checkpoints__best_by="endless")
    assert {entry["plugins"]["endless"] for entry in result.succeeded().metrics} == {None}
    measured, empty = PluginMetrics(["rises"]), np.zeros((10, 2, 2), np.int64)
    measured.update(empty, empty)  # infinitely good, as a PSNR may be: left out as ever
    assert measured.means() == {"rises": 1.0}


def test_epoch_without_the_figure_counts_as_its_worst(worker) -> None:
    result = worker(**SETTINGS, metrics__plugins=["late"], checkpoints__best_by="late").succeeded()
    values = [entry["plugins"]["late"] for entry in result.metrics]
    assert values[0] is None
    assert saved(result.folder / "temp_model") == [values.index(7.0) + 1]


def test_figure_that_does_not_say_its_worst_must_be_there(worker, tmp_path: Path) -> None:
    measured = {"metrics__plugins": ["late"], "checkpoints__best_by": "late"}
    site = tmp_path / "site/own_metrics.py"
    site.write_text(site.read_text().replace("endless.worst = late.worst", "endless.worst"))
    message = worker(**SETTINGS, **measured).error()
    assert "checkpoints.best_by: late is undefined (null) in the evaluation" in message
    assert "the metric's `worst`" in message
    wrong = worker(**SETTINGS, metrics__plugins=["nonsense"], checkpoints__best_by="nonsense")
    assert "worst: expected a finite number, received 'poor'" in wrong.error()
