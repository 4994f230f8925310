"""What `rml-study` says and does, on the study of a real search."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import sqlite3
import sys
import time
import uuid
from pathlib import Path

import docker
import docker.errors
import numpy as np
import optuna
import pytest
from databases import empty_database, trials_of
from support import STANDIN, Run, list_acc, one_error, standin_settings

from hpo.owner import driver_labels
from hpo.study.replay import _new_folder
from hpo.study.trial_report import sparkline


def study(run: Run, folder: Path, *arguments: object, code: int = 0, **environment: str) -> str:
    """Run a command in a study's folder and return what it printed."""
    result = run("rml-study", *arguments, cwd=folder, **environment)
    assert result.returncode == code, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result.stdout


def change(folder: Path, statement: str) -> None:
    """Change the search's database, as another driver would."""
    with sqlite3.connect(folder / "rml_optimize.db") as connection:
        connection.execute(statement)
    connection.close()


def test_status_agrees_with_optunas_own_trials(run: Run, searched: Path) -> None:
    entry = json.loads(study(run, searched, "status", "--json"))
    trials = trials_of(f"sqlite:///{searched / 'rml_optimize.db'}")
    assert entry["states"] == {"complete": 4, "fail": 1}
    scores = {
        trial.number: max(trial.intermediate_values.values(), default=-1) for trial in trials
    }
    best = max(scores, key=lambda number: scores[number])
    assert entry["best"] == {
        "trial": best, "dice_dataset": scores[best], "epoch": 3, "params": trials[best].params,
    }  # fmt: skip
    assert best == 1
    (host,) = entry["hosts"]
    assert (host["finished"], host["failed"], host["running"]) == (4, 1, 0)
    (failure,) = entry["failures"]
    assert "exit code 7" in failure["reason"]
    assert (failure["count"], failure["last_trial"]) == (1, 3)
    assert entry["status"] == "finished"
    # What a trial noted at its end spares a search among all values, which finds the same.
    change(
        searched,
        "UPDATE trial_user_attributes SET value_json = json_remove(value_json, '$.dice_dataset') "
        "WHERE key = 'rml:end'",
    )
    assert json.loads(study(run, searched, "status", "--json")) == entry
    shown = study(run, searched, "status")
    assert "4 complete, 1 fail" in shown
    assert "1 × failed: the worker ended with exit code 7 (last: trial 3)" in shown


def test_exit_code_of_status_tells_running_from_stopped(run: Run, searched: Path) -> None:
    change(searched, "UPDATE trials SET state = 'RUNNING' WHERE number = 4")
    change(
        searched,
        "UPDATE trial_heartbeats SET heartbeat = CURRENT_TIMESTAMP WHERE trial_id = "
        "(SELECT trial_id FROM trials WHERE number = 4)",
    )
    entry = json.loads(study(run, searched, "status", "--json", code=3))
    assert entry["status"] == "running"
    (running,) = entry["running"]
    assert (running["trial"], running["epoch"], running["dice_dataset"]) == (4, 3, 0.3)
    change(searched, "UPDATE trial_heartbeats SET heartbeat = datetime('now', '-1 hour')")
    assert json.loads(study(run, searched, "status", "--json", code=4))["status"] == "stopped"


def test_show_has_all_that_is_known_of_a_trial(run: Run, searched: Path) -> None:
    entry = json.loads(study(run, searched, "show", "--trial", 1, "--json"))
    assert entry["curve"] == {"1": 0.3, "2": 0.7, "3": 0.8}
    assert entry["config"]["optimizer"]["type"] == entry["params"]["optimizer.type"]
    # the stand-in knows the contract only, so it got none
    assert entry["seed"] is None
    assert "seed" not in entry["config"]
    assert entry["host"] == os.uname().nodename
    assert entry["uid"] == os.getuid()
    assert entry["cpu"]["threads"] >= 1
    assert entry["code"]["version"]
    assert entry["data"]["hash"]
    assert entry["attempt"] == 1
    assert set(entry["durations"]) == {"total", "first_epoch", "further_epochs"}
    shown = study(run, searched, "show", "--trial", 1)
    assert "▁▇█ first 0.3000, best 0.8000 (epoch 3), last 0.8000 (epoch 3)" in shown
    failed = study(run, searched, "show", "--trial", 3)
    assert "the worker ended with exit code 7" in failed
    assert "hello from the worker" in failed
    assert "0 to 4" in one_error(run("rml-study", "show", "--trial", 9, cwd=searched))


