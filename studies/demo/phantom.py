"""Puts a breast together: maps of backscatter and attenuation, with or without a lesion.

Sonographic signs of lesions (margin, orientation, posterior features) are those of Stavros et al.
1995, "Solid breast nodules", Radiology 196(1), and of the BI-RADS atlas. Levels are relative to
glandular tissue; fat and muscle are darker (Stavros 2004, "Breast Ultrasound").

Only NumPy's uniform doubles are drawn: their stream has never changed between NumPy versions,
while those of `normal` and `choice` may (NEP 19).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.float64]

FIELD_MM = 40.0  # depth and width of the view: a 38 mm linear array set to 4 cm
SKIN_DB, FAT_DB, GLAND_DB, MUSCLE_DB = 6.0, -9.0, 0.0, -9.0

CYST, BENIGN, MALIGNANT = "cyst", "benign", "malignant"


@dataclass(frozen=True)
class Tissue:
    """Maps on the simulation grid; the two big ones change in place as structures are added.

    Shapes: depth_mm (H, 1), lateral_mm and gland_mm (1, W), the others (H, W).
    """

    depth_mm: Map
    lateral_mm: Map
    gland_mm: Map  # the depth where the gland begins
    echo_db: Map
    loss_db_per_mm: Map  # there and back, in excess of what time-gain compensation makes up for


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw a uniform number."""
    return low + (high - low) * float(rng.random())


def white_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> Map:
    """Draw uniform noise of zero mean and unit variance."""
    noise: Map = (rng.random(shape) - 0.5) * np.sqrt(12.0)
    return noise


@lru_cache(maxsize=64)
def _transfer(num: int, sigma: float) -> Map:
    """Return what a Gaussian of `sigma` samples does to each frequency of `num` samples."""
    turns = np.pi * sigma * np.fft.fftfreq(num)
    response: Map = np.exp(-2.0 * turns * turns)
    response.setflags(write=False)  # shared by all callers
    return response


