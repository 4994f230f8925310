"""Measures what the driver adds to each trial, beside a bare Optuna loop on the same storage.

The worker does nothing: a shell script that writes one line of `out_test.txt`. Both loops start
it for each trial, sample the same three parameters, report one value and tell the study. The
driver's own time also holds claim and lease, config, run folder, provenance, list_acc.json and
the polling of the log. Run it with

    python benchmarks/driver_overhead.py [--num-trials 40] [--storage URL]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import os
import platform
import statistics
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

import cv2
import numpy as np
import optuna

from hpo.cli import main as rml_optimize
from hpo.store.databaseurl import default_url

WORKER = """#!/bin/sh
echo "1 0.1 0.5 0.7" > out_test.txt
"""


def write_worker(path: Path) -> Path:
    """Write the worker that does nothing."""
    path.write_text(WORKER)
    path.chmod(0o755)
    return path


def write_data(root: Path) -> Path:
    """Write the smallest data set that the driver accepts."""
    mask = np.zeros((32, 32), np.uint8)
    mask[8:24, 8:24] = 255
    for part in ("train", "test"):
        for kind in ("inputs", "targets"):
            folder = root / part / kind
            folder.mkdir(parents=True)
            for index in range(2):
                cv2.imwrite(str(folder / f"{index}.png"), mask)
    return root


def seconds_of_worker(worker: Path, folder: Path, num_trials: int) -> float:
    """Return the median time to start the worker and wait for it."""
    times = []
    for _ in range(num_trials):
        started = time.perf_counter()
        subprocess.run([str(worker)], cwd=folder, check=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def run_bare_optuna(worker: Path, folder: Path, url: str, num_trials: int) -> list[float]:
    """Run the same trials with ask and tell; return the seconds of each."""
    study = optuna.create_study(
        study_name=f"bare-{uuid.uuid4().hex}", storage=url, direction="maximize"
    )
    times = []
    for _ in range(num_trials):
        started = time.perf_counter()
        trial = study.ask()
        trial.suggest_categorical("optimizer.type", ["Adam", "RMSprop", "SGD"])
        trial.suggest_float("optimizer.learning_rate", 1e-3, 1e-2, log=True)
        trial.suggest_categorical("loss.function", ["BCE", "Dice"])
        subprocess.run([str(worker)], cwd=folder, check=True)
        value = float((folder / "out_test.txt").read_text().split()[-1])
        trial.report(value, 1)
        trial.should_prune()
        study.tell(trial, value)
        times.append(time.perf_counter() - started)
    return times


def run_driver(worker: Path, folder: Path, data: Path, url: str, num_trials: int) -> list[float]:
    """Run the trials with rml-optimize; return the seconds from each start to the next."""
    name = f"driver-{uuid.uuid4().hex}"
    arguments = [
        "--data", data, "--worker", worker, "--jobs", 1, "--num-trials", num_trials,
        "--num-epochs", 1, "--layers", "unet:width=4,depth=2", "--resize", "32,32", "--no-gpu",
        "--study-name", name, "--storage", url, "--output-dir", folder,
    ]  # fmt: skip
    silent = io.StringIO()
    with contextlib.redirect_stdout(silent):
        code = rml_optimize([str(word) for word in arguments])
    assert code == 0, silent.getvalue()
    trials = optuna.load_study(study_name=name, storage=url).trials
    starts = [trial.datetime_start.timestamp() for trial in trials if trial.datetime_start]
    return [after - before for before, after in itertools.pairwise(starts)]


def main() -> None:
    """Print seconds per trial of both loops, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-trials", type=int, default=40)
    parser.add_argument("--storage", help="database URL [SQLite in a temporary folder]")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        worker = write_worker(folder / "worker.sh")
        data = write_data(folder / "data")
        url = options.storage or default_url(folder)
        alone = seconds_of_worker(worker, folder, options.num_trials)
        bare = statistics.median(run_bare_optuna(worker, folder, url, options.num_trials))
        driver = statistics.median(run_driver(worker, folder, data, url, options.num_trials))
    print(f"{platform.machine()}, {os.cpu_count()} cores, {url.split(':')[0]}, medians")
    print(f"worker alone               {alone * 1000:7.1f} ms a trial")
    print(f"bare Optuna loop           {bare * 1000:7.1f} ms a trial")
    print(f"rml-optimize               {driver * 1000:7.1f} ms a trial")
    print(f"added by the driver        {(driver - bare) * 1000:7.1f} ms a trial")
    print(f"ratio rml-optimize / bare  {driver / bare:7.2f}")


if __name__ == "__main__":
    main()
