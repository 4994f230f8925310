"""A whole search as a user runs it, with the real worker."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from support import Run, list_acc

TUTORIAL_KEYS = ["max_acc", "optimizer", "lr", "loss", "epoch_max_acc"]


@pytest.fixture(scope="module")
def searched(discs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run two trials of two epochs in the study's folder, as the tutorial does; return both."""
    import subprocess

    from support import BIN, clean_environment

    folder = tmp_path_factory.mktemp("search") / "a 'quoted' folder"
    shutil.copytree(discs, folder / "data")
    result = subprocess.run(
        [
            BIN / "rml-optimize", "--num-trials", "2", "--num-epochs", "2", "--launcher", "local",
            "--layers", "unet:width=4,depth=2", "--resize", "32,32", "--set",
            "data.batch_size=4", "--no-gpu", "--lr-scheduler", "--select-on", "validation",
        ],
        cwd=folder, env=clean_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return folder, result.stdout


def test_search_leaves_the_tutorials_files(searched: tuple[Path, str]) -> None:
    folder, output = searched
    entries = list_acc(folder)
    assert len(entries) == 2
    for number, entry in enumerate(entries):
        assert list(entry)[:5] == TUTORIAL_KEYS
        assert entry["number"] == number
        assert entry["optimizer"] in ("Adam", "RMSprop", "SGD")
        assert 0.001 <= entry["lr"] <= 0.01
        assert 1 <= entry["epoch_max_acc"] <= 2
    names = {path.name for path in (folder / "best_model").iterdir()}
    assert {"best_model_file.pt", "config.json", "layers.json", "trial.json"} <= names
    assert "optimistic" not in output
    assert "test images, used for this only" in output
    assert "error" not in output.lower()


def test_weights_of_imagenet_by_the_name_of_their_package(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    result = run(
        "rml-optimize", "--data", discs, "--layers", "efficientunet", "--num-trials", 1,
        "--num-epochs", 1, "--transfer-learning", "efficientnet-lite0", "--resize", "32,32",
        "--no-gpu", "--launcher", "local",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    (log,) = tmp_path.glob("runs/*/trial_00000/*/worker.log")
    assert "Loaded 240 parameters from" in log.read_text()


def test_last_line_of_a_search_is_the_command_for_a_figure_to_report(
    searched: tuple[Path, str], run: Run
) -> None:
    folder, output = searched
    program, *arguments = shlex.split(output.splitlines()[-1])
    result = run(Path(program).name, *arguments, "--top", 1, "--seeds", 1, cwd=folder)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "dice_dataset" in (folder / "confirm.md").read_text()


def test_checkpoints_of_trials_do_not_stay_on_the_disk(searched: tuple[Path, str]) -> None:
    folder, _ = searched
    assert not list((folder / "runs").rglob("trial_*/**/*.pt"))


def test_images_are_decoded_once_for_all_trials(searched: tuple[Path, str]) -> None:
    folder, _ = searched
    logs = [path.read_text() for path in (folder / "runs").glob("*/trial_*/*/worker.log")]
    assert len(logs) in (
        3,
        4,
    )  # one of the two was paused and went on, or first one, then the other
    assert sum("Image cache: " in log for log in logs) == len(logs)
    assert sum("decoded into" in log for log in logs) == 1


def test_moved_best_model_reproduces_the_recorded_dice(
    searched: tuple[Path, str], run: Run, tmp_path: Path
) -> None:
    folder, _ = searched
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder / "best_model", moved)
    recorded = json.loads((moved / "trial.json").read_text())
    result = run(
        "rmldnn", "--config=", "config.json", "--set", "data.test_output_path=out", cwd=moved
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].endswith("All done (return value = 0).")
    accuracy = float((moved / "out_test.txt").read_text().split()[-1])
    assert accuracy == pytest.approx(recorded["dice_dataset"], abs=1e-6)
    metrics = json.loads((moved / "metrics.jsonl").read_text())
    assert metrics["dice_per_image"] == pytest.approx(recorded["dice_per_image"], abs=1e-6)

    # The same figure by hand, from the predictions and the masks alone.
    config = json.loads((moved / "config.json").read_text())["neural_network"]
    masks = Path(config["data"]["test_target_path"])
    both = total = 0
    with h5py.File(moved / "out/output_1.h5") as file:
        for name in file:
            mask = cv2.imread(str(masks / name), cv2.IMREAD_UNCHANGED) > 0
            predicted = file[name][0] > 0.5
            both, total = both + (mask & predicted).sum(), total + mask.sum() + predicted.sum()
    assert 2 * both / total == pytest.approx(recorded["dice_dataset"], abs=1e-6)


def test_inference_of_the_breast_tutorial_gives_the_recorded_dice(
    searched: tuple[Path, str], run: Run
) -> None:
    """Its config_test.json, its lines that read the predictions; 32x32 stands for its 256x256."""
    folder, _ = searched
    shutil.copy(folder / "best_model/layers.json", folder / "layers_resunet.json")
    config = {
        "layers": "./layers_resunet.json",
        "checkpoints": {"load": "./best_model/best_model_file.pt"},
        "data": {
            "type": "images",
            "test_input_path": "./data/test/inputs/",
            "test_target_path": "./data/test/targets/",
            "test_output_path": "./predictions/",
            "test_batch_size": 16,
            "target_grayscale": True,
            "target_is_mask": True,
            "transforms": [{"resize": [32, 32]}],
            "input_grayscale": True,  # these images are, and so is the network
        },
        "loss": {"function": "BCE", "source": "sigmoid"},
    }
    (folder / "config_test.json").write_text(json.dumps({"neural_network": config}))
    result = run("rmldnn", "--config=config_test.json", cwd=folder)
    assert result.returncode == 0, result.stderr
    recorded = json.loads((folder / "best_model/test.json").read_text())
    accuracy = float(result.stdout.rsplit("Accuracy: ", 1)[1].split()[0])
    assert accuracy == pytest.approx(recorded["dice_dataset"], abs=5e-4)  # three digits
    shown = {}
    pred = h5py.File(folder / "predictions/output_1.h5", "r")
    for dataset in pred:
        shown[dataset] = pred[dataset][0, :, :].round()
    pred.close()
    assert sorted(shown) == sorted(path.name for path in (folder / "data/test/inputs").iterdir())
    assert all(image.shape == (32, 32) for image in shown.values())


def test_workers_thin_their_log_and_the_best_model_does_not(searched: tuple[Path, str]) -> None:
    folder, _ = searched
    written = [*folder.glob("runs/*/trial_*/attempt_*/config.json")]
    assert written
    for path in written:
        assert json.loads(path.read_text())["neural_network"]["log_interval_s"] == 2.0
    best = json.loads((folder / "best_model/config.json").read_text())["neural_network"]
    assert "log_interval_s" not in best
    assert Path(best["written_at"]).samefile(folder / "best_model")


def test_predictions_are_the_contracts(searched: tuple[Path, str], run: Run) -> None:
    folder, _ = searched
    result = run(
        "rmldnn", "--config=best_model/config.json", "--set", "data.test_output_path=p", cwd=folder
    )
    assert result.returncode == 0, result.stderr
    with h5py.File(folder / "p/output_1.h5") as file:
        shapes = {file[name].shape for name in file}
        values = np.concatenate([file[name][()].ravel() for name in file])
    assert shapes == {(1, 32, 32)}
    assert values.min() >= 0
    assert values.max() <= 1


def test_same_command_again_runs_nothing(searched: tuple[Path, str], run: Run) -> None:
    folder, _ = searched
    before = (folder / "list_acc.json").read_text()
    again = run(
        "rml-optimize", "--num-trials", "2", "--num-epochs", "2", "--launcher", "local",
        "--layers", "unet:width=4,depth=2", "--resize", "32,32", "--set", "data.batch_size=4",
        "--no-gpu", "--lr-scheduler", "--select-on", "validation", cwd=folder,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert " started" not in again.stdout
    assert (folder / "list_acc.json").read_text() == before


def test_status_and_best_read_the_study(searched: tuple[Path, str], run: Run) -> None:
    folder, output = searched
    best = json.loads(run("rml-study", "best", "--json", cwd=folder).stdout)
    assert best["test"] == json.loads((folder / "best_model/test.json").read_text())
    (line,) = [line for line in output.splitlines() if "used for this only" in line]
    shown = run("rml-study", "best", cwd=folder).stdout
    assert line.strip().removesuffix(", used for this only") in shown
    entries = list_acc(folder)
    assert best["dice_dataset"] == max(entry["max_acc"] for entry in entries)
    status = json.loads(run("rml-study", "status", "--json", cwd=folder).stdout)
    assert sum(status["states"].values()) == 2
    listed = json.loads(run("rml-study", "list", "--json", cwd=folder).stdout)
    assert listed[0]["finished"] == 2
    assert listed[0]["study"] == folder.name or os.sep not in listed[0]["study"]
