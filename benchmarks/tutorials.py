"""The evidence of finished studies: one row each, and predictions to look at.

    python benchmarks/tutorials.py OUTPUT_DIR… [--overlays]

Each OUTPUT_DIR is one that `rml-optimize --study … --output-dir OUTPUT_DIR` has filled; nothing is
trained. Prints a Markdown table with what was measured: Dice of both kinds on the test images with
its interval, time from the first trial's start to the last one's end, hardware, date; then what
`rml-study confirm` has found.

`--overlays` writes OUTPUT_DIR/predictions from the test images, by `rml-study predict`, and
predictions.png beside it: up to 24 of them from the worst to the best, ours in orange, the masks'
outlines in green.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import optuna
from tabulate import tabulate

from hpo.dataset.datafolder import Part
from hpo.folders import read_json
from hpo.keys import PROVENANCE
from hpo.run.progress import describe_values
from hpo.store.durations import span_s
from hpo.store.study import best_trial, finished_trials
from trainer.data.images import read_mask

TILE_PX, NUM_COLUMNS, NUM_TILES = 240, 6, 24
GREEN = (0, 230, 0)  # BGR
ABSENT = "–"


def row(folder: Path) -> dict[str, Any]:
    """Return what the study of an output folder has reached."""
    storage = f"sqlite:///{folder.absolute() / 'rml_optimize.db'}"
    (name,) = optuna.get_all_study_names(storage)
    study = optuna.load_study(study_name=name, storage=storage)
    trials, best = finished_trials(study), best_trial(study)
    assert best is not None, f"{folder}: no finished trial"
    model, test = (read_json(folder / "best_model" / f"{part}.json") for part in ("trial", "test"))
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
        "minutes": f"{span_s(trials) / 60:.1f}",
        "hardware": ", ".join(devices) or _cpu(ran.get("cpu") or {}),
        "date": max(ends).date().isoformat(),
    }


def _figure(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.4f}"


def _cpu(cpu: dict[str, Any]) -> str:
    return f"{cpu['name']}, {cpu['threads']} thread(s)" if cpu else "CPU"


def draw(folder: Path) -> None:
    """Write the best model's predictions on the test images, and a sheet of them."""
    tested = find_test(folder)
    predictions = folder / "predictions"
    shutil.rmtree(predictions, ignore_errors=True)
    command = (
        str(Path(sys.executable).parent / "rml-study"), "predict", "--output-dir", str(folder),
        "--images", str(tested.inputs), "--out", str(predictions),
    )  # fmt: skip
    subprocess.run(command, check=True)
    write_sheet(predictions, tested.targets, folder / "predictions.png")


def find_test(folder: Path) -> Part:
    """Return the test images and masks that the study's best model was scored on."""
    (config,) = folder.glob("runs/*/test_of_*/config.json")
    data = read_json(config)["neural_network"]["data"]
    return Part(Path(data["test_input_path"]), Path(data["test_target_path"]))


def write_sheet(predictions: Path, targets: Path, sheet: Path) -> None:
    """Draw overlays with the masks' outlines, from the worst Dice (of all but class 0) up."""
    masks = {path.stem: path for path in targets.iterdir()}
    tiles = []
    for path in sorted((predictions / "masks").glob("*.png")):
        true = read_mask(masks.get(path.stem) or masks[f"{path.stem}_mask"]) > 0
        ours = read_mask(path) > 0
        both = int(true.sum() + ours.sum())
        dice = 2 * int((true & ours).sum()) / both if both else 1.0
        tiles.append((dice, path.stem, true))
    tiles.sort(key=lambda tile: tile[:2])
    shown = [tiles[round(i)] for i in np.linspace(0, len(tiles) - 1, min(NUM_TILES, len(tiles)))]
    rows = []
    for start in range(0, len(shown), NUM_COLUMNS):
        row = np.zeros((TILE_PX, NUM_COLUMNS * TILE_PX, 3), np.uint8)
        for column, (dice, stem, true) in enumerate(shown[start : start + NUM_COLUMNS]):
            image = cv2.imread(str(predictions / "overlays" / f"{stem}.png"))
            assert image is not None
            outlines, _ = cv2.findContours(
                true.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE
            )
            cv2.drawContours(image, outlines, -1, GREEN, thickness=1)
            scale = TILE_PX / max(image.shape)
            tile = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            caption = f"{dice:.2f} {stem[-24:]}"
            cv2.putText(tile, caption, (3, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, GREEN, 1)
            row[: tile.shape[0], column * TILE_PX :][:, : tile.shape[1]] = tile
        rows.append(row)
    cv2.imwrite(str(sheet), np.vstack(rows))
    print(f"{len(shown)} of {len(tiles)} test images, the worst first: {sheet}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="OUTPUT_DIR")
    parser.add_argument("--overlays", action="store_true", help="predict the test images too")
    options = parser.parse_args()
    rows = [row(folder) for folder in options.folders]
    sys.stdout.write(tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True))
    sys.stdout.write("\n")
    for confirmed in (folder / "confirm.md" for folder in options.folders):
        if confirmed.exists():
            sys.stdout.write(f"\n{confirmed.read_text(encoding='utf-8')}")
    for folder in options.folders if options.overlays else ():
        draw(folder)


if __name__ == "__main__":
    main()
