"""`--tracker tensorboard`: what TensorBoard's own readers find, through pauses and kills."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from support import (
    Run,
    list_acc,
    one_error,
    optimize,
    standin_settings,
    start,
    states,
    wait_for,
    write_config,
)
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import (
    EventAccumulator as PluginEventAccumulator,
)
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import (
    api_pb2,
    backend_context,
    get_experiment,
    list_session_groups,
)

from hpo.objective import DEFAULT
from hpo.run.tracking import Tracking
from hpo.trackers import SearchEnd, TrackedSearch
from hpo.trackers.tensorboard import TensorBoard
from trainer import rundir

ABLE = {"capabilities": ["checkpoints.resume", "checkpoints.pause_after", "--serve"]}
TENSORBOARD = ("--tracker", "tensorboard")


def runs_of(folder: Path) -> dict[int, Path]:
    """Return number -> folder of the runs of the one study in an output folder."""
    (study,) = (folder / "tensorboard").iterdir()
    return {int(path.name.removeprefix("trial_")): path for path in study.glob("trial_*")}


def points(run: Path, tag: str) -> list[tuple[int, float, float]]:
    """Return step, time and value of a curve as TensorBoard shows it."""
    found = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    if tag not in found.Tags()["scalars"]:
        return []
    return [(point.step, point.wall_time, point.value) for point in found.Scalars(tag)]


def curve(run: Path, tag: str) -> dict[int, float]:
    """Return step -> value of a curve, which has each step once and at ascending times."""
    steps, times, values = zip(*points(run, tag), strict=True)
    assert list(steps) == list(range(1, len(steps) + 1))
    assert list(times) == sorted(times)
    pages = PluginEventAccumulator(str(run), size_guidance={"tensors": 0}).Reload().Tensors(tag)
    assert [point.step for point in pages] == list(steps)
    return dict(zip(steps, values, strict=True))


def table(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the table of the page HPARAMS: run -> values, score, status."""
    (study,) = (folder / "tensorboard").iterdir()
    runs = EventMultiplexer().AddRunsFromDirectory(str(study))
    runs.Reload()
    provider = MultiplexerDataProvider(runs, str(study))
    context = backend_context.Context(
        TBContext(logdir=str(study), multiplexer=runs, data_provider=provider)
    )
    asked = api_pb2.GetExperimentRequest()
    experiment = get_experiment.Handler(RequestContext(), context, "", asked).run()
    (score,) = (info.name for info in experiment.metric_infos)
    request = api_pb2.ListSessionGroupsRequest(
        allowed_statuses=[1, 2, 3, 0], start_index=0, slice_size=100,
        col_params=[api_pb2.ColParams(metric=score)],
    )  # fmt: skip
    handler = list_session_groups.Handler(RequestContext(), context, "", request)
    found = {}
    for group in handler.run().session_groups:
        (session,) = group.sessions
        values = {
            key: value.string_value or value.number_value for key, value in group.hparams.items()
        }
        scores = [metric.value for metric in group.metric_values]
        found[group.name] = {
            "values": values, "scores": scores,
            "status": api_pb2.Status.Name(session.status).removeprefix("STATUS_"),
        }  # fmt: skip
    return found


def curves_in_database(folder: Path) -> dict[int, dict[int, float]]:
    found: dict[int, dict[int, float]] = {}
    with (
        contextlib.suppress(sqlite3.OperationalError),
        contextlib.closing(
            sqlite3.connect(f"file:{folder}/rml_optimize.db?mode=ro", uri=True)
        ) as database,
    ):  # else it is not made yet
        for number, step, value in database.execute(
            "select number, step, intermediate_value from trials"
            " join trial_intermediate_values using (trial_id)"
        ):
            found.setdefault(number, {})[step] = value
    return found


