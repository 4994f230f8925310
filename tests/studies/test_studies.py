"""The ready-made studies: what they declare, a dry run without data, a search from the archive."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from studies_archives import Rml, write_busi, write_kaggle_3m, write_pets
from support import REAL, Run, list_acc, one_error, require, write_discs
from test_prepare_medical import write_challenge, write_jsrt

from hpo.cli import main as optimize_main
from hpo.plan.studyfile import find_study, load_study

FAST = ("jsrt", "oxford_pets")
LOCAL = ("--no-gpu", "--launcher", "local")
# The driver silences it once, at import; pytest turns it on again for each test.
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

STUDIES = {
    "breast_cancer": write_busi,
    "brain_mri": write_kaggle_3m,
    "oxford_pets": write_pets,
    "sunnybrook": write_challenge,
    "jsrt": write_jsrt,
}

# What each study tries before it samples, as its settings show it.
FIRST = {
    "breast_cancer": [
        "type=Adam learning_rate[Adam]=0.001 function=Dice",
        "type=RMSprop learning_rate[RMSprop]=0.001 function=Dice",
        "type=SGD learning_rate[SGD]=0.1 function=Dice",
        "type=Adam learning_rate[Adam]=0.0014 function=BCE",
    ],
    "brain_mri": [
        'type=Adam learning_rate[Adam]=0.0001 lr_scheduler={"type": "Exponential", "gamma": 0.95} '
        "function=Dice"
    ],
    "oxford_pets": ["type=RMSprop learning_rate[RMSprop]=0.001 function=Dice"],
    "sunnybrook": ["layers=fcn8s type=SGD learning_rate[SGD]=0.0001 momentum[SGD]=0.9"],
    "jsrt": [
        "layers=light_unet type=Adam learning_rate=0.001 "
        'lr_scheduler={"type": "Exponential", "gamma": 1.0} function=NLL'
    ],
}
SMALL_FIRST = {
    "breast_cancer": [FIRST["breast_cancer"][index] for index in (0, 1, 3)],
    "brain_mri": [],
    "oxford_pets": [],
    "sunnybrook": [],
    "jsrt": [],
}


def tried_first(text: str) -> list[str]:
    """Return what a table of settings says of what is tried first."""
    rows: list[list[str]] = []
    for line in text.splitlines():
        if line.startswith("|"):
            name, value = (cell.strip() for cell in line.strip("|").split("|", 1))
            rows = [*rows, [name, value]] if name else [*rows[:-1], [*rows[-1], value]]
    return [" ".join(values) for name, *values in rows if name == "tried first"]


@pytest.fixture
def optimize(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Rml:
    """Run `rml-optimize` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        code = optimize_main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, out, err)

    return call


@pytest.mark.parametrize("name", STUDIES)
def test_dry_run_needs_no_data(optimize: Rml, tmp_path: Path, name: str) -> None:
    result = optimize("--study", name, "--dry-run")
    assert result.returncode == 0, result.stderr
    assert "published result" in result.stdout
    assert "network and settings fit the data that the study describes" in result.stdout
    text = result.stdout
    config = sampled_config(text)
    study = load_study(find_study(name))
    assert config["data"]["transforms"][0] == {"resize": list(study.resize)}
    assert len(config["data"]["transforms"]) == 1 + len(study.transforms)
    assert {path.name for path in (tmp_path / "runs" / name).iterdir()} == {"inputs"}
    assert tried_first(text) == FIRST[name]


@pytest.mark.parametrize("name", STUDIES)
def test_without_data_the_publisher_is_named(optimize: Rml, name: str) -> None:
    source = load_study(find_study(name)).source
    assert source is not None
    error = one_error(optimize("--study", name))
    assert source.page in error
    assert source.prepare in error
    assert source.prepare.startswith(f"rml-data prepare {name} --source ")


@pytest.mark.parametrize("name", STUDIES)
def test_study_selects_on_validation_and_gives_each_optimizer_its_rate(name: str) -> None:
    study = load_study(find_study(name))
    assert study.select_on == "validation"
    assert study.published is not None
    assert study.data is not None
    rates = {d.when: d.values for d in study.space().dimensions
             if d.key == "optimizer.learning_rate"}  # fmt: skip
    optimizers = study.space().choices("optimizer.type")
    if "LARS" in optimizers:
        lars, adam = (rates["optimizer.type", key] for key in ("LARS", "Adam"))
        assert lars.low > adam.high
    if None not in rates:
        assert {when[1] for when in rates if when} == set(optimizers)


