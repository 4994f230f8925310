"""How long `rml-study status` takes, beside Optuna's own `study.trials`.

    python benchmarks/study_status.py [--trials 10000] [--steps 50] [--storage URL]

Fills a study in bulk (in a new SQLite file, or in a database that must be empty), then times the
whole command, from start to exit code, and Optuna's reading of the same study in a new process.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, distribution_to_json
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import insert

from hpo.keys import END, NUM_TRIALS, PROVENANCE
from hpo.store.database import close_storage, open_storage

BATCH = 500
RATE = FloatDistribution(1e-4, 1e-1, log=True)
OPTIMIZER = CategoricalDistribution(("Adam", "SGD", "RMSprop"))
PEER = """
import sys, time
begin = time.perf_counter()
import optuna
study = optuna.load_study(study_name=None, storage=sys.argv[1])
print(len(study.trials), time.perf_counter() - begin)
"""


def main() -> None:
    """Fill, time, print one line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--storage")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = arguments.storage or f"sqlite:///{Path(folder) / 'studies.db'}"
        storage = open_storage(url)
        fill(storage, arguments.trials, arguments.steps)
        print(f"{arguments.trials} trials of {arguments.steps} steps, {storage.engine.name}")
        close_storage(storage)
        command = [str(Path(sys.executable).parent / "rml-study"), "status", "--storage", url]
        times = [timed(command) for _ in range(5)]
        print(f"rml-study status, whole command   {statistics.median(times):6.2f} s")
        result = subprocess.run(
            [sys.executable, "-c", PEER, url], check=True, capture_output=True, text=True
        )
        number, seconds = result.stdout.split()
        print(f"optuna {optuna.__version__}, study.trials ({number}) {float(seconds):6.2f} s")


def timed(command: list[str]) -> float:
    """Return how long a command takes."""
    begin = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begin


def fill(storage: RDBStorage, num_trials: int, num_steps: int) -> None:
    """Insert finished trials as a search leaves them: parameters, curve, provenance, end."""
    study = optuna.create_study(study_name="big", storage=storage, direction="maximize")
    study.set_user_attr(NUM_TRIALS, num_trials - num_trials // 50)
    rng = random.Random(0)
    begin = dt.datetime(2026, 1, 1)  # Optuna stores naive UTC
    config = {"data": {f"key_{index}": "x" * 40 for index in range(40)}}
    with storage.engine.begin() as connection:
        for first in range(1, num_trials + 1, BATCH):
            numbers = range(first, min(first + BATCH, num_trials + 1))
            rows: dict[type, list[dict[str, object]]] = {
                model: []
                for model in (
                    models.TrialModel, models.TrialParamModel,
                    models.TrialIntermediateValueModel, models.TrialUserAttributeModel,
                )
            }  # fmt: skip
            for trial_id in numbers:
                host = f"node{trial_id % 8}"
                is_failed = trial_id % 50 == 0
                rows[models.TrialModel].append(
                    {
                        "trial_id": trial_id, "number": trial_id - 1, "study_id": study._study_id,
                        "state": TrialState.FAIL if is_failed else TrialState.COMPLETE,
                        "datetime_start": begin + dt.timedelta(seconds=trial_id),
                        "datetime_complete": begin + dt.timedelta(seconds=trial_id + 60),
                    }
                )  # fmt: skip
                for name, value, distribution in (
                    ("learning_rate", rng.uniform(1e-4, 1e-1), RATE),
                    ("optimizer", rng.randrange(3), OPTIMIZER),
                ):
                    rows[models.TrialParamModel].append(
                        {
                            "trial_id": trial_id, "param_name": name, "param_value": value,
                            "distribution_json": distribution_to_json(distribution),
                        }
                    )  # fmt: skip
                curve = {step: rng.random() for step in range(1, num_steps + 1)}
                rows[models.TrialIntermediateValueModel] += [
                    {
                        "trial_id": trial_id, "step": step, "intermediate_value": value,
                        "intermediate_value_type": "FINITE",
                    }
                    for step, value in curve.items()
                ]  # fmt: skip
                end = {
                    "end": "failed" if is_failed else "complete",
                    "dice_dataset": max(curve.values()),
                    "epoch": max(curve, key=lambda step: curve[step]),
                    "host": host,
                    "message": "the worker ended with exit code 7" if is_failed else "",
                    "seconds": {"total": 60.0},
                }
                for key, value in (
                    (PROVENANCE, {"host": host, "config": config}),
                    (END, end),
                ):
                    rows[models.TrialUserAttributeModel].append(
                        {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}
                    )
            for model, entries in rows.items():
                connection.execute(insert(model), entries)


if __name__ == "__main__":
    main()
