"""Every kind of file that people have: written by Pillow, tifffile, pydicom, h5py or numpy.

Each case says what its library decodes, or that the file is refused, and by which words.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import tifffile
from PIL import Image, ImageOps
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

logging.getLogger("tifffile").setLevel(logging.CRITICAL)

Array = np.ndarray[Any, Any]
H, W = 16, 24
RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (H, W), np.uint8)
RGB = RNG.integers(0, 256, (H, W, 3), np.uint8)
GRAY16, RGB16 = RNG.integers(0, 2**16, (H, W), np.uint16), RNG.integers(0, 2**16, (H, W, 3), "u2")
ALPHA = np.full((H, W), 128, np.uint8)
DISC = np.indices((H, W)).sum(0) > 20
BINARY = (DISC * 255).astype(np.uint8)
IDS = (np.indices((H, W)).sum(0) // 14).astype(np.uint8)  # 0, 1, 2
BLACK, WHITE, RED, GREEN = (0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 160, 0)


@dataclass(frozen=True)
class FileKind:
    """One file.

    Attributes:
        name: the row of the table; the part before the colon is how it is read.
        suffix: of the file.
        write: writes it.
        library: decodes it as it is meant: name and function.
        refused: words of the refusal, empty where it is read.
    """

    name: str
    suffix: str
    write: Callable[[Path], object]
    library: tuple[str, Callable[[Path], Array]]
    refused: str = ""

    @property
    def use(self) -> str:
        return self.name.partition(":")[0]


def by_pillow(path: Path) -> Array:
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def pillow_colours(path: Path) -> Array:
    """Colours as they are stored beside alpha."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGBA"))[..., :3]


def pillow_values(path: Path) -> Array:
    """Stored values of one channel, indices of a palette; turned by the tag."""
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image)).astype(int) * (
            255 if image.mode == "1" else 1
        )


def pillow_gray(path: Path) -> Array:
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("L"))


def by_tifffile(path: Path) -> Array:
    """Colours in the last axis, white at the top."""
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        pixels = np.asarray(page.asarray())
        if page.planarconfig == 2 and pixels.ndim == 3:
            pixels = np.moveaxis(pixels, 0, -1)
        if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
            pixels = ~pixels if pixels.dtype == bool else np.iinfo(pixels.dtype).max - pixels
    pixels = pixels * np.uint8(255) if pixels.dtype == bool else pixels
    return pixels[..., :3] if pixels.ndim == 3 and pixels.shape[-1] == 4 else pixels


def resized(path: Path) -> Array:
    """The nearest pixel to the centre of each, as images are resized."""
    with Image.open(path) as image:
        return np.asarray(image.resize((9, 7), Image.Resampling.NEAREST))


RESIZED = ("Pillow", resized)
PILLOW, STORED, SHOWN = ("Pillow", by_pillow), ("Pillow", pillow_values), ("Pillow", pillow_gray)
TIFFFILE = ("tifffile", by_tifffile)


def pillow(pixels: Array, **options: Any) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(pixels).save(path, **options)


def tiff(pixels: Array, meaning: str, **options: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        tifffile.imwrite(path, pixels, photometric=meaning, metadata=None, **options)

    return write


def turned(pixels: Array) -> Callable[[Path], None]:
    """With the tag "turn right to look at"."""

    def write(path: Path) -> None:
        if path.suffix == ".tif":
            tag = {"extratags": [(274, 3, 1, 6, True)]}
            tiff(pixels, "rgb" if pixels.ndim == 3 else "minisblack", **tag)(path)
            return
        exif = Image.Exif()
        exif[274] = 6
        Image.fromarray(pixels).save(path, exif=exif.tobytes(), **lossless(path))

    return write


def lossless(path: Path) -> dict[str, int]:
    return {"quality": 100, "subsampling": 0} if path.suffix == ".jpg" else {}


def palette(indices: Array, *colours: tuple[int, int, int]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        image = Image.frombytes("P", indices.shape[::-1], indices.astype(np.uint8).tobytes())
        image.putpalette([value for colour in colours for value in colour])
        image.save(path)

    return write


def quantized(path: Path) -> None:
    Image.fromarray(BINARY).convert("RGB").quantize(2).save(path)


def animation(path: Path) -> None:
    frame = Image.fromarray(RGB).quantize(32)
    frame.save(path, save_all=True, append_images=[frame.rotate(180)])


def packed_12_bits(path: Path) -> None:
    pixels = GRAY16 >> 4
    packed = int("".join(f"{value:012b}" for value in pixels.ravel()), 2).to_bytes(
        pixels.size * 3 // 2, "big"
    )
    tags = [(256, W), (257, H), (258, 12), (259, 1), (262, 1), (273, 122), (277, 1), (278, H),
            (279, len(packed))]  # fmt: skip
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags)) + body + b"\0" * 4 + packed)


