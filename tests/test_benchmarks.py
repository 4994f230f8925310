"""The benchmarks, which are made of the worker's own parts, run and measure what they say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState
from support import clean_environment

ROOT = Path(__file__).parents[1]


def call(script: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, arguments)],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_throughput_compares_our_steps_with_both_plain_loops(tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    out = call(
        "benchmarks/train_throughput.py", "--device", "cpu", "--size", 32, "--images", 6,
        "--batch-size", 4, "--repeats", 1, "--precisions", "fp32", "--json", found,
        "--network", "unet:width=2,depth=1",
    )  # fmt: skip
    (entry,) = json.loads(found.read_text())
    names = ["plain, resident (a)", "plain, DataLoader (b)", "rmldnn fp32"]
    assert list(entry["images_per_s"]) == names
    assert min(entry["images_per_s"].values()) > 0
    assert entry["gpu_busy"] is None
    assert "convolution_backward" in out


@pytest.mark.slow
def test_search_is_measured_beside_a_plain_one(tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    call(
        "benchmarks/search_time.py", "--device", "cpu", "--size", 32, "--images", "6,3",
        "--batch-size", 4, "--trials", 2, "--epochs", 2, "--network", "unet:width=2,depth=1",
        "--json", found,
    )  # fmt: skip
    (entry,) = json.loads(found.read_text())
    assert len(entry["trials_s"]) == 2
    # the second trial's worker is there already; each trial holds its epochs
    assert 0 < entry["first_step_warm_s"] < entry["first_step_cold_s"] < entry["trials_s"][0]
    assert entry["search_s"] > sum(entry["trials_s"])
    assert entry["pure_steps_s"] > 0
    assert entry["pure_evaluation_s"] > 0


@pytest.mark.parametrize(
    ("files", "is_ok", "text"),
    [
        ({"a": "", "b": "import no_such_oracle"}, True, "for want of no_such_oracle"),
        ({"a": "", "b": "import trainer.no_such_module"}, False, "1 passed, 1 failed"),
        ({"a": "", "b": "def test_b(): assert 0"}, False, "1 passed, 1 failed"),
        ({"b": "import no_such_oracle"}, False, "0 passed"),
    ],
    ids=["foreign package", "module of ours", "failure", "nothing ran"],
)
def test_gpu_check_judges_tests_by_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict, is_ok: bool, text: str
) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    from gpu_parts import Part, run_part

    for name, content in files.items():
        lines = content or "def test_it(): pass"
        (tmp_path / f"test_{name}.py").write_text(lines)
    report = tmp_path / "report.xml"
    options = ["-q", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    command = ["-m", "pytest", *options, "--rootdir", str(tmp_path), str(tmp_path)]
    part = Part("tests", [*command, f"--junitxml={report}"], 100, report)
    with (tmp_path / "log").open("w") as log:
        ran = run_part(part, 100, clean_environment(), log)
    assert ran.ok == is_ok, ran.text
    assert text in ran.text


def test_gpu_check_ends_a_part_that_takes_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    from gpu_parts import Part, run_part

    with (tmp_path / "log").open("w") as log:
        part = Part("search", ["-c", "import time; time.sleep(100)"], 1)
        ran = run_part(part, 1, clean_environment(), log)
    assert not ran.ok
    assert "not done within 1 s" in ran.text


@pytest.mark.slow
def test_gpu_check_runs_all_parts(tmp_path: Path) -> None:
    out = call("scripts/gpu_check.py", "--device", "cpu", "--quick", "--out", tmp_path)
    summary = (tmp_path / "summary.md").read_text()
    assert summary in out
    assert "not measured" not in summary
    assert "FAILED" not in summary


def test_replayed_searches_train_what_they_cost(tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    curves = ROOT / "benchmarks/curves/demo_unet6x3_32.json"
    call(
        "benchmarks/search_efficiency.py", "--quick", "--curves", curves, "--json", found,
        "--rows", "TPE", "random, median", "TPE, asha (ours)",
    )  # fmt: skip
    tables = json.loads(found.read_text())["demo_unet6x3_32"]
    assert set(tables) == {"1", "4"}
    for table in tables.values():
        assert list(table) == ["random", "random, median", "TPE", "TPE, asha (ours)"]
        for column, figure in table["random"].items():
            if column.startswith("until"):
                assert figure == [1, 1, 1]
        for name in ("random", "TPE"):  # all trials are whole, and the best is among them
            assert table[name]["spent"] == [1, 1, 1]
            assert table[name]["lost"] == [0, 0, 0]
            assert table[name]["regret at 100%"][0] <= 0.005
        assert table["random, median"]["spent"][0] < 1
        # half of it, and at most what the last that went on were trained from their rung on
        assert 0.5 <= table["TPE, asha (ours)"]["spent"][0] < 0.8
        for row in table.values():
            regrets = [row[f"regret at {share}%"][0] for share in (10, 20, 50, 100)]
            assert regrets == sorted(regrets, reverse=True)


def test_a_studys_curves_are_recorded(tmp_path: Path) -> None:
    study = optuna.create_study(
        study_name="demo", storage=f"sqlite:///{tmp_path}/rml_optimize.db", direction="maximize"
    )
    kinds = CategoricalDistribution(("Adam", "RMSprop", "SGD"))
    params = {"optimizer.type": "Adam", "loss.function": "Dice"}
    for state in (TrialState.COMPLETE, TrialState.PRUNED):
        study.add_trial(
            optuna.create_trial(
                state=state,
                value=0.5,
                params=params,
                distributions={
                    "optimizer.type": kinds,
                    "loss.function": CategoricalDistribution(("BCE", "Dice")),
                },
                intermediate_values={2: 0.5, 1: 0.25},
            )
        )
    to = tmp_path / "curves.json"
    call("benchmarks/search_efficiency.py", "--record", tmp_path, "--to", to)
    study._storage.remove_session()
    written = json.loads(to.read_text())
    assert written["study"] == "demo"
    assert written["trials"] == [{"number": 0, "params": params, "curve": [0.25, 0.5]}]
