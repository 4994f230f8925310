"""Trackers of the user's own: the documented ones, what they are told, and broken ones."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import json
import re
import signal
import sqlite3
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from plugin_package import write_broken
from support import (
    BIN,
    Run,
    clean_environment,
    list_acc,
    one_error,
    optimize,
    require,
    standin_settings,
    start,
    states,
    wait_for,
    workers_of,
)

import hpo
from hpo.errors import UsageError
from hpo.objective import DEFAULT
from hpo.plan.trackers import chosen_trackers
from hpo.run import tracking
from hpo.trackers import SearchEnd, TrackedSearch, Tracker

DOC = (Path(__file__).parents[2] / "docs/trackers.md").read_text()
ABLE = {"capabilities": ["checkpoints.resume", "checkpoints.pause_after", "--serve"]}
BROKEN = """
[rml_optimize.trackers]
telling = broken_tracker:Telling
no_tracker = broken_tracker:none
no_module = nowhere_at_all:Tracker
refuses = broken_tracker:Refuses
raises = broken_tracker:Raises
leaves = broken_tracker:Leaves
hangs = broken_tracker:Hangs
"""
BROKEN_CODE = """
import dataclasses
import json
import sys
import threading

from hpo.trackers import Tracker


def none(search): return None


class Refuses(Tracker):
    def __init__(self, search): raise RuntimeError("no key")


class Raises(Tracker):
    def epoch_ended(self, number, epoch, metrics): raise KeyError("lesion")


class Leaves(Tracker):
    def search_began(self): sys.exit("not logged in")


class Hangs(Tracker):
    def trial_began(self, trial): threading.Event().wait()


class Telling(Tracker):
    def _tell(self, call, **facts):
        with open("told.jsonl", "a") as file:
            file.write(json.dumps({"call": call, **facts}, default=str) + "\\n")

    def search_began(self):
        self._tell("search_began", **dataclasses.asdict(self.search))

    def trial_began(self, trial):
        self._tell("trial_began", **dataclasses.asdict(trial))

    def epoch_ended(self, number, epoch, metrics):
        self._tell("epoch_ended", number=number, epoch=epoch, metrics=metrics)

    def trial_ended(self, number, end):
        self._tell("trial_ended", number=number, **dataclasses.asdict(end))

    def search_ended(self, end):
        self._tell("search_ended", **dataclasses.asdict(end))
