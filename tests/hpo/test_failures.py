"""What a search does when workers crash, time runs out, nodes are preempted."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import optuna
import pytest
from sqlalchemy import make_url
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

RESUMES = {"capabilities": ["checkpoints.resume"]}


def intermediate(folder: Path, number: int) -> dict[int, float]:
    storage = f"sqlite:///{folder / 'rml_optimize.db'}"
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage).trials[number].intermediate_values


def attempt_dir(folder: Path, number: int, attempt: int) -> Path:
    (found,) = folder.glob(f"runs/*/trial_{number:05d}/attempt_{attempt}")
    return found


def test_crash_is_retried_in_place_with_the_same_parameters(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    worker = standin_settings(tmp_path, {"end": {"1": [77, 78, 0]}})
    result = run("rml-optimize", *optimize(discs, "--num-trials", 2, "--worker", worker))
    assert result.returncode == 0, result.stdout + result.stderr
    assert states(tmp_path) == {0: "COMPLETE", 1: "COMPLETE"}
    assert "attempt 1 failed: the worker ended with exit code 77" in result.stdout
    configs = [
        (attempt_dir(tmp_path, 1, attempt) / "config.json").read_text() for attempt in (1, 2, 3)
    ]
    assert len(set(configs)) == 1


def test_killed_worker_goes_on_from_its_last_epoch(discs: Path, tmp_path: Path) -> None:
    worker = standin_settings(tmp_path, {"epoch_s": 0.4, **RESUMES})
    arguments = optimize(discs, "--num-trials", 1, "--worker", worker, "--num-epochs", 8)
    process = start(tmp_path, *arguments)
    wait_for(lambda: list(tmp_path.glob("runs/*/trial_00000/attempt_1/temp_model/resume.pt")), 60)
    for pid in workers_of(tmp_path):
        os.kill(pid, signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    log = (attempt_dir(tmp_path, 0, 2) / "worker.log").read_text()
    assert "resuming after epoch" in log
    (entry,) = list_acc(tmp_path)
    assert entry["epochs"] == 8
    assert sorted(intermediate(tmp_path, 0)) == list(range(1, 9))
    lines = (attempt_dir(tmp_path, 0, 2) / "out_test.txt").read_text()
    assert [int(line.split()[0]) for line in lines.splitlines()] == list(range(1, 9))


@pytest.mark.parametrize("epoch_s", [0, 0.3])
def test_curve_is_that_of_the_attempt_that_goes_back_several_epochs(
    discs: Path, run: Run, tmp_path: Path, epoch_s: float
) -> None:
    """What is done anew need not be the same, on a GPU: the score is one that has a checkpoint."""
    settings = {"crash_at": {"0": [5]}, "state_every": 3, "drift": -0.01, "epoch_s": epoch_s}
    worker = standin_settings(tmp_path, settings | {"curve": {"0": [0.9] * 8}, **RESUMES})
    result = run(
        "rml-optimize", *optimize(discs, "--num-trials", 1, "--worker", worker),
        "--num-epochs", 8,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    expected = {epoch: 0.89 if epoch <= 3 else 0.88 for epoch in range(1, 9)}
    assert intermediate(tmp_path, 0) == pytest.approx(expected)


def test_preempted_driver_leaves_a_trial_that_the_next_goes_on_with(
    discs: Path, tmp_path: Path, run: Run
) -> None:
    worker = standin_settings(tmp_path, {"epoch_s": 0.4, **RESUMES})
    arguments = optimize(discs, "--num-trials", 1, "--worker", worker, "--num-epochs", 8)
    process = start(tmp_path, *arguments)
    wait_for(lambda: list(tmp_path.glob("runs/*/trial_00000/attempt_1/temp_model/resume.pt")), 60)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output
    assert states(tmp_path) == {0: "WAITING"}
    reported = intermediate(tmp_path, 0)
    result = run("rml-optimize", *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    assert reported.items() <= intermediate(tmp_path, 0).items()
    log = (attempt_dir(tmp_path, 0, 2) / "worker.log").read_text()
    assert "resuming after epoch" in log
    # What a finished trial might have been resumed from is gone.
    assert not list(tmp_path.glob("runs/*/trial_00000/attempt_*/temp_model"))


def test_worker_without_a_state_starts_anew_with_an_empty_curve(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    worker = standin_settings(tmp_path, {"epoch_s": 0.4})
    arguments = optimize(discs, "--num-trials", 1, "--worker", worker, "--num-epochs", 6)
    process = start(tmp_path, *arguments)
    wait_for(lambda: (tmp_path / "rml_optimize.db").exists() and workers_of(tmp_path), 60)
    wait_for(lambda: len(intermediate(tmp_path, 0)) >= 2, 60)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    standin_settings(tmp_path, {"curve": {"0": [0.1, 0.2]}, "epochs": 2})
    result = run("rml-optimize", *arguments)
    assert list_acc(tmp_path)[0]["epochs"] == 2, result.stdout + result.stderr


def test_refused_state_is_left_out(discs: Path, run: Run, tmp_path: Path) -> None:
    # Attempt 1 crashes after three epochs, attempt 2 refuses its state, attempt 3 has none.
    worker = standin_settings(tmp_path, {"end": {"0": [0, 2]}, "crash_at": {"0": [3]}, **RESUMES})
    result = run("rml-optimize", *optimize(discs, "--num-trials", 1, "--worker", worker))
    assert result.returncode == 0, result.stdout + result.stderr
    log = (attempt_dir(tmp_path, 0, 3) / "worker.log").read_text()
    assert "resuming" not in log


@pytest.mark.parametrize(("epoch_s", "state"), [(0.5, "PRUNED"), (60, "FAIL")])
def test_trial_timeout_counts_what_was_reached(
    discs: Path, run: Run, tmp_path: Path, epoch_s: float, state: str
) -> None:
    worker = standin_settings(tmp_path, {"delay": {"0": epoch_s}})
    result = run(
        "rml-optimize", *optimize(discs, "--num-trials", 1, "--worker", worker),
        "--num-epochs", 30, "--trial-timeout", 3,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert states(tmp_path)[0] == state
    assert "--trial-timeout" in result.stdout


def test_search_stops_after_max_failed_whatever_the_kinds(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    ends = {str(number): 70 + number for number in range(1, 10)}
    worker = standin_settings(tmp_path, {"end": ends})
    result = run(
        "rml-optimize", *optimize(discs, "--num-trials", 9, "--worker", worker, "--jobs", 1),
        "--max-failed", 3, "--max-retries", 0,
    )  # fmt: skip
    assert "3 trials of the study failed (--max-failed 3)" in one_error(result, code=1)
    assert list(states(tmp_path).values()) == ["COMPLETE", "FAIL", "FAIL", "FAIL"]


def test_memory_is_told_to_the_sampler_as_a_constraint(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    worker = standin_settings(tmp_path, {"end": {"1": 4}})
    result = run(
        "rml-optimize", *optimize(discs, "--num-trials", 2, "--worker", worker, "--jobs", 1),
        "--search", "data.batch_size=2,4",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "does not fit the memory" in result.stdout
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path}/rml_optimize.db")
    first, second = study.trials
    assert (first.constraints, second.constraints) == ({}, {"memory": 1.0})
    assert second.user_attrs["constraints"] == {"memory": 1.0}  # for the dashboard


def test_sqlite_of_another_host_is_refused(
    discs: Path, run: Run, tmp_path: Path, standin: str
) -> None:
    arguments = optimize(discs, "--num-trials", 1, "--worker", standin)
    assert run("rml-optimize", *arguments).returncode == 0
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        require("unshare", "only root can give a process another host name")

    def elsewhere(*extra: str) -> subprocess.CompletedProcess[str]:
        command = ["unshare", "-u", "sh", "-c", 'hostname second && exec "$@"', "sh"]
        return subprocess.run(
            [*command, str(BIN / "rml-optimize"), *arguments, *extra], cwd=tmp_path,
            env=clean_environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip

    message = one_error(elsewhere())
    assert socket.gethostname() in message
    assert "second" in message
    assert "--move-here" in message
    assert elsewhere("--move-here").returncode == 0
    assert "'second' uses" in one_error(run("rml-optimize", *arguments))


def test_password_comes_from_a_file_and_is_seen_nowhere(
    discs: Path, run: Run, tmp_path: Path, postgres_url: str
) -> None:
    secret = str(make_url(postgres_url).password)
    url_file = tmp_path / "url"
    url_file.write_text(postgres_url + "\n")
    url_file.chmod(0o600)
    worker = standin_settings(tmp_path, {"environment": True})
    arguments = optimize(discs, "--num-trials", 1, "--worker", worker)
    ours = {"RML_STORAGE": postgres_url, "RML_TEST_POSTGRES_URL": "", "RML_TEST_MYSQL_URL": ""}
    result = run("rml-optimize", *arguments, "--storage-file", url_file, **ours)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "warning: --storage" not in result.stdout
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path != url_file]
    leaks = [path for path in written if secret.encode() in path.read_bytes()]
    assert not leaks
    assert secret not in result.stdout + result.stderr
    assert any("PATH=" in path.read_text(errors="replace") for path in written)
    again = run("rml-optimize", *arguments, "--storage", postgres_url)
    assert "in the list of processes" in " ".join((again.stdout + again.stderr).split())
    assert secret not in again.stdout + again.stderr
    by_variable = run("rml-optimize", *arguments, RML_STORAGE_FILE=str(url_file))
    assert by_variable.returncode == 0
    assert not (tmp_path / "rml_optimize.db").exists()


def test_wrong_password_with_braces_is_not_shown(
    discs: Path, run: Run, postgres_url: str, standin: str
) -> None:
    url = make_url(postgres_url).set(password="{se}cr%t@:").render_as_string(hide_password=False)
    message = one_error(
        run("rml-optimize", *optimize(discs, "--worker", standin, "--storage", url))
    )
    assert "password authentication failed" in message
    assert "cr%" not in message
    assert "{se}" not in message


def test_orphan_of_a_dead_driver_is_ended_by_the_next(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    worker = standin_settings(tmp_path, {"epoch_s": 0.5, "epochs": 240})
    arguments = optimize(discs, "--num-trials", 2, "--worker", worker, "--jobs", 1, "--lease", 2)
    process = start(tmp_path, *arguments)
    # Its first epoch is over, so it has read the settings that change below.
    wait_for(lambda: list(tmp_path.glob("runs/*/trial_00000/attempt_1/out_test.txt")), 60)
    (orphan,) = workers_of(tmp_path)
    children = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    for pid in {int(pid) for pid in children} - {orphan}:  # the guard
        os.kill(pid, signal.SIGKILL)
    process.kill()
    process.communicate()
    assert workers_of(tmp_path) == [orphan]
    standin_settings(tmp_path, {})
    result = run("rml-optimize", *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "that a dead driver had left" in result.stdout
    assert not workers_of(tmp_path)
    assert json.loads((tmp_path / "list_acc.json").read_text())[0]["state"] == "COMPLETE"
