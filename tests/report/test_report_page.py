"""What the report says, compared with the study that it is of."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import shlex
import shutil
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import optuna
import pytest
from made_study import EVIL, data_of, make_study, make_trials, winner
from optuna.trial import TrialState
from support import names

from hpo.folders import WorkFolders
from hpo.keys import END, IDENTITY, PAUSED, SPENT, TESTED
from hpo.report.cases import (
    NUM_BEST,
    NUM_TYPICAL,
    NUM_WORST,
    ImageScores,
    outlines,
    read_cases,
    read_image_scores,
    write_index,
)
from hpo.report.facts import MAX_DRAWN
from hpo.report.importance import importances
from hpo.report.page import write_report
from trainer.direction import Direction


class Headings(HTMLParser):
    """Collects headings, scripts and whatever would be loaded or run."""

    def __init__(self) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.loaded: list[str] = []
        self.handlers: list[str] = []
        self._in_heading = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_heading = tag == "h2"
        for name, value in attrs:
            if name in ("src", "href", "data", "action") and not str(value).startswith("#"):
                self.loaded.append(str(value))
            if name.startswith("on") or name == "style":
                self.handlers.append(f"{tag} {name}")

    def handle_data(self, data: str) -> None:
        if self._in_heading:
            self.headings.append(data)
            self._in_heading = False


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return write_report(make_study(tmp_path), tmp_path)


def test_sections_come_in_the_order_in_which_a_reader_asks(page: Path) -> None:
    parser = Headings()
    parser.feed(page.read_text())
    assert parser.headings == [
        "Worst and typical cases", "Dice of each image", "Curves", "What mattered", "Trials",
        "Time", "Failures", "Provenance", "Use the model", "Table for a paper",
    ]  # fmt: skip


def test_nothing_from_outside_becomes_markup_and_nothing_is_loaded(page: Path) -> None:
    text = page.read_text()
    parser = Headings()
    parser.feed(text)
    assert all(each.startswith("data:image/jpeg;base64,") for each in parser.loaded)
    assert parser.handlers == []
    assert len(re.findall(r"<script\b", text)) == 2  # the data and ours
    assert EVIL not in text
    assert "default-src 'none'" in text
    assert page.stat().st_size < 8e6
    # the texts are there all the same
    assert EVIL in json.dumps(data_of(page), ensure_ascii=False).replace('\\"', '"')
    assert "&lt;script&gt;document.title=" in text


def test_winner_is_shown_with_its_test_score_and_how_it_was_chosen(page: Path) -> None:
    text = page.read_text()
    best = max(make_trials(30)[:-1], key=lambda trial: trial.value or 0)
    assert '<p class="number">0.8123</p>' in text
    assert "95 % interval 0.7500 – 0.8500" in text
    assert f"of the 30 trials that finished: {best.value:.4f}" in text
    assert "on 20% of the training images" in text
    assert "SYNTHETIC DATA." in text


def test_papers_table_has_the_test_figure_of_the_objective(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    identity, key = study.user_attrs[IDENTITY], TESTED.format(winner(study))
    tested = study.user_attrs[key] | {"dice_with_background": 0.9321, "score": 0.9321}
    study.set_user_attr(IDENTITY, identity | {"objective": "dice_with_background"})
    study.set_user_attr(key, tested)
    text = write_report(study, tmp_path).read_text()
    assert "dice_with_background, test" in text.split("<h3>Markdown</h3>")[1]
    assert "0.9321" in text.split("<h3>Markdown</h3>")[1]


def test_table_has_every_trial_and_drawings_the_best_of_many(tmp_path: Path) -> None:
    study = make_study(tmp_path, MAX_DRAWN + 200)
    data = data_of(write_report(study, tmp_path))
    trials = study.get_trials(deepcopy=False)
    assert data["number"] == [trial.number for trial in trials]
    assert data["score"] == [
        None if trial.value is None else pytest.approx(trial.value, abs=1e-6) for trial in trials
    ]
    drawn = data["drawn"]
    assert isinstance(drawn, list)
    assert len(drawn) == MAX_DRAWN
    ranked = sorted(trials[:-1], key=lambda trial: -(trial.value or 0))
    assert {trial.number for trial in ranked[:100]} <= set(drawn)
    assert "Drawn are 1000 of 1200 trials" in (tmp_path / "report.html").read_text()


def test_learning_rate_that_decides_is_what_mattered() -> None:
    trials = [trial for trial in make_trials(200) if trial.state != TrialState.FAIL]
    found = importances(trials, ["optimizer.learning_rate", "loss.function"], Direction.MAXIMIZE)
    assert sum(found.values()) == pytest.approx(1)
    assert found["optimizer.learning_rate"] > 0.9
    assert importances(trials[:9], ["optimizer.learning_rate"], Direction.MAXIMIZE) == {}


def test_worst_and_typical_images_are_chosen_by_their_dice() -> None:
    dice = np.random.default_rng(3).permutation(np.linspace(0, 1, 101))
    scores = ImageScores(
        at_own_size=False, classes=("a",), names=tuple(map(str, range(101))),
        dice=tuple((float(value),) for value in dice), per_class={},
    )  # fmt: skip
    chosen = scores.chosen()
    worst = [round(float(dice[i]), 2) for i, kind in chosen if kind == "worst"]
    typical = [float(dice[i]) for i, kind in chosen if kind == "typical"]
    assert worst == [round(0.01 * k, 2) for k in range(NUM_WORST)]
    assert typical == pytest.approx([0.47, 0.48, 0.49, 0.5, 0.51, 0.52])
    best = [float(dice[i]) for i, kind in chosen if kind == "best"]
    assert best == pytest.approx([0.97, 0.98, 0.99])  # at 1 there is nothing to be seen


@pytest.mark.parametrize("number", [1, 5, 13, 20])
def test_few_images_are_shown_once_each(number: int) -> None:
    scores = ImageScores(
        at_own_size=False, classes=("a",), names=tuple(map(str, range(number))),
        dice=((0.5,),) * number, per_class={},
    )  # fmt: skip
    indices = [index for index, _ in scores.chosen()]
    num_shown = NUM_WORST + NUM_TYPICAL + NUM_BEST
    assert len(indices) == len(set(indices)) == min(number, num_shown)


def test_outline_encloses_the_pixels_of_the_class() -> None:
    classes = np.zeros((100, 120), np.uint8)
    cv2.ellipse(classes, (60, 50), (40, 25), 20, 0, 360, 2, thickness=-1)
    classes[50:54, 55:65] = 0  # a hole
    scale = 0.5
    (path,) = outlines(classes, scale).values()
    rings = [
        np.array([float(v) for v in re.findall(r"[\d.]+", ring)]).reshape(-1, 2)
        for ring in path.split("Z")
        if ring
    ]
    areas = sorted(
        abs(np.sum(r[:, 0] * np.roll(r[:, 1], 1) - r[:, 1] * np.roll(r[:, 0], 1))) / 2
        for r in rings
    )
    assert len(areas) == 2
    assert areas[1] - areas[0] == pytest.approx((classes == 2).sum() * scale**2, rel=0.04)


def test_cases_of_another_attempt_are_none(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    folder = WorkFolders.of(tmp_path, study.study_name).cases(winner(study))
    assert read_cases(folder, winner(study), 2) is None
    cases = read_cases(folder, winner(study), 1)
    assert cases is not None
    assert len(cases.shown) == NUM_WORST + NUM_TYPICAL


@pytest.mark.parametrize(
    "table",
    [
        "",
        "name\n",
        "name,lesion_dice\na,x\n",
        "name,lesion_dice\na,nan\n",
        "other\n1\n",
        "\0\0",
        '"',
    ],
)
def test_worker_that_writes_nonsense_has_no_table_of_images(tmp_path: Path, table: str) -> None:
    metrics = {"classes_averaged": ["lesion"], "per_class": {"lesion": {"dice": 1.0}}}
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"epoch": 1, **metrics}) + "\n")
    (tmp_path / "per_image.csv").write_text(table)
    assert read_image_scores(tmp_path, 4) is None


def test_report_of_another_study_is_kept(tmp_path: Path) -> None:
    first = write_report(make_study(tmp_path, name="first"), tmp_path)
    text = first.read_text()
    second = write_report(make_study(tmp_path, name="second"), tmp_path)
    assert second == first
    assert (tmp_path / "report-first.html").read_text() == text
    studies = [make_study(tmp_path / "x", name=name) for name in ("first", "second")]
    for study in [*studies, *studies]:
        write_report(study, tmp_path)
    assert names(list(tmp_path.glob("*.html"))) == [
        "report-first.html", "report-second.html", "report.html",
    ]  # fmt: skip


def test_a_report_that_is_not_a_studys_is_kept(tmp_path: Path) -> None:
    for name in ("report.html", "report-first.html"):
        (tmp_path / name).write_text("mine")
    studies = [make_study(tmp_path / "x", name=name) for name in ("first", "second")]
    for study in [*studies, *studies]:
        write_report(study, tmp_path)
    mine = [path.name for path in tmp_path.glob("*.html") if path.read_text() == "mine"]
    assert sorted(mine) == ["report-2.html", "report-first.html"]
    assert len(list(tmp_path.glob("*.html"))) == 5  # and one of each study, and the page


def test_why_there_is_no_interval_is_said(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    key = TESTED.format(winner(study))
    tested = {**study.user_attrs[key], "interval": None}
    for number, why in (
        (3, "no interval, 3 images are too few"),
        (None, "no interval: the worker left no table of images"),
    ):
        study.set_user_attr(key, {**tested, "num_drawn": number})
        text = write_report(study, tmp_path).read_text()
        assert f'<p class="note">{why}</p>' in text


def test_study_without_a_finished_trial_has_a_report(tmp_path: Path) -> None:
    page = write_report(optuna.create_study(direction="maximize"), tmp_path)
    assert "No trial is finished and has a score yet." in page.read_text()


@pytest.mark.parametrize("has_cases", [True, False])
def test_commands_to_paste_quote_names_and_folders(tmp_path: Path, has_cases: bool) -> None:
    output = tmp_path / "my $HOME; rm"
    study = make_study(output, name="it's; rm")
    if not has_cases:
        shutil.rmtree(WorkFolders.of(output, study.study_name).cases(winner(study)))
    text = html.unescape(write_report(study, output).read_text())
    commands = ["score", *([] if has_cases else ["report"])]
    for command in commands:
        (line,) = re.findall(rf"^.*rml-study {command} .*$", text, re.MULTILINE)
        assert f"--study-name {shlex.quote(study.study_name)}" in line
    cd = f"cd {shlex.quote(str(output))}"
    assert text.count(cd) == len(commands)


def test_time_is_that_of_all_attempts_and_paused_trials_have_some(tmp_path: Path) -> None:
    """What Optuna knows of a trial that went on is its last attempt."""
    study = make_study(tmp_path, 1)
    done, paused = (make_trials(1)[0] for _ in range(2))
    done.user_attrs |= {SPENT: {"total": 100.0}, END: {"host": "n", "seconds": {"total": 7200.0}}}
    paused.state, paused.value, paused.datetime_complete = TrialState.WAITING, None, None
    paused.user_attrs |= {SPENT: {"total": 1800.0}, PAUSED: {"epoch": 4}, END: {}}
    study.add_trials([done, paused])
    page = write_report(study, tmp_path)
    data = data_of(page)
    assert data["seconds"] == [90, None, 7200, 1800]  # the second failed
    states = data["states"]
    assert isinstance(states, list)
    state = data["state"]
    assert isinstance(state, list)
    assert [states[index] for index in state] == ["pruned", "failed", "pruned", "paused"]
    text = page.read_text()
    assert "<dt>all trials together</dt><dd>2 h 31 min</dd>" in text
    assert "<dt>GPU hours</dt><dd>2.52</dd>" in text
    assert "<td>node0</td><td>1</td><td>0</td><td>31 min 30 s</td><td>0.53</td>" in text


def test_colours_have_the_names_of_their_classes_where_some_are_not_averaged(
    tmp_path: Path,
) -> None:
    per_class = {name: {"dice": 0.5} for name in ("background", "liver", "tumour")}
    entry = {"epoch": 1, "classes_averaged": ["liver", "tumour"], "per_class": per_class}
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text(json.dumps(entry) + "\n")
    (folder / "per_image.csv").write_text("name,liver_dice,tumour_dice\na.png,0.5,0.25\n")
    scores = read_image_scores(folder, 1)
    assert scores is not None
    assert scores.means() == [0.375]
    cases = tmp_path / "cases"
    cases.mkdir()
    classes = np.zeros((8, 8), np.uint8)
    classes[1:4], classes[5:7] = 1, 2
    for name in ("image.png", "mask.png"):
        assert cv2.imwrite(str(cases / name), classes)
    shown = {"name": "a.png", "kind": "worst", "image": "image.png", "target": "mask.png",
             "mask": "mask.png"}  # fmt: skip
    write_index(
        cases, scores, of={"trial": 0, "attempt": 1, "part": "test"}, cases=[shown], data={}
    )
    study = make_study(tmp_path, 1)
    shutil.copytree(cases, WorkFolders.of(tmp_path, "made").cases(0), dirs_exist_ok=True)
    text = write_report(study, tmp_path).read_text()
    assert '<i class="swatch k0"></i>liver</span>' in text
    assert '<i class="swatch k1"></i>tumour</span>' in text


def test_worker_that_averages_no_class_has_no_table_of_images(tmp_path: Path) -> None:
    entry = {"epoch": 1, "classes_averaged": [], "per_class": {}, "own_size": {"per_class": {}}}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(entry) + "\n")
    (tmp_path / "per_image.csv").write_text("name\na.png\n")
    assert read_image_scores(tmp_path, 1) is None


def test_python_for_the_model_uses_what_a_prediction_has(page: Path) -> None:
    from trainer import Prediction

    text = html.unescape(page.read_text())
    (snippet,) = re.findall(r"from trainer import load_model\n\n.*?(?=</pre>)", text, re.DOTALL)
    compile(snippet, "report", "exec")
    names = set(re.findall(r"found\.(\w+)", snippet))
    assert names
    assert names <= {field.name for field in dataclasses.fields(Prediction)}
    assert "found = model.predict(" in snippet


def test_what_no_scored_trial_has_gets_no_heading(tmp_path: Path) -> None:
    study = optuna.create_study(direction="maximize")
    running = make_trials(1)[0]
    running.state, running.value, running.datetime_complete = TrialState.RUNNING, None, None
    study.add_trial(running)
    text = write_report(study, tmp_path).read_text()
    assert "<h2>Trials</h2>" in text
    assert "Each parameter by itself" not in text
