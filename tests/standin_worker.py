"""A worker that honours the contract and trains nothing: what it does is in a JSON file.

`standin_worker.py [SETTINGS.json] --config=config.json`. Knows no `--capabilities`, as the
original does not. Standard library only, so that a trial costs milliseconds.

Settings: `epoch_s` seconds an epoch; `curve` accuracies by epoch (else from the learning rate);
`end` {trial number: exit code, or signal below zero}; `checkpoints` whether to write any;
`ignore_sigterm`; `say` a line for the log; `strict` refuses keys outside the contract;
`write` {file name: text} before the first epoch, text "FIFO" makes a named pipe.
"""

import json
import math
import os
import signal
import sys
import time
from pathlib import Path

CONTRACT = {"outfile", "num_epochs", "layers", "checkpoints", "data", "optimizer", "loss"}


def main() -> int:
    settings_file, config_argument = [None, *sys.argv[1:]][-2:]
    settings = json.loads(Path(settings_file).read_text()) if settings_file else {}
    if not config_argument.startswith("--config="):
        print(f"standin: unknown argument {config_argument}", file=sys.stderr)
        return 64
    config = json.loads(Path(config_argument.removeprefix("--config=")).read_text())
    network = config["neural_network"]
    if settings.get("ignore_sigterm"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "say" in settings:
        print(settings["say"], flush=True)
    is_trial = Path.cwd().parent.name.startswith("trial_")  # else the winner's test
    unknown = set(network) - CONTRACT
    if settings.get("strict") and unknown:
        print(f"standin: unknown keys {sorted(unknown)}", file=sys.stderr)
        return 2
    for name, text in settings.get("write", {}).items():
        os.mkfifo(name) if text == "FIFO" else Path(name).write_text(text)
    number = int(Path.cwd().parent.name.removeprefix("trial_")) if is_trial else -1
    ends = settings.get("end", {})
    end = ends.get(str(number), ends.get("all", 0))
    if end < 0:
        os.kill(os.getpid(), -end)
    if end > 0:
        return end
    folder = Path(network.get("checkpoints", {}).get("save", "temp_model/"))
    folder.mkdir(exist_ok=True)
    rate = network["optimizer"].get("learning_rate", 0.01)
    for epoch in range(1, network.get("num_epochs", 1) + 1):
        time.sleep(settings.get("delay", {}).get(str(number), settings.get("epoch_s", 0)))
        curve = settings.get("curve", {}).get(str(number))
        accuracy = curve[epoch - 1] if curve else 1 - abs(math.log10(rate) + 2.5) / 4 - 0.1 / epoch
        if settings.get("checkpoints", True):
            (folder / f"model_checkpoint_{epoch}.pt").write_text(f"{number} {epoch}")
        with Path("out_test.txt").open("a") as file:
            file.write(f"{epoch} {epoch * 0.5} 0.1 {accuracy:.9f}\n")
    print("All done (return value = 0).")
    return 0


sys.exit(main())
