"""`rml-study trials` and `rml-study score`."""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
from pathlib import Path

import cv2
import numpy as np
import pytest
from support import Run, one_error

from hpo import open_study
from hpo.keys import END, SPENT
from hpo.results.list_acc import write_list_acc
from hpo.study.cli import main

LOCAL = ("--launcher", "local", "--no-gpu")


def test_trials_are_listed_with_values_score_state_and_time(run: Run, searched: Path) -> None:
    text = run("rml-study", "trials", cwd=searched).stdout
    head, _, *lines = text.splitlines()
    assert head.split() == ["trial", "state", "Dice", "epoch", "time", "values"]
    entries = {int(line.split()[0]): line for line in lines}
    assert re.search(r"0  complete  0\.5000  2 of 3 ", entries[0])
    assert re.search(r"1  complete  0\.8000  3 of 3 ", entries[1])
    assert " failed " in entries[3]
    assert "type=" in entries[1]
    assert "learning_rate=" in entries[1]
    top = run("rml-study", "trials", "--top", 2, cwd=searched).stdout.splitlines()
    assert [line.split()[0] for line in top[2:]] == ["1", "0"]


def test_a_failed_trial_is_never_among_the_best(run: Run, searched: Path) -> None:
    """It crashed after an epoch that nobody will have a model of."""
    with sqlite3.connect(searched / "rml_optimize.db") as connection:
        connection.execute(
            "INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, "
            "intermediate_value_type) SELECT trial_id, 1, 0.99, 'FINITE' FROM trials "
            "WHERE number = 3"
        )
    connection.close()
    assert "0.9900" in run("rml-study", "trials", cwd=searched).stdout
    top = run("rml-study", "trials", "--top", 9, "--json", cwd=searched).stdout
    assert [entry["trial"] for entry in json.loads(top)] == [1, 0, 4, 2]


def test_trials_as_csv_and_json_are_what_the_list_says(run: Run, searched: Path) -> None:
    listed = {
        entry["number"]: entry for entry in json.loads((searched / "list_acc.json").read_text())
    }
    text = run("rml-study", "trials", "--csv", cwd=searched).stdout
    rows = {int(row["trial"]): row for row in csv.DictReader(io.StringIO(text))}
    entries = {
        e["trial"]: e
        for e in json.loads(run("rml-study", "trials", "--json", cwd=searched).stdout)
    }
    assert set(listed) < set(rows) == set(entries)  # the list has no failed ones
    for number, entry in listed.items():
        assert float(rows[number]["dice_dataset"]) == entries[number]["dice_dataset"]
        assert entries[number]["dice_dataset"] == entry["max_acc"]
        assert entries[number]["params"] == entry["params"]
        assert rows[number]["host"] == entry["host"]
        for name, value in entry["params"].items():
            assert rows[number][name] == str(value)
    assert "exclude" in one_error(run("rml-study", "trials", "--csv", "--json", cwd=searched))


def test_score_is_the_dice_of_mask_and_prediction_worst_first(
    run: Run, trained: Path, discs: Path
) -> None:
    test = discs / "test"
    arguments = ("--images", test / "inputs", "--targets", test / "targets", *LOCAL)
    result = run("rml-study", "score", *arguments, "--overlays", cwd=trained)
    assert result.returncode == 0, result.stdout + result.stderr
    assert sorted(path.name for path in (trained / "score").iterdir()) == [
        "cases.csv", "overlays", "worker.log",
    ]  # fmt: skip
    predicted = run("rml-study", "predict", "--images", test / "inputs", "--out", "p", *LOCAL,
                    cwd=trained)  # fmt: skip
    assert predicted.returncode == 0, predicted.stderr
    expected = {}
    for path in sorted((test / "targets").iterdir()):
        truth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) > 127
        found = cv2.imread(str(trained / "p/masks" / path.name), cv2.IMREAD_UNCHANGED) > 127
        expected[path.name] = 2 * (truth & found).sum() / (truth.sum() + found.sum())
    rows = list(csv.DictReader((trained / "score/cases.csv").read_text().splitlines()))
    assert {row["name"]: float(row["dice"]) for row in rows} == pytest.approx(expected)
    assert [row["name"] for row in rows] == sorted(expected, key=lambda n: (expected[n], n))
    tested = json.loads((trained / "best_model/test.json").read_text())
    assert f"mean over images {np.mean(list(expected.values())):.4f}, of 5 images" in result.stdout
    assert f"pooled: foreground {tested['dice_dataset_own_size']:.4f}" in result.stdout
    again = run("rml-study", "score", *arguments, cwd=trained)
    assert "name a new folder" in one_error(again)


def test_images_without_a_mask_are_named(run: Run, trained: Path, discs: Path) -> None:
    masks = trained / "masks"
    masks.mkdir()
    for path in sorted((discs / "test/targets").iterdir())[1:]:
        (masks / path.name).write_bytes(path.read_bytes())
    result = run("rml-study", "score", "--images", discs / "test/inputs", "--targets", masks,
                 *LOCAL, cwd=trained)  # fmt: skip
    message = one_error(result, code=1)
    assert "1 of 5 images have no mask of the same name" in message
    assert "img 00.png" in message
    assert not (trained / "score").exists()


def test_seconds_of_a_trial_that_went_on_are_those_of_the_list(run: Run, searched: Path) -> None:
    """Optuna knows of its last attempt only."""
    with open_study(searched) as opened:
        copied = opened.study.trials[1]
        copied.user_attrs |= {SPENT: {"total": 100.0}, END: {"seconds": {"total": 5000.0}}}
        opened.study.add_trial(copied)
        write_list_acc(opened.study, searched / "list_acc.json")
    listed = json.loads((searched / "list_acc.json").read_text())[-1]
    entry = json.loads(run("rml-study", "trials", "--json", cwd=searched).stdout)[-1]
    assert entry["trial"] == listed["number"]
    assert entry["seconds"] == listed["seconds"] == 5000.0


@pytest.mark.parametrize(
    "table",
    [
        None,
        "",
        "name,dice\n",
        "name,dice\na.png,x\n",
        "name,dice\na.png,nan\n",
        "name,dice\na.png,0.5,more\n",
        "name,dice,lesion_dice\na.png,0.5,0.5\n",
        "\0",
    ],
)
def test_worker_that_leaves_no_table_of_images_is_named_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    table: str | None,
) -> None:
    monkeypatch.chdir(tmp_path)

    def leave(options: object, targets: object) -> None:
        Path("score").mkdir()
        if table is not None:
            Path("score/cases.csv").write_text(table)

    monkeypatch.setattr("hpo.study.score.segment", leave)
    assert main(["score", "--images", "i", "--targets", "t"]) == 1
    said = capfd.readouterr().err.splitlines()
    assert said == ["error: score/cases.csv: the worker left no table of images"]
