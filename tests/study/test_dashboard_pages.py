"""What Optuna's dashboard shows of our trials: notes and pictures, read by its own functions."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path
from urllib.request import urlopen

import cv2
import numpy as np
import optuna
import pytest
from databases import empty_database
from markdown_it import MarkdownIt
from optuna.artifacts import FileSystemArtifactStore, download_artifact, get_all_artifact_meta
from optuna.storages import RDBStorage
from optuna_dashboard import get_note, save_note
from support import Run, require, standin_settings, wait_for
from test_dashboard import CHROMIUM_FLAGS, ask, served

from hpo.records import EndRecord
from hpo.report.notes import NotedTrial, trial_note

SMALL = ("--layers", "unet:width=4,depth=2", "--resize", "32,32", "--no-gpu", "--num-epochs", "3")
EVIL = (
    "[x](http://evil.example) ![p](http://evil.example/p.png) <img src=http://evil.example/q.png> "
    "<script>alert(1)</script> http://evil.example www.evil.example a@evil.example ``` ~~~ `` $x$"
)


def opened(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name="s", storage=f"sqlite:///{folder / 'rml_optimize.db'}")


def note_of(study: optuna.Study, number: int) -> str:
    trial = study.get_trials(deepcopy=False)[number]
    return get_note(optuna.Trial(study, trial._trial_id))


def pictures_of(study: optuna.Study, number: int, to: Path) -> dict[str, Path]:
    trial = study.get_trials(deepcopy=False)[number]
    store = FileSystemArtifactStore(to.parent / "artifacts")
    to.mkdir()
    for meta in get_all_artifact_meta(trial, storage=study._storage):
        assert meta.mimetype == "image/png"
        download_artifact(
            artifact_store=store, file_path=str(to / meta.filename), artifact_id=meta.artifact_id
        )
    return {path.name: path for path in to.iterdir()}


def search(run: Run, discs: Path, folder: Path, *arguments: object) -> None:
    result = run(
        "rml-optimize", *SMALL, "--data", discs, "--jobs", 1, "--study-name", "s", *arguments,
        cwd=folder,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr


def test_each_trial_has_a_note_of_its_score_or_its_failure(searched: Path) -> None:
    study = opened(searched)
    best, failed = note_of(study, 1), note_of(study, 3)
    assert "**dice_dataset 0.8000** at epoch 3 of 3" in best
    assert "learning_rate=" in best
    assert "No score" in failed
    assert "**Reason**: `the worker ended with exit code 7`" in failed
    assert "hello from the worker" in failed
    assert "trial_00003/attempt_" in failed


def test_study_has_a_note_that_says_what_it_is(searched: Path) -> None:
    note = get_note(opened(searched))
    for text in (
        "optimizer.learning_rate",
        "12 training images",
        "rml-study predict --study-name s",
        "**Best**: trial 1, dice_dataset 0.8000",
    ):
        assert text in note, note


def test_whole_trial_has_a_small_picture_of_its_curve(searched: Path, tmp_path: Path) -> None:
    study = opened(searched)
    (picture,) = pictures_of(study, 1, searched / "to").values()
    assert picture.name == "curve.png"
    assert picture.stat().st_size < 60_000
    assert cv2.imread(str(picture)).std() > 5
    assert not get_all_artifact_meta(study.trials[3], storage=study._storage)  # it failed


def test_best_trial_shows_its_test_score_and_worst_and_best_cases(trained: Path) -> None:
    study = opened(trained)
    number = json.loads((trained / "best_model" / "trial.json").read_text())["trial"]
    assert "**On the test images**: `dice_dataset 0." in note_of(study, number)
    assert "on the 5 test images" in get_note(study)
    pictures = pictures_of(study, number, trained / "to")
    kinds = {name.rpartition("_dice_")[0] for name in pictures}
    assert {"test_worst_1", "test_worst_2", "test_worst_3", "test_best_1"} <= kinds, pictures
    for path in pictures.values():
        assert path.stat().st_size < 60_000
        assert np.ptp(cv2.imread(str(path))) > 0


def test_a_hostile_worker_puts_nothing_but_text_into_a_note(
    run: Run, discs: Path, tmp_path: Path
) -> None:
    lines = f"{EVIL}\n```\n[y](http://evil.example)\n\x1b[31m\u202e<b>\r\n# heading"
    worker = standin_settings(tmp_path, {"end": {"0": 7}, "say": lines})
    search(run, discs, tmp_path, "--worker", worker, "--num-trials", 1, "--max-retries", 0)
    note = note_of(opened(tmp_path), 0)
    assert "evil.example" in note
    assert_text_only(note)
    assert "\x1b" not in note
    assert "\u202e" not in note


def assert_text_only(note: str) -> None:
    """Make sure that what others have said is code, of which no renderer makes anything else."""
    parsed = MarkdownIt().parse(note)
    tokens = [*parsed, *(part for token in parsed for part in token.children or ())]
    kinds = {token.type for token in tokens}
    where = {token.type for token in tokens if "evil" in token.content} - {"inline"}
    assert where, note
    assert where <= {"code_inline", "fence"}, note
    assert not kinds & {"heading_open", "html_block", "html_inline", "link_open", "image"}, note


@pytest.mark.parametrize("text", [EVIL, f"`{EVIL}", f"{EVIL}\n\n```\n\n{EVIL}", f"| {EVIL} `` |"])
def test_nothing_in_a_note_is_taken_for_markdown(text: str) -> None:
    end: EndRecord = {
        "end": text, "dice_dataset": 0.5, "epoch": 1, "host": text, "message": text,
        "log_tail": text, "dice_per_class": {text: 0.5},
    }  # fmt: skip
    noted = NotedTrial(number=1, params={text: text}, end=end, run_dir=text, tested=text)
    assert_text_only(trial_note(noted, selected_on=text, num_epochs=2))


def test_a_note_that_somebody_wrote_stays(run: Run, discs: Path, tmp_path: Path) -> None:
    worker = standin_settings(tmp_path, {"curve": {"0": [0.2, 0.5, 0.4], "1": [0.3, 0.7, 0.8]}})
    arguments = ("--worker", worker, "--select-on", "validation", "--pruner", "none")
    search(run, discs, tmp_path, *arguments, "--num-trials", 1)
    study = opened(tmp_path)
    ours = get_note(study)
    save_note(study, ours + "\nmine")
    trial = optuna.Trial(study, study.trials[0]._trial_id)
    changed = note_of(study, 0).replace("dice_dataset", "my score")
    save_note(trial, changed)
    search(run, discs, tmp_path, *arguments, "--num-trials", 2)
    study = opened(tmp_path)
    assert get_note(study) == ours + "\nmine"
    assert note_of(study, 0) == changed
    assert "0.8000" in note_of(study, 1)
    save_note(study, "")  # taken away: ours may come again
    search(run, discs, tmp_path, *arguments, "--num-trials", 2)
    assert "**Best**: trial 1" in get_note(opened(tmp_path))


def test_paused_trial_says_so_until_it_ends(run: Run, discs: Path, tmp_path: Path) -> None:
    curves = {str(n): [0.1 * n + 0.01 * epoch for epoch in range(3)] for n in range(7)}
    capabilities = ["checkpoints.resume", "checkpoints.pause_after"]
    settings = {"curve": curves, "capabilities": capabilities, "end": {"5": 7}}
    worker = standin_settings(tmp_path, settings)
    arguments = ("--worker", worker, "--num-trials", 6, "--max-retries", 0)
    run(
        "rml-optimize", *SMALL, "--data", discs, "--jobs", 1, "--study-name", "s", *arguments,
        "--max-failed", 1, cwd=tmp_path,
    )  # fmt: skip
    study = opened(tmp_path)
    paused = [trial.number for trial in study.trials if trial.state.name == "WAITING"]
    assert paused
    assert all("Paused after " in note_of(study, number) for number in paused)
    standin_settings(tmp_path, {**settings, "end": {}})
    search(run, discs, tmp_path, *arguments)
    study = opened(tmp_path)
    ended = [trial for trial in study.trials if trial.state.name != "FAIL"]
    assert {trial.state.name for trial in ended} == {"COMPLETE", "PRUNED"}
    for trial in ended:
        note = note_of(study, trial.number)
        assert "Paused" not in note
        assert f"\n\n{trial.state.name.lower()} after " in note, note


@pytest.mark.parametrize(("num_trials", "has_notes"), [(201, True), (1001, False)])
def test_large_studies_have_no_pictures_and_the_largest_no_notes(
    run: Run, discs: Path, tmp_path: Path, num_trials: int, has_notes: bool
) -> None:
    worker = standin_settings(tmp_path, {"end": {"1": [2, 2, 2], "2": 2, "3": 2, "4": 2}})
    run(
        "rml-optimize", *SMALL, "--data", discs, "--jobs", 1, "--study-name", "s",
        "--worker", worker, "--num-trials", num_trials, "--max-failed", 1, "--pruner", "none",
    )  # fmt: skip
    study = opened(tmp_path)
    assert study.trials[0].state.name == "COMPLETE"
    assert bool(note_of(study, 0)) == has_notes
    assert not get_all_artifact_meta(study.trials[0], storage=study._storage)
    assert get_note(study)


def test_search_by_time_alone_has_notes_and_pictures(
    run: Run, discs: Path, tmp_path: Path
) -> None:
    worker = standin_settings(tmp_path, {})
    search(run, discs, tmp_path, "--worker", worker, "--hours", 0.002, "--pruner", "none")
    study = opened(tmp_path)
    whole = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    assert whole
    for trial in whole:
        assert "**dice_dataset 0." in note_of(study, trial.number)
        assert get_all_artifact_meta(trial, storage=study._storage)


def test_a_search_does_not_fail_for_pictures_that_cannot_be_stored(
    run: Run, discs: Path, tmp_path: Path
) -> None:
    (tmp_path / "artifacts").write_text("in the way")
    worker = standin_settings(tmp_path, {})
    result = run(
        "rml-optimize", *SMALL, "--data", discs, "--jobs", 1, "--study-name", "s",
        "--worker", worker, "--num-trials", 3, "--pruner", "none",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert (result.stdout + result.stderr).count("notes or pictures of the dashboard") == 1
    assert "**dice_dataset 0." in note_of(opened(tmp_path), 0)


def test_pages_show_pictures_and_fold_records_away(searched: Path) -> None:
    with served(searched, "--no-token") as address:
        shown = json.loads(ask(f"{address}api/studies/1")[1])
        trial = shown["trials"][1]
        assert trial["user_attrs"] == []
        assert [each["key"] for each in shown["user_attrs"]] == ["rml:title"]
        assert "0.8000" in trial["note"]["body"]
        (picture,) = trial["artifacts"]
        place = f"{address}artifacts/1/{trial['trial_id']}/{picture['artifact_id']}"
        stored = searched / "artifacts" / picture["artifact_id"]
        with urlopen(place, timeout=30) as answer:
            assert answer.read() == stored.read_bytes()
        stored.unlink()  # as on another host
        assert ask(place)[0] == 404


def test_a_picture_that_comes_late_is_shown_without_a_new_start(searched: Path) -> None:
    file = searched / "rml_optimize.db"
    with sqlite3.connect(file) as database:
        rows = database.execute("SELECT * FROM trial_system_attributes").fetchall()
        database.execute("DELETE FROM trial_system_attributes")
    with served(searched, "--no-token") as address:

        def shown() -> int:
            trials = json.loads(ask(f"{address}api/studies/1")[1])["trials"]
            return sum(len(trial["artifacts"]) for trial in trials)

        assert shown() == 0
        with sqlite3.connect(file) as database:
            marks = ",".join("?" * len(rows[0]))
            database.executemany(f"INSERT INTO trial_system_attributes VALUES ({marks})", rows)
        wait_for(lambda: shown() == len(rows))


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("postgres", marks=pytest.mark.postgres),
        pytest.param("mysql", marks=pytest.mark.mysql),
    ],
)
def test_notes_and_pictures_are_in_a_shared_database(
    run: Run, discs: Path, tmp_path: Path, kind: str
) -> None:
    said = "\n".join(f"{i} {'é' * 180}" for i in range(20))  # a note of several parts
    worker = standin_settings(tmp_path, {"end": {"0": 7}, "say": said})
    with empty_database(kind) as url:
        search(
            run, discs, tmp_path, "--worker", worker, "--num-trials", 1, "--max-retries", 0,
            "--storage", url,
        )  # fmt: skip
        rdb = RDBStorage(url)
        study = optuna.load_study(study_name="s", storage=rdb)
        failed = note_of(study, 0)
        assert "exit code 7" in failed
        assert "19 éé" in failed
        assert "rml-study show --trial 0" in failed
        assert "**Best**: trial " in get_note(study)
        assert list(pictures_of(study, 1, tmp_path / "to")) == ["curve.png"]
        rdb.remove_session()
        rdb.engine.dispose()


@pytest.mark.browser
def test_a_browser_shows_the_note_and_the_picture_and_no_link(
    run: Run, discs: Path, tmp_path: Path
) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        require("browser", "chromium is not installed")
    from playwright.sync_api import sync_playwright

    worker = standin_settings(tmp_path, {"end": {"0": 7}, "say": EVIL})
    search(run, discs, tmp_path, "--worker", worker, "--num-trials", 1, "--max-retries", 0)
    with served(tmp_path, "--no-token") as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(CHROMIUM_FLAGS))
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"{address}dashboard/studies/1/trials?numbers=0")
        page.get_by_text("the worker ended with exit code 7").wait_for(timeout=60_000)
        assert "evil.example" in page.content()
        assert page.locator("[href*=evil], [src*=evil]").count() == 0
        # attributes in one line made the page as wide as they were long
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280
        page.goto(f"{address}dashboard/studies/1/trials?numbers=1")
        page.locator("img[src*=artifacts]").wait_for(timeout=60_000)
        width = "document.querySelector('img[src*=artifacts]').naturalWidth"
        page.wait_for_function(f"{width} > 100", timeout=60_000)
        browser.close()