@pytest.mark.parametrize("trap", ["link", "fifo", "gone"])
def test_show_reads_no_log_that_is_not_one(run: Run, searched: Path, trap: str) -> None:
    secret = searched / "secret"
    secret.write_text("a secret line\n")
    entry = json.loads(study(run, searched, "show", "--trial", 1, "--json"))
    folder = searched / "runs/s/trial_00001/attempt_1"
    change(
        searched,
        "UPDATE trial_user_attributes SET value_json = replace(value_json, "
        f"'{entry['run_dir']}', '{folder}') WHERE key = 'rml:provenance'",
    )
    log = folder / "worker.log"
    log.unlink()
    if trap == "link":
        log.symlink_to(secret)
    elif trap == "fifo":
        os.mkfifo(log)
    shown = study(run, searched, "show", "--trial", 1)
    assert "secret line" not in shown
    assert str(folder) in shown


@pytest.mark.parametrize(
    ("values", "bars"), [([], ""), ([0.5], "▁"), ([0, 1, 0.5], "▁█▅"), ([1, 1], "▁▁")]
)
def test_sparkline(values: list[float], bars: str) -> None:
    assert sparkline(values) == bars


def test_sparkline_is_never_wider_than_a_line_and_keeps_the_peak() -> None:
    curve = [0.1] * 499 + [0.9]
    assert len(sparkline(curve)) <= 60
    assert sparkline(curve)[-1] == "█"


def test_export_writes_both_results_and_never_over_those_of_another_study(
    run: Run, searched: Path, tmp_path: Path
) -> None:
    printed = study(run, searched, "export", "--to", tmp_path / "out")
    assert printed.count("wrote ") == 2
    assert list_acc(tmp_path / "out") == list_acc(searched)
    for file in ("best_model_file.pt", "config.json", "layers.json", "trial.json"):
        ours, theirs = tmp_path / "out/best_model" / file, searched / "best_model" / file
        assert ours.read_bytes() == theirs.read_bytes()
    study(run, searched, "export", "--to", tmp_path / "out")  # its own may be renewed

    other = tmp_path / "other"
    (other / "best_model").mkdir(parents=True)
    (other / "best_model/mine.pt").write_text("mine")
    result = run("rml-study", "export", "--to", other, cwd=searched)
    assert "is not of study 's'" in one_error(result)
    assert sorted(path.name for path in other.rglob("*")) == ["best_model", "mine.pt"]
    (tmp_path / "third").mkdir()
    (tmp_path / "third/list_acc.json").write_text('[{"number": 0, "params": {}}]')
    result = run("rml-study", "export", "--to", tmp_path / "third", cwd=searched)
    assert "is not of study 's'" in one_error(result)


def test_export_says_who_has_a_model_that_is_not_here(
    run: Run, searched: Path, tmp_path: Path
) -> None:
    change(
        searched,
        "UPDATE trial_user_attributes SET value_json = "
        '\'{"host": "node7", "folder": "/nodes/7/best_model"}\' WHERE key = \'rml:model\'',
    )
    shutil.rmtree(searched / "best_model")
    result = run("rml-study", "export", "--to", tmp_path / "out", cwd=searched)
    error = one_error(result, code=1)
    assert "trial 1" in error
    assert "on host node7 in /nodes/7/best_model" in error
    assert "--artifacts" in error
    assert len(list_acc(tmp_path / "out")) == 4


def test_requeued_trial_runs_again_with_the_same_values(
    run: Run, searched: Path, discs: Path
) -> None:
    assert "trial 5 waits" in study(run, searched, "requeue", "--trial", 3)
    result = run("rml-study", "requeue", "--trial", 3, cwd=searched)
    assert "requeued already" in one_error(result)
    assert "only failed" in one_error(run("rml-study", "requeue", "--trial", 0, cwd=searched))
    again = run(
        "rml-optimize", "--layers", "unet:width=4,depth=2", "--resize", "32,32", "--no-gpu",
        "--num-epochs", 3, "--data", discs, "--worker", standin_settings(searched, {}),
        "--jobs", 1, "--num-trials", 5, "--study-name", "s", "--pruner", "none", cwd=searched,
    )  # fmt: skip
    assert again.returncode == 0, again.stdout + again.stderr
    trials = trials_of(f"sqlite:///{searched / 'rml_optimize.db'}")
    assert len(trials) == 6
    assert trials[5].state == optuna.trial.TrialState.COMPLETE
    assert trials[5].params == trials[3].params


