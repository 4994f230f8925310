"""A worker that means harm: what it does depends on the trial's number."""

import json
import os
import sys
import time
from pathlib import Path

VICTIM = Path(sys.argv[1])
if not sys.argv[2].startswith("--config="):
    sys.stdout.write("[" * 50_000 + "\n" + "{" * 50_000 + "\n")
    sys.exit(64)


def dig(name: str, depth: int = 1500) -> None:
    """Make folders within each other, deeper than a path may be long."""
    here = os.open(".", os.O_RDONLY)
    os.chdir(name)
    for _ in range(depth):
        Path("dddd").mkdir()
        os.chdir("dddd")
    os.fchdir(here)


def write(accuracy: object = "", epoch: int = 1) -> None:
    """Write a checkpoint and the line of its epoch."""
    Path("temp_model").mkdir(exist_ok=True)
    Path(f"temp_model/model_checkpoint_{epoch}.pt").write_text(f"weights {number}")
    with Path("out_test.txt").open("a") as log:
        log.write(f"{epoch} 0.5 0.1 {accuracy or f'0.{number}'}\n")


def daemon() -> None:
    """Leave a process of another session, which keeps our output open and our environment not."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execve(sys.executable, [sys.executable, "-c", "import time; time.sleep(600)"], {})
        os._exit(0)


folder = Path.cwd().parent.name
number = int(folder.removeprefix("trial_")) if folder.startswith("trial_") else 9
if number == 0:
    write()
    dig("temp_model")
elif number == 1:
    write()
    daemon()
elif number == 2:
    for accuracy in ("5", "1e308", "nan", "-3", "1" * 5000):
        write(accuracy)
    write("0.2", epoch=2)
elif number == 3:
    write()
    Path("out_test.txt").write_bytes(b"1 0.5 0.1 0.3\n" + b"1 0.9\n" * 2_000_000)
elif number == 4:
    write()
    lines = [{"epoch": 1, "dice_per_image": float("nan")}, {"epoch": 1, "dice_per_image": 10**400}]
    text = "\n".join(json.dumps(line) for line in lines)
    Path("metrics.jsonl").write_text(f"{text}\n{'[' * 100_000}\n" + "{}\n" * 2_000_000)
elif number == 5:
    write()
    Path("temp_model/d").mkdir()
    Path("temp_model/d/s").symlink_to(VICTIM)
    Path("temp_model/d").chmod(0o500)
    Path("temp_model/e").symlink_to(VICTIM.parent)
elif number == 6:  # a daemon that goes on for ever, and no end of its own
    daemon()
    time.sleep(600)
elif number == 7:
    write()
    sys.stdout.buffer.write(b"\x1b[2J\x1b]0;evil\x07 :smile: \xff\n")
    sys.stdout.buffer.write(":smile: \u202eevil\u200b\n".encode())
    sys.stdout.flush()
    os._exit(9)
else:  # the test images
    write("0.5", epoch=0)
    rows = "".join(f"img{n},{10**21},-5,3\n" for n in range(9))
    Path("per_image.csv").write_text(f"name,a_intersection,a_predicted,a_target\n{rows}")
    entry = {"epoch": 0, "classes_averaged": ["a"], "dice_per_image": float("inf")}
    Path("metrics.jsonl").write_text(json.dumps(entry) + "\n")
    Path("best_model_file.pt").unlink(missing_ok=True)
    Path("evil.pt").symlink_to(VICTIM.parent)
    Path("e\x1b[2J\n\u202e.pt").touch()
