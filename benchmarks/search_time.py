"""Measures a whole search by `rml-optimize`: over its pure computing, and beside plain Optuna.

For each network: the real command line searches the learning rate, N trials of K epochs, one after
the other, none pruned. Then in processes of their own, with as many threads: the steps and
evaluations of one of its trials alone (`pure_time.py`), and the same trials as a plain Optuna
script around the plain loop with resident data (`plain_search.py`). No augmentation, so that all
do the same. Printed are

- the wall time of each, and its ratio to N x K epochs of pure steps and evaluations;
- seconds from the claim of a trial to its first training step, of the first trial (cold) and the
  median of the others (warm), from the driver's records and the worker's logs;
- an epoch of a real trial over its pure steps and evaluation, and the evaluation's share of it.

    python benchmarks/search_time.py [--data DIR] [--network resunet] [--trials 3] [--epochs 6]

Without `--data` it writes images: as many as the breast study has, unless told otherwise.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import torch
from pairs import write_images

from hpo.keys import END, PROVENANCE
from trainer.rundir import CONFIG, TEST_LOG, TRAIN_LOG, WORKER_LOG

HERE = Path(__file__).parent
STUDY = "search_time"
TEST_BATCH_SIZE = 64  # the breast study's
STAMP = "[%Y-%b-%d %H:%M:%S.%f"  # of a line in a worker's log


@dataclass(frozen=True)
class Trial:
    """How long what took in a trial, in seconds.

    Attributes:
        before_run: from the claim of the trial until its worker begins with the config.
        first_step: from the claim to the first training step.
        epochs: each epoch from the second on, evaluation included.
        total: from the claim of the trial to its end.
    """

    learning_rate: float
    before_run: float
    first_step: float
    epochs: list[float]
    total: float

    @classmethod
    def read(cls, trial: optuna.trial.FrozenTrial, run_dir: Path) -> Trial:
        """Put the driver's records and the worker's logs together.

        Logs of steps and evaluations count from the run's start. When that was tells the line of
        scores, which worker.log stamps when the evaluation's time is taken.
        """
        assert trial.state == optuna.trial.TrialState.COMPLETE, f"{run_dir}: {trial.state}"
        assert trial.datetime_start is not None
        steps, evaluations = (_numbers(run_dir / name) for name in (TRAIN_LOG, TEST_LOG))
        began = _when(run_dir / WORKER_LOG, "dice_dataset = ") - evaluations[0][1]
        before_run = began - trial.datetime_start.timestamp()
        ends = [line[1] for line in evaluations]
        return cls(
            learning_rate=next(
                value for key, value in trial.params.items() if "learning_rate" in key
            ),
            before_run=before_run,
            first_step=before_run + steps[0][0],
            epochs=[after - before for before, after in itertools.pairwise(ends)],
            total=trial.user_attrs[END]["seconds"]["total"],
        )


@dataclass(frozen=True)
class Searched:
    """A search that is done.

    Attributes:
        start_s: from the command to its first trial.
        run_dir: of the first trial.
        num_threads: of its worker.
    """

    wall_s: float
    start_s: float
    trials: list[Trial]
    run_dir: Path
    num_threads: int


def _numbers(path: Path) -> list[list[float]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [[float(number) for number in line.split()] for line in lines]


def _when(log: Path, text: str) -> float:
    """Return the time of the first line that begins so behind its stamp."""
    for line in log.read_text(encoding="utf-8").splitlines():
        stamp, _, rest = line.partition("] ")
        if rest.startswith(text):
            return datetime.datetime.strptime(stamp, STAMP).timestamp()
    raise ValueError(f"{log}: no line {text!r}")


def run_ours(options: argparse.Namespace, network: str, root: Path) -> Searched:
    """Search by our command line, without anything in the cache of decoded images."""
    root.mkdir()
    output = root / "out"
    command = [
        sys.executable, "-m", "hpo.cli", "--data", options.data.absolute(), "--layers", network,
        "--resize", f"{options.size},{options.size}", "--num-trials", options.trials,
        "--num-epochs", options.epochs, "--optimizers", "adam", "--loss", "dice",
        "--pruner", "none", "--jobs", 1, "--launcher", "local", "--study-name", STUDY,
        "--output-dir", output, "--set", f"data.batch_size={options.batch_size}",
        "--set", f"data.test_batch_size={TEST_BATCH_SIZE}",
        "--gpu" if options.device == "cuda" else "--no-gpu",
    ]  # fmt: skip
    began = time.time()
    wall_s = _run(command, root, RML_CACHE_DIR=str(root / "cache"))
    storage = f"sqlite:///{output / 'rml_optimize.db'}"
    trials = optuna.load_study(study_name=STUDY, storage=storage).trials
    folders = [output / f"runs/{STUDY}/trial_{t.number:05d}/attempt_1" for t in trials]
    starts = [trial.datetime_start.timestamp() for trial in trials if trial.datetime_start]
    read = [Trial.read(trial, folder) for trial, folder in zip(trials, folders, strict=True)]
    num_threads = trials[0].user_attrs[PROVENANCE]["cpu"]["threads"]
    return Searched(wall_s, min(starts) - began, read, folders[0], num_threads)


def run_plain(options: argparse.Namespace, network: str, root: Path, ours: Searched) -> float:
    """Search by the plain script; return its wall time."""
    rates = ",".join(str(trial.learning_rate) for trial in ours.trials)
    command = [
        sys.executable, HERE / "plain_search.py", "--data", options.data.absolute(),
        "--folder", root / "plain", "--network", network, "--size", options.size,
        "--learning-rates", rates, "--epochs", options.epochs,
        "--batch-size", options.batch_size, "--test-batch-size", TEST_BATCH_SIZE,
        "--device", options.device,
    ]  # fmt: skip
    return _run(command, root, OMP_NUM_THREADS=str(ours.num_threads))


def run_pure(options: argparse.Namespace, ours: Searched) -> tuple[float, float]:
    """Return the medians of an epoch's pure steps and evaluation, of a trial's own config."""
    output = ours.run_dir / "pure.json"
    command = [
        sys.executable, HERE / "pure_time.py", ours.run_dir / CONFIG, "--epochs", options.epochs,
        "--json", output,
    ]  # fmt: skip
    visible = {"CUDA_VISIBLE_DEVICES": ""} if options.device == "cpu" else {}
    _run(command, ours.run_dir, OMP_NUM_THREADS=str(ours.num_threads), **visible)
    pure = json.loads(output.read_text())
    for line in pure["log"]:  # captured, or why not
        print(f"  {line}")
    return statistics.median(pure["steps"]), statistics.median(pure["evaluation"])


def _run(command: list[Any], folder: Path, **environment: str) -> float:
    """Run a command to its end and return its seconds; show what it said if it fails."""
    started = time.perf_counter()
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\n{' '.join(map(str, command))}: exit code {done.returncode}")
    return time.perf_counter() - started


def measure(options: argparse.Namespace, network: str, root: Path) -> dict[str, Any]:
    """Search both ways and print what it took, each figure as soon as it is known."""
    ours = run_ours(options, network, root)
    cold, *others = ours.trials
    warm = statistics.median(trial.first_step for trial in others)
    real_s = statistics.median(epoch for trial in ours.trials for epoch in trial.epochs)
    totals = ", ".join(f"{trial.total:.1f}" for trial in ours.trials)
    print(
        f"  rml-optimize took {ours.wall_s:.1f} s; the first trial began {ours.start_s:.1f} s "
        f"after the command; trials: {totals} s; {ours.num_threads} threads"
    )
    print(
        f"  first step after: cold {cold.first_step:.2f} s ({cold.before_run:.2f} s of it until "
        f"the worker runs), warm {warm:.2f} s",
        flush=True,
    )
    steps_s, evaluation_s = run_pure(options, ours)
    epoch_s = steps_s + evaluation_s
    pure_s = options.trials * options.epochs * epoch_s
    print(
        f"  an epoch: pure {epoch_s:.3f} s (steps {steps_s:.3f} s, evaluation "
        f"{evaluation_s:.3f} s); real {real_s:.3f} s, {real_s / epoch_s:.2f} x pure (from the "
        f"second on), evaluation {evaluation_s / real_s:.0%} of it"
    )
    print(f"  whole search, pure  {pure_s:7.1f} s")
    print(
        f"  rml-optimize        {ours.wall_s:7.1f} s  {ours.wall_s / pure_s:6.2f} x pure",
        flush=True,
    )
    result = {
        "network": network,
        "size": options.size,
        "batch_size": options.batch_size,
        "pure_steps_s": steps_s,
        "pure_evaluation_s": evaluation_s,
        "epoch_s": real_s,
        "epoch_over_pure": real_s / epoch_s,
        "evaluation_share": evaluation_s / real_s,
        "first_step_cold_s": cold.first_step,
        "before_run_cold_s": cold.before_run,
        "first_step_warm_s": warm,
        "search_s": ours.wall_s,
        "search_over_pure": ours.wall_s / pure_s,
        "trials_s": [trial.total for trial in ours.trials],
    }
    if not options.plain:
        return result
    plain_s = run_plain(options, network, root, ours)
    print(
        f"  plain Optuna script {plain_s:7.1f} s  {plain_s / pure_s:6.2f} x pure; "
        f"rml-optimize takes {ours.wall_s / plain_s:.2f} x as long",
        flush=True,
    )
    return result | {
        "plain_s": plain_s,
        "plain_over_pure": plain_s / pure_s,
        "ours_over_plain": ours.wall_s / plain_s,
    }


def main() -> None:
    """Measure each network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with {train,test}/{inputs,targets}")
    parser.add_argument("--network", action="append", help="default: RESUNET and a compact U-Net")
    parser.add_argument("--size", type=int, default=256, help="of the network's input, in pixels")
    parser.add_argument("--images", default="627,70", help="without --data: training, test")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--trials", type=int, default=3, help="at least 2: one cold, then warm")
    parser.add_argument("--epochs", type=int, default=6, help="at least 2")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--no-plain", dest="plain", action="store_false", help="leave it out")
    parser.add_argument("--json", type=Path, help="write what was measured into this file, too")
    options = parser.parse_args()
    if min(options.trials, options.epochs) < 2:
        parser.error("at least 2 trials of 2 epochs")
    # This process computes nothing on the GPU, not even to name it: a search leaves a GPU alone on
    # which another program computes.
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    subprocess.run([sys.executable, HERE / "machine.py", options.device], check=True)
    results = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        if options.data is None:
            options.data = root / "data"
            for part, number in zip(("train", "test"), options.images.split(","), strict=True):
                write_images(options.data, int(number), options.size, part=part)
        for index, network in enumerate(options.network or ["resunet", "unet:width=16,depth=4"]):
            numbers = [
                len(list((options.data / p / "inputs").iterdir())) for p in ("train", "test")
            ]
            print(
                f"{network}, {options.size}x{options.size}, batches of {options.batch_size}; "
                f"{numbers[0]} + {numbers[1]} images, {options.trials} trials of {options.epochs} "
                "epochs",
                flush=True,
            )
            results.append(measure(options, network, root / str(index)))
            if options.json:  # after each: what is killed later has left these
                options.json.write_text(json.dumps(results))


if __name__ == "__main__":
    main()