def png_of_16_bits(path: Path) -> None:
    path.write_bytes(cv2.imencode(".png", RGB16[..., ::-1])[1].tobytes())


def alpha_alone(path: Path) -> None:
    bands = [Image.new("L", (W, H), 255)] * 3
    Image.merge("RGBA", [*bands, Image.fromarray(BINARY)]).save(path)


def dicom(*, with_preamble: bool, shift: int = 0, **tags: object) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = MRImageStorage
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.Rows, data.Columns, data.SamplesPerPixel = H, W, 1
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
        data.PixelRepresentation, data.PhotometricInterpretation = 0, "MONOCHROME2"
        for name, value in tags.items():
            setattr(data, name, value)
        data.PixelData = np.roll(GRAY16 >> 4, shift).tobytes()
        data.save_as(path, enforce_file_format=True)
        if not with_preamble:
            path.write_bytes(path.read_bytes()[132:])  # as scanners of the nineties wrote

    return write


def by_pydicom(path: Path) -> Array:
    """Its range as 16 bits, black at 0."""
    data = dcmread(path, force=True)
    values = data.pixel_array.astype(float)
    share = (values - values.min()) / (values.max() - values.min())
    inverted = data.PhotometricInterpretation == "MONOCHROME1"
    return np.rint((1 - share if inverted else share) * 65535).astype(int)


def hdf5(path: Path, **options: Any) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("a", data=GRAY.astype("f4"), **options)


def by_h5py(path: Path) -> Array:
    with h5py.File(path) as file:
        return np.asarray(file["a"])


def shown(*colours: tuple[int, int, int]) -> Callable[[Path], Array]:
    """Return the place of each pixel's colour, as Pillow shows it, among these."""

    def decode(path: Path) -> Array:
        pixels = by_pillow(path)
        return np.argmax([(pixels == colour).all(-1) for colour in colours], axis=0)

    return decode


