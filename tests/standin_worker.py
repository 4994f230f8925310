"""A worker that honours the contract and trains nothing: what it does is in a JSON file.

`standin_worker.py [SETTINGS.json] --config=config.json`. Knows no `--capabilities`, as the
original does not, unless told so. Standard library only, so that a trial costs milliseconds.

Settings: `epoch_s` seconds an epoch; `curve` accuracies by epoch (else from the learning rate),
times `scale`; `end` {trial number: exit code, or signal below zero, or a list of them by attempt};
`epochs` instead of the config's; `crash_at` {trial number: epochs by attempt}; `capabilities` what
it announces: with "checkpoints.resume" it keeps a state and goes on from it, with
"checkpoints.pause_after" it ends where it is told to, with "--serve" it stays for further runs;
`state_every` epochs between two states; `drift` what an accuracy gains with each attempt;
`last_words` {trial number: accuracy} of one more epoch, which replaces the checkpoint of the best
before, when it is told to stop; `checkpoints` whether to write any; `ignore_sigterm`; `say` a line
for the log; `metrics` {trial number, or "all": entries by epoch, for metrics.jsonl}; `used` {trial
number, or "all": settings that it says it uses}; `environment` whether to print it; `freezes`
trials that stop for good after their last epoch; `strict` refuses keys outside the contract;
`write` {file name: text} before the first epoch, text "FIFO" makes a named pipe.
"""

import json
import math
import os
import queue
import signal
import sys
import threading
from pathlib import Path

CONTRACT = {"outfile", "num_epochs", "layers", "checkpoints", "data", "optimizer", "loss"}
STOPPED = 128 + signal.SIGTERM
stopping = threading.Event()


def replace(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.tmp")
    aside.write_text(text)
    aside.replace(path)


def write_line(epoch: int, accuracy: float) -> None:
    with Path("out_test.txt").open("a") as file:
        file.write(f"{epoch} {epoch * 0.5} 0.1 {accuracy:.9f}\n")


def add_json(entry: dict) -> None:
    with Path("metrics.jsonl").open("a") as file:
        file.write(json.dumps(entry) + "\n")


def of_trial(settings: dict, name: str, number: int) -> list | dict | None:
    of_trials = settings.get(name, {})
    return of_trials.get(str(number), of_trials.get("all"))


def train(settings: dict, network: dict, number: int, attempt: int) -> int:
    folder = Path(network.get("checkpoints", {}).get("save", "temp_model/"))
    folder.mkdir(exist_ok=True)
    rate = network["optimizer"].get("learning_rate", 0.01)
    resumes, state = network.get("checkpoints", {}).get("resume"), folder / "resume.pt"
    done = int(state.read_text()) if resumes and state.exists() else 0
    if done:
        print(f"resuming after epoch {done}", flush=True)
        lines = Path("out_test.txt").read_text().splitlines(keepends=True)
        replace(Path("out_test.txt"), "".join(lines[:done]))
    if (used := of_trial(settings, "used", number)) is not None:
        add_json({"used": used})
    crashes = settings.get("crash_at", {}).get(str(number), [])
    last = settings.get("epochs", network.get("num_epochs", 1))
    pause = network.get("checkpoints", {}).get("pause_after")
    last = min(last, pause or last)
    for epoch in range(done + 1, last + 1):
        if stopping.wait(settings.get("delay", {}).get(str(number), settings.get("epoch_s", 0))):
            if (accuracy := settings.get("last_words", {}).get(str(number))) is not None:
                (folder / f"model_checkpoint_{epoch}.pt").write_text(f"{number} {epoch}")
                write_line(epoch, accuracy)
                for other in range(1, epoch):
                    (folder / f"model_checkpoint_{other}.pt").unlink()
            return STOPPED
        curve = settings.get("curve", {}).get(str(number))
        accuracy = curve[epoch - 1] if curve else 1 - abs(math.log10(rate) + 2.5) / 4 - 0.1 / epoch
        accuracy *= settings.get("scale", 1)
        if settings.get("checkpoints", True):
            (folder / f"model_checkpoint_{epoch}.pt").write_text(f"{number} {epoch}")
        if (metrics := of_trial(settings, "metrics", number)) is not None:
            add_json({"epoch": epoch, **metrics[epoch - 1]})
        write_line(epoch, accuracy + settings.get("drift", 0) * attempt)
        if resumes and (epoch % settings.get("state_every", 1) == 0 or epoch == pause):
            replace(state, str(epoch))
        if attempt <= len(crashes) and crashes[attempt - 1] == epoch:
            return 99
    if number in settings.get("freezes", ()):
        os.kill(os.getpid(), signal.SIGSTOP)
    return 0


def serve(settings: dict) -> int:
    folders: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            request = json.loads(line)
            if "run" in request:
                stopping.clear()
                folders.put(request["run"])
            else:
                stopping.set()
        os._exit(STOPPED)  # the driver is gone

    threading.Thread(target=listen, daemon=True).start()
    with os.fdopen(os.dup(1), "w", buffering=1) as answers:
        while folder := folders.get():
            os.chdir(folder)
            with Path("worker.log").open("ab") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            code = carry_out(settings, "--config=config.json")
            sys.stdout.flush()
            os.chdir("/")
            print(json.dumps({"exit_code": code, "reusable": code in (0, STOPPED)}), file=answers)
    return 0


def main() -> int:
    settings_file, config_argument = [None, *sys.argv[1:]][-2:]
    settings = json.loads(Path(settings_file).read_text()) if settings_file else {}
    if config_argument == "--capabilities" and "capabilities" in settings:
        print(json.dumps({"capabilities": settings["capabilities"]}))
        return 0
    if config_argument == "--serve" and "--serve" in settings.get("capabilities", ()):
        return serve(settings)
    return carry_out(settings, config_argument)


def carry_out(settings: dict, config_argument: str) -> int:
    if not config_argument.startswith("--config="):
        print(f"standin: unknown argument {config_argument}", file=sys.stderr)
        return 64
    config = json.loads(Path(config_argument.removeprefix("--config=")).read_text())
    network = config["neural_network"]
    if settings.get("ignore_sigterm"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "say" in settings:
        print(settings["say"], flush=True)
    if settings.get("environment"):
        print(*(f"{name}={value}" for name, value in os.environ.items()), sep="\n", flush=True)
    is_trial = Path.cwd().parent.name.startswith("trial_")  # else the winner's test
    attempt = int(Path.cwd().name.removeprefix("attempt_")) if is_trial else 1
    unknown = set(network) - CONTRACT
    if settings.get("strict") and unknown:
        print(f"standin: unknown keys {sorted(unknown)}", file=sys.stderr)
        return 2
    for name, text in settings.get("write", {}).items():
        os.mkfifo(name) if text == "FIFO" else Path(name).write_text(text)
    number = int(Path.cwd().parent.name.removeprefix("trial_")) if is_trial else -1
    ends = settings.get("end", {})
    end = ends.get(str(number), ends.get("all", 0))
    if isinstance(end, list):
        end = end[attempt - 1] if attempt <= len(end) else 0
    if end < 0:
        os.kill(os.getpid(), -end)
    if end > 0:
        return end
    if code := train(settings, network, number, attempt):
        return code
    print("All done (return value = 0).")
    return 0


sys.exit(main())
