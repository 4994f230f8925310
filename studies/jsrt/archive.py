"""The chest X-ray course's two files: images and masks as tensors of PyTorch."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from studies.prepare.samples import Content, Found, Publisher, Sample
from trainer.errors import DataError

if TYPE_CHECKING:
    import torch

IMAGES, MASKS = "JSRT_img0_lms.pth", "jsrt_seg_masks.pth"
IMAGES_KEY = "JSRT_img0"
PUBLISHER = Publisher(
    "JSRT chest X-rays, as prepared by the University of Lübeck's course",
    "https://cloud.imi.uni-luebeck.de/s/sBgNizxWk2boDXK (images) and "
    "https://cloud.imi.uni-luebeck.de/s/JkDxJnnDXCa7sy6 (masks)",
    (f"{IMAGES}   (247 images)", f"{MASKS}  (247 masks of 5 structures)"),
)
NUM_TRAIN = 160  # the course's split: the first 160 train, the other 87 test
NUM_IMAGES = 247
FULL_SCALE = 65535
MAX_VALUES = 2**28


def find_samples(source: Path) -> Found:
    """Slice the tensors into 16-bit images and masks of class ids.

    The images are normalised floats; one linear map for all of them takes their range to 16
    bits, and the notes say how `normalize` undoes it. Class i + 1 is channel i of the masks, and
    the later channel has a pixel that two claim, as in the course.

    Raises:
        DataError: a file is missing, or does not hold what it should.
    """
    files = (source / IMAGES, source / MASKS)
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise PUBLISHER.missing(source, missing if len(missing) < 2 else ())
    images, masks = _load(files[0]), _load(files[1])
    if not isinstance(images, dict) or IMAGES_KEY not in images:
        raise DataError(f"{files[0]}: expected a dictionary with {IMAGES_KEY!r}")
    pixels_NHW, masks_NCHW = _check(images[IMAGES_KEY], masks, files)
    low, high = float(pixels_NHW.min()), float(pixels_NHW.max())
    samples = [
        Sample(
            name=f"jsrt_{index:03d}",
            group=f"jsrt_{index:03d}",
            sources=files,
            read=partial(_read, pixels_NHW[index], masks_NCHW[index], (low, high)),
            part="train" if index < NUM_TRAIN else "test",
        )
        for index in range(len(pixels_NHW))
    ]
    span = high - low
    notes = [
        f"the files' own values {low:.4g} to {high:.4g} are 0 to 1 now; "
        f'{{"normalize": {{"mean": {-low / span:.6g}, "std": {1 / span:.6g}}}}} undoes it'
    ]
    if len(samples) != NUM_IMAGES:
        notes.append(f"{len(samples)} images; the course's files have {NUM_IMAGES}")
    return Found(samples, num_classes=masks_NCHW.shape[1] + 1, notes=notes)


def _load(path: Path) -> Any:
    # Only here, as it brings torch: reading the other archives needs none.
    from trainer.networks.tensors import load_tensors

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on archives of TorchScript, which are refused below
            return load_tensors(path)
    except Exception as error:  # noqa: BLE001  (torch raises whatever the bytes lead it to)
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: not a file of tensors ({reason})") from None


def _check(images: Any, masks: Any, files: tuple[Path, Path]) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    from trainer.networks.tensors import tensor_problem

    if isinstance(images, torch.Tensor) and images.ndim == 4 and images.shape[1] == 1:
        images = images[:, 0]
    if not isinstance(images, torch.Tensor) or images.ndim != 3:
        raise DataError(f"{files[0]}: {IMAGES_KEY}: expected a tensor (N, H, W)")
    if not isinstance(masks, torch.Tensor) or masks.ndim != 4:
        raise DataError(f"{files[1]}: expected a tensor (N, C, H, W)")
    if len(images) != len(masks) or images.shape[-2:] != masks.shape[-2:]:
        raise DataError(
            f"{files[1]}: masks are {tuple(masks.shape)}, images {tuple(images.shape)}; "
            "they are not of one set"
        )
    for path, tensor in zip(files, (images, masks), strict=True):
        problem = tensor_problem(tensor)
        if problem or tensor.numel() > MAX_VALUES:  # a tensor can say one number a million times
            raise DataError(f"{path}: {problem or f'{tensor.numel():,} values'}; expected a few")
    if len(images) <= NUM_TRAIN:
        raise DataError(f"{files[0]}: {len(images)} images; the first {NUM_TRAIN} are to train on")
    images = images.float()
    if not bool(torch.isfinite(images).all()) or float(images.min()) == float(images.max()):
        raise DataError(f"{files[0]}: {IMAGES_KEY}: no finite range of values")
    return images, masks


def _read(pixels: torch.Tensor, masks: torch.Tensor, limits: tuple[float, float]) -> Content:
    low, high = limits
    share = (pixels.double().numpy() - low) / (high - low)
    labels = np.zeros(masks.shape[1:], dtype=np.uint8)
    for channel, mask in enumerate(masks.numpy()):
        labels[mask == 1] = channel + 1
    return Content(np.rint(share * FULL_SCALE).astype(np.uint16), labels)