KINDS = [
    FileKind("image: PNG, gray, 8 bits", ".png", pillow(GRAY), PILLOW),
    FileKind("image: PNG, colours, 8 bits", ".png", pillow(RGB), PILLOW),
    FileKind("image: PNG, gray, 16 bits", ".png", pillow(GRAY16), STORED),
    FileKind("image: PNG, colours, 16 bits", ".png", png_of_16_bits,
             ("numpy", lambda path: RGB16)),
    FileKind("image: PNG, 1 bit", ".png", pillow(DISC), PILLOW),
    FileKind("image: PNG, colours and alpha", ".png", pillow(np.dstack([RGB, ALPHA])),
             ("Pillow", pillow_colours)),
    FileKind("image: PNG, palette", ".png", palette(IDS, RED, GREEN, WHITE), PILLOW),
    FileKind("image: PNG with orientation tag", ".png", turned(RGB), PILLOW),
    FileKind("image: JPEG", ".jpg", pillow(RGB, quality=100, subsampling=0), PILLOW),
    FileKind("image: JPEG called .jfif", ".jfif",
             pillow(RGB, quality=100, subsampling=0, format="JPEG"), PILLOW),
    FileKind("image: JPEG with orientation tag", ".jpg", turned(RGB), PILLOW),
    FileKind("image: BMP", ".bmp", pillow(RGB), PILLOW),
    FileKind("image: GIF of one frame", ".gif", palette(IDS, RED, GREEN, WHITE), PILLOW),
    FileKind("image: GIF, animated", ".gif", animation, PILLOW, "holds 2 images"),
    FileKind("image: TIFF, gray, 8 bits", ".tif", tiff(GRAY, "minisblack"), TIFFFILE),
    FileKind("image: TIFF, white is zero, 8 bits", ".tif", tiff(GRAY, "miniswhite"), TIFFFILE),
    FileKind("image: TIFF, gray, 16 bits", ".tif", tiff(GRAY16, "minisblack"), TIFFFILE),
    FileKind("image: TIFF, gray, 16 bits, big-endian, deflated", ".tif",
             tiff(GRAY16, "minisblack", byteorder=">", compression="zlib"), TIFFFILE),
    FileKind("image: TIFF, white is zero, 16 bits", ".tif", tiff(GRAY16, "miniswhite"), TIFFFILE),
    FileKind("image: TIFF, packed 12 bits", ".tif", packed_12_bits,
             ("numpy", lambda path: GRAY16 >> 4)),
    FileKind("image: TIFF, colours, 8 bits", ".tif", tiff(RGB, "rgb"), TIFFFILE),
    FileKind("image: TIFF, colours in planes, 8 bits", ".tif",
             tiff(np.moveaxis(RGB, -1, 0), "rgb", planarconfig="separate"), TIFFFILE),
    FileKind("image: TIFF, colours, 16 bits", ".tif", tiff(RGB16, "rgb"), TIFFFILE),
    FileKind("image: TIFF, colours in planes, 16 bits", ".tif",
             tiff(np.moveaxis(RGB16, -1, 0), "rgb", planarconfig="separate"), TIFFFILE,
             "uint16, 3 bands (RGB) in planes"),
    FileKind("image: TIFF, unassociated alpha", ".tif",
             tiff(np.dstack([RGB, ALPHA]), "rgb", extrasamples=["unassalpha"]), TIFFFILE),
    FileKind("image: TIFF, associated alpha", ".tif",
             tiff(np.dstack([RGB // 2, ALPHA]), "rgb", extrasamples=["assocalpha"]), TIFFFILE),
    FileKind("image: TIFF, unassociated alpha, 16 bits", ".tif",
             tiff(np.dstack([RGB16, GRAY16]), "rgb", extrasamples=["unassalpha"]), TIFFFILE),
    FileKind("image: TIFF with orientation tag", ".tif", turned(RGB), PILLOW),
    FileKind("image: TIFF, float32", ".tif", tiff(GRAY.astype("f4"), "minisblack"), TIFFFILE,
             "float32, 1 band"),
    FileKind("image: TIFF, int16", ".tif", tiff(GRAY.astype("i2"), "minisblack"), TIFFFILE,
             "int16, 1 band"),
    FileKind("image: TIFF of six bands", ".tif",
             tiff(np.dstack([RGB, RGB]), "minisblack", planarconfig="contig"), TIFFFILE,
             "uint8, 6 bands"),
    FileKind("image: TIFF of three pages", ".tif", tiff(np.stack([GRAY] * 3), "minisblack"),
             TIFFFILE, "holds 3 images (pages of a TIFF)"),
    FileKind("mask: PNG, {0, 255}", ".png", pillow(BINARY), STORED),
    FileKind("mask: PNG, 1 bit", ".png", pillow(DISC), STORED),
    FileKind("mask: PNG, class ids", ".png", pillow(IDS), STORED),
    FileKind("mask: PNG, class ids, 16 bits", ".png", pillow(IDS.astype("u2") * 300), STORED),
    FileKind("mask: PNG, equal colours", ".png", pillow(np.dstack([BINARY] * 3)), SHOWN),
    FileKind("mask: PNG, palette of class ids", ".png", palette(IDS, BLACK, RED, GREEN), STORED),
    FileKind("mask: PNG, palette of black and white, white first", ".png",
             palette(~DISC, WHITE, BLACK), SHOWN),
    FileKind("mask: PNG, quantized from black and white", ".png", quantized, SHOWN),
    FileKind("mask: PNG with orientation tag", ".png", turned(BINARY), STORED),
    FileKind("mask: PNG, shown by alpha alone", ".png", alpha_alone,
             ("Pillow", lambda path: BINARY), "in its alpha channel"),
    FileKind("mask: PNG of colours", ".png", pillow(
             np.array([BLACK, RED, GREEN], np.uint8)[IDS]), ("Pillow", shown(BLACK, RED, GREEN)),
             "the mask is coloured"),
    FileKind("mask: JPEG with orientation tag", ".jpg", turned(BINARY.repeat(8, 0).repeat(8, 1)),
             STORED),
    FileKind("mask: BMP", ".bmp", pillow(BINARY), STORED),
    FileKind("mask: GIF of one frame", ".gif", palette(DISC, BLACK, WHITE), SHOWN),
    FileKind("mask: TIFF, 1 bit, white is zero", ".tif", tiff(DISC, "miniswhite"), TIFFFILE),
    FileKind("mask: TIFF with orientation tag", ".tif", turned(BINARY),
             ("tifffile", lambda path: np.rot90(by_tifffile(path), -1))),
    FileKind("mask: TIFF, float32", ".tif", tiff(DISC.astype("f4"), "minisblack"), TIFFFILE,
             "float32, 1 band"),
    FileKind("resized: mask of 16 × 24 pixels to 7 × 9", ".png", pillow(BINARY), RESIZED),
    FileKind("DICOM: 12 bits", ".dcm", dicom(with_preamble=True), ("pydicom", by_pydicom)),
    FileKind("DICOM: called .DCM, black is the largest", ".DCM",
             dicom(with_preamble=True, PhotometricInterpretation="MONOCHROME1"),
             ("pydicom", by_pydicom)),
    FileKind("DICOM: without preamble", ".dcm", dicom(with_preamble=False),
             ("pydicom", by_pydicom)),
    FileKind("array: .npy", ".npy", lambda path: np.save(path, GRAY16), ("numpy", np.load)),
    FileKind("array: .npy, big-endian, columns first", ".npy",
             lambda path: np.save(path, np.asfortranarray(RGB16.astype(">u2"))),
             ("numpy", np.load)),
    FileKind("array: .npz", ".npz", lambda path: np.savez(path, a=RGB),
             ("numpy", lambda path: np.load(path)["a"])),
    FileKind("array: HDF5, compressed", ".h5", lambda path: hdf5(path, compression="gzip"),
             ("h5py", by_h5py)),
]  # fmt: skip
