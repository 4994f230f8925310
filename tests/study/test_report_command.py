"""`rml-study report`, and the report that a search leaves."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import cv2
import pytest
from support import Run, optimize, standin_settings

LOCAL = ("--launcher", "local", "--no-gpu")


def cases_of(folder: Path) -> Path:
    (found,) = folder.glob("runs/*/cases_of_trial_*")
    return found


def test_search_leaves_a_report_with_the_winners_worst_images(trained: Path) -> None:
    text = (trained / "report.html").read_text()
    index = json.loads((cases_of(trained) / "index.json").read_text())
    scores = index["scores"]
    names = [case["name"] for case in index["cases"]]
    ranked = sorted(zip(scores["dice"], scores["names"], strict=True))
    assert names == [name for _, name in ranked]  # five test images: all are among the worst
    shown = re.findall(r"<figcaption><b>([\d.]+)</b><span title=\"([^\"]*)\"", text)
    assert shown == [(f"{dice[0]:.3f}", name) for dice, name in ranked]
    tested = json.loads((trained / "best_model/test.json").read_text())
    assert f'<p class="number">{tested["dice_dataset"]:.4f}</p>' in text
    assert not list(cases_of(trained).glob("**/*.pt"))  # no copy of the model is left


def test_report_makes_the_pictures_that_are_missing(run: Run, trained: Path, discs: Path) -> None:
    before = json.loads((cases_of(trained) / "index.json").read_text())
    shutil.rmtree(cases_of(trained))
    (trained / "report.html").unlink()
    result = run("rml-study", "report", "--data", discs, *LOCAL, cwd=trained)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "wrote report.html" in result.stdout
    assert json.loads((cases_of(trained) / "index.json").read_text()) == before
    assert "<image id=" in (trained / "report.html").read_text()


def test_report_is_written_where_the_images_are_not(run: Run, trained: Path) -> None:
    shutil.rmtree(cases_of(trained))
    result = run("rml-study", "report", *LOCAL, cwd=trained)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "without pictures of cases: no data folder here" in result.stdout
    assert "<image id=" not in (trained / "report.html").read_text()


def test_search_names_its_report_first_and_never_fails_for_it(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    worker = standin_settings(tmp_path, {"curve": {"0": [0.2, 0.5, 0.6]}})
    arguments = optimize(discs, "--worker", worker, "--jobs", 1, "--num-trials", 1)
    result = run("rml-optimize", *arguments)
    assert result.returncode == 0, result.stderr
    _, _, then = result.stdout.partition("\nnext: ")
    assert then.splitlines()[0].endswith(": report.html"), result.stdout
    assert re.search(r"^time: \d+ s from the first trial to the last", result.stdout, re.MULTILINE)
    (tmp_path / "report.html").unlink()
    (tmp_path / "report.html").mkdir()
    result = run("rml-optimize", *arguments)
    assert result.returncode == 0, result.stderr
    assert "warning: no report: " in result.stdout
    assert "best trial: number 0" in result.stdout


@pytest.mark.parametrize("change", ["another name", "one less"])
def test_a_table_of_other_images_than_the_data_sets_shows_none(
    run: Run, trained: Path, discs: Path, change: str
) -> None:
    """The names in it are the worker's."""
    shutil.rmtree(cases_of(trained))
    (table,) = trained.glob("runs/*/test_of_trial_*/per_image.csv")
    header, first, *others = table.read_text().splitlines()
    first = ",".join(["../../../etc/passwd", *first.split(",")[1:]])
    rows = others if change == "one less" else [first, *others]
    table.write_text("\n".join([header, *rows]) + "\n")
    result = run("rml-study", "report", "--data", discs, *LOCAL, cwd=trained)
    assert result.returncode == 0, result.stdout + result.stderr
    why = "the evaluation's table is not of the 5 images here"
    assert f"without pictures of cases: {why}" in result.stdout
    assert not list(trained.glob("runs/*/cases_of_trial_*"))


def test_images_that_are_not_the_studys_are_not_shown(
    run: Run, trained: Path, discs: Path
) -> None:
    """A data folder where one stands is taken unasked."""
    shutil.rmtree(cases_of(trained))
    shutil.copytree(discs, trained / "data")
    image = next((trained / "data/test/inputs").iterdir())
    assert cv2.imwrite(str(image), 255 - cv2.imread(str(image)))
    result = run("rml-study", "report", *LOCAL, cwd=trained)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "not the images that the study was made with" in result.stdout
    assert "without pictures of cases: " in result.stdout
    assert not list(trained.glob("runs/*/cases_of_trial_*"))
    assert "<image id=" not in (trained / "report.html").read_text()


@pytest.mark.parametrize("part", ["test", "validation"])
def test_images_that_chose_the_winner_are_shown_as_such(
    run: Run, discs: Path, tmp_path: Path, part: str
) -> None:
    """Where no final test is made, the winner's images are evaluated for the report."""
    data = tmp_path / "data"
    shutil.copytree(discs, data)
    if part == "validation":
        shutil.rmtree(data / "test")
    result = run(
        "rml-optimize", *optimize(data, "--jobs", 1, "--num-trials", 1, "--select-on", part),
        "--launcher", "local", "--num-epochs", 1,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "warning: the report" not in result.stdout
    index = json.loads((cases_of(tmp_path) / "index.json").read_text())
    assert index["part"] == part
    assert len(index["cases"]) == len(index["scores"]["names"]) > 0
    text = (tmp_path / "report.html").read_text()
    assert "They chose the winner." in text
    assert "so it is optimistic" in text or "so this score is optimistic" in text