"""


@pytest.fixture
def site(tmp_path: Path) -> str:
    """A PYTHONPATH with the documented plug-ins and others, most of which do not work."""
    site = tmp_path / "site"
    write_broken(site, "broken_tracker", BROKEN, BROKEN_CODE)
    tables, mlflow = re.findall(r"```python\n(.*?)```", DOC, re.DOTALL)
    (toml,) = re.findall(r"```toml\n(.*?)```", DOC, re.DOTALL)
    (entry,) = re.findall(r"^(\w+) = \"(my_tracker:\w+)\"$", toml, re.MULTILINE)
    write_broken(site, "my_tracker", f"[rml_optimize.trackers]\n{entry[0]} = {entry[1]}\n", tables)
    write_broken(site, "my_mlflow", "[rml_optimize.trackers]\nmlflow = my_mlflow:MLflow\n", mlflow)
    return str(site)


def told(folder: Path, call: str) -> list[dict[str, Any]]:
    lines = (folder / "told.jsonl").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if entry["call"] == call]


def search(folder: Path, discs: Path, *extra: object, **settings: object) -> list[str]:
    worker = standin_settings(folder, ABLE | settings)
    return [*optimize(discs, "--jobs", 1, "--worker", worker), *map(str, extra)]


def rows_of(path: Path) -> list[list[str]]:
    return list(csv.reader(path.read_text().splitlines()))


def tables_of(folder: Path) -> dict[int, list[list[str]]]:
    return {
        int(path.stem.removeprefix("trial_")): rows_of(path)
        for path in folder.glob("tables/*/trial_*.csv")
    }


def test_documented_tracker_has_each_epoch_once_and_each_end(
    discs: Path, run: Run, tmp_path: Path, site: str
) -> None:
    given = search(tmp_path, discs, "--num-trials", 6, "--num-epochs", 9, "--tracker", "tables")
    result = run("rml-optimize", *given, PYTHONPATH=site)
    assert result.returncode == 0, result.stdout + result.stderr
    entries = {int(str(entry["number"])): entry for entry in list_acc(tmp_path)}
    assert {entry["state"] for entry in entries.values()} == {"PRUNED", "COMPLETE"}
    for number, rows in tables_of(tmp_path).items():
        epochs, scores, _ = zip(*rows, strict=True)
        assert list(map(int, epochs)) == list(range(1, int(str(entries[number]["epochs"])) + 1))
        assert max(map(float, scores)) == pytest.approx(entries[number]["max_acc"])
    (ends,) = tmp_path.glob("tables/*/trials.csv")
    found = {int(number): (state.upper(), float(score)) for number, state, score in
             rows_of(ends)}  # fmt: skip
    assert len(found) == len(ends.read_text().splitlines())  # each once
    assert found == {
        number: (entry["state"], pytest.approx(entry["max_acc"]))
        for number, entry in entries.items()
    }


def test_calls_say_what_a_search_is_and_what_came_of_it(
    discs: Path, run: Run, tmp_path: Path, site: str
) -> None:
    metrics = [
        {"loss": 0.5, "learning_rate": 0.01, "dice_dataset": 0.8, "dice_per_image": 0.7,
         "per_class": {"lesion": {"dice": 0.6}, "gone": {"dice": None}}, "plugins": {"mine": 2},
         "own_size": {"dice_dataset": 0.75}, "text": "x", "is": True, "a\nb": 1}
    ] * 3  # fmt: skip
    (tmp_path / "url").write_text(f"sqlite:///{tmp_path}/my-secret.db")
    given = search(
        tmp_path, discs, "--num-trials", 3, "--tracker", "telling", "--storage-file",
        tmp_path / "url", "--pruner", "none", "--search", "data.batch_size=2,4",
        metrics={"0": metrics}, end={"2": 3, "1": 2}, curve={"0": [0.5, 0.8, 0.6], "3": [0.1] * 3},
    )  # fmt: skip
    result = run("rml-optimize", *given, PYTHONPATH=site)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "my-secret" not in (tmp_path / "told.jsonl").read_text()
    (began,) = told(tmp_path, "search_began")
    assert (began["score"], began["num_epochs"], began["num_trials"]) == ("dice_dataset", 3, 3)
    assert began["output"] == str(tmp_path)
    assert began["settings"]["images"] == "12 training, 5 test, 32x32"
    assert began["searched"]["data.batch_size"]["choices"] == [2, 4]
    rates = began["searched"]["optimizer.learning_rate"]
    assert (rates["low"], rates["high"], rates["log"]) == (0.001, 0.01, True)
    assert began["config"]["num_epochs"] == 3
    first, *_ = told(tmp_path, "trial_began")
    assert first["values"]["data.batch_size"] in (2, 4)
    assert Path(first["run_dir"], "config.json").is_file()
    epochs = told(tmp_path, "epoch_ended")
    assert epochs[0]["metrics"] == {
        "loss": 0.5, "learning_rate": 0.01, "dice_dataset": 0.5, "dice_per_image": 0.7,
        "dice_dataset.lesion": 0.6, "mine": 2.0, "dice_dataset_own_size": 0.75,
    }  # fmt: skip
    ends = {end["number"]: end for end in told(tmp_path, "trial_ended")}
    assert (ends[0]["state"], ends[0]["score"], ends[0]["epoch"]) == ("complete", 0.8, 2)
    assert (ends[1]["state"], ends[1]["how"], ends[1]["score"]) == ("failed", "refused", None)
    assert (ends[2]["state"], ends[2]["how"]) == ("pruned", "diverged")
    (ended,) = told(tmp_path, "search_ended")
    assert (ended["state"], ended["best_trial"], ended["best_score"]) == ("finished", 0, 0.8)


def test_stopped_search_ends_its_trackers_and_the_next_call_goes_on_with_the_trial(
    discs: Path, run: Run, tmp_path: Path, site: str
) -> None:
    given = search(tmp_path, discs, "--num-trials", 1, "--num-epochs", 12, "--pruner", "none",
                   "--tracker", "telling", epoch_s=0.2)  # fmt: skip
    driver = subprocess.Popen(
        [str(BIN / "rml-optimize"), *given], cwd=tmp_path, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, env=clean_environment() | {"PYTHONPATH": site},
    )  # fmt: skip
    wait_for(lambda: (tmp_path / "told.jsonl").exists() and told(tmp_path, "epoch_ended"))
    driver.send_signal(signal.SIGTERM)
    driver.communicate(timeout=30)
    assert told(tmp_path, "search_ended")[-1]["state"] == "stopped"
    assert told(tmp_path, "trial_ended")[-1]["state"] == "given back"
    result = run("rml-optimize", *given, PYTHONPATH=site)
    assert result.returncode == 0, result.stdout + result.stderr
    _, again = told(tmp_path, "trial_began")
    last = max(map(int, again["earlier"]))
    assert [*map(int, again["earlier"])] == list(range(1, last + 1))
    epochs = [entry["epoch"] for entry in told(tmp_path, "epoch_ended")]
    assert epochs == list(range(1, 13))  # once each, by two drivers


def test_epochs_that_were_trained_again_are_told_again(
    discs: Path, run: Run, tmp_path: Path, site: str
) -> None:
    given = search(
        tmp_path, discs, "--num-trials", 1, "--num-epochs", 6, "--pruner", "none",
        "--tracker", "tables", "--tracker", "telling",
        crash_at={"0": [5]}, state_every=2, drift=0.001,
    )  # fmt: skip
    result = run("rml-optimize", *given, PYTHONPATH=site)
    assert result.returncode == 0, result.stdout + result.stderr
    began = told(tmp_path, "trial_began")
    assert [[*map(int, each["earlier"])] for each in began] == [[], [1, 2, 3, 4, 5], [1, 2, 3, 4]]
    epochs = [entry["epoch"] for entry in told(tmp_path, "epoch_ended")]
    assert epochs == [1, 2, 3, 4, 5, 5, 6]
    assert [row[0] for row in tables_of(tmp_path)[0]] == ["1", "2", "3", "4", "5", "6"]


def test_drivers_of_a_study_tell_of_each_trial_once(
    discs: Path, tmp_path: Path, site: str
) -> None:
    given = search(tmp_path, discs, "--num-trials", 6, "--pruner", "none", "--tracker", "tables",
                   epoch_s=0.05)  # fmt: skip
    drivers = [
        subprocess.Popen(
            [str(BIN / "rml-optimize"), *given], cwd=tmp_path, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=clean_environment() | {"PYTHONPATH": site},
        )
        for _ in range(2)
    ]  # fmt: skip
    for driver in drivers:
        text, _ = driver.communicate(timeout=120)
        assert driver.returncode == 0, text
    assert {number: len(rows) for number, rows in tables_of(tmp_path).items()} == dict.fromkeys(
        range(6), 3
    )
    (ends,) = tmp_path.glob("tables/*/trials.csv")
    assert sorted(int(row[0]) for row in rows_of(ends)) == list(range(6))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("raises", "left out from now on: KeyError: 'lesion'"),
        ("leaves", "left out from now on: SystemExit: not logged in"),
    ],
)
def test_tracker_that_fails_is_left_out_with_one_warning(
    discs: Path, run: Run, tmp_path: Path, site: str, name: str, said: str
) -> None:
    given = search(tmp_path, discs, "--num-trials", 3, "--pruner", "none")
    given += ["--tracker", name, "--tracker", "tables"]
    result = run("rml-optimize", *given, PYTHONPATH=site)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count(f"warning: tracker {name} is {said}") == 1
    assert "Traceback" not in result.stdout + result.stderr
    assert set(states(tmp_path).values()) == {"COMPLETE"}
    assert {len(rows) for rows in tables_of(tmp_path).values()} == {3}  # the other is told all


def test_tracker_that_hangs_holds_up_no_trial_and_no_signal(
    discs: Path, tmp_path: Path, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", site)
    given = search(tmp_path, discs, "--num-trials", 40, "--pruner", "none", "--tracker", "hangs",
                   delay={"2": 60})  # fmt: skip
    driver = start(tmp_path, *given)
    wait_for(lambda: (tmp_path / "rml_optimize.db").exists() and workers_of(tmp_path)
             and list(states(tmp_path).values()).count("COMPLETE") == 2)  # fmt: skip
    driver.send_signal(signal.SIGTERM)
    text, _ = driver.communicate(timeout=30)
    assert driver.returncode == 128 + signal.SIGTERM
    assert "tracker hangs is left out from now on: it did not end in time" in text
    assert "stopped before everything was done" not in text
    assert states(tmp_path)[2] == "WAITING"  # given back, not left to its lease


def test_slow_tracker_is_left_out_once_it_is_far_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "MAX_WAITING", 3)
    going, warnings, calls = threading.Event(), list[str](), list[int]()
    search = TrackedSearch(
        study="s", study_id="1", output=tmp_path, score="x", num_trials=None, num_epochs=1,
        settings={}, searched={}, config={},
    )  # fmt: skip
    slow, quick = Tracker(search), Tracker(search)
    followed = tracking.Tracking(
        {"slow": slow, "quick": quick}, objective=DEFAULT, num_epochs=1, warn=warnings.append
    )

    def call(tracker: Tracker) -> None:
        if tracker is slow:
            going.wait()
        calls.append(tracker is quick)

    for number in range(1, 11):
        followed.tell(call)
        wait_for(lambda number=number: sum(calls) == number)  # the quick one
    assert warnings == ["tracker slow is left out from now on: 3 calls wait for it"]
    going.set()
    followed.close(SearchEnd(state="finished"), is_stopped=False)
    assert len(warnings) == 1
    assert len(calls) - sum(calls) <= 1  # it is told nothing more


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_tracker", "expected a subclass of hpo.trackers.Tracker, received NoneType"),
        ("no_module", "cannot be loaded: ModuleNotFoundError"),
        ("refuses", "RuntimeError: no key"),
    ],
)
def test_broken_tracker_is_refused_by_name(
    discs: Path, run: Run, tmp_path: Path, site: str, name: str, said: str
) -> None:
    for more in ((), ("--dry-run",)):
        given = search(tmp_path, discs, "--num-trials", 3, "--tracker", name, *more)
        error = one_error(run("rml-optimize", *given, PYTHONPATH=site))
        assert said in error
        assert f"'{name}' (" in error
        assert "of package broken_tracker" in error
        assert not list(tmp_path.glob("runs/*/trial_*"))


def test_names_come_from_the_option_or_the_study(
    discs: Path, run: Run, tmp_path: Path, site: str
) -> None:
    assert chosen_trackers(None, ()) == ()
    assert chosen_trackers(["none"], ("tensorboard",)) == ()
    assert chosen_trackers(["tensorboard", "tensorboard"], ()) == ("tensorboard",)
    with pytest.raises(UsageError, match="none excludes others"):
        chosen_trackers(["none", "tensorboard"], ())
    with pytest.raises(UsageError, match="did you mean 'tensorboard'"):
        chosen_trackers(["tensorbord"], ())
    text = " ".join(run("rml-optimize", "--help", PYTHONPATH=site).stdout.split())
    assert "installed plug-ins: hangs, leaves, mlflow," in text
    study = tmp_path / "study"
    assert run("rml-optimize", "--new-study", study, "--data", discs).returncode == 0
    file = study / "study.toml"
    own = file.read_text()
    file.write_text(f'tracker = ["tables", "tensorboard"]\n{own}')
    dry = ("--dry-run", "--study", study, "--data", discs, "--no-gpu")
    shown = run("rml-optimize", *dry, PYTHONPATH=site).stdout
    assert (
        len(re.findall(r"\| tracker +\| (?:tables|tensorboard: tensorboard --logdir)", shown)) == 2
    )
    assert (
        "| tracker" not in run("rml-optimize", *dry, "--tracker", "none", PYTHONPATH=site).stdout
    )
    file.write_text(f'tracker = "table"\n{own}')
    error = one_error(run("rml-optimize", *dry, PYTHONPATH=site))
    assert "tracker: unknown name 'table'; did you mean 'tables'?" in error


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_search_in_python_takes_trackers(
    discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    worker = standin_settings(tmp_path, dict(ABLE))
    hpo.optimize(
        data=discs, layers="unet:width=4,depth=2", resize=(32, 32), gpu=False, num_epochs=3,
        num_trials=2, pruner="none", worker=worker, quiet=True, tracker="tensorboard",
    )  # fmt: skip
    assert len(list(tmp_path.glob("tensorboard/*/trial_*/*"))) == 2


def test_documented_mlflow_tracker_has_each_epoch_once(
    discs: Path, run: Run, tmp_path: Path, site: str
) -> None:
    if importlib.util.find_spec("mlflow") is None:
        require("mlflow", "pip install mlflow-skinny")
    database = tmp_path / "mlflow.db"
    given = search(tmp_path, discs, "--num-trials", 6, "--num-epochs", 9, "--tracker", "mlflow")
    where = {"PYTHONPATH": site, "MLFLOW_TRACKING_URI": f"sqlite:///{database}"}
    result = run("rml-optimize", *given, **where)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "left out" not in result.stdout
    with contextlib.closing(sqlite3.connect(database)) as connection:
        runs = connection.execute("select run_uuid, name, status from runs").fetchall()
        assert len(runs) == 6
        for entry in list_acc(tmp_path):
            name = f"trial_{int(str(entry['number'])):05d}"
            ((run_id, status),) = ((uuid, status) for uuid, found, status in runs if found == name)
            assert status == ("FINISHED" if entry["state"] == "COMPLETE" else "KILLED")
            points = connection.execute(
                "select step, value from metrics where key = 'dice_dataset' and run_uuid = ?"
                " order by step", (run_id,),
            ).fetchall()  # fmt: skip
            assert [step for step, _ in points] == list(range(1, int(str(entry["epochs"])) + 1))
            assert max(value for _, value in points) == pytest.approx(entry["max_acc"])
            values = connection.execute(
                "select key, value from params where run_uuid = ?", (run_id,)
            )
            assert dict(values)["optimizer.type"] == entry["optimizer"]
