"""Trials per second of a shared study, and the cost of a trial as the study grows.

Beside bare Optuna in the same run: ask, the same three parameters from the same sampler, one
report, tell, on the same database with the same pool settings. The worker does nothing: a shell
script that writes one line of `out_test.txt`; the peer starts it too. Run it with

    python benchmarks/shared_study.py --storage postgresql+psycopg://… [--parts drivers,growth]

The database should be empty; studies of its own are added and left there.
"""

from __future__ import annotations

import argparse
import datetime as dt
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import uuid
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import optuna
from driver_overhead import seconds_of_worker, write_data, write_worker
from optuna.distributions import distribution_to_json
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import insert, select

from hpo.store.database import close_storage, open_storage

BIN = Path(sys.executable).parent
BATCH = 500


def main() -> None:
    """Print one table for the number of drivers, one for the number of existing trials."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storage", required=True, help="URL of an empty database")
    parser.add_argument("--parts", default="drivers,growth")
    parser.add_argument("--num-trials", type=int, default=40, help="trials of each driver")
    parser.add_argument("--existing", default="100,1000,5000,10000")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=ExperimentalWarning)
    if options.peer:
        run_peer(options.storage, options.peer, options.num_trials)
        return
    backend = options.storage.split(":")[0]
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {backend}"
    )
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name), options.storage, options.num_trials)
        if "drivers" in options.parts:
            compare_drivers(bench)
        if "growth" in options.parts:
            compare_growth(bench, [int(number) for number in options.existing.split(",")])
        bench.close()


class Bench:
    """A folder with data and worker, and the ways to run trials."""

    def __init__(self, folder: Path, url: str, num_trials: int) -> None:
        self.folder, self.url, self.num_trials = folder, url, num_trials
        self.storage = open_storage(url)
        self.worker = write_worker(folder / "worker.sh")
        self._data = write_data(folder / "data")

    def close(self) -> None:
        """Close the connections."""
        close_storage(self.storage)

    def start_driver(self, study: str, num_trials: int, seed: int = 0) -> subprocess.Popen[bytes]:
        """Start rml-optimize with one slot."""
        return subprocess.Popen(
            [
                BIN / "rml-optimize", "--data", self._data, "--worker", self.worker, "--jobs", "1",
                "--num-trials", str(num_trials), "--num-epochs", "1", "--no-gpu", "--seed",
                str(seed), "--layers", "unet:width=4,depth=2", "--resize", "32,32",
                "--pruner", "none", "--study-name", study, "--output-dir", self.folder,
            ],
            env=os.environ | {"RML_STORAGE": self.url, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def start_peer(self, study: str, num_trials: int) -> subprocess.Popen[bytes]:
        """Start a process with bare Optuna's loop."""
        return subprocess.Popen(
            [
                sys.executable, __file__, "--storage", self.url, "--peer", study,
                "--num-trials", str(num_trials),
            ],
            cwd=self.folder, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def spans(self, study: str) -> dict[str, list[tuple[dt.datetime, dt.datetime]]]:
        """Return each process's trials that ended: (begin, end) in order, by who ran them."""
        found = defaultdict(list)
        for trial in optuna.load_study(study_name=study, storage=self.storage).trials:
            who = (
                trial.user_attrs.get("peer")
                or trial.user_attrs.get("lease", "").rpartition("/")[0]
            )
            if who != "bulk" and trial.datetime_start and trial.datetime_complete:
                found[who].append((trial.datetime_start, trial.datetime_complete))
        return {who: sorted(spans) for who, spans in found.items()}


def wait_all(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    """Wait, and fail if one fails."""
    codes = [process.wait() for process in processes]
    assert set(codes) == {0}, codes


def compare_drivers(bench: Bench) -> None:
    """Print trials per second while all of 1, 2, 4, 8 processes run."""
    print("processes   rml-optimize   bare Optuna   (trials per second)")
    for number in (1, 2, 4, 8):
        ours, bare = f"ours-{uuid.uuid4().hex}", f"bare-{uuid.uuid4().hex}"
        total = number * bench.num_trials
        wait_all([bench.start_driver(ours, total, seed) for seed in range(number)])
        make_bare(bench.storage, bare)
        wait_all([bench.start_peer(bare, bench.num_trials) for _ in range(number)])
        rates = [rate(bench.spans(study).values()) for study in (ours, bare)]
        print(f"{number:9}   {rates[0]:12.1f}   {rates[1]:11.1f}", flush=True)


def rate(spans: Iterable[Sequence[tuple[dt.datetime, dt.datetime]]]) -> float:
    """Return trials per second between the last one's first trial and the first one's last."""
    all_spans = list(spans)
    begin = max(own[0][0] for own in all_spans)
    end = min(own[-1][1] for own in all_spans)
    number = sum(begin < done <= end for own in all_spans for _, done in own)
    return number / max((end - begin).total_seconds(), 1e-3)


def compare_growth(bench: Bench, sizes: Sequence[int]) -> None:
    """Print milliseconds per trial in a study that has so many trials already."""
    alone = seconds_of_worker(bench.worker, bench.folder, bench.num_trials)
    print(
        f"existing   rml-optimize   bare Optuna   added   (ms per trial; worker {alone * 1e3:.1f})"
    )
    for size in sizes:
        ours, bare = f"ours-{uuid.uuid4().hex}", f"bare-{uuid.uuid4().hex}"
        wait_all([bench.start_driver(ours, 1)])
        make_bare(bench.storage, bare)
        wait_all([bench.start_peer(bare, 1)])
        for study in (ours, bare):
            fill(bench.storage, study, size - 1)
        wait_all([bench.start_driver(ours, size + bench.num_trials)])
        wait_all([bench.start_peer(bare, bench.num_trials)])
        medians = [1e3 * median_period(bench.spans(study)) for study in (ours, bare)]
        print(
            f"{size:8}   {medians[0]:12.1f}   {medians[1]:11.1f}   {medians[0] - medians[1]:5.1f}",
            flush=True,
        )


def median_period(spans: dict[str, list[tuple[dt.datetime, dt.datetime]]]) -> float:
    """Return the median time from one trial's begin to the next, of the process with most."""
    longest = max(spans.values(), key=len)
    begins = [begin for begin, _ in longest]
    return statistics.median((b - a).total_seconds() for a, b in itertools.pairwise(begins))


def make_bare(storage: RDBStorage, name: str) -> None:
    """Make a study for the peer."""
    optuna.create_study(study_name=name, storage=storage, direction="maximize")


def run_peer(url: str, name: str, num_trials: int) -> None:
    """Run trials with ask and tell."""
    storage = open_storage(url)
    sampler = TPESampler(multivariate=True, group=True)
    study = optuna.load_study(study_name=name, storage=storage, sampler=sampler)
    peer = f"peer/{os.getpid()}"
    folder = Path(tempfile.mkdtemp(dir="."))
    for _ in range(num_trials):
        trial = study.ask()
        trial.suggest_categorical("optimizer.type", ["Adam", "RMSprop", "SGD"])
        trial.suggest_float("optimizer.learning_rate", 1e-3, 1e-2, log=True)
        trial.suggest_categorical("loss.function", ["BCE", "Dice"])
        subprocess.run(["../worker.sh"], cwd=folder, check=True)
        value = float((folder / "out_test.txt").read_text().split()[-1])
        trial.report(value, 1)
        trial.set_user_attr("peer", peer)
        study.tell(trial, value)
    close_storage(storage)


def fill(storage: RDBStorage, name: str, number: int) -> None:
    """Insert so many trials like the study's first, with other values, as if long finished."""
    study = optuna.load_study(study_name=name, storage=storage)
    (first,) = study.trials
    past = dt.datetime(2026, 1, 1)
    attributes = {key: value for key, value in first.user_attrs.items() if key != "peer"}
    attributes["lease"] = "bulk/x"
    rng = optuna.samplers.RandomSampler(seed=0)
    for begin in range(1, number + 1, BATCH):
        numbers = range(begin, min(begin + BATCH, number + 1))
        with storage.engine.begin() as connection:
            connection.execute(
                insert(models.TrialModel),
                [
                    {
                        "number": n, "study_id": study._study_id, "state": TrialState.COMPLETE,
                        "datetime_start": past, "datetime_complete": past,
                    }
                    for n in numbers
                ],
            )  # fmt: skip
            ids = connection.execute(
                select(models.TrialModel.trial_id).where(
                    models.TrialModel.study_id == study._study_id,
                    models.TrialModel.number.in_(list(numbers)),
                )
            ).scalars()
            rows: dict[type, list[dict[str, object]]] = defaultdict(list)
            for trial_id in ids:
                for key, distribution in first.distributions.items():
                    drawn = rng.sample_independent(study, first, key, distribution)
                    rows[models.TrialParamModel].append(
                        {
                            "trial_id": trial_id, "param_name": key,
                            "param_value": distribution.to_internal_repr(drawn),
                            "distribution_json": distribution_to_json(distribution),
                        }
                    )  # fmt: skip
                score = (trial_id * 7919 % 1000) / 2000
                rows[models.TrialValueModel].append(
                    {"trial_id": trial_id, "objective": 0, "value": score, "value_type": "FINITE"}
                )
                rows[models.TrialIntermediateValueModel].append(
                    {
                        "trial_id": trial_id, "step": 1, "intermediate_value": score,
                        "intermediate_value_type": "FINITE",
                    }
                )  # fmt: skip
                if "lease" in first.user_attrs:
                    rows[models.TrialHeartbeatModel].append(
                        {"trial_id": trial_id, "heartbeat": past}
                    )
                for key, value in attributes.items():
                    rows[models.TrialUserAttributeModel].append(
                        {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}
                    )
            for model, entries in rows.items():
                connection.execute(insert(model), entries)


if __name__ == "__main__":
    main()
