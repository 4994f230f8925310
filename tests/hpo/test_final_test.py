"""The test images score the winner's own model, once in a study, on whatever node."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from support import BIN, Run, clean_environment, optimize, standin_settings, wait_for

from hpo.store.database import close_storage, open_storage
from hpo.store.task_lease import TaskLease

DYING = Path(__file__).with_name("dying_driver.py")

# Each node is the best for a while; the driver that waits for the last trial ends with the other.
CURVES = {str(number): [0.1, 0.1, 0.1 + 0.01 * number] for number in range(20)}


def two_nodes(discs: Path, folder: Path, url: str, worker: str, *extra: object) -> list[str]:
    """Run two drivers of one study at once, with folders of their own; return what they print."""
    processes = []
    for node in ("a", "b"):
        (folder / node).mkdir()
        arguments = optimize(
            discs, "--num-trials", 6, "--worker", worker, "--select-on", "validation", "--jobs", 1,
            "--pruner", "none", *extra,
        )  # fmt: skip
        processes.append(
            subprocess.Popen(
                [str(BIN / "rml-optimize"), *arguments], cwd=folder / node, text=True,
                env=clean_environment() | {"RML_STORAGE": url},
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )
        )  # fmt: skip
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    return outputs


def made_tests(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*/runs/*/test_of_trial_*"))


def test_losers_model_is_not_tested_where_nodes_share_no_models(
    discs: Path, run: Run, tmp_path: Path, url: str
) -> None:
    worker = standin_settings(tmp_path, {"curve": CURVES, "epoch_s": 0.3})
    outputs = two_nodes(discs, tmp_path, url, worker)
    (made,) = made_tests(tmp_path)
    best = json.loads(run("rml-study", "best", "--json", RML_STORAGE=url).stdout)
    assert made == f"test_of_trial_{best['trial']:05d}"
    assert best["test"]["trial"] == best["trial"]
    assert best["test"]["attempt"] == best["attempt"]
    assert sum("used for this only" in output for output in outputs) >= 1


def test_of_two_nodes_with_the_winners_model_one_tests_it(
    discs: Path, run: Run, tmp_path: Path, url: str
) -> None:
    settings = {"curve": CURVES, "epoch_s": 0.2, "delay": {"-1": 0.7}}
    worker = standin_settings(tmp_path, settings)
    outputs = two_nodes(discs, tmp_path, url, worker, "--artifacts", tmp_path / "shelf")
    (made,) = made_tests(tmp_path)
    scores = [(tmp_path / node / "best_model/test.json").read_text() for node in ("a", "b")]
    assert scores[0] == scores[1]
    assert made == f"test_of_trial_{json.loads(scores[0])['trial']:05d}"
    assert all("used for this only" in output for output in outputs)


def test_driver_that_dies_in_the_final_test_is_not_waited_for(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    worker = standin_settings(tmp_path, {"curve": CURVES})
    arguments = optimize(
        discs, "--worker", worker, "--select-on", "validation", "--jobs", 1, "--num-trials", 2,
        "--lease", 600,
    )  # fmt: skip
    killed = subprocess.run(
        [sys.executable, str(DYING), "testing", str(tmp_path / "died"), *arguments],
        cwd=tmp_path, env=clean_environment(), capture_output=True, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stdout
    result = run("rml-optimize", *arguments)
    assert "used for this only" in result.stdout, result.stdout + result.stderr
    assert "waits for the final test" not in result.stdout


def test_turn_at_a_study_that_is_deleted_ends_in_its_own_thread_only(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path / 'study.db'}")
    study = optuna.create_study(storage=storage)
    task_lease = TaskLease(storage, study._study_id, "task", owner="node/x", lease_s=0.4)
    assert task_lease.take() is None
    with pytest.raises(KeyError), task_lease.kept():
        optuna.delete_study(study_name=study.study_name, storage=storage)
        time.sleep(0.5)  # several renewals: an error in their thread fails this test
    task_lease.close()
    close_storage(storage)


def test_turn_is_one_drivers_until_it_falls_silent(url: str) -> None:
    storage = open_storage(url)
    study = optuna.create_study(storage=storage)
    first, second = (
        TaskLease(storage, study._study_id, "task", owner=f"node{number}/x", lease_s=lease_s)
        for number, lease_s in ((1, 60), (2, 2))
    )
    assert first.take() is None
    assert first.take() is None  # renewed
    assert second.take() == "node1/x"
    wait_for(lambda: second.take() is None)  # it counts by its own, shorter lease
    assert first.take() == "node2/x"
    with second.kept():
        assert first.take() == "node2/x"
    assert first.take() is None
    for task_lease in (first, second):
        task_lease.close()
    close_storage(storage)


def test_later_winner_is_tested_and_said_to_be_a_second_look(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    worker = standin_settings(tmp_path, {"curve": CURVES})
    arguments = optimize(discs, "--worker", worker, "--select-on", "validation", "--jobs", 1)
    first = run("rml-optimize", *arguments, "--num-trials", 2)
    assert "used for this only" in first.stdout
    again = run("rml-optimize", *arguments, "--num-trials", 2)
    assert "used for this only" in again.stdout
    more = run("rml-optimize", *arguments, "--num-trials", 4)
    assert "used before, for the model of trial 1" in more.stdout, more.stdout + more.stderr