def test_replay_compares_the_curves(run: Run, tmp_path: Path, discs: Path) -> None:
    worker = f"{sys.executable} {STANDIN}"
    searched = run(
        "rml-optimize", "--layers", "unet:width=4,depth=2", "--resize", "32,32", "--no-gpu",
        "--num-epochs", 2, "--data", discs, "--worker", worker, "--jobs", 1, "--num-trials", 1,
        "--select-on", "validation",
    )  # fmt: skip
    assert searched.returncode == 0, searched.stderr
    again = study(run, tmp_path, "replay", "--trial", 0, "--worker", worker, "--no-gpu")
    assert "equal: no difference above 0.0e+00 over 2 epochs" in again
    (config,) = tmp_path.glob("runs/*/replay_of_trial_00000/*/config.json")
    first = json.loads((config.parents[2] / "trial_00000/attempt_1/config.json").read_text())
    assert json.loads(config.read_text()) == first
    other = standin_settings(tmp_path, {"curve": {"-1": [0.1, 0.2]}})
    result = run("rml-study", "replay", "--trial", 0, "--worker", other, "--no-gpu")
    assert "the curves differ by up to" in one_error(result, code=1)


def test_replays_of_one_second_have_a_folder_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.strftime", lambda form: "20260101-000000")
    names = [_new_folder(tmp_path / "replays").name for _ in range(3)]
    assert names == ["20260101-000000", "20260101-000000-2", "20260101-000000-3"]


def test_replay_trains_to_the_same_numbers(run: Run, trained: Path) -> None:
    result = run("rml-study", "replay", "--trial", 1, "--launcher", "local", cwd=trained)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "equal: no difference" in result.stdout
    assert "over 3 epochs" in result.stdout
    first = trained / "runs/s/trial_00001/attempt_1/out_test.txt"
    (again,) = trained.glob("runs/s/replay_of_trial_00001/*/out_test.txt")
    recorded, repeated = (np.loadtxt(path)[:, 2:] for path in (first, again))  # loss, accuracy
    np.testing.assert_allclose(repeated, recorded, atol=1e-4)
    assert recorded[0, 0] > recorded[-1, 0]  # it has learned


def test_clean_leaves_what_a_driver_between_two_trials_needs(run: Run, searched: Path) -> None:
    cache = searched / "runs/s/cache"
    cache.mkdir(exist_ok=True)
    (cache / "images.bin").write_bytes(b"x" * 5000)
    record = json.dumps({"renewed": time.time(), "lease_s": 60})
    change(
        searched,
        "INSERT INTO study_system_attributes (study_id, key, value_json) "
        f"VALUES (1, 'rml:driver:{os.uname().nodename}/x', '{record}')",
    )
    study(run, searched, "clean", "--yes")
    assert (cache / "images.bin").exists()
    change(searched, "DELETE FROM study_system_attributes WHERE key LIKE 'rml:driver:%'")
    study(run, searched, "clean", "--yes")
    assert not cache.exists()


def test_clean_removes_what_is_listed_and_nothing_else(run: Run, searched: Path) -> None:
    folder = searched / "runs/s"
    models = folder / "trial_00000/attempt_1/temp_model"
    models.mkdir(exist_ok=True)
    (models / "model_checkpoint_1.pt").write_bytes(b"x" * 5000)
    outside = searched / "outside"
    outside.mkdir()
    (outside / "precious").write_text("mine")
    (models / "link").symlink_to(outside)
    (folder / "trial_00001/attempt_7").symlink_to(outside)
    trap = folder / "trial_00002/attempt_1/temp_model"
    trap.rmdir() if trap.is_dir() else None
    trap.symlink_to(outside)
    pool = folder / ".pool_of_a_dead_driver/0"
    pool.mkdir(parents=True)
    (pool / "temp_model").symlink_to(outside)
    asked = run("rml-study", "clean", cwd=searched)
    assert asked.returncode == 1
    assert models.exists()
    assert "5 kB  checkpoints: trial_00000/attempt_1/temp_model" in asked.stdout
    assert "removed 2" in study(run, searched, "clean", "--yes")
    assert not models.exists()
    assert not pool.parent.exists()
    assert (outside / "precious").read_text() == "mine"
    assert trap.is_symlink()
    assert (searched / "best_model/best_model_file.pt").exists()
    assert (folder / "trial_00000/attempt_1/out_test.txt").exists()


