"""Every habit of data folders and command lines that once gave a wrong score, or no help.

A case writes its data into an empty folder and types commands there as a user does; what the last
one says is what counts.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import h5py
from habit_data import (
    alpha_of_images,
    bitmaps,
    classes_as_folders,
    coloured,
    copies_of_images,
    correct_masks,
    discs,
    everything,
    hidden,
    laid_out,
    large,
    links_elsewhere,
    mapped,
    named,
    near_duplicates,
    nested_new,
    new_images,
    numbered_masks,
    one_folder,
    other_meaning,
    previews,
    quantized_masks,
    rewritten,
    swapped_palettes,
    tag_all,
    tag_images,
    three,
    three_patients,
    twelve_bits,
    two_reds,
    unused_files,
)
from habit_files import (
    H5,
    NPY,
    NPZ,
    SAME,
    arrays,
    config,
    external_link,
    foreign_database,
    keras_h5,
    keras_model,
    marked_config,
    marked_files,
    npz_of_both,
    one_npy,
    other_optuna,
    series,
    unknown_filter,
)
from PIL import Image

NET = "--layers unet:width=4,depth=2 --resize 32,32 --no-gpu --launcher local --jobs 1"
SEARCH = f"rml-optimize {NET} --num-trials 1 --num-epochs 1"
DRY = f"{SEARCH} --dry-run"
CHECK = "rml-data check data"
TRAIN = "rmldnn --config=config.json"
PREDICT = "rmldnn --predict best_model --images new --out out"
FITS = "dry run: data, network and settings fit together"
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
Step = Callable[[Path], object] | str


@dataclass(frozen=True)
class Habit:
    """One case.

    Attributes:
        name: the row of the table.
        steps: what is written and typed, in order; the last is the command that counts.
        says: regular expression that its output must match.
        code: its exit code.
        look: says what a run has left, as a part of its output.
        environment: variables of the last command.
    """

    name: str
    steps: tuple[Step, ...]
    says: str
    code: int = 0
    look: Callable[[Path], str] = lambda root: ""
    environment: dict[str, str] = field(default_factory=dict)


def predicted_names(root: Path) -> str:
    with h5py.File(root / "out/output_1.h5") as file:
        return "predictions: " + ", ".join(f"{group}/{name}" for group in file
                                           for name in file[group])  # fmt: skip


def scored(root: Path) -> str:
    last = (root / "out_test.txt").read_text().split()[-1]
    metrics = json.loads((root / "metrics.jsonl").read_text().splitlines()[-1])
    return f"out_test.txt {last}, metrics.jsonl {metrics.get('dice_dataset', 'without')}"


def without(words: str, then: str) -> str:
    """Return a pattern of output that has no such words."""
    return rf"(?s)\A(?!.*{words}).*{then}"


def section(title: str, *habits: Habit) -> Iterator[tuple[str, Habit]]:
    return ((title, habit) for habit in habits)


Rows = tuple[tuple[str, Habit], ...]
WRONG: Rows = (
    *section(
        "What is data, and what is scored",
        Habit("masks corrected beyond the first 64 KiB of a file, then the same command",
              (bitmaps, SEARCH, correct_masks, SEARCH), r"data: 6 \+ 6 images, hash", 2),
        Habit("test masks without any foreground",
              (discs, mapped(0, 0, part="test"), DRY), "test images have no foreground", 2),
        Habit("the same, trained by `rmldnn`", (discs, mapped(0, 0, part="test"), config(), TRAIN),
              "out_test.txt 0(.0*)?, metrics.jsonl None", look=scored),
        Habit("a class that the test images lack",
              (discs, mapped(0, 1, 2, part="train"), mapped(0, 1, part="test"),
               f"{DRY} --loss NLL"), "no mask of the test images shows class_2"),
        Habit("three classes: which ones the accuracy averages",
              (three, f"{DRY} --loss NLL"), "averaged over all classes"),
        Habit("class ids 1 and 2, no 0", (discs, mapped(1, 2), DRY),
              r"data\.mask_values=\[1, 2\]", 2),
        Habit("class ids 0 and 2, no 1", (discs, mapped(0, 2), f"{DRY} --loss NLL"),
              r"data\.mask_values=\[0, 2\]"),
        Habit("masks of mostly foreground", (discs, mapped(255, 0), CHECK),
              "are the masks inverted"),
        Habit("one answer for every pixel", (discs, CHECK),
              r"Dice if every pixel were foreground: .*\(test\)"),
        Habit("near-duplicates", (discs, near_duplicates, CHECK), r"img 00\.png ~ img 07\.png"),
        Habit("test images of three patients", (discs, three_patients, f"{SEARCH} --select-on "
              "validation"), "no interval|95 % interval"),
        Habit("selection on the test images, in a dry run", (discs, DRY),
              "warning.*test images"),
        Habit("search options in a folder without data", (lambda root: None,
              "rml-optimize --num-trials 3 --dry-run"), "no data: there is no folder data/", 2),
        Habit("dry run of other settings than the study's",
              (discs, SEARCH, f"{DRY} --set data.batch_size=2"), "study", 2),
        Habit("the image size is searched", (large, f"{DRY} --search "
              "'data.transforms[0].resize=[16,16],[32,32]'"),
              "scored at the images' own size"),
        Habit("a size among several that the network refuses", (large, f"{DRY} --search "
              "'data.transforms[0].resize=[30,30],[32,32]'"),
              r"--search data\.transforms\[0\]\.resize=\[30, 30\]: .*nearest input sizes that "
              "fit: 28×28 and 32×32", 2),
        Habit("data of 12 bits in files of 16", (discs, twelve_bits, CHECK),
              without("normalize", "nothing has to be mended")),
        Habit("as many faults in one folder as fit", (discs, everything, CHECK),
              "(?s)(PROBLEM.*){8}", 1),
        Habit("sound masks of other values, checked as they are searched",
              (discs, mapped(0, 100), f"{CHECK} --set data.mask_values=[0,100]"),
              "nothing has to be mended"),
    ),
    *section(
        "What masks and images say beside their pixels",
        Habit("palette masks quantized from black and white", (discs, quantized_masks, CHECK),
              r"masks: \{0, 255\}: binary, 255"),
        Habit("palettes of two files that disagree", (discs, swapped_palettes, DRY),
              "do not mean the same", 2),
        Habit("one value, two colours", (discs, other_meaning, DRY), "do not mean the same", 2),
        Habit("orientation tags in images and masks", (discs, tag_all, DRY),
              "orientation tags: 17 images, 17 masks"),
        Habit("orientation tags in the images alone", (discs, tag_images, DRY),
              "orientation tag in one file of a pair alone"),
        Habit("images with alpha", (discs, alpha_of_images, DRY), "alpha channel, not read"),
    ),
    *section(
        "Which files are read",
        Habit("`a_mask.png` and `a_mask_1.png`", (discs, numbered_masks, DRY),
              "img 00_mask_1.png", 2),
        Habit("the same, joined", (discs, numbered_masks, "rml-data prepare folder --inputs "
              "'data/train/inputs/*.png' --targets 'data/train/targets/{stem}*.png' --out d"),
              r"d: \d+ training and \d+ test images"),
        Habit("a preview `a.jpg` beside `a_mask.png`", (discs, previews, DRY),
              r"img 00\.jpg", 2),
        Habit("copies of the images in the masks' folder", (discs, copies_of_images, DRY),
              r"img 00_mask\.png", 2),
        Habit("a `.webp`, and a mask of no image", (discs, unused_files, CHECK),
              r"1 without an image: of none\.png", 1),
        Habit("folders of classes", (discs, classes_as_folders, config(), TRAIN),
              r"predictions: .*benign/img 00\.png.*malign/img 01\.png", look=predicted_names),
        Habit("hidden folders", (discs, hidden, CHECK), "12 train, 5 test images"),
        Habit("images and masks in one folder", (discs, one_folder, config(
              target_path="data/train/inputs"), TRAIN),
              r"Num images +\(total\) +: 12"),
        Habit("an image as its own mask",
              (discs, config(target_path="data/train/inputs"), TRAIN), "have no mask", 2),
        Habit("two arrays of one `.npz`", (npz_of_both, arrays("numpy", **SAME), TRAIN),
              r"name the arrays, data\.input_path", 2),
        Habit("the same, named", (npz_of_both, arrays("numpy", **NPZ), TRAIN),
              "averaged: foreground; 1 image,"),
    ),
    *section(
        "Prediction",
        Habit("folders of images without targets", ("model", nested_new, PREDICT),
              "predictions: benign/img 00", look=predicted_names),
        Habit("16 bits for a model of 8", ("model", new_images(
              lambda image: lambda path: cv2.imwrite(str(path), image.astype("u2") * 257)),
              PREDICT), "8 bits", 2),
        Habit("a TIFF of three pages", ("model", new_images(lambda image: lambda path:
              Image.fromarray(image).save(path, save_all=True,
              append_images=[Image.fromarray(image)] * 2), ".tif"), PREDICT),
              "holds 3 images", 2),
    ),
)  # fmt: skip
REFUSED: Rows = (
    *section(
        "Folders as people have them",
        *(
            Habit(name, (make, DRY), "this makes such a folder: rml-data prepare folder", 2)
            for name, make in {
                "`images/`, `masks/`": laid_out("images/{:03d}.png", "masks/{:03d}.png"),
                "`imagesTr/`, `labelsTr/`, `_0000`":
                    laid_out("imagesTr/a_{:03d}_0000.png", "labelsTr/a_{:03d}.png"),
                "`img_001.png`, `seg_001.png`": laid_out("img_{:03d}.png", "seg_{:03d}.png"),
                "`001_image.png`, `001_annotation.png`":
                    laid_out("{:03d}_image.png", "{:03d}_annotation.png"),
                "`21_training.tif`, `21_manual1.gif`":
                    laid_out("images/{}_training.tif", "1st_manual/{}_manual1.gif"),
            }.items()
        ),
        Habit("names captured by a pattern", (laid_out("img_{:03d}.png", "seg_{:03d}.png"),
              "rml-data prepare folder --inputs 'data/img_{id}.png' --targets "
              "'data/seg_{id}.png' --out d"), "training and .* test images"),
        Habit("`train/`, `val/`, `test/`", (discs, lambda root: shutil.copytree(
              root / "data/test", root / "data/val"), DRY), "val/ is not read"),
        Habit("masks of colours", (discs, rewritten(coloured), CHECK),
              r"17 pairs.*--colors 000000,c81e1e", 1),
        Habit("the same, prepared", (discs, rewritten(coloured), "rml-data prepare folder "
              "--inputs 'data/train/inputs/*.png' --targets 'data/train/targets/{stem}.png' "
              "--colors 000000,c81e1e --out d"), "training and .* test images"),
        Habit("palettes that disagree with `--colors`", (discs, two_reds,
              "rml-data prepare folder --inputs 'data/train/inputs/*.png' --targets "
              "'data/train/targets/{stem}.png' --colors 000000,c81e1e --out d"),
              "5a0000|90, 0, 0", 2),
        Habit("links to masks elsewhere", (discs, links_elsewhere, CHECK), "follow_symlinks", 2),
        Habit("the same, followed", (discs, links_elsewhere,
              f"{CHECK} --set data.follow_symlinks=true"), "nothing has to be mended"),
    ),
    *section(
        "Files and names",
        Habit("DICOM called `.DCM`", (series(".DCM"), "rml-data prepare sunnybrook --source raw "
              "--test-fraction 0.4 --out d"), "training and .* test images"),
        Habit("DICOM without preamble", (series(".dcm", with_preamble=False), "rml-data prepare "
              "sunnybrook --source raw --test-fraction 0.4 --out d"),
              "training and .* test images"),
        Habit("a byte-order mark in network, study and URL file", (discs, marked_files,
              f"{DRY} --study mine --data data --layers net.json --storage-file url"), FITS),
        Habit("a byte-order mark in a config", (discs, marked_config, TRAIN),
              "averaged: foreground; 5 images"),
        Habit("HDF5 with a filter that is not there", (unknown_filter, arrays("hdf5", **H5),
              TRAIN), "is compressed by a filter", 2),
        Habit("HDF5 with a link to another file", (external_link, arrays("hdf5", **H5), TRAIN),
              r"samples would be missing without: /s0 \(to other\.h5\); write", 2),
        Habit("(N, H, W, C) in one `.npy`", (one_npy, arrays("numpy", **NPY), TRAIN),
              "one array is one sample", 2),
        Habit("a name that is no UTF-8", (discs, named(b"caf\xe9.png"), CHECK),
              "not UTF-8; rename it", 2),
        Habit("a terminal that is not", (discs, named("Müller.png".encode()), CHECK),
              "nothing has to be mended", environment=ASCII),
    ),
    *section(
        "Slips on the command line",
        Habit("`--layers model.keras`", (discs, keras_model, f"{DRY} --layers model.keras"), FITS),
        Habit("`--layers model.h5`, a whole model", (discs, keras_h5, f"{DRY} --layers model.h5"),
              FITS),
        Habit("`--layers unett`", (discs, f"{DRY} --layers unett"), "did you mean 'unet'", 2),
        Habit("`--set batch_size=4`", (discs, f"{DRY} --set batch_size=4"),
              r"did you mean 'data\.batch_size'", 2),
        Habit("`--search layers=unet:width=8,depth=3,unet:…`", (discs, f"{DRY} --search "
              "layers=unet:width=8,depth=3,unet:width=4,depth=2"), "double quotes", 2),
        Habit("`--search num_epochs=2,3`", (discs, f"{DRY} --search num_epochs=2,3"),
              "num_epochs", 2),
        Habit("`--search data.batch_size=8,16,32.0`", (discs, f"{DRY} --search "
              "data.batch_size=8,16,32.0"), r"batch_size.*32\.0", 2),
        Habit("a database of another program", (discs, foreign_database, SEARCH),
              "another program", 2),
        Habit("a database of another Optuna", (discs, other_optuna, SEARCH), "Optuna", 2),
        Habit("the same, seen by `rml-study doctor`", (discs, other_optuna, "rml-study doctor"),
              "Optuna", 1),
    ),
)  # fmt: skip
HABITS: tuple[tuple[str, Habit], ...] = (*WRONG, *REFUSED)
