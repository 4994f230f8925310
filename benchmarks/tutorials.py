"""The evidence of finished studies: one row each, and predictions to look at.

    python benchmarks/tutorials.py OUTPUT_DIR… [--overlays]

Each OUTPUT_DIR is one that `rml-optimize --study … --output-dir OUTPUT_DIR` has filled; nothing is
trained. Prints a Markdown table with what was measured: Dice of both kinds on the test images with
its interval, time from the first trial's start to the last one's end, hardware, date. `--overlays`
writes OUTPUT_DIR/predictions from OUTPUT_DIR/data/test/inputs, by `rml-study predict`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
from tabulate import tabulate

from hpo.folders import read_json
from hpo.progress import describe_values
from hpo.provenance import PROVENANCE
from hpo.storage import best_trial, finished_trials

ABSENT = "–"


def row(folder: Path) -> dict[str, Any]:
    """Return what the study of an output folder has reached."""
    storage = f"sqlite:///{folder.absolute() / 'rml_optimize.db'}"
    (name,) = optuna.get_all_study_names(storage)
    study = optuna.load_study(study_name=name, storage=storage)
    trials, best = finished_trials(study), best_trial(study)
    assert best is not None, f"{folder}: no finished trial"
    model, test = (read_json(folder / "best_model" / f"{part}.json") for part in ("trial", "test"))
    starts = [trial.datetime_start for trial in trials if trial.datetime_start]
    ends = [trial.datetime_complete for trial in trials if trial.datetime_complete]
    ran = best.user_attrs.get(PROVENANCE, {})
    devices = sorted({str(gpu.get("name")) for gpu in ran.get("gpus", ())})
    low, high = test.get("interval") or (None, None)
    return {
        "study": name,
        "network": best.params.get("layers") or ran.get("config", {}).get("layers", ABSENT),
        "trials × epochs": f"{len(trials)} × {ran.get('config', {}).get('num_epochs', ABSENT)}",
        "best values": describe_values(best.params),
        f"selected ({model.get('selected_on', ABSENT)})": _figure(model.get("dice_dataset")),
        "dice_dataset": _figure(test.get("dice_dataset")),
        "95 % interval": f"{low:.3f} .. {high:.3f}" if low is not None else ABSENT,
        "dice_per_image": _figure(test.get("dice_per_image")),
        "test images": test.get("num_images", ABSENT),
        "minutes": f"{(max(ends) - min(starts)).total_seconds() / 60:.1f}",
        "hardware": ", ".join(devices) or "CPU",
        "date": max(ends).date().isoformat(),
    }


def _figure(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.4f}"


def draw(folder: Path) -> None:
    """Write the best model's predictions on the test images."""
    command = (
        str(Path(sys.executable).parent / "rml-study"), "predict", "--output-dir", str(folder),
        "--images", str(folder / "data/test/inputs"), "--out", str(folder / "predictions"),
    )  # fmt: skip
    subprocess.run(command, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="OUTPUT_DIR")
    parser.add_argument("--overlays", action="store_true", help="predict the test images too")
    options = parser.parse_args()
    rows = [row(folder) for folder in options.folders]
    sys.stdout.write(tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True))
    sys.stdout.write("\n")
    for folder in options.folders if options.overlays else ():
        draw(folder)


if __name__ == "__main__":
    main()
