"""Writes data folders of images and masks, with one fault or habit each, or many."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from file_kinds import palette, turned
from PIL import Image
from support import write_disc, write_discs


def discs(root: Path) -> None:
    write_discs(root / "data")


def large(root: Path) -> None:
    write_discs(root / "data", size=61)


def masks(root: Path, part: str = "*") -> list[Path]:
    return sorted((root / "data").glob(f"{part}/targets/*.png"))


def mapped(*values: int, part: str = "*") -> Callable[[Path], None]:
    """Give background and discs these values, a corner the third."""

    def change(root: Path) -> None:
        for path in masks(root, part):
            mask = np.where(cv2.imread(str(path), 0) > 0, values[1], values[0]).astype(np.uint8)
            mask[:4, :4] = values[2] if len(values) > 2 else mask[:4, :4]
            cv2.imwrite(str(path), mask)

    return change


def three(root: Path) -> None:
    discs(root)
    mapped(0, 1, 2)(root)


def rewritten(write: Callable[[np.ndarray], Callable[[Path], object]]) -> Callable[[Path], None]:
    """Write each mask anew, by a function of where its disc is."""

    def change(root: Path) -> None:
        for path in masks(root):
            write(cv2.imread(str(path), 0) > 0)(path)

    return change


def bitmaps(root: Path) -> None:
    for part in ("train", "test"):
        for index in range(6):
            write_disc(root / "data" / part, f"{index}.bmp", np.random.default_rng(index), 300)


def correct_masks(root: Path) -> None:
    for path in root.glob("data/*/targets/*.bmp"):  # the last bytes of a BMP are its first rows
        content = path.read_bytes()
        path.write_bytes(content[:-3000] + b"\xff" * 3000)


def quantized_masks(root: Path) -> None:
    for path in masks(root):
        Image.open(path).convert("RGB").quantize(2).save(path)


def swapped_palettes(root: Path) -> None:
    for index, path in enumerate(masks(root)):
        disc = cv2.imread(str(path), 0) > 0
        colours = ((0, 0, 0), (255, 0, 0))
        palette(disc == (index % 2 == 0), *colours[:: 1 if index % 2 == 0 else -1])(path)


def other_meaning(root: Path) -> None:
    for index, path in enumerate(masks(root)):
        disc = cv2.imread(str(path), 0) > 0
        palette(disc, (0, 0, 0), (255, 0, 0) if index else (0, 255, 0))(path)


def tag_images(root: Path) -> None:
    for path in sorted((root / "data").glob("*/inputs/*.png")):
        turned(cv2.imread(str(path), 0))(path)


def tag_all(root: Path) -> None:
    tag_images(root)
    for path in masks(root):
        turned(cv2.imread(str(path), 0))(path)


def numbered_masks(root: Path) -> None:
    first = masks(root, "train")[0]
    first.rename(first.with_name("img 00_mask.png"))
    shutil.copy(first.with_name("img 00_mask.png"), first.with_name("img 00_mask_1.png"))


def previews(root: Path) -> None:
    for path in masks(root):
        path.rename(path.with_name(f"{path.stem}_mask.png"))
        image = path.parents[1] / "inputs" / path.name
        cv2.imwrite(str(path.with_suffix(".jpg")), cv2.imread(str(image)))


def copies_of_images(root: Path) -> None:
    for path in masks(root):
        path.rename(path.with_name(f"{path.stem}_mask.png"))
        shutil.copy(path.parents[1] / "inputs" / path.name, path)


def unused_files(root: Path) -> None:
    first = sorted((root / "data/train/inputs").iterdir())[0]
    Image.open(first).save(first.with_name("more.webp"))
    Image.open(first).save(root / "data/train/targets/of none.png")


def alpha_of_images(root: Path) -> None:
    for path in (root / "data").glob("*/inputs/*.png"):
        Image.open(path).convert("RGBA").save(path)


def classes_as_folders(root: Path) -> None:
    for part in ("train", "test"):
        for kind in ("inputs", "targets"):
            for index, path in enumerate(sorted((root / "data" / part / kind).iterdir())):
                folder = path.parent / ("malign" if index % 2 else "benign")
                folder.mkdir(exist_ok=True)
                path.rename(folder / path.name)


def hidden(root: Path) -> None:
    folder = root / "data/train/inputs/.ipynb_checkpoints"
    folder.mkdir()
    shutil.copy(root / "data/train/inputs/img 00.png", folder / "img 00-checkpoint.png")


def one_folder(root: Path) -> None:
    for path in sorted((root / "data/train/targets").iterdir()):
        path.rename(root / "data/train/inputs" / f"{path.stem}_mask.png")


def twelve_bits(root: Path) -> None:
    for path in (root / "data").glob("*/inputs/*.png"):
        cv2.imwrite(str(path), cv2.imread(str(path), 0).astype(np.uint16) * 16)


def new_images(write: Callable[[np.ndarray], Callable[[Path], object]], suffix: str = ".png"):
    """Write what the model shall predict."""

    def make(root: Path) -> None:
        (root / "new").mkdir()
        for path in sorted((root / "data/test/inputs").iterdir()):
            write(cv2.imread(str(path), 0))(root / "new" / f"{path.stem}{suffix}")

    return make


def nested_new(root: Path) -> None:
    shutil.copytree(root / "data/test/inputs", root / "new/malign")
    shutil.copytree(root / "data/test/inputs", root / "new/benign")


def near_duplicates(root: Path) -> None:
    folder = root / "data/train/inputs"
    image = cv2.imread(str(folder / "img 00.png"), 0)
    cv2.imwrite(str(folder / "img 07.png"), cv2.GaussianBlur(image, (3, 3), 0))
    cv2.imwrite(
        str(folder / "img 00.png"), cv2.GaussianBlur((image * 0.97).astype(np.uint8), (3, 3), 0)
    )


def three_patients(root: Path) -> None:
    rows = [f"{path.stem},patient {int(path.stem[-1]) % 3},{path.parts[-3]}"
            for path in sorted((root / "data").glob("*/inputs/*.png"))]  # fmt: skip
    (root / "data/groups.csv").write_text("\n".join(["name,group,part", *rows]) + "\n")


def everything(root: Path) -> None:
    """Write as many faults as one folder holds."""
    train = root / "data/train"

    def image(index: int) -> Path:
        return train / f"inputs/img {index:02d}.png"

    def mask(index: int) -> Path:
        return train / f"targets/img {index:02d}.png"

    near_duplicates(root)
    shutil.copy(image(2), root / "data/test/inputs/img 00.png")  # the same in both parts
    turned(cv2.imread(str(image(1)), 0))(image(1))
    Image.open(image(2)).convert("RGBA").save(image(2))
    palette(cv2.imread(str(mask(3)), 0) > 0, (0, 0, 0), (255, 0, 0))(mask(3))
    palette(cv2.imread(str(mask(4)), 0) > 0, (0, 0, 0), (0, 255, 0))(mask(4))
    coloured(cv2.imread(str(mask(5)), 0) > 0)(mask(5))
    mask(6).rename(mask(6).with_name("img 06_mask.png"))
    shutil.copy(mask(6).with_name("img 06_mask.png"), mask(6).with_name("img 06_mask_1.png"))
    pages = [Image.open(image(8))] * 3
    pages[0].save(image(8).with_suffix(".tif"), save_all=True, append_images=pages[1:])
    image(8).unlink()
    cv2.imwrite(str(image(9)), cv2.imread(str(image(9)), 0).astype(np.uint16) * 257)
    image(10).write_bytes(image(10).read_bytes()[:100])
    mask(11).unlink()
    unused_files(root)
    shutil.copytree(root / "data/test", root / "data/val")


def laid_out(image: str, mask: str, kind: str = ".png") -> Callable[[Path], None]:
    """Write pairs under names with a number."""

    def make(root: Path) -> None:
        write_discs(root / "made")
        for index in range(12):
            for pattern, role in ((image, "inputs"), (mask, "targets")):
                path = root / "data" / pattern.format(index + 21)
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.open(root / f"made/train/{role}/img {index:02d}.png").save(path)

    return make


def coloured(disc: np.ndarray) -> Callable[[Path], object]:
    colours = np.array([(0, 0, 0), (200, 30, 30)], np.uint8)
    return lambda path: Image.fromarray(colours[disc.astype(int)]).save(path)


def two_reds(root: Path) -> None:
    """Palettes whose second colour is not the one of --colors."""
    rewritten(lambda disc: palette(disc, (0, 0, 0), (90, 0, 0)))(root)


def links_elsewhere(root: Path) -> None:
    shutil.move(root / "data/train/targets", root / "elsewhere")
    (root / "data/train/targets").mkdir()
    for path in sorted((root / "elsewhere").iterdir()):
        (root / "data/train/targets" / path.name).symlink_to(path)


def named(name: bytes) -> Callable[[Path], None]:
    def rename(root: Path) -> None:
        for role in ("inputs", "targets"):
            folder = os.fsencode(root / "data/train" / role)
            os.rename(folder + b"/img 00.png", folder + b"/" + name)  # noqa: PTH104

    return rename
