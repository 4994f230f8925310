"""The archive of BUSI: three folders of PNGs, `benign (4).png` with `benign (4)_mask_1.png`."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from studies.prepare.folder import join_masks
from studies.prepare.samples import Content, Found, Publisher, Sample, Skipped

PUBLISHER = Publisher(
    "Breast Ultrasound Images (BUSI, Al-Dhabyani et al. 2020)",
    "https://scholar.cu.edu.eg/?q=afahmy/pages/dataset "
    "(also https://www.kaggle.com/datasets/aryashah2k/breast-ultrasound-images-dataset)",
    (
        "Dataset_BUSI_with_GT/benign/benign (1).png, benign (1)_mask.png, …  (437 images)",
        "Dataset_BUSI_with_GT/malignant/malignant (1).png, …                (210 images)",
        "Dataset_BUSI_with_GT/normal/normal (1).png, …                      (133 images)",
    ),
)
NUM_IMAGES = {"benign": 437, "malignant": 210, "normal": 133}
_IMAGE = re.compile(r"^(?P<kind>\w+) \((?P<number>\d+)\)(?P<mask>_mask(_\d+)?)?$")


def find_samples(source: Path) -> Found:
    """Pair images with their one or several masks; nothing says which woman an image is of.

    Raises:
        DataError: no such archive, or not all three folders of it.
    """
    root = _root(source)
    samples: list[Sample] = []
    skipped: list[Skipped] = []
    notes: list[str] = []
    for kind, expected in NUM_IMAGES.items():
        images: dict[int, Path] = {}
        masks: dict[int, list[Path]] = {}
        for path in sorted(p for p in (root / kind).iterdir() if p.suffix.lower() == ".png"):
            match = _IMAGE.match(path.stem)
            if match is None or match["kind"] != kind:
                skipped.append(Skipped(str(path), f"not named like '{kind} (1).png'"))
            elif match["mask"]:
                masks.setdefault(int(match["number"]), []).append(path)
            else:
                images[int(match["number"])] = path
        if len(images) != expected:
            notes.append(f"{len(images)} {kind} images; the whole archive has {expected}")
        for number in sorted(masks.keys() - images.keys()):
            skipped.append(Skipped(str(masks[number][0]), "mask without its image"))
        for number, image in sorted(images.items()):
            if number not in masks:
                skipped.append(Skipped(str(image), "image without a mask"))
                continue
            name, files = f"{kind}_{number:03d}", tuple(masks[number])
            samples.append(
                Sample(name, name, (image, *files), partial(_read, image, files), stratum=kind)
            )
    return Found(samples, skipped, notes=notes)


def _root(source: Path) -> Path:
    candidates = [source, source / "Dataset_BUSI_with_GT", *sorted(source.glob("*/"))]
    for root in candidates:
        missing = [f"{kind}/" for kind in NUM_IMAGES if not (root / kind).is_dir()]
        if not missing:
            return root
        if len(missing) < len(NUM_IMAGES):
            raise PUBLISHER.missing(root, missing)
    raise PUBLISHER.missing(source)


def _read(image: Path, masks: tuple[Path, ...]) -> Content:
    return Content(image, join_masks(masks))