def test_promoted_trials_have_each_epoch_once_and_the_table_their_scores(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    worker = standin_settings(tmp_path, ABLE | {"end": {"4": 3}})
    given = optimize(discs, "--num-trials", 6, "--jobs", 2, "--worker", worker, *TENSORBOARD)
    result = run("rml-optimize", *given, "--num-epochs", "9", "--optimizers", "adam,sgd")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "left out" not in result.stdout
    assert f"tensorboard --logdir 'tensorboard/{discs.parent.name}'" in result.stdout
    stored = curves_in_database(tmp_path)
    entries = {entry["number"]: entry for entry in list_acc(tmp_path)}
    assert max(map(len, stored.values())) == 9  # promoted twice
    runs, rows = runs_of(tmp_path), table(tmp_path)
    for number, state in states(tmp_path).items():
        row = rows[f"trial_{number:05d}"]
        assert row["values"] == pytest.approx(entries[number]["params"]) if number != 4 else True
        assert row["status"] == "SUCCESS", (number, state)
        if number == 4:  # diverged before its first epoch
            assert row["scores"] == []
            continue
        assert curve(runs[number], "dice_dataset") == pytest.approx(stored[number])
        assert row["scores"] == pytest.approx([entries[number]["max_acc"]])


def test_metrics_of_our_worker_have_their_curves(discs: Path, run: Run, tmp_path: Path) -> None:
    write_config(tmp_path / "config.json", discs, num_epochs=2)
    result = run("rmldnn", "--config=config.json")
    assert result.returncode == 0, result.stdout + result.stderr
    search = TrackedSearch(
        study="s", study_id="1", output=tmp_path, score="dice_dataset", num_trials=1, num_epochs=2,
        settings={}, searched={}, config={},
    )  # fmt: skip
    warnings: list[str] = []
    tracking = Tracking(
        {"tensorboard": TensorBoard(search)}, objective=DEFAULT, num_epochs=2, warn=warnings.append
    )
    attempt = tracking.attempt_began(0, {}, 1, tmp_path, {})
    for evaluation in rundir.TestLogReader(tmp_path / rundir.TEST_LOG).read_new():
        attempt.epoch_ended(evaluation)
    tracking.close(SearchEnd(state="finished"), is_stopped=False)
    assert not warnings
    entries = {entry["epoch"]: entry for entry in rundir.read_metrics(tmp_path)}
    assert len(entries) == 2
    for tag in ("loss", "train_loss", "learning_rate", "dice_dataset", "dice_per_image"):
        expected = {epoch: entry[tag] for epoch, entry in entries.items()}
        assert curve(runs_of(tmp_path)[0], tag) == pytest.approx(expected), tag


def test_killed_driver_leaves_files_to_read_and_the_next_goes_on_in_them(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    worker = standin_settings(tmp_path, ABLE | {"epoch_s": 0.15, "state_every": 4})
    given = optimize(discs, "--num-trials", 1, "--jobs", 1, "--worker", worker, *TENSORBOARD)
    given += ["--num-epochs", "12", "--lease", "1", "--pruner", "none"]
    driver = start(tmp_path, *given)
    folder = tmp_path / "tensorboard" / discs.parent.name / "trial_00000"
    wait_for(lambda: folder.exists() and len(points(folder, "dice_dataset")) >= 5)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    before = points(folder, "dice_dataset")
    assert [step for step, *_ in before] == list(range(1, len(before) + 1))
    (file,) = folder.glob("*tfevents*")
    with file.open("ab") as first:  # cut off within a record, as by a full disk
        first.write(file.read_bytes()[:30])
    result = run("rml-optimize", *given)
    assert result.returncode == 0, result.stdout + result.stderr
    after = points(folder, "dice_dataset")
    assert [step for step, *_ in after] == list(range(1, 13))
    assert after[:4] == before[:4]  # the state is of the fourth epoch or later
    stored = curves_in_database(tmp_path)[0]
    assert curve(folder, "dice_dataset") == pytest.approx(stored)
    assert table(tmp_path)["trial_00000"]["status"] == "SUCCESS"


def test_epochs_of_a_driver_without_tracker_and_those_trained_again_are_right(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    settings = ABLE | {"state_every": 2, "drift": 0.001}
    worker = standin_settings(tmp_path, settings | {"epoch_s": 0.2})
    given = optimize(discs, "--num-trials", 1, "--jobs", 1, "--worker", worker)
    given += ["--num-epochs", "8", "--pruner", "none"]
    for num_epochs, extra in ((2, ()), (5, TENSORBOARD)):
        driver = start(tmp_path, *given, *extra)
        wait_for(lambda number=num_epochs: len(curves_in_database(tmp_path).get(0, {})) >= number)
        driver.send_signal(signal.SIGTERM)
        driver.communicate()
    standin_settings(tmp_path, settings)
    result = run("rml-optimize", *given, *TENSORBOARD)
    assert result.returncode == 0, result.stdout + result.stderr
    stored = curves_in_database(tmp_path)[0]
    assert len(stored) == 8
    (run_folder,) = runs_of(tmp_path).values()
    assert curve(run_folder, "dice_dataset") == pytest.approx(stored)


def test_study_that_was_deleted_leaves_its_runs_aside(
    discs: Path, run: Run, tmp_path: Path, standin: str
) -> None:
    given = optimize(discs, "--worker", standin, "--pruner", "none", *TENSORBOARD, "--num-trials")
    for num_trials in (3, 2):
        result = run("rml-optimize", *given, num_trials)
        assert result.returncode == 0, result.stdout + result.stderr
        (tmp_path / "rml_optimize.db").unlink()
    before, after = sorted((tmp_path / "tensorboard").iterdir(), key=lambda path: -len(path.name))
    assert before.name.startswith(f"{after.name}-")
    assert [len(list(study.glob("trial_*"))) for study in (before, after)] == [3, 2]


def test_full_disk_leaves_it_out_and_loses_no_trial(
    discs: Path, run: Run, tmp_path: Path, standin: str
) -> None:
    (tmp_path / "tensorboard").write_text("a file where the folder would be")
    given = optimize(discs, "--num-trials", 3, "--worker", standin, *TENSORBOARD)
    result = run("rml-optimize", *given)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("tracker tensorboard is left out from now on: NotADirectory") == 1
    assert set(states(tmp_path).values()) == {"COMPLETE"}


def test_missing_extra_is_named_with_the_command_before_anything_is_read(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "tensorboard.py").write_text("raise ModuleNotFoundError('no', name='tensorboard')")
    given = optimize(discs, "--num-trials", 3, *TENSORBOARD)
    error = one_error(run("rml-optimize", *given, PYTHONPATH=str(site)))
    assert "--tracker tensorboard: tensorboard is not installed; try " in error
    assert "-m pip install 'tensorboard>=" in error
    assert not (tmp_path / "rml_optimize.db").exists()
