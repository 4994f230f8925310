"""Times the steps and the evaluations of a config, and nothing else, in a process of its own.

    python benchmarks/pure_time.py RUN_FOLDER/config.json [--epochs 3]

What an epoch costs beside them (its order and draws, logs, checkpoints) is left out. Prints one
line of JSON: seconds of the steps and of the evaluation of each epoch that counts.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from machine import wait_for
from ours import compose

from trainer.compute.device import choose_device, compute_stream
from trainer.config import parse_config
from trainer.data.dataset import Resolve, load_data
from trainer.log import Log

WARM_UP_EPOCHS = {"cpu": 1, "cuda": 4}  # the fourth batch of a size is the first captured


def measure(path: Path, num_epochs: int) -> dict[str, object]:
    """Return the seconds of each epoch's steps and of its evaluation."""
    config = parse_config(json.loads(path.read_text(encoding="utf-8")), str(path))
    device = choose_device(config.device)
    resolve = Resolve(path.parent)
    data = load_data(config.data, resolve, Log(silent=True))
    seconds: dict[str, list[float]] = {"steps": [], "evaluation": []}
    lines: list[str] = []
    with compute_stream(device):
        ours = compose(config, data, resolve, device, lines.append)
        assert ours.evaluator is not None
        for epoch in range(1, WARM_UP_EPOCHS[device.type] + num_epochs + 1):
            ours.network.train()
            picked = list(ours.trainer.batches.epoch(seed=config.seed, epoch=epoch))
            wait_for(device)
            started = time.perf_counter()
            for batch in picked:
                ours.trainer.step(batch)
            wait_for(device)
            trained = time.perf_counter()
            ours.evaluator.run(ours.network, epoch)
            wait_for(device)
            seconds["steps"].append(trained - started)
            seconds["evaluation"].append(time.perf_counter() - trained)
    return {
        **{name: values[-num_epochs:] for name, values in seconds.items()},
        "num_steps": len(picked),
        "log": lines,
    }


def main() -> None:
    """Print the seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--json", type=Path, help="into this file instead")
    options = parser.parse_args()
    text = json.dumps(measure(options.config, options.epochs))
    if options.json:
        options.json.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
