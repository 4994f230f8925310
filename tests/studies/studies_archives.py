"""Archives as their publishers ship them, small and made up here."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Rml = Callable[..., subprocess.CompletedProcess[str]]

BUSI = {"benign": 7, "malignant": 5, "normal": 4}
PATIENTS = ("TCGA_CS_4941_19960909", "TCGA_DU_5855_19951217", "TCGA_HT_7473_19970826",
            "TCGA_FG_5962_20000626")  # fmt: skip


def picture(seed: int, size: int = 48) -> NDArray[np.uint8]:
    """Return a smooth random colour image: no two seeds look alike."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 6, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC))


def disc(centre: tuple[int, int], radius: int, size: int = 48) -> NDArray[np.uint8]:
    """Return a mask of {0, 255}."""
    mask = np.zeros((size, size), np.uint8)
    cv2.circle(mask, centre, radius, 255, -1)
    return mask


def write(path: Path, pixels: NDArray[np.generic]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())


def write_busi(root: Path) -> Path:
    """Write Dataset_BUSI_with_GT; malignant (5) is benign (1), saved once more and darker."""
    for index, (kind, number) in enumerate(BUSI.items()):
        for n in range(1, number + 1):
            image = picture(100 * index + n)
            if (kind, n) == ("malignant", 5):
                image = (picture(1) * 0.9).astype(np.uint8)
            stem = root / "Dataset_BUSI_with_GT" / kind / f"{kind} ({n})"
            write(Path(f"{stem}.png"), image)
            mask = disc((16, 16), 0 if kind == "normal" else 4 + n)
            write(Path(f"{stem}_mask.png"), mask * (kind != "normal"))
            if (kind, n) == ("benign", 4):
                write(Path(f"{stem}_mask_1.png"), disc((36, 36), 6))
                write(Path(f"{stem}_mask_2.png"), disc((36, 12), 5))
    return root


def write_kaggle_3m(root: Path, num_slices: int = 4) -> Path:
    """Write kaggle_3m: TIFFs of four patients."""
    for p, patient in enumerate(PATIENTS):
        for n in range(1, num_slices + 1):
            stem = root / "kaggle_3m" / patient / f"{patient}_{n}"
            write(Path(f"{stem}.tif"), picture(1000 * p + n))
            write(Path(f"{stem}_mask.tif"), disc((20, 20), 3 * n) * (n > 1))
    (root / "kaggle_3m/data.csv").write_text("Patient,RNASeqCluster\nTCGA_CS_4941,2\n")
    return root


def trimap(n: int, size: int = 48) -> NDArray[np.uint8]:
    """Return 1 pet, 3 border, 2 background."""
    labels = np.full((size, size), 2, np.uint8)
    cv2.circle(labels, (24, 24), 10 + n % 8, 3, -1)
    cv2.circle(labels, (24, 24), 7 + n % 8, 1, -1)
    return labels


def write_pets(root: Path, num_each: int = 6) -> Path:
    """Write images/ and annotations/trimaps/, with what else the publisher left in them."""
    for b, breed in enumerate(("Abyssinian", "great_pyrenees")):
        for n in range(1, num_each + 1):
            write(root / "images" / f"{breed}_{n}.jpg", picture(5000 * b + n))
            write(root / "annotations/trimaps" / f"{breed}_{n}.png", trimap(n))
    (root / "images/Abyssinian_101.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    (root / "annotations/trimaps/._Abyssinian_1.png").write_bytes(b"\0\5\x16\7")
    (root / "annotations/README").write_text("trimaps: 1 foreground, 2 background, 3 border")
    return root


def fingerprint(folder: Path) -> dict[str, tuple[str, int]]:
    """Return path -> (hash of the content, time of change) of everything in a folder."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mtime_ns,
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
