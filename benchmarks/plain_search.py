"""The search that ours is compared with: Optuna as its tutorial has it, around the plain loop.

    python benchmarks/plain_search.py --data DIR --network unet --learning-rates 0.001,0.002

One process. The images are decoded once and stay on the device; each trial trains the plain loop
of `plain.py` for all its epochs, evaluates after each, and keeps the weights of the best. Nothing
is pruned, resumed or recorded beyond what Optuna records in its SQLite file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import optuna
import torch
from pairs import Pairs
from plain import PlainLoop, resident

from trainer.compute.device import choose_device, compute_stream

PARTS = ("train", "test")


def search(options: argparse.Namespace) -> None:
    """Run one trial for each learning rate."""
    device = choose_device(options.device)
    train, test = (Pairs(options.data, options.size, part).on(device) for part in PARTS)
    rates = [float(text) for text in options.learning_rates.split(",")]

    def objective(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("learning_rate", min(rates), max(rates), log=True)
        loop = PlainLoop(options.network, options.size, device, loss="Dice", learning_rate=rate)
        best = -1.0
        for epoch in range(options.epochs):
            loop.train(resident(*train, options.batch_size))
            dice = loop.dice(*test, options.test_batch_size)
            trial.report(dice, epoch)
            if dice > best:
                best = dice
                torch.save(loop.network.state_dict(), options.folder / f"{trial.number}.pt")
        return best

    options.folder.mkdir(parents=True, exist_ok=True)
    storage = f"sqlite:///{options.folder.absolute() / 'plain.db'}"
    study = optuna.create_study(storage=storage, direction="maximize")
    for rate in rates:
        study.enqueue_trial({"learning_rate": rate})
    with compute_stream(device):
        study.optimize(objective, n_trials=len(rates))


def main() -> None:
    """Read the options and search."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="where results go")
    parser.add_argument("--network", required=True)
    parser.add_argument("--learning-rates", required=True, help="one for each trial")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--test-batch-size", type=int, default=64)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    search(parser.parse_args())


if __name__ == "__main__":
    main()
