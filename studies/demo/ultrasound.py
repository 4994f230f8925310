"""Generates synthetic breast-ultrasound images with the masks of their lesions.

The steps are those of a scanner. Scatterers of random phase, many in each resolution cell, are
weighted by a map of the tissue's backscatter and summed by the pulse-echo point-spread function:
wherever the tissue is homogeneous the envelope is then Rayleigh distributed, which is fully
developed speckle (Wagner, Smith, Sandrik and Lopez 1983, "Statistics of speckle in
ultrasound B-scans", IEEE Trans. Sonics Ultrason. 30(3)). Shadows and enhancement are not painted:
they follow from integrating the attenuation along the beam. The envelope is log-compressed to a
dynamic range and quantised to 8 bits.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from studies.demo import phantom
from studies.demo.phantom import FIELD_MM, Map, Tissue, between, texture, white_noise
from trainer.errors import DataError

Image = NDArray[np.uint8]

VERSION = 1  # raise it with any change of the pixels: older trees are then refused, not reused
STAMP = "demo.json"
SPLITS = ("train", "test")  # a split's position is part of its images' seeds

SAMPLES_PER_PX = 2  # simulated, both ways: the pulse is shorter than a pixel of 40 mm / 64
PULSE_FWHM_MM = 0.55  # axial: a few half-periods of 7.5 MHz, λ = 0.2 mm
BEAM_FWHM_MM = 1.3  # lateral: λ × f-number, and wider out of focus; hence the flat grain
PSF_SIGMA_MM = (PULSE_FWHM_MM / 2.3548, BEAM_FWHM_MM / 2.3548)  # of a Gaussian: 2 √(2 ln 2)
MIN_SIZE_PX = 48  # below, samples are further apart than the pulse is long

DYNAMIC_RANGE_DB = 60.0
WHITE_DB = 19.0  # the echo shown as 255, relative to glandular tissue: strong reflectors only
NOISE_DB = -50.0  # the receiver's, relative to glandular tissue


@dataclass(frozen=True, kw_only=True)
class UltrasoundSpec:
    """What to generate; the last four fields set how hard the lesions are to find.

    Contrast is how much darker than glandular tissue a lesion is; `blurred_share` the share of
    lesions with an indistinct margin; distractors are fat lobules and shadows: dark, no lesions.
    """

    size_px: int = 64
    num_train: int = 200
    num_test: int = 64
    seed: int = 0
    empty_share: float = 0.14
    contrast_db: tuple[float, float] = (8.0, 19.0)
    blurred_share: float = 0.3
    max_distractors: int = 3

    def __post_init__(self) -> None:
        """Refuse what cannot be rendered."""
        for name, least in (("size_px", MIN_SIZE_PX), ("num_train", 1), ("num_test", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected {least} or more, got {getattr(self, name)}")
        for name in ("empty_share", "blurred_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}: expected 0 to 1, got {getattr(self, name)}")


def speckle_envelope(rng: np.random.Generator, amplitude_hw: Map) -> Map:
    """Return the echo envelope of random scatterers under a map of reflectivity.

    The field is the demodulated one: a scatterer's exact depth sets the phase that the carrier
    gives to its echo, so the phase is random and the carrier itself need not be sampled. The sum
    over the many scatterers of one sample is complex Gaussian: drawn as such, by Box and Muller.

    Args:
        rng: source of the scatterers.
        amplitude_hw: root-mean-square echo amplitude, on a grid that spans FIELD_MM both ways.

    Returns:
        The envelope; its mean square is the local square of `amplitude_hw`.
    """
    margins = [  # four sigma: what wraps around at the edges is cut off again
        (8 * math.ceil(4 * sigma_mm * num / FIELD_MM / 8),) * 2  # eights: the FFT is quick
        for sigma_mm, num in zip(PSF_SIGMA_MM, amplitude_hw.shape, strict=True)
    ]
    padded_hw = np.pad(amplitude_hw, margins, mode="edge")
    inside = tuple(slice(before, -before) for before, _ in margins)
    strength_hw = padded_hw * np.sqrt(-np.log(1.0 - rng.random(padded_hw.shape)))
    phase_hw = 2.0 * np.pi * rng.random(padded_hw.shape)
    real, imaginary = (
        phantom.convolve(strength_hw * part, PSF_SIGMA_MM, of_noise=True)[inside]
        for part in (np.cos(phase_hw), np.sin(phase_hw))
    )
    envelope: Map = np.hypot(real, imaginary)
    return envelope


def _scan(rng: np.random.Generator, tissue: Tissue) -> Map:
    """Return what the scanner shows of the tissue, 0 to 255, on the simulation grid."""
    height = len(tissue.depth_mm)
    loss_db = np.cumsum(tissue.loss_db_per_mm, axis=0) * (FIELD_MM / height)
    # No shadow is sharper than the beam that it is seen with
    loss_db = phantom.convolve(loss_db, (0.0, PSF_SIGMA_MM[1]))
    # Time-gain compensation misses the true attenuation by a slope, and its sliders by a ripple
    loss_db += between(rng, 0.0, 0.5) * tissue.depth_mm
    loss_db += between(rng, 0.5, 2.0) * texture(rng, (height, 1), (4.0, 1.0))
    envelope = speckle_envelope(rng, 10.0 ** ((tissue.echo_db - loss_db) / 20.0))
    noise = 10.0 ** (NOISE_DB / 20.0) * white_noise(rng, envelope.shape)
    gain_db = between(rng, -3.0, 5.0) - WHITE_DB
    level_db = 20.0 * np.log10(np.hypot(envelope, noise) + 1e-9) + gain_db
    shown: Map = 255.0 * np.clip(1.0 + level_db / DYNAMIC_RANGE_DB, 0.0, 1.0)
    return shown


def _to_pixels(map_hw: Map, size_px: int) -> Map:
    """Average the samples of each pixel."""
    cells = map_hw.reshape(size_px, SAMPLES_PER_PX, size_px, SAMPLES_PER_PX)
    pixels: Map = cells.mean(axis=(1, 3))
    return pixels


def render(rng: np.random.Generator, spec: UltrasoundSpec) -> tuple[Image, Image]:
    """Render one image and the mask of its lesion, both (size_px, size_px) and uint8.

    A mask is 255 in the lesion and 0 elsewhere; about `spec.empty_share` of them are all 0.
    """
    num_samples = spec.size_px * SAMPLES_PER_PX
    tissue = phantom.layered_breast(rng, (num_samples, num_samples))
    for _ in range(int(rng.random() * (spec.max_distractors + 1))):
        if rng.random() < 0.6:
            phantom.add_fat_lobule(rng, tissue)
        else:
            phantom.add_shadow(rng, tissue)
    mask_hw = np.zeros((spec.size_px, spec.size_px), dtype=np.uint8)
    if rng.random() >= spec.empty_share:
        outside_mm = phantom.add_lesion(rng, tissue, spec.contrast_db, spec.blurred_share)
        mask_hw[_to_pixels(outside_mm, spec.size_px) < 0.0] = 255
    image_hw = _to_pixels(_scan(rng, tissue), spec.size_px)
    return np.rint(image_hw).astype(np.uint8), mask_hw


def image_rng(seed: int, split: str, index: int) -> np.random.Generator:
    """Return the generator of one image: the same however many images there are."""
    sequence = np.random.SeedSequence([seed, SPLITS.index(split), index])
    return np.random.Generator(np.random.PCG64(sequence))  # default_rng's choice may change


def _file_names(num_images: int) -> list[str]:
    return [f"us_{index:03d}.png" for index in range(num_images)]


def _stamp(spec: UltrasoundSpec) -> str:
    return json.dumps({"generator": "ultrasound", "version": VERSION, **asdict(spec)}, indent=1)


def _is_finished(folder: Path, spec: UltrasoundSpec) -> bool:
    """Say whether the folder holds this very data set, with no image missing or added."""
    stamp = folder / STAMP
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != _stamp(spec):
        return False
    return all(
        {path.name for path in (folder / split / kind).glob("*")} == set(_file_names(num_images))
        for split, num_images in zip(SPLITS, (spec.num_train, spec.num_test), strict=True)
        for kind in ("inputs", "targets")
    )


def _write_tree(folder: Path, spec: UltrasoundSpec) -> None:
    for split, num_images in zip(SPLITS, (spec.num_train, spec.num_test), strict=True):
        inputs, targets = folder / split / "inputs", folder / split / "targets"
        inputs.mkdir(parents=True)
        targets.mkdir()
        for index, name in enumerate(_file_names(num_images)):
            image_hw, mask_hw = render(image_rng(spec.seed, split, index), spec)
            for path, pixels in ((inputs / name, image_hw), (targets / name, mask_hw)):
                # imencode, not imwrite: imwrite says False for a full disk, and nothing more
                path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    (folder / STAMP).write_text(_stamp(spec), encoding="utf-8")


def generate(out_dir: Path, spec: UltrasoundSpec = UltrasoundSpec()) -> None:
    """Write the data set: `out_dir`/{train,test}/{inputs,targets}/us_000.png and so on.

    The tree is built aside and renamed when finished, so that nobody sees half of it; a tree of
    the same spec is left as it is.

    Raises:
        DataError: `out_dir` is a file, or holds something else; it is not touched.
    """
    if _is_finished(out_dir, spec):
        return
    refusal = DataError(
        f"{out_dir}: expected an empty folder, none, or the demo data of this version and spec; "
        "it holds something else, or images are missing; move it away or name another folder"
    )
    if out_dir.is_file() or (out_dir.is_dir() and any(out_dir.iterdir())):
        raise refusal
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}.", dir=out_dir.parent))
    try:
        aside.chmod(0o755)  # mkdtemp's 0700 would lock out a container's user
        _write_tree(aside, spec)
        try:
            aside.rename(out_dir)
        except OSError as error:  # somebody else was faster; the same images are as good
            if not _is_finished(out_dir, spec):
                raise refusal from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