@pytest.mark.parametrize(
    "name",
    [
        "jsrt",  # its weights are a rule, which only masks can make numbers of
        "oxford_pets",
        *(pytest.param(n, marks=pytest.mark.slow) for n in STUDIES if n not in FAST),
    ],
)
def test_study_runs_from_the_publishers_archive(
    run: Run, rml_data: Rml, optimize: Rml, tmp_path: Path, name: str
) -> None:
    STUDIES[name](tmp_path / "raw")
    result = rml_data("prepare", name, "--source", "raw", "--out", "data")
    assert result.returncode == 0, result.stderr
    assert rml_data("check", "data").returncode == 0
    loss = ("--loss", "NLL") if name == "jsrt" else ()
    result = run("rml-optimize", "--study", name, *loss, "--num-trials", 1, "--num-epochs", 1,
                 "--layers", "unet:width=4,depth=2", "--resize", "32,32", "--jobs", 1,
                 "--set", "data.batch_size=32", *LOCAL)  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(list_acc(tmp_path)) == 1
    config = json.loads((tmp_path / "best_model/config.json").read_text())["neural_network"]
    assert config["data"]["transforms"][0] == {"resize": [32, 32]}
    assert (config["loss"].get("weight") is not None) == (name == "jsrt")
    assert "used for this only" in result.stdout
    check_offered_commands(run, tmp_path, result.stdout)


def check_offered_commands(run: Run, folder: Path, printed: str) -> None:
    """Run what the search has printed as the next commands, and what the README lists."""
    offered = [shlex.split(line) for line in printed.splitlines() if line.startswith("  /")]
    assert [Path(words[0]).name for words in offered] == ["rmldnn", "rmldnn", "rml-study"]
    images = Path(offered[0][offered[0].index("--images") + 1])
    number = len([path for path in (folder / images).rglob("*") if path.is_file()])
    commands = [
        *([Path(words[0]).name, *words[1:]] for words in offered[:2]),
        [*("rml-study", "confirm"), *offered[2][2:], "--top", "1", "--seeds", "1", *LOCAL],
        ["rml-study", "predict", "--images", str(images), "--out", "again", *LOCAL],
        ["rml-study", "replay", "--trial", "0", *LOCAL],
        ["rml-study", "export", "--to", "results"],
        ["rml-study", "plot"],
        ["rmldnn", "--config=best_model/config.json", "--export", "best.h5"],
        ["rmldnn", "--config=best_model/config.json", "--export", "best.onnx"],
    ]
    for words in commands:
        result = run(*words)
        assert result.returncode == 0, (words, result.stdout + result.stderr)
        assert "Traceback" not in result.stderr
    for masks in ("predictions/masks", "again/masks"):
        assert len(list((folder / masks).rglob("*.png"))) == number
    assert (folder / "results/best_model/best_model_file.pt").is_file()
    assert (folder / "confirm.md").is_file()
    assert (folder / "plots/history.png").is_file()


# --- a study of one's own -------------------------------------------------------------------


def test_new_study_fits_the_data(optimize: Rml, tmp_path: Path) -> None:
    write_discs(tmp_path / "my data", size=100)
    result = optimize("--new-study", "my study", "--data", "my data")
    assert result.returncode == 0, result.stderr
    assert "--study 'my study' --data 'my data' --dry-run" in result.stdout
    study = load_study(tmp_path / "my study")
    assert study.resize == (96, 96)
    assert study.space().choices("loss.function") == ("BCE", "Dice")
    result = optimize("--study", "my study", "--data", "my data", "--dry-run")
    assert result.returncode == 0, result.stderr


def test_new_study_knows_rare_and_many_classes(optimize: Rml, tmp_path: Path) -> None:
    for folder, values in (("rare", (0, 255)), ("many", (0, 1, 2, 3))):
        write_discs(tmp_path / folder)
        for index, path in enumerate((tmp_path / folder).glob("*/targets/*")):
            mask = np.zeros((32, 32), np.uint8)
            if folder == "rare":
                mask[:4, :8] = 255
            else:
                mask[8:] = values[index % 4]
            cv2.imwrite(str(path), mask)
        assert optimize("--new-study", f"study {folder}", "--data", folder).returncode == 0
    losses = {
        folder: load_study(tmp_path / f"study {folder}").space().choices("loss.function")
        for folder in ("rare", "many")
    }
    assert losses == {"rare": ("Dice", "Focal"), "many": ("NLL", "Dice")}


def test_new_study_overwrites_none(optimize: Rml, tmp_path: Path) -> None:
    write_discs(tmp_path / "data")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/study.toml").write_text("mine")
    assert "already" in one_error(optimize("--new-study", "mine"))
    assert (tmp_path / "mine/study.toml").read_text() == "mine"


def test_layers_of_the_command_line_win_over_those_of_the_study(optimize: Rml) -> None:
    result = optimize("--study", "jsrt", "--layers", "unet:width=4,depth=2", "--dry-run")
    assert result.returncode == 0, result.stderr
    assert "search layers" not in result.stdout
    assert "unet:width=4,depth=2: " in result.stdout