def convolve(map_hw: Map, sigma_mm: tuple[float, float], *, of_noise: bool = False) -> Map:
    """Convolve with a separable Gaussian, (axial, lateral) in mm; the edges wrap around.

    The mean is kept or, with `of_noise`, the variance of white noise. By Fourier transform and
    not by a library's filter, whose rounding may change from version to version, nor by products
    of matrices, which would start as many threads as there are cores for a millisecond's work.
    """
    height, width = map_hw.shape
    axial = _transfer(height, sigma_mm[0] * height / FIELD_MM)
    lateral = _transfer(width, sigma_mm[1] * width / FIELD_MM)
    spectrum = np.fft.rfft2(map_hw)
    spectrum *= axial[:, None]
    spectrum *= lateral[: width // 2 + 1]
    if of_noise:
        spectrum /= np.sqrt((axial**2).mean() * (lateral**2).mean())
    result: Map = np.fft.irfft2(spectrum, s=map_hw.shape)
    return result


def texture(
    rng: np.random.Generator, shape: tuple[int, int], sigma_mm: tuple[float, float]
) -> Map:
    """Return a smooth random map of zero mean and unit variance."""
    return convolve(white_noise(rng, shape), sigma_mm, of_noise=True)


def step(distance_mm: Map, width_mm: float) -> Map:
    """Rise from 0 to 1 over about `width_mm` around zero."""
    rise: Map = 0.5 + 0.5 * np.tanh(2.0 * distance_mm / width_mm)
    return rise


def ridge(distance: Map, width: float) -> Map:
    """Return 1 at zero, falling to 0 on both sides like a Gaussian."""
    scaled = distance / width
    bump: Map = np.exp(-scaled * scaled)
    return bump


def _wavy(rng: np.random.Generator, lateral_mm: Map, depth_mm: float, swing_mm: float) -> Map:
    """Return the depth of a layer's border at each lateral position."""
    border = np.full_like(lateral_mm, depth_mm)
    for waves in (0.5, 1.0, 2.0, 3.5):
        phase = between(rng, 0.0, 2 * np.pi)
        swing = between(rng, 0.3, 1.0) * swing_mm / (1 + waves)
        border += swing * np.sin(2 * np.pi * waves * lateral_mm / FIELD_MM + phase)
    return border


def layered_breast(rng: np.random.Generator, shape: tuple[int, int]) -> Tissue:
    """Lay out skin, fat, gland and muscle on a grid of (axial, lateral) samples."""
    height, width = shape
    depth: Map = (np.arange(height, dtype=np.float64)[:, None] + 0.5) * (FIELD_MM / height)
    lateral: Map = (np.arange(width, dtype=np.float64)[None, :] + 0.5) * (FIELD_MM / width)
    skin = _wavy(rng, lateral, between(rng, 1.2, 2.2), 0.3)
    gland = _wavy(rng, lateral, between(rng, 5.0, 11.0), 4.0)
    muscle = _wavy(rng, lateral, between(rng, 26.0, 36.0), 3.0)

    in_fat = step(depth - skin, 0.5) * step(gland - depth, 0.8)
    in_gland = step(depth - gland, 0.8) * step(muscle - depth, 0.8)
    in_muscle = step(depth - muscle, 0.8)
    echo = SKIN_DB * step(skin - depth, 0.5) + (FAT_DB + between(rng, -2, 2)) * in_fat
    echo += (MUSCLE_DB + between(rng, -2, 2)) * in_muscle
    # Patchy glandular tissue, flattened along the skin as the ducts and lobes are
    echo += in_gland * (GLAND_DB + 3.5 * texture(rng, shape, (1.2, 3.5)))
    # Cooper's ligaments: thin bright sheets, the zero crossings of a smooth map
    sheets = ridge(texture(rng, shape, (1.6, 4.5)), 0.15)
    echo += (11.0 * in_fat + 6.0 * in_gland) * sheets
    # Muscle fibres: oblique bright strands, slightly warped
    slope, pitch_mm = between(rng, -0.2, 0.2), between(rng, 1.6, 2.6)
    warped = depth + slope * lateral + 0.8 * texture(rng, shape, (2.0, 6.0))
    echo += 9.0 * in_muscle * ridge(np.sin(np.pi * warped / pitch_mm), 0.35)
    # Fasciae reflect specularly, and only where they lie square to the beam
    for border in (gland, muscle):
        facing = step(texture(rng, (1, width), (1.0, 3.0)), 1.5)
        echo += 10.0 * facing * ridge(depth - border, 0.4)
    return Tissue(depth, lateral, gland, echo, np.zeros(shape))


def _outside_mm(
    rng: np.random.Generator,
    tissue: Tissue,
    centre_mm: tuple[float, float],
    radii_mm: tuple[float, float],
    irregularity: float,
) -> Map:
    """Return about how far each sample lies outside a tilted ellipse with a wobbling radius.

    Pairs are (axial, lateral); the radius is 1 + Σ c_k cos(k·angle + phase_k) of the ellipse's.
    """
    depth, lateral = tissue.depth_mm - centre_mm[0], tissue.lateral_mm - centre_mm[1]
    tilt = between(rng, -0.35, 0.35)  # rad
    across = (lateral * np.cos(tilt) + depth * np.sin(tilt)) / radii_mm[1]
    along = (depth * np.cos(tilt) - lateral * np.sin(tilt)) / radii_mm[0]
    rho = np.hypot(across, along) + 1e-9  # the centre itself has no direction
    unit = (across + 1j * along) / rho
    wobble = np.zeros_like(unit)
    for k in range(8, 1, -1):  # Horner's rule in unit^k: no trigonometry per sample
        phase = np.exp(2j * np.pi * between(rng, 0.0, 1.0))
        wobble = (wobble + irregularity * between(rng, 0.3, 1.0) / k**0.6 * phase) * unit
    radius = np.maximum(1.0 + (wobble * unit).real, 0.3)
    outside: Map = (rho / radius - 1.0) * np.sqrt(radii_mm[0] * radii_mm[1])
    return outside


def add_fat_lobule(rng: np.random.Generator, tissue: Tissue) -> None:
    """Add an oval dark lobule in a bright capsule: as dark as a lesion, but none."""
    centre = (between(rng, 7.0, 32.0), between(rng, 3.0, 37.0))
    wide = between(rng, 3.0, 7.0)
    radii = (wide * between(rng, 0.35, 0.65), wide)
    outside = _outside_mm(rng, tissue, centre, radii, irregularity=0.05)
    level_db = between(rng, -9.0, -4.0) + texture(rng, tissue.echo_db.shape, (1.0, 2.0))
    tissue.echo_db[:] += step(-outside, 0.5) * (level_db - tissue.echo_db)
    tissue.echo_db[:] += between(rng, 4.0, 9.0) * ridge(outside, 0.45)


def add_shadow(rng: np.random.Generator, tissue: Tissue) -> None:
    """Add a shadow without a lesion: poor contact at the skin, a ligament, a calcification."""
    start_mm = 0.0 if rng.random() < 0.5 else between(rng, 5.0, 20.0)
    columns = ridge(tissue.lateral_mm - between(rng, 0.0, FIELD_MM), between(rng, 0.8, 4.0))
    spot = columns * ridge(tissue.depth_mm - start_mm, 0.8)
    tissue.loss_db_per_mm[:] += between(rng, 5.0, 12.0) * spot
    if start_mm > 0:
        tissue.echo_db[:] += 8.0 * spot


def add_lesion(
    rng: np.random.Generator,
    tissue: Tissue,
    contrast_db: tuple[float, float],
    blurred_share: float,
) -> Map:
    """Add a cyst, a benign or a malignant mass; return about how far a sample lies outside it.

    Contrast is how much darker than the gland the lesion is; a cyst is darker still. Malignant
    margins are blurred more often than the others.
    """
    draw = rng.random()
    kind = MALIGNANT if draw < 0.45 else BENIGN if draw < 0.8 else CYST
    # Taller than wide is a sign of malignancy, wider than tall of a benign mass
    tall = between(rng, *((0.75, 1.3) if kind == MALIGNANT else (0.5, 0.95)))
    mean_mm = between(rng, *((3.0, 6.5) if kind == CYST else (3.4, 9.0)))
    radii = (mean_mm * np.sqrt(tall), mean_mm / np.sqrt(tall))
    lateral = between(rng, 7.0, 33.0)
    top = float(tissue.gland_mm[0, int(lateral / FIELD_MM * tissue.gland_mm.shape[1])])
    centre = (top + 0.8 * radii[0] + between(rng, 0.0, 9.0), lateral)
    irregularity = between(rng, *((0.12, 0.36) if kind == MALIGNANT else (0.02, 0.1)))
    outside = _outside_mm(rng, tissue, centre, radii, irregularity)

    blurred = rng.random() < blurred_share * {MALIGNANT: 1.4, BENIGN: 0.8, CYST: 0.2}[kind]
    soft = step(-outside, between(rng, *((1.5, 3.5) if blurred else (0.4, 0.9))))
    level_db = GLAND_DB - between(rng, *contrast_db) - (7.0 if kind == CYST else 0.0)
    patches_db = 0.6 if kind == CYST else 2.2
    inner_db = level_db + patches_db * texture(rng, tissue.echo_db.shape, (1.2, 1.6))
    tissue.echo_db[:] += soft * (inner_db - tissue.echo_db)
    if kind == MALIGNANT:  # an echogenic halo: the tissue around is infiltrated
        tissue.echo_db[:] += between(rng, 0.0, 5.0) * ridge(outside - 1.0, 0.9)
    # Fibrous masses attenuate more than the gland, fluid less: shadow, enhancement
    loss = {MALIGNANT: (0.0, 1.6), BENIGN: (-0.5, 0.3), CYST: (-1.1, -0.5)}[kind]
    tissue.loss_db_per_mm[:] += between(rng, *loss) * soft
    return outside