@pytest.mark.docker
def test_clean_leaves_the_containers_of_another_databases_study_of_that_name(
    run: Run, searched: Path, tmp_path: Path, worker_image: str
) -> None:
    theirs = tmp_path / "theirs"
    shutil.copytree(searched, theirs)
    databases = {}
    for folder in (searched, theirs):
        databases[folder] = uuid.uuid4().hex
        change(
            folder,
            f"UPDATE study_user_attributes SET value_json = '\"{databases[folder]}\"' "
            "WHERE key = 'rml:database'",
        )
    client = docker.from_env()
    orphans = {
        folder: client.containers.create(
            worker_image, labels={"rml.study": "s", **driver_labels(database)}
        )
        for folder, database in databases.items()
    }
    try:
        assert orphans[searched].short_id in study(run, searched, "clean", "--yes")
        left = client.containers.list(all=True, ignore_removed=True)
        assert orphans[searched] not in left
        assert orphans[theirs] in left
        assert orphans[theirs].short_id in study(run, theirs, "clean", "--yes")
    finally:
        for container in orphans.values():
            with contextlib.suppress(docker.errors.NotFound):
                container.remove(force=True)
        client.close()


def test_doctor_names_the_remedy(run: Run, searched: Path, discs: Path, tmp_path: Path) -> None:
    lines = study(run, searched, "doctor", "--data", discs, "--artifacts", tmp_path / "shelf")
    for topic in ("database", "clock", "data", "disk", "worker", "artifacts"):
        assert f"OK   {topic}" in lines
    assert not list((tmp_path / "shelf").iterdir())
    poor = study(
        run, tmp_path, "doctor", "--storage", "postgresql+psycopg://u:hush@127.0.0.1:1/x",
        "--data", tmp_path / "nothing", code=1, DOCKER_HOST="unix:///nowhere.sock",
    )  # fmt: skip
    assert "FAIL database" in poor
    assert "FAIL data" in poor
    assert "WARN engine" in poor
    assert "hush" not in poor


def test_plot_writes_pictures(run: Run, searched: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    pytest.importorskip("matplotlib")
    study(run, searched, "plot")
    for name in ("history.png", "parameters.png", "curves.png"):
        image = cv2.imread(str(searched / "plots" / name))
        assert image.shape[0] > 200
        assert image.std() > 5


@pytest.mark.postgres
def test_commands_read_postgresql(run: Run, tmp_path: Path, discs: Path) -> None:
    worker = standin_settings(tmp_path, {"curve": {"0": [0.5, 0.6], "1": [0.9, 0.2]}})
    with empty_database("postgres") as url:
        made = run(
            "rml-optimize", "--layers", "unet:width=4,depth=2", "--resize", "32,32", "--no-gpu",
            "--num-epochs", 2, "--data", discs, "--worker", worker, "--jobs", 1,
            "--num-trials", 2, "--storage", url,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        named = ("--storage", url)
        entry = json.loads(study(run, tmp_path, "status", "--json", *named))
        assert entry["states"] == {"complete": 2}
        assert (entry["best"]["trial"], entry["best"]["dice_dataset"]) == (1, 0.9)
        assert entry["best"]["params"] == trials_of(url)[1].params
        assert "curve: █▁ first 0.9000, best 0.9000 (epoch 1), last 0.2000 (epoch 2)" in study(
            run, tmp_path, "best", *named
        )
        assert "OK   clock" in study(run, tmp_path, "doctor", "--data", discs, *named)
        study(run, tmp_path, "export", "--to", "elsewhere", *named)
        assert (tmp_path / "elsewhere/best_model/best_model_file.pt").read_text() == "1 1"


def test_missing_database_is_one_clear_line(run: Run, tmp_path: Path) -> None:
    for command in ("status", "best", "export", "clean", "show --trial 1"):
        result = run("rml-study", *shlex.split(command))
        assert "no rml_optimize.db" in one_error(result)