@pytest.mark.parametrize(
    "option", [("--optimizers", "adam"), ("--set", "optimizer.type=Adam")], ids=lambda o: o[0]
)
def test_fixed_optimizer_is_searched_in_its_own_range(
    optimize: Rml, option: tuple[str, str]
) -> None:
    result = optimize("--study", "breast_cancer", "--dry-run", *option)
    assert result.returncode == 0, result.stderr
    searched = [line.split("|")[1].strip() for line in result.stdout.splitlines()
                if line.startswith("| search")]  # fmt: skip
    assert sorted(searched) == ["search loss.function", "search optimizer.learning_rate"]
    optimizer = sampled_config(result.stdout)["optimizer"]
    assert optimizer["type"] == "Adam"
    assert 1e-4 <= optimizer["learning_rate"] <= 1e-2


# --- the form for a machine without a GPU ----------------------------------------------------


@pytest.mark.parametrize("name", ["breast_cancer", "brain_mri", "oxford_pets", "sunnybrook"])
def test_small_form_fits_the_data_and_keeps_the_rest_of_the_study(
    optimize: Rml, name: str
) -> None:
    result = optimize("--study", name, "--small", "--dry-run", "--num-epochs", 3)
    assert result.returncode == 0, result.stderr
    text = result.stdout
    config = sampled_config(text)
    study = load_study(find_study(name))
    small = load_study(find_study(name), small=True)
    assert small.num_trials < study.num_trials
    assert config["num_epochs"] == 3  # options win
    size = {"resize": list(small.resize)}
    assert config["data"]["transforms"] == [size, *map(plain, study.transforms)]
    assert config["data"]["batch_size"] < study.config["data.batch_size"]
    assert config["data"]["test_batch_size"] == study.config["data.test_batch_size"]
    assert small.group_by == study.group_by
    assert tried_first(text) == SMALL_FIRST[name]


@pytest.mark.parametrize(
    "name, options, kept",
    [
        ("breast_cancer", ("--optimizers", "adam"), [0, 3]),
        ("breast_cancer", ("--set", "loss.function=BCE"), [3]),
        ("breast_cancer", ("--lr-range-max", "0.01"), [0, 1, 3]),
        ("brain_mri", ("--search", "optimizer.learning_rate=1e-3..1e-2:log"), []),
        ("sunnybrook", ("--layers", "unet:width=4,depth=2"), []),
        ("jsrt", ("--optimizers", "adamw"), []),
    ],
)
def test_what_is_tried_first_is_passed_over_where_an_option_narrows_the_space(
    optimize: Rml, name: str, options: tuple[str, ...], kept: list[int]
) -> None:
    result = optimize("--study", name, "--dry-run", *options)
    assert result.returncode == 0, result.stderr
    shown = tried_first(result.stdout)
    assert len(shown) == len(kept)
    for text, index in zip(shown, kept, strict=True):
        rate = re.findall(r"=(0\.\d+)", FIRST[name][index])
        assert re.findall(r"=(0\.\d+)", text) == rate


def test_a_small_form_has_the_studys_first_unless_its_space_is_another(tmp_path: Path) -> None:
    folder = find_study("brain_mri")
    first = load_study(folder).first
    assert first and not load_study(folder, small=True).first
    text = (folder / "study.toml").read_text()
    (tmp_path / "study.toml").write_text(re.sub(r"(?s)\[\[small.search\]\].*", "", text))
    assert load_study(tmp_path, small=True).first == first


def test_chest_study_is_the_courses_and_small_enough_for_a_cpu(optimize: Rml) -> None:
    study, small = (load_study(find_study("jsrt"), small=each) for each in (False, True))
    assert study.space().choices("layers")[:3] == ("fcn", "large_fcn", "light_unet")
    assert (study.num_epochs, study.config["data.batch_size"]) == (50, 3)
    result = optimize("--study", "jsrt", "--small", "--dry-run")
    assert result.returncode == 0, result.stderr
    config = sampled_config(result.stdout)
    assert config["data"]["batch_size"] == 4
    assert config["data"]["transforms"] == [{"resize": [256, 256]}, {"random_affine": 0.1}]
    assert config["loss"]["function"] == "Dice"
    assert config["loss"].get("weight") is None
    assert config["num_epochs"] == small.num_epochs < study.num_epochs
    assert small.num_trials < study.num_trials
    assert small.layers == "unet:width=16,depth=4"
    assert tried_first(result.stdout) == SMALL_FIRST["jsrt"]


