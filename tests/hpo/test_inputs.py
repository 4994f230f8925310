"""Networks and files as people hand them over: with marks, as whole models, misspelt."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import pytest
from support import one_error

from studies.prepare.groups import read_groups
from trainer.networks import network_json

BOM = b"\xef\xbb\xbf"
DRY = ("--resize", "32,32", "--no-gpu", "--num-trials", "1", "--dry-run")


@pytest.fixture
def network() -> str:
    return json.dumps(network_json("unet:width=4,depth=2", (32, 32, 1), 1))


def test_files_that_begin_with_a_byte_order_mark_are_read(
    run, discs: Path, tmp_path: Path, network: str
) -> None:
    (tmp_path / "layers.json").write_bytes(BOM + network.encode())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/study.toml").write_bytes(
        BOM + b'title = "x"\n[config]\n"optimizer.type" = "Adam"\n"loss.function" = "Dice"\n'
        b'[[search]]\nkey = "optimizer.learning_rate"\nrange = [0.001, 0.01]\n'
    )
    (tmp_path / "url").write_bytes(BOM + f"sqlite:///{tmp_path}/x.db\n".encode())
    result = run(
        "rml-optimize", "--study", "mine", "--data", discs, *DRY, "--layers", "layers.json",
        "--storage-file", "url",
    )  # fmt: skip
    assert "dry run: data, network and settings fit together" in result.stdout, result.stderr
    assert "no such file: " in one_error(run("rml-study", "list", "--storage-file", "url"))


def test_groups_that_a_spreadsheet_has_saved_are_read(tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_bytes(BOM + b"name,group,part\r\na,anna,train\r\n")
    assert read_groups(tmp_path) == {"a": "anna"}


def test_whole_model_is_a_network(run, discs: Path, tmp_path: Path, network: str) -> None:
    with h5py.File(tmp_path / "model.h5", "w") as file:
        file.attrs["model_config"] = network
    result = run("rml-optimize", "--data", discs, *DRY, "--layers", "model.h5")
    assert "dry run: data, network and settings fit together" in result.stdout, result.stderr
    (written,) = (tmp_path / "runs").glob("*/inputs/layers_*.json")
    assert json.loads(written.read_text()) == json.loads(network)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--layers", "unett"), "no such file, and no built-in network; did you mean 'unet'?"),
        (("--set", "batch_size=4"), "batch_size: unknown key; did you mean 'data.batch_size'?"),
        (("--set", "momentum=0.9"), "did you mean 'optimizer.momentum'?"),
        (
            ("--search", "layers=unet:width=8,depth=3,unet:width=4,depth=2"),
            'into double quotes: --search \'layers="unet:width=8,depth=3","unet:width=4,depth=2"',
        ),
    ],
)
def test_slip_of_the_pen_is_answered_with_what_was_meant(run, discs, arguments, words) -> None:
    assert words in one_error(run("rml-optimize", "--data", discs, *DRY, *arguments))


def test_networks_with_several_options_are_searched_in_quotes(run, discs: Path) -> None:
    spec = 'layers="unet:width=4,depth=2",unet:width=8'
    result = run("rml-optimize", "--data", discs, *DRY, "--search", spec)
    assert "unet:width=4,depth=2, unet:width=8" in result.stdout, result.stderr
