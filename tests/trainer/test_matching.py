"""Which mask belongs to which image, in folders as people have them, and what is not used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from support import one_error, write_discs
from worker import Worker, write_json, write_png

from hpo.data.cli import main as data_main
from hpo.dataset.split import split_validation
from hpo.dataset.survey import find_data
from trainer.cli import main
from trainer.data.images import list_samples
from trainer.errors import DataError
from trainer.networks import network_json

ANY = np.zeros((4, 4), np.uint8)
DRY = ("--num-trials", "1", "--layers", "unet:width=4,depth=2", "--resize", "32,32", "--dry-run")


def write(folder: Path, *names: str) -> Path:
    for name in names:
        write_png(folder / name, ANY)
    return folder


def paired(inputs: Path, targets: Path) -> dict[str, str]:
    return {pair.name: pair.target_name for pair in list_samples(inputs, targets, "data.")}


# --- an image is never its own mask ------------------------------------------------------------


def test_images_and_masks_of_one_folder_are_told_apart(tmp_path: Path) -> None:
    write(tmp_path, "a.png", "a_mask.png", "b.jpg", "b_seg.png")
    assert paired(tmp_path, tmp_path) == {"a.png": "a_mask.png", "b.jpg": "b_seg.png"}


def test_image_is_never_its_own_mask(tmp_path: Path, worker: Worker, discs: Path) -> None:
    with pytest.raises(DataError, match=r"2 of 2 images in .* have no mask"):
        paired(write(tmp_path, "a.png", "b.png"), tmp_path)
    images = str(discs / "train/inputs")
    assert "have no mask" in worker(data=discs, data__target_path=images).error()
    for name in ("a.png", "b.png"):
        (tmp_path / "links").mkdir(exist_ok=True)
        (tmp_path / "links" / name).symlink_to(tmp_path / name)
    with pytest.raises(DataError, match="have no mask"):
        list_samples(tmp_path, tmp_path / "links", "data.", follow_symlinks=True)


def test_array_is_never_its_own_target_and_can_be_named(tmp_path: Path, worker: Worker) -> None:
    rng = np.random.default_rng(0)
    masks = (np.indices((6, 8, 8)).sum(0) > 9).astype(np.uint8)
    images = rng.random((6, 8, 8), np.float32)
    names = [f"s{index}" for index in range(6)]
    np.savez(
        tmp_path / "set.npz",
        **{f"images/{name}": image for name, image in zip(names, images, strict=True)},
        **{f"masks/{name}": mask for name, mask in zip(names, masks, strict=True)},
    )
    paths: dict[str, object] = {
        key: str(tmp_path / "set.npz")
        for key in ("input_path", "target_path", "test_input_path", "test_target_path")
    } | {"type": "numpy", "target_is_mask": True}
    error = worker(data=paths).error()
    assert "set.npz[images/s0] is an input and its own target: name the arrays" in error
    for key in paths:
        if key.endswith("_path"):
            kind = "images" if "input" in key else "masks"
            paths[key] = str(tmp_path / "set.npz" / kind)
    worker(data=paths).succeeded()
    paths["target_path"] = str(tmp_path / "set.npz/maskes")
    assert "no array 'maskes' in" in worker(data=paths).error()


# --- several masks of one image ----------------------------------------------------------------


@pytest.mark.parametrize(
    "masks", [("a_mask.png", "a_mask_1.png"), ("a.png", "a_mask.png"), ("a_mask.png", "a_gt.tif")]
)
def test_several_masks_of_an_image_are_refused_not_dropped(tmp_path: Path, masks) -> None:
    write(tmp_path / "inputs", "a.png")
    write(tmp_path / "targets", *masks)
    with pytest.raises(DataError, match=r"a\.png: several masks: .*; keep one, or join them") as e:
        paired(tmp_path / "inputs", tmp_path / "targets")
    assert all(mask in str(e.value) for mask in masks)


def test_names_that_end_like_masks_are_the_masks_of_their_own_images(tmp_path: Path) -> None:
    names = ("a.png", "a_mask.png", "a_mask_1.png", "a_1.png")
    write(tmp_path / "inputs", *names)
    write(tmp_path / "targets", *names)
    assert paired(tmp_path / "inputs", tmp_path / "targets") == {name: name for name in names}


# --- what is not used --------------------------------------------------------------------------


def test_files_that_no_pair_uses_are_counted(discs, tmp_path, worker, run, capsys) -> None:
    data = Path(shutil.copytree(discs, tmp_path / "data"))
    for name in ("p.webp", "q.webp", "r.jp2"):
        (data / "train/inputs" / name).write_bytes(b"-")
    (data / "train/inputs/notes.txt").write_text("-")
    write(data / "train/targets", "of nothing.png")
    data_main(["check", str(data), "--sheet", str(tmp_path / "s.png")])
    said = [
        capsys.readouterr().out,
        worker(data=data).succeeded().out,
        run("rml-optimize", "--data", str(data), *DRY).stdout,
    ]
    for text in (" ".join(text.split()) for text in said):
        assert "1 .jp2, 2 .webp" in text
        assert "1 .txt" not in text
        assert "of nothing.png" in text


def test_jfif_is_the_jpeg_that_it_is(tmp_path: Path) -> None:
    (tmp_path / "inputs").mkdir()
    Image.fromarray(ANY).save(tmp_path / "inputs/a.jfif", "JPEG")
    write(tmp_path / "targets", "a.png")
    assert paired(tmp_path / "inputs", tmp_path / "targets") == {"a.jfif": "a.png"}


# --- folders in folders ------------------------------------------------------------------------


@pytest.fixture
def nested(tmp_path: Path) -> Path:
    """The discs in folders of classes, with the same file names in each."""
    write_discs(tmp_path / "flat", num_train=8, num_test=4)
    root = tmp_path / "nested"
    for part in ("train", "test"):
        for kind in ("inputs", "targets"):
            files = sorted((tmp_path / "flat" / part / kind).iterdir())
            for index, path in enumerate(files):
                target = root / part / kind / "AB"[index % 2] / f"{index // 2}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                path.rename(target)
    return root


def test_folders_of_classes_are_searched_and_predictions_are_named_after_them(
    nested: Path, worker: Worker, tmp_path: Path
) -> None:
    for hidden in (".ipynb_checkpoints", ".thumbnails/A"):
        write(nested / "test/inputs" / hidden, "0.png")
    output = str(tmp_path / "predicted")
    result = worker(data=nested, data__test_output_path=output).succeeded()
    assert len(result.losses) == 2
    with h5py.File(tmp_path / "predicted/output_1.h5") as file:
        assert {group: sorted(file[group]) for group in file} == {
            "A": ["0.png", "1.png"], "B": ["0.png", "1.png"],
        }  # fmt: skip
        assert file["A"]["0.png"].shape == (1, 32, 32)


def test_images_in_folders_are_predicted_and_our_own_results_are_no_images(
    nested: Path, tmp_path: Path, worker: Worker
) -> None:
    worker(data=nested, checkpoints={"save": "model/"}).succeeded()
    config = json.loads((tmp_path / "config.json").read_text())
    model = tmp_path / "model"
    config["neural_network"]["checkpoints"] = {"load": str(model / "model_checkpoint_1.pt")}
    network = network_json("unet:width=2,depth=1", (32, 32, 1), 1)
    config["neural_network"]["layers"] = str(write_json(model / "layers.json", network))
    write_json(model / "config.json", config)
    images = nested / "test/inputs"
    for _ in range(2):  # the second time its first results lie among the images
        arguments = ["--predict", str(model), "--images", str(images), "--out", f"{images}/out"]
        assert main(arguments) == 0
        found = sorted(p.relative_to(images / "out") for p in (images / "out").rglob("*.png"))
        assert list(map(str, found)) == [
            f"{kind}/{folder}/{name}.png"
            for kind in ("masks", "overlays")
            for folder in "AB"
            for name in "01"
        ]


def test_search_splits_and_checks_folders_in_folders(nested: Path, tmp_path: Path, run) -> None:
    split = split_validation(find_data(nested, needs_test=True), tmp_path / "split", fraction=0.25)
    files = sorted(path.relative_to(split.root).as_posix() for path in split.root.rglob("*.png"))
    assert len(files) == 16
    assert sum(name.startswith("validation/inputs/") for name in files) == 2
    result = run("rml-optimize", "--data", str(nested), *DRY, "--select-on", "validation")
    assert "dry run: data, network and settings fit together" in result.stdout
    assert data_main(["check", str(nested), "--sheet", str(tmp_path / "s.png"), "--json"]) == 0


def test_folder_that_is_a_link_to_elsewhere_is_refused(nested: Path, tmp_path: Path, run) -> None:
    (nested / "train/inputs/A").rename(tmp_path / "A")
    (nested / "train/inputs/A").symlink_to(tmp_path / "A")
    error = one_error(run("rml-optimize", "--data", str(nested), *DRY))
    assert "is a link that leaves the folder" in error
    result = run("rml-optimize", "--data", str(nested), *DRY, "--set", "data.follow_symlinks=true")
    assert result.returncode == 0, result.stderr


def test_same_name_in_two_folders_is_two_images(nested: Path, capsys, tmp_path: Path) -> None:
    data_main(["check", str(nested), "--sheet", str(tmp_path / "s.png"), "--json"])
    assert json.loads(capsys.readouterr().out)["num_pairs"] == {"train": 8, "test": 4}