def test_chest_studys_names_are_those_of_the_channels() -> None:
    names = load_study(find_study("jsrt")).config["data.class_names"]
    assert names[0] == "background"
    paths = sorted((REAL / "jsrt/bits").glob("*.png"))[:20]
    if not paths:
        require("data", f"no chest X-rays in {REAL}")
    bits = np.stack([cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in paths])
    middle = bits.shape[2] / 2
    areas = {}
    for channel, name in enumerate(names[1:]):
        mask = bits >> channel & 1
        areas[name] = int(mask.sum())
        row, column = (float(np.nonzero(mask)[axis].mean()) for axis in (1, 2))
        if name.startswith(("right", "left")):  # the patient's right is on the picture's left
            assert (column < middle) == name.startswith("right"), name
        assert (row < bits.shape[1] / 4) == name.endswith("clavicle"), name
    assert areas["right lung"] > areas["left lung"] > areas["heart"] > areas["right clavicle"]


@pytest.mark.parametrize(
    "options, start",
    [
        ((), "efficientnet-lite0"),
        (("--transfer-learning", "none"), "none, random"),
        (("--layers", "efficientunet:lite=0"), "efficientnet-lite0"),
        (("--layers", "unet", "--transfer-learning", "none"), "none, random"),
        (("--layers", "unet", "--transfer-learning", "w.pt"), "w.pt"),
    ],
)
def test_study_starts_from_its_own_weights_unless_told_otherwise(
    optimize: Rml, tmp_path: Path, options: tuple[str, ...], start: str
) -> None:
    (tmp_path / "w.pt").write_bytes(b"read by the workers")
    result = optimize("--study", "breast_cancer", "--small", "--dry-run", *options)
    assert result.returncode == 0, result.stderr
    assert re.search(rf"weights to start from +\| {re.escape(start)} ", result.stdout)
    assert ("load" in sampled_config(result.stdout)["checkpoints"]) == (start != "none, random")


@pytest.mark.parametrize("option", [("--layers", "unet"), ("--search", "layers=fcn,unet")])
def test_weights_of_a_package_are_refused_for_another_network(
    optimize: Rml, option: tuple[str, str]
) -> None:
    error = one_error(optimize("--study", "breast_cancer", "--small", "--dry-run", *option))
    assert "breast_cancer/study.toml: transfer_learning: the weights efficientnet-lite0" in error
    assert "or --transfer-learning none" in error


def test_weights_beside_a_study(optimize: Rml, tmp_path: Path) -> None:
    write_discs(tmp_path / "data")
    assert optimize("--new-study", "mine", "--data", "data").returncode == 0
    path = tmp_path / "mine/study.toml"
    text = path.read_text()
    path.write_text(text.replace("resize", 'transfer_learning = "w.pt"\nresize', 1))
    (tmp_path / "w.pt").write_bytes(b"in the current folder, not the study's")
    error = one_error(optimize("--study", "mine", "--dry-run"))
    assert "mine/study.toml: transfer_learning: no such file: w.pt" in error
    (tmp_path / "mine/w.pt").write_bytes(b"read by the workers")
    command = ("--study", "mine", "--data", "data", "--dry-run")
    assert "weights to start from | w.pt " in re.sub(" +", " ", optimize(*command).stdout)
    path.write_text(path.read_text() + '[small]\nlayers = "unet:width=4"\n')
    assert "| none, random " in optimize(*command, "--small").stdout


def test_small_form_of_a_study_of_ones_own(optimize: Rml, tmp_path: Path) -> None:
    write_discs(tmp_path / "data")
    error = one_error(optimize("--small", "--data", "data"))
    assert "add --study" in error
    assert optimize("--new-study", "mine", "--data", "data").returncode == 0
    error = one_error(optimize("--study", "mine", "--small", "--dry-run"))
    assert "study.toml has no [small]" in error
    assert "--layers unet:width=16,depth=4" in error
    with (tmp_path / "mine/study.toml").open("a") as file:
        file.write("[small]\nnum_trials = 2\nepochs = 3\n")
    error = one_error(optimize("--study", "mine", "--dry-run"))  # checked unasked too
    assert "[small]" in error
    assert "epochs" in error


def sampled_config(text: str) -> dict[str, Any]:
    """Return the config that a dry run has printed."""
    return json.loads(text[text.index("\n{\n") : text.rindex("\n}\n") + 3])["neural_network"]


def plain(transform: dict[str, object]) -> dict[str, object]:
    return json.loads(json.dumps(transform))


def test_every_ready_made_study_is_in_the_table() -> None:
    readme = (Path(__file__).parents[2] / "studies/README.md").read_text()
    for name in STUDIES:
        study = load_study(find_study(name))
        assert study.published is not None
        row = next(line for line in readme.splitlines() if f"--study {name}`" in line)
        assert f"{study.published.dice:.2f}"[:4] in row
        assert tomllib.loads((find_study(name) / "study.toml").read_text())["about"]
