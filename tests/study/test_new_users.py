"""What cost new users most: each at the command line, as they met it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from support import BIN, Run, clean_environment, one_error, write_discs

SMALL = (
    "--layers", "unet:width=4,depth=2", "--resize", "32,32", "--no-gpu", "--launcher", "local",
    "--jobs", "1", "--loss", "nll", "--optimizers", "adam", "--set", "data.batch_size=4",
)  # fmt: skip
LOCAL = ("--launcher", "local", "--no-gpu")
NAMES = ("background", "left", "right")


@pytest.fixture(scope="module")
def _classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trials on three named classes, and another study in the same database."""
    folder = tmp_path_factory.mktemp("classes")
    write_discs(folder / "data")
    for path in folder.glob("data/*/targets/*.png"):
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) // 255
        mask[:, 16:] *= 2
        cv2.imwrite(str(path), mask)
    for name in ("other", "s"):
        result = subprocess.run(
            [BIN / "rml-optimize", *SMALL, "--study-name", name, "--num-trials", "2",
             "--num-epochs", "3", "--select-on", "validation",
             "--set", f"data.class_names={json.dumps(NAMES)}"],
            cwd=folder, env=clean_environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert result.returncode == 0, result.stdout + result.stderr
    (folder / "printed.txt").write_text(result.stdout)
    return folder


@pytest.fixture
def classes(_classes: Path, tmp_path: Path) -> Path:
    """A copy of its folder."""
    folder = tmp_path / "classes"
    shutil.copytree(_classes, folder)
    return folder


def recorded(folder: Path, run_dir: str, epoch: int | None) -> dict[str, float]:
    """Return class -> Dice as the worker has recorded it."""
    path = max((folder / "runs/s").glob(f"{run_dir}/metrics.jsonl"))  # of the last attempt
    lines = path.read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    entry = next(e for e in entries if epoch in (None, e["epoch"]))
    return {name: figures["dice"] for name, figures in entry["per_class"].items()}


def test_each_class_has_its_dice_wherever_the_score_is(run: Run, classes: Path) -> None:
    best = json.loads(run("rml-study", "best", "--study-name", "s", "--json", cwd=classes).stdout)
    number, epoch = best["trial"], best["epoch"]
    searched = recorded(classes, f"trial_{number:05d}/attempt_*", epoch)
    tested = recorded(classes, f"test_of_trial_{number:05d}", None)
    assert tuple(searched) == NAMES
    assert best["dice_per_class"] == searched
    assert best["test"]["dice_per_class"] == tested
    for name, expected in (("trial.json", searched), ("test.json", tested)):
        entry = json.loads((classes / "best_model" / name).read_text())
        assert entry["dice_per_class"] == expected
        # the average that is the score
        assert np.mean(list(expected.values())) == pytest.approx(entry["dice_dataset"], abs=1e-6)

    def shown(figures: dict[str, float | None]) -> str:
        return ", ".join(f"{k} {'–' if v is None else f'{v:.4f}'}" for k, v in figures.items())

    printed = " ".join((classes / "printed.txt").read_text().split())
    assert f"dice_dataset of each class: {shown(searched)}" in printed
    assert f"each class: {shown(tested)}" in printed
    for command in (("show", "--trial", number), ("best",)):
        said = run("rml-study", *command, "--study-name", "s", cwd=classes).stdout
        assert shown(searched) in " ".join(said.split())
    result = run(
        "rml-study", "confirm", "--study-name", "s", "--top", 1, "--seeds", 1, *LOCAL, cwd=classes
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (path,) = classes.glob("runs/s/confirm/*/seed_1/result.json")
    figures = json.loads(path.read_text())["dice_per_class"]
    table = (classes / "confirm.md").read_text()
    assert all(f"Dice of {name}" in table for name in NAMES)
    assert all(f"{value:.4f}" in table for value in figures.values() if value is not None)


def test_commands_that_are_printed_work_when_pasted(classes: Path) -> None:
    """Two studies are in the database, and no file is left where one stands."""
    lines = (classes / "printed.txt").read_text().splitlines()
    commands = [line.strip() for line in lines if re.match(r"  \S*(rmldnn|rml-study) ", line)]
    assert any("confirm" in command and "--study-name s" in command for command in commands)
    assert any("validation part" in line for line in lines)
    before = {path.name for path in classes.iterdir()}
    for command in commands:
        if "confirm" in command:
            command += " --top 1 --seeds 1 --launcher local --no-gpu"
        done = subprocess.run(
            shlex.split(command), cwd=classes, env=clean_environment(), capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        if "--config" in command:
            score = json.loads((classes / "best_model/trial.json").read_text())["dice_dataset"]
            (said,) = re.findall(r"dice_dataset = ([\d.]+)", done.stdout)
            assert float(said) == pytest.approx(score, abs=1e-5)
            assert {path.name for path in classes.iterdir()} - before <= {"predictions"}


def test_every_command_takes_the_name_of_a_study(run: Run, classes: Path) -> None:
    both = run("rml-study", "list", "--json", cwd=classes)
    assert [entry["study"] for entry in json.loads(both.stdout)] == ["other", "s"]
    one = run("rml-study", "list", "--study-name", "s", "--json", cwd=classes)
    assert [entry["study"] for entry in json.loads(one.stdout)] == ["s"]
    assert "did you mean 's'" in one_error(
        run("rml-study", "list", "--study-name", "S", cwd=classes)
    )
    doctor = run("rml-study", "doctor", "--study-name", "s", "--json", cwd=classes)
    assert {"study": "OK"}.items() <= {
        f["topic"]: f["verdict"] for f in json.loads(doctor.stdout)
    }.items()
    helped = run("rml-study", "dashboard", "--help")
    assert "--study-name" in helped.stdout


def test_lists_of_both_studies_are_kept(classes: Path) -> None:
    for name, study in (("list_acc.json", "s"), ("list_acc-other.json", "other")):
        entries = json.loads((classes / name).read_text())
        assert [entry["study"] for entry in entries] == [study, study]
        assert list(entries[0])[:5] == ["max_acc", "optimizer", "lr", "loss", "epoch_max_acc"]


def test_one_image_is_predicted_like_a_folder(run: Run, classes: Path) -> None:
    image = classes / "data/test/inputs/img 00.png"
    args = ("--predict", "best_model", "--images", image, "--out", "one")
    done = run("rmldnn", *args, cwd=classes)
    assert done.returncode == 0, done.stderr
    every = ("--predict", "best_model", "--images", image.parent, "--out", "all")
    assert run("rmldnn", *every, cwd=classes).returncode == 0
    assert [path.name for path in (classes / "one/masks").iterdir()] == [image.name]
    alone, among = ((classes / f"{out}/masks" / image.name).read_bytes() for out in ("one", "all"))
    assert alone == among
    done = run(
        "rml-study", "predict", "--study-name", "s", "--images", image, "--out", "two", *LOCAL,
        cwd=classes,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (classes / "two/masks" / image.name).read_bytes() == alone
    text = classes / "data/readme.txt"
    text.write_text("no image")
    done = run("rmldnn", "--predict", "best_model", "--images", text, "--out", "no", cwd=classes)
    assert f"{text} is no image; expected .png" in one_error(done)


def test_exports_say_what_they_need(run: Run, classes: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    config = "--config=best_model/config.json"
    done = run("rmldnn", config, "--export", "best.onnx", cwd=classes)
    assert done.returncode == 0, done.stderr
    session = onnxruntime.InferenceSession(str(classes / "best.onnx"))
    said = session.get_modelmeta().custom_metadata_map
    assert json.loads(said["class_names"]) == list(NAMES)
    assert json.loads(said["mask_values"]) == [0, 1, 2]
    assert json.loads(said["input_size"]) == [32, 32]
    assert (said["layout"], said["channels"], said["scaling"]) == ("NCHW", "gray", "value / 255")
    # What it says is enough to get the masks of --predict.
    image = cv2.imread(str(classes / "data/test/inputs/img 00.png"), cv2.IMREAD_GRAYSCALE)
    inputs = cv2.resize(image, (32, 32))[np.newaxis, np.newaxis].astype(np.float32) / 255
    (output,) = session.run(None, {"image": inputs})
    args = ("--predict", "best_model", "--images", "data/test/inputs", "--out", "p")
    assert run("rmldnn", *args, cwd=classes).returncode == 0
    mask = cv2.imread(str(classes / "p/masks/img 00.png"), cv2.IMREAD_UNCHANGED)
    assert np.mean(output[0].argmax(0) == mask) > 0.999
    done = run("rmldnn", config, "--export", "best.h5", cwd=classes)
    assert "it holds weights alone" in done.stdout
    assert "layers.json" in done.stdout


def test_network_is_not_written_for_a_size_that_it_cannot_take(run: Run, tmp_path: Path) -> None:
    done = run("rmldnn", "--write-network", "unet", "--input", "250,250,3", "-o", "n.json")
    assert "--input 250,250,3: " in one_error(done)
    assert not (tmp_path / "n.json").exists()
    done = run("rmldnn", "--write-network", "unet", "--input", "256,256,3", "-o", "n.json")
    assert done.returncode == 0


def test_study_that_selected_on_test_is_told_what_can_be_done(
    run: Run, discs: Path, standin: str, tmp_path: Path
) -> None:
    searched = run(
        "rml-optimize", *SMALL[:5], "--data", discs, "--worker", standin, "--num-trials", 1,
        "--num-epochs", 2,
    )  # fmt: skip
    assert searched.returncode == 0, searched.stderr
    said = one_error(run("rml-study", "confirm"))
    assert "images that the study has never seen" in said
    assert "--select-on validation" in said


def test_a_trial_is_replayed_with_the_threads_that_it_had(run: Run, classes: Path) -> None:
    best = json.loads(run("rml-study", "best", "--study-name", "s", "--json", cwd=classes).stdout)
    threads = best["cpu"]["threads"]
    done = run(
        "rml-study", "replay", "--study-name", "s", "--trial", best["trial"], *LOCAL,
        "--tolerance", "0", cwd=classes,
    )  # fmt: skip
    assert "equal: no difference above 0.0e+00" in done.stdout, done.stdout + done.stderr
    (log,) = classes.glob("runs/s/replay_of_trial_*/*/worker.log")
    assert re.search(rf"Threads  : {threads}\b", log.read_text())


def test_no_command_has_brackets_that_zsh_would_expand() -> None:
    root = Path(__file__).parents[2]
    pages = {root / "README.md", *root.glob("docs/*.md"), *root.glob("studies/**/*.md")}
    pages.remove(root / "docs/reading.md")  # a table of what was printed
    sources = [*root.glob("hpo/**/*.py"), *root.glob("trainer/**/*.py")]
    for path in (*pages, *sources):
        for line in path.read_text().splitlines():
            for found in re.finditer(r"--(?:set|search) (\S*=\S*\[\S*)", line):
                assert found[1].startswith(("'", "{")), f"{path.name}: {line.strip()}"
            assert not re.search(r"pip install [^'\"]*\.\[", line), f"{path.name}: {line.strip()}"
            # The package is on no index.
            assert "'rml-optimize[" not in line, f"{path.name}: {line.strip()}"


def test_demo_installs_what_running_needs(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]

    def planned(goal: str, *settings: str) -> str:
        command = ["make", "-n", "-C", root, goal, f"VENV={tmp_path / 'venv'}", *settings]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert "--editable ." in planned("demo")
    assert "[dev]" not in planned("demo")
    assert "--extra-index-url https://there" in planned("demo", "TORCH_INDEX=https://there")
    assert "'.[dev]'" in planned("install")
