"""The archive `kaggle_3m`: a folder of TIFF slices and masks for each patient."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from studies.prepare.samples import Content, Found, Publisher, Sample, Skipped

PUBLISHER = Publisher(
    "LGG Segmentation (Buda et al. 2019)",
    "https://www.kaggle.com/datasets/mateuszbuda/lgg-mri-segmentation",
    (
        "kaggle_3m/data.csv",
        "kaggle_3m/TCGA_CS_4941_19960909/TCGA_CS_4941_19960909_1.tif",
        "kaggle_3m/TCGA_CS_4941_19960909/TCGA_CS_4941_19960909_1_mask.tif",
        "… (110 patients, 3,929 slices)",
    ),
)
NUM_PATIENTS, NUM_SLICES = 110, 3929
_FOLDER = re.compile(r"^(TCGA_\w\w_\w{4})_\d{8}$")


def find_samples(source: Path) -> Found:
    """Pair slices with masks; a patient is the TCGA barcode, whatever the date of the scan.

    Raises:
        DataError: no such archive.
    """
    root = source / "kaggle_3m" if (source / "kaggle_3m").is_dir() else source
    folders = [path for path in sorted(root.glob("TCGA_*/")) if _FOLDER.match(path.name)]
    if not folders:
        raise PUBLISHER.missing(source)
    samples: list[Sample] = []
    skipped: list[Skipped] = []
    for folder in folders:
        match = _FOLDER.match(folder.name)
        assert match is not None
        images = {p.stem: p for p in sorted(folder.iterdir()) if p.suffix.lower() == ".tif"}
        masks = {stem.removesuffix("_mask") for stem in images if stem.endswith("_mask")}
        slices = {stem for stem in images if not stem.endswith("_mask")}
        if not slices:
            skipped.append(Skipped(str(folder), "no slice in it"))
        for stem in sorted(masks - slices):
            skipped.append(Skipped(str(images[f"{stem}_mask"]), "mask without its slice"))
        for stem in sorted(slices):
            if stem not in masks:
                skipped.append(Skipped(str(images[stem]), "slice without a mask"))
                continue
            files = (images[stem], images[f"{stem}_mask"])
            # Numbers of two digits, so that a patient's slices are listed in their order
            head, _, number = stem.rpartition("_")
            name = f"{head}_{int(number):02d}" if number.isdecimal() else stem
            samples.append(Sample(name, match[1], files, partial(Content, *files)))
    notes = []
    if len(folders) != NUM_PATIENTS or len(samples) != NUM_SLICES:
        notes.append(
            f"{len(folders)} patients with {len(samples)} slices; the whole archive has "
            f"{NUM_PATIENTS} with {NUM_SLICES:,}"
        )
    return Found(samples, skipped, notes=notes)
