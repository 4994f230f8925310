"""`rml-data check`: what it says of a data folder, and what it finds wrong with one."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from support import data_section, write_disc

from hpo.cli import main as search
from hpo.data.cli import main
from hpo.dataset.datafolder import find_data
from hpo.dataset.split import split_validation
from trainer.config import parse_config
from trainer.data.dataset import load_data
from trainer.loading.batches import Batches
from trainer.setup.adapt import with_range


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve training and five test images of discs, 40 pixels wide."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    for part, number in (("train", 12), ("test", 5)):
        for index in range(number):
            write_disc(tmp_path / "data" / part, f"{part}_p{index // 2}_{index}.png", rng, 40)
    return tmp_path / "data"


def checked(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict]:
    code = main(["check", *map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_figures_are_those_of_the_pixels(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = checked(capsys, data)
    assert (code, found["problems"]) == (0, [])
    assert found["num_pairs"] == {"train": 12, "test": 5}
    assert found["sizes"] == {"40x40": 17}
    assert found["types"] == {"uint8 gray": 17}
    images = np.stack([cv2.imread(str(p), 0) for p in sorted(data.glob("*/inputs/*"))])
    masks = np.stack([cv2.imread(str(p), 0) for p in sorted(data.glob("*/targets/*"))])
    expected, _ = np.histogram(images, bins=16, range=(0, 256))
    np.testing.assert_allclose(found["histogram"], expected / images.size, atol=1e-4)
    assert found["levels"] == [images.min(), images.max()]
    shares = {entry["value"]: entry["pixel_share"] for entry in found["classes"]}
    assert shares == pytest.approx({0: (masks == 0).mean(), 255: (masks == 255).mean()})


def test_sheet_shows_the_outlines(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(data), "--sheet", "sheet.png"]) == 0
    assert "contact sheet: sheet.png" in capsys.readouterr().out
    sheet = cv2.imread("sheet.png")
    assert sheet.shape == (3 * (192 + 16), 6 * 192, 3)
    coloured = (sheet.max(axis=2).astype(int) - sheet.min(axis=2) > 100).sum()
    assert coloured > 17 * 60  # a ring around each disc
    assert main(["check", str(data), "--sheet", "again.png"]) == 0
    assert Path("sheet.png").read_bytes() == Path("again.png").read_bytes()


def test_rare_foreground_gets_advice(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in data.glob("*/targets/*"):
        mask = np.zeros((40, 40), np.uint8)
        mask[10:14, 10:18] = 255  # 2 %
        cv2.imwrite(str(path), mask)
    _, found = checked(capsys, data)
    (advice,) = (text for text in found["advice"] if "rare" in text)
    assert "rare mask value 255 (2.0% of all pixels)" in advice
    assert "--loss dice" in advice


@pytest.mark.parametrize("bits", [8, 16])
def test_advice_on_dark_images_fills_the_scale_when_it_is_followed(
    data: Path, capsys: pytest.CaptureFixture[str], bits: int
) -> None:
    for path in data.glob("*/inputs/*"):
        image = cv2.imread(str(path), 0)
        cv2.imwrite(str(path), image // 8 if bits == 8 else image.astype(np.uint16) * 4)
    _, found = checked(capsys, data)
    assert found["types"] == {f"uint{bits} gray": 17}
    transforms = [re.search(r"\{.*\}", text)[0] for text in found["advice"] if "normalize" in text]
    assert len(transforms) == (1 if bits == 8 else 0)  # the engine fits 16 bits by itself
    section = data_section(data, transforms=[json.loads(text) for text in transforms])
    network = parse_config(
        {"neural_network": {"layers": "unet", "data": section, "loss": {"function": "Dice"}}}, "c"
    )
    loaded = with_range(network, load_data(network.data, Path), None)
    batches = Batches(loaded.train, batch_size=12, device=torch.device("cpu"), continuous=False)
    inputs = next(batches.in_order()).inputs_NCHW
    assert (float(inputs.min()), float(inputs.max())) == pytest.approx((0, 1), abs=0.05)


def test_same_image_in_both_parts_is_a_problem(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("inputs", "targets"):
        shutil.copy(data / f"train/{kind}/train_p0_0.png", data / f"test/{kind}/new.png")
    code, found = checked(capsys, data)
    assert code == 1
    same = "1 image is in both parts: train_p0_0.png (train) = new.png (test); keep each in one"
    assert any(same in text for text in found["problems"])


def test_resaved_image_in_both_parts_is_a_problem(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = cv2.imread(str(data / "train/inputs/train_p0_0.png"), 0)
    cv2.imwrite(str(data / "test/inputs/new.jpg"), image)
    shutil.copy(data / "train/targets/train_p0_0.png", data / "test/targets/new.png")
    code, found = checked(capsys, data)
    assert code == 1
    pair = "1 pair of near-duplicates across the parts: train_p0_0.png (train) ~ new.jpg (test);"
    assert any(pair in text for text in found["problems"])


def test_patient_in_both_parts_is_a_problem(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = checked(capsys, data, "--group", r"_(p\d+)_")
    assert code == 1
    assert any("3 groups are in both parts: p0, p1, p2" in text for text in found["problems"])
    (data / "groups.csv").write_text(
        "name,group,part\ntrain_p0_0,anna,train\ntest_p0_0,anna,test\n"
    )
    code, found = checked(capsys, data)
    assert code == 1
    anna = "1 group is in both parts: anna (such as train_p0_0.png (train), test_p0_0.png (test));"
    assert any(anna in text for text in found["problems"])


def test_broken_and_lonely_files_are_named(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "train/targets/train_p0_0.png").unlink()
    (data / "test/inputs/test_p1_2.png").unlink()
    (data / "train/inputs/train_p1_2.png").write_bytes(b"\x89PNG no more")
    cv2.imwrite(str(data / "train/targets/train_p2_4.png"), np.zeros((39, 40), np.uint8))
    code, found = checked(capsys, data)
    assert code == 1
    text = "\n".join(found["problems"])
    for part in ("train/inputs: 1 without a mask: train_p0_0.png", "without an image: test_p1_2",
                 "train_p1_2.png: not a readable image", "the mask is 39x40"):  # fmt: skip
        assert part in text


def test_masks_of_gray_levels_are_a_problem(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in data.glob("*/targets/*"):
        cv2.imwrite(str(path), cv2.GaussianBlur(cv2.imread(str(path), 0), (9, 9), 3))
    code, found = checked(capsys, data)
    assert code == 1
    assert any("data.mask_threshold" in text for text in found["problems"])


def test_missing_folder_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "nowhere"]) == 2
    assert capsys.readouterr().err == "error: no such folder: nowhere\n"


def test_validation_part_keeps_the_groups_of_the_table(data: Path, tmp_path: Path) -> None:
    stems = sorted(path.stem for path in (data / "train/inputs").iterdir())
    rows = [f"{stem},{'ab'[index % 2]},train" for index, stem in enumerate(stems)]
    (data / "groups.csv").write_text("\n".join(["name,group,part", *rows]))
    split = split_validation(find_data(data, needs_test=True), tmp_path / "split", fraction=0.2)
    assert split.test is not None
    chosen = {path.stem for path in (split.root / split.test.inputs).iterdir()}
    assert chosen in ({*stems[::2]}, {*stems[1::2]})


# --- read as the search reads ------------------------------------------------------------------


def rewrite_masks(data: Path, values: dict[int, int]) -> None:
    for path in data.glob("*/targets/*"):
        mask = cv2.imread(str(path), 0)
        mask[:2] = 9  # a void border
        cv2.imwrite(str(path), np.vectorize(values.get)(mask).astype(np.uint8))


def test_sound_data_of_unusual_values_are_sound_with_the_keys_of_the_search(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite_masks(data, {0: 50, 255: 120, 9: 255})
    code, found = checked(capsys, data)
    assert code == 1
    assert "set data.mask_values" in " ".join(found["problems"])
    keys = ("--set", "data.mask_values=[50,120,255]", "--set", "loss.ignore_index=2")
    code, found = checked(capsys, data, *keys)
    assert (code, found["problems"]) == (0, [])
    assert "mask value 255" not in " ".join(found["advice"])
    study = data.parent / "mine"
    study.mkdir()
    (study / "study.toml").write_text(
        'title = "mine"\n[config]\n"data.mask_values" = [50, 120, 255]\n"loss.ignore_index" = 2\n'
        '[[search]]\nkey = "optimizer.learning_rate"\nrange = [0.001, 0.01]\n'
    )
    assert checked(capsys, data, "--study", study) == (code, found)


def test_blurred_masks_are_sound_with_a_threshold(data: Path, capsys) -> None:
    for path in data.glob("*/targets/*"):
        cv2.imwrite(str(path), cv2.GaussianBlur(cv2.imread(str(path), 0), (0, 0), 2))
    assert checked(capsys, data)[0] == 1
    code, found = checked(capsys, data, "--set", "data.mask_threshold=128")
    assert (code, found["problems"]) == (0, [])
    assert "128 and above is foreground" in found["masks"]


@pytest.mark.parametrize(
    ("setting", "words"),
    [("data.batch_size=3", "no key of reading"), ("data.mask_values=[1,1]", "distinct mask"),
     ("data.mask_valeus=[0,1]", "did you mean 'data.mask_values'?")],
)  # fmt: skip
def test_other_keys_and_values_are_refused(data: Path, capsys, setting: str, words: str) -> None:
    assert main(["check", str(data), "--set", setting]) == 2
    assert words in capsys.readouterr().err


def test_links_are_followed_where_asked(data: Path, capsys, tmp_path: Path) -> None:
    path = data / "train/inputs/train_p0_0.png"
    path.rename(tmp_path / "elsewhere.png")
    path.symlink_to(tmp_path / "elsewhere.png")
    assert main(["check", str(data)]) == 2
    assert "is a link that leaves the folder" in capsys.readouterr().err
    assert checked(capsys, data, "--set", "data.follow_symlinks=true")[0] == 0


def test_near_duplicates_within_a_part_are_named(data: Path, capsys) -> None:
    image = cv2.imread(str(data / "train/inputs/train_p0_0.png"), 0)
    cv2.imwrite(str(data / "train/inputs/copy.jpg"), image)
    shutil.copy(data / "train/targets/train_p0_0.png", data / "train/targets/copy.png")
    code, found = checked(capsys, data)
    assert (code, found["near_duplicates"]) == (0, [["copy.jpg", "train_p0_0.png"]])
    main(["check", str(data)])
    assert "2 images in 1 cluster: copy.jpg ~ train_p0_0.png (train)\n" in capsys.readouterr().out


def test_masks_of_colours_are_one_line_and_its_option_makes_classes_of_them(
    data: Path, capsys, tmp_path: Path
) -> None:
    for path in data.glob("*/targets/*"):
        mask = cv2.imread(str(path), 0)
        colours = np.zeros((*mask.shape, 3), np.uint8)
        colours[mask > 0] = (0, 0, 255)
        colours[:2] = (192, 224, 224)
        cv2.imwrite(str(path), colours)
    code, found = checked(capsys, data)
    assert code == 1
    (problem,) = (text for text in found["problems"] if "coloured" in text)
    assert "17 pairs" in problem
    assert "--colors 000000,ff0000,e0e0c0 makes classes" in problem
    arguments = [
        "prepare", "folder", "--inputs", f"{data}/train/inputs/*.png",
        "--targets", f"{data}/train/targets/{{name}}", "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    assert main([*arguments, "--colors", "000000,ff0000"]) == 2
    assert "not in --colors: e0e0c0" in " ".join(capsys.readouterr().err.split())
    assert main([*arguments, "--colors", "000000,ff0000,e0e0c0=2"]) == 0
    capsys.readouterr()
    code, found = checked(capsys, tmp_path / "out")
    assert (code, [facts["value"] for facts in found["classes"]]) == (0, [0, 1, 2])


# --- advice is followed ------------------------------------------------------------------------


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    main([*map(str, arguments)])
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).split())


def paint(path: Path, colour: tuple[int, int, int]) -> None:
    mask = cv2.imread(str(path), 0)
    pixels = np.zeros((*mask.shape, 3), np.uint8)
    pixels[mask > 0] = colour
    cv2.imwrite(str(path), pixels)


def test_colours_that_are_proposed_are_those_of_all_masks(data: Path, capsys) -> None:
    paint(data / "train/targets/train_p2_5.png", (0, 0, 255))
    code, found = checked(capsys, data)
    assert code == 1
    (problem,) = (text for text in found["problems"] if "coloured" in text)
    table = re.search(r"--colors (\S+)", problem)[1]
    assert table == "000000,ffffff,ff0000"
    folder = ("prepare", "folder", "--inputs", f"{data}/train/inputs/*.png",
              "--targets", f"{data}/train/targets/{{name}}")  # fmt: skip
    assert main([*folder, "--colors", table, "--out", "out"]) == 0
    assert "left out" not in capsys.readouterr().out
    _, found = checked(capsys, "out")
    assert sum(found["num_pairs"].values()) == 12
    assert [facts["value"] for facts in found["classes"]] == [0, 1, 2]
    assert main([*folder, "--colors", "000000,ff0000", "--out", "few"]) == 2
    text = " ".join(capsys.readouterr().err.split())
    assert "only train_p2_5 can be used; a test part needs a second image" in text
    assert "left out: " in text
    assert "train_p0_0.png: 1 colour is not in --colors: ffffff" in text
    assert "(11 in all)" in text


def test_palettes_that_disagree_are_mended_by_the_colours_of_all_masks(data: Path, capsys) -> None:
    for stem, colour in (("train_p0_0", (255, 0, 0)), ("train_p0_1", (0, 255, 0))):
        path = data / f"train/targets/{stem}.png"
        image = Image.fromarray((cv2.imread(str(path), 0) > 0).astype(np.uint8), "P")
        image.putpalette([0, 0, 0, *colour])
        image.save(path)
    _, found = checked(capsys, data)
    (problem,) = (text for text in found["problems"] if "do not mean the same" in text)
    colours = re.findall(r"--colors (\S+)", problem)[-1]
    assert sorted(colours.split(",")) == ["000000", "00ff00", "ff0000", "ffffff"]
    assert colours.startswith("000000,ffffff,")


def test_mixed_depths_name_an_image_of_each(data: Path, capsys) -> None:
    path = data / "test/inputs/test_p1_2.png"
    cv2.imwrite(str(path), cv2.imread(str(path), 0).astype(np.uint16) * 257)
    _, found = checked(capsys, data)
    (problem,) = (text for text in found["problems"] if "bits a channel" in text)
    assert "(train train_p0_0.png 8, test test_p1_2.png 16)" in problem


def test_mask_of_no_image_is_said_once(data: Path, capsys) -> None:
    (data / "test/inputs/test_p1_2.png").unlink()
    text = said(capsys, "check", data)
    assert text.count("test_p1_2") == 1
    assert "PROBLEM: test/targets: 1 without an image: test_p1_2.png; add the images" in text


def test_advice_is_no_warning_as_well(data: Path, capsys) -> None:
    path = data / "train/inputs/train_p0_0.png"
    image = Image.open(path)
    image.getexif()[0x0112] = 3
    image.save(path, exif=image.getexif())
    text = said(capsys, "check", data)
    assert "advice: orientation tag in one file of a pair alone: train_p0_0.png" in text
    assert "orientation tags: 1 image, 0 masks;" in text


def test_several_masks_of_images_are_joined_by_the_command_that_is_named(
    data: Path, capsys
) -> None:
    expected = {}
    for stem in ("train_p0_0", "train_p0_1"):
        path = data / f"train/targets/{stem}.png"
        expected[stem] = cv2.imread(str(path), 0)
        part = np.zeros_like(expected[stem])
        part[:20] = expected[stem][:20]
        cv2.imwrite(str(path.with_name(f"{stem}_mask.png")), part)
        cv2.imwrite(str(path.with_name(f"{stem}_mask_1.png")), expected[stem] - part)
        path.unlink()
    # all names of images begin those of others: train_p0_1 and train_p5_10, but for one
    for path in data.glob("train/*/train_p5_1*"):
        path.unlink()
    code, found = checked(capsys, data)
    assert code == 1
    (problem,) = (text for text in found["problems"] if "several masks" in text)
    assert "2 images have several masks: train_p0_0.png (train_p0_0_mask.png, train_p0" in problem
    command = problem[problem.index("rml-data prepare") :].replace("NEW", "'joined (1)'")
    assert main(shlex.split(command)[1:]) == 0
    for stem, mask in expected.items():
        (joined,) = Path("joined (1)").glob(f"*/targets/{stem}.png")
        np.testing.assert_array_equal(cv2.imread(str(joined), 0), mask)


def test_command_that_would_join_masks_of_other_images_is_not_named(data: Path, capsys) -> None:
    for kind in ("inputs", "targets"):  # train_p0_0 begins train_p0_00
        shutil.copy(data / f"train/{kind}/train_p1_2.png", data / f"train/{kind}/train_p0_00.png")
    mask = data / "train/targets/train_p0_0.png"
    shutil.copy(mask, mask.with_name("train_p0_0_mask.png"))
    _, found = checked(capsys, data)
    (problem,) = (text for text in found["problems"] if "several masks" in text)
    assert "1 image has several masks: train_p0_0.png" in problem
    assert problem.endswith("keep one of each, or join them: rml-data prepare folder --help")


def test_sizes_name_the_option_as_it_is_typed(data: Path, capsys) -> None:
    write_disc(data / "train", "large.png", np.random.default_rng(2), 48)
    text = said(capsys, "check", data)
    assert "2 sizes; a search resizes them (--resize H,W; by default 256,256)" in text


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")  # as a search does
def test_rare_classes_are_one_line_and_what_it_says_is_taken(data: Path, capsys) -> None:
    for path in data.glob("*/targets/*"):
        mask = np.zeros((40, 40), np.uint8)
        mask[10:14, 10:18], mask[20:22, 20:24] = 1, 2
        cv2.imwrite(str(path), mask)
    _, found = checked(capsys, data)
    (advice,) = (text for text in found["advice"] if "rare" in text)
    assert "rare mask values 1 (2.0% of all pixels), 2 (0.5% of all pixels): " in advice
    assert "accuracy" not in " ".join(found["advice"])
    dry = ["--data", str(data), "--layers", "unet:width=4,depth=2", "--resize", "32,32",
           "--dry-run", "--no-gpu"]  # fmt: skip
    assert "--loss dice" in advice
    assert search([*dry, "--loss", "dice"]) == 0
    assert "--set 'loss.weight=[…]'" in advice
    assert search([*dry, "--loss", "nll", "--set", "loss.weight=[1,5,9]"]) == 0


def test_patients_that_were_not_looked_for_are_said_so(data: Path, capsys) -> None:
    _, found = checked(capsys, data)
    (advice,) = (text for text in found["advice"] if "patients" in text)
    assert "neither groups.csv nor --group" in advice
    assert "give --group REGEX here and --group-by REGEX to a search" in advice
    _, found = checked(capsys, data, "--group", r"_(p\d+)_")
    assert "patients" not in " ".join(found["advice"])
    assert "3 groups are in both parts" in " ".join(found["problems"])
    (data / "groups.csv").write_text("name,group,part\ntrain_p0_0,anna,train\n")
    _, found = checked(capsys, data)
    (advice,) = (text for text in found["advice"] if "patients" in text)
    assert "groups.csv has no group for 16 images" in advice
