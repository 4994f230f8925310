"""What `rml-study status` says of a search at any moment, from its start to its end."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine
from support import Run, optimize, standin_settings, start, wait_for

from hpo.study.queries import StudyReader, study_names
from hpo.study.status import read_status


def search(folder: Path, discs: Path, *extra: object, **settings: object) -> subprocess.Popen[str]:
    worker = standin_settings(folder, settings)
    common = ("--jobs", 1, "--pruner", "none", "--study-name", "s", "--worker", worker)
    return start(folder, *optimize(discs, *common, *extra))


def status(run: Run, folder: Path) -> str:
    entry: dict[str, Any] = json.loads(run("rml-study", "status", "--json", cwd=folder).stdout)
    return str(entry["status"])


def test_search_is_running_between_its_trials_and_before_the_first(
    discs: Path, tmp_path: Path
) -> None:
    process = search(tmp_path, discs, "--num-trials", 12)
    file = tmp_path / "rml_optimize.db"
    wait_for(lambda: file.exists() or process.poll() is not None)
    engine = create_engine(f"sqlite:///{file}")
    found, between = set(), 0
    while process.poll() is None:
        time.sleep(0.01)
        # The study's row is written a moment before the driver knows what study it is.
        if "s" not in study_names(engine):
            continue
        reader = StudyReader(engine, study_names(engine)["s"])
        if not reader.has_driver() and "running" not in found:
            continue
        entry = read_status("s", reader)
        found.add(entry["status"])
        between += entry["status"] == "running" and not entry["running"]
        assert entry["status"] == "running" or entry["num_finished"] == 12, entry
    output, _ = process.communicate()
    engine.dispose()
    assert process.returncode == 0, output
    assert found == {"running", "finished"}
    assert between


def test_search_that_is_stopped_says_so_at_once(run: Run, discs: Path, tmp_path: Path) -> None:
    process = search(tmp_path, discs, "--num-trials", 2, epoch_s=60)
    wait_for(lambda: list(tmp_path.glob("runs/*/trial_*/attempt_1/worker.log")))
    assert status(run, tmp_path) == "running"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert status(run, tmp_path) == "stopped"


def test_search_that_was_killed_is_stopped_after_three_leases(
    run: Run, discs: Path, tmp_path: Path
) -> None:
    process = search(tmp_path, discs, "--num-trials", 2, "--lease", 1, epoch_s=60)
    wait_for(lambda: list(tmp_path.glob("runs/*/trial_*/attempt_1/worker.log")))
    process.kill()
    process.communicate()
    wait_for(lambda: status(run, tmp_path) == "stopped")


def test_search_that_fails_before_its_first_trial_is_not_finished(
    run: Run, discs: Path, tmp_path: Path
) -> None:
    process = search(tmp_path, discs, "--num-trials", 2, end={"all": 2})
    process.communicate(timeout=60)
    assert process.returncode
    assert status(run, tmp_path) == "stopped"
