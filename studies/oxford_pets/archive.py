"""The archives of Oxford-IIIT Pet: JPEGs of cats and dogs, trimaps as PNG."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from studies.prepare.samples import Content, Found, Publisher, Sample, Skipped
from trainer.data.images import read_mask
from trainer.errors import DataError

PUBLISHER = Publisher(
    "the Oxford-IIIT Pet Dataset (Parkhi et al. 2012)",
    "https://www.robots.ox.ac.uk/~vgg/data/pets/ (images.tar.gz and annotations.tar.gz)",
    (
        "images/Abyssinian_1.jpg, …                 (7,390 images, some .mat files)",
        "annotations/trimaps/Abyssinian_1.png, …    (1 pet, 2 background, 3 border)",
    ),
)
NUM_IMAGES = 7390


def find_samples(source: Path) -> Found:
    """Pair JPEGs with trimaps; labels 1, 2, 3 become 0 pet, 1 background, 2 border.

    Raises:
        DataError: no such archive, or only one of the two.
    """
    images = _folder(source, "images")
    trimaps = _folder(source, "annotations/trimaps") or _folder(source, "trimaps")
    if images is None and trimaps is None:
        raise PUBLISHER.missing(source)
    if images is None or trimaps is None:
        raise PUBLISHER.missing(source, ["images/" if images is None else "annotations/trimaps/"])
    samples: list[Sample] = []
    skipped: list[Skipped] = []
    for path in sorted(images.iterdir()):
        if path.name.startswith("."):
            continue  # what macOS leaves in archives
        if path.suffix.lower() != ".jpg":
            skipped.append(Skipped(str(path), "no JPEG"))
            continue
        trimap = trimaps / f"{path.stem}.png"
        if not trimap.is_file():
            skipped.append(Skipped(str(path), f"no trimap {trimap.name}"))
            continue
        breed = path.stem.rpartition("_")[0]
        samples.append(
            Sample(
                path.stem, path.stem, (path, trimap), partial(_read, path, trimap), stratum=breed
            )
        )
    notes = []
    if len(samples) != NUM_IMAGES:
        notes.append(f"{len(samples):,} images; the whole archive has {NUM_IMAGES:,}")
    return Found(samples, skipped, num_classes=3, notes=notes)


def _folder(source: Path, name: str) -> Path | None:
    # The mirror at Kaggle has each folder twice over: images/images
    for path in (source / name / Path(name).name, source / name):
        if path.is_dir():
            return path
    return None


def _read(path: Path, trimap: Path) -> Content:
    try:
        with Image.open(path) as image:
            if image.format != "JPEG":
                raise DataError(f"{path}: a {image.format} file, not a JPEG")
            image.load()  # OpenCV fills up a truncated JPEG with gray and says nothing
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: broken JPEG ({error})") from None
    labels = read_mask(trimap)
    strange = sorted(set(np.unique(labels).tolist()) - {1, 2, 3})
    if strange:
        raise DataError(f"{trimap}: labels {', '.join(map(str, strange))}; expected 1, 2, 3")
    return Content(path, (labels - 1).astype(np.uint8))
