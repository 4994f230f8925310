"""Makes one broken or crafted file of a valid one, from a random generator alone."""

from __future__ import annotations

import io
import json
import os
import random
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np

NUMBERS = (0, 1, 2, 255, 256, 32767, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)
LONG = ("9" * 5000, "[" * 3000, '"' + "x" * 5000 + '"')
WORDS = (*LONG, "nan", "-1", "1e999", "Infinity", "null", "[]", "{}", '""', "-1e308", "true",
         "1e-320", "\0", "\x1b[2J", "../../x")  # fmt: skip
TEXTS = ("JSON", "config", "study.toml", "groups", "contour")


def make(
    rng: random.Random, name: str, reader: Any, path: Path, templates: dict[Any, bytes]
) -> str:
    """Write an input; return what was done to it."""
    crafted = [craft for key, craft in CRAFTED if key in name]
    if crafted and rng.random() < 0.1:
        craft = rng.choice(crafted)
        craft(rng, path)
        return craft.__name__.strip("_")
    form = rng.randrange(reader.num_forms)
    if (name, form) not in templates:
        reader.write(path, form)
        templates[name, form] = path.read_bytes()
    content = templates[name, form]
    if reader.archived and rng.random() < 0.5:
        content, what = _change_member(rng, content)
    elif any(kind in name for kind in TEXTS) and rng.random() < 0.7:
        content, what = _change_text(rng, content)
    else:
        content, what = _change(rng, content)
    path.write_bytes(content)
    if rng.random() < 0.02:
        with path.open("ab") as file:
            file.truncate(len(content) + 2**34)
        what += ", a hole at its end"
    return f"form {form}: {what}"


def _change(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    changed, done = bytearray(content), []
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not changed:
            break
        way = rng.choice(_WAYS)
        way(rng, changed)
        done.append(way.__name__.strip("_"))
    return bytes(changed), ", ".join(done)


def _flip(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.choice((1, 2, 8, 32))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _flip_early(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.choice((1, 2, 4))):
        data[rng.randrange(min(len(data), 512))] = rng.randrange(256)


def _cut(rng: random.Random, data: bytearray) -> None:
    del data[rng.randrange(len(data)) :]


def _blank(rng: random.Random, data: bytearray) -> None:
    start = rng.randrange(len(data))
    size = min(rng.choice((4, 64, 512, 4096)), len(data) - start)
    data[start : start + size] = bytes(size)


def _repeat(rng: random.Random, data: bytearray) -> None:
    start = rng.randrange(len(data))
    piece = data[start : start + rng.choice((4, 64, 1024))]
    place = rng.randrange(len(data))
    data[place:place] = piece * rng.choice((1, 2, 50))


def _drop(rng: random.Random, data: bytearray) -> None:
    start = rng.randrange(len(data))
    del data[start : start + rng.choice((1, 4, 64, 1024))]


def _number(rng: random.Random, data: bytearray) -> None:
    size, code = rng.choice(((1, "B"), (2, "H"), (4, "I"), (8, "Q")))
    value = rng.choice(NUMBERS) % 2 ** (8 * size)
    place = rng.randrange(max(1, len(data) - size))
    data[place : place + size] = struct.pack(rng.choice("<>") + code, value)


_WAYS = (_flip, _flip_early, _cut, _blank, _repeat, _drop, _number, _number)


def _change_text(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    """Put something else in the place of a number, a text or a bracket."""
    text = content.decode("utf-8", "replace")
    places = [i for i, c in enumerate(text) if c in '0123456789"[]{},:=']
    for _ in range(rng.choice((1, 1, 2, 5))):
        start = rng.choice(places)
        end = start + rng.choice((0, 1, 3, 20))
        text = text[:start] + rng.choice(WORDS) + text[end:]
    return text.encode("utf-8", "surrogateescape"), "words"


def _change_member(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    """Change a member of an archive, and pack all anew: so its checksum is right."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as source:
            members = {info.filename: source.read(info) for info in source.infolist()}
    except zipfile.BadZipFile:  # a .pt of before torch 1.6
        return _change(rng, content)
    chosen = rng.choice(sorted(members))
    members[chosen], done = _change(rng, members[chosen])
    packing = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", packing) as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return target.getvalue(), f"{chosen} {done}"


# --- crafted files ----------------------------------------------------------------------------


def _vast_png(rng: random.Random, path: Path) -> None:
    side = rng.choice((4096, 30000, 65535, 2**31 - 1))
    depth, colour = rng.choice(((8, 0), (16, 2), (8, 6), (1, 3)))

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(
        ">IIBBBBB", side, rng.choice((side, 1)), depth, colour, 0, 0, rng.choice((0, 1))
    )
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"PLTE", bytes(9))
        + chunk(b"IDAT", zlib.compress(bytes(2**20))) + chunk(b"IEND", b"")
    )  # fmt: skip


def _vast_npz(rng: random.Random, path: Path) -> None:
    header = io.BytesIO()
    shape = rng.choice(((2**14, 2**14), (2**31,), (2**40,), (2**26,)))
    np.lib.format.write_array_header_1_0(
        header, {"descr": rng.choice(("<f8", "|u1")), "fortran_order": False, "shape": shape}
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(rng.choice((1, 3, 300))):
            archive.writestr(f"a{number}.npy", header.getvalue() + bytes(2**18))


def _vast_npy(rng: random.Random, path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"\x93NUMPY\x02\x00" + struct.pack("<I", rng.choice((2**32 - 1, 2**20))))
        file.truncate(2**34)


def _vast_hdf5(rng: random.Random, path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"conv0"]
        group = file.create_group("conv0")
        group.attrs["weight_names"] = [b"conv0/kernel:0"] * 50
        size = rng.choice((2**20, 2**32, 2**41))
        options: dict[str, Any] = rng.choice((
            {"shape": (size,), "chunks": (min(size, 2**29),), "maxshape": (None,),
             "compression": "gzip"},
            {"shape": (size,)}, {"shape": (3,), "chunks": (2**29,), "maxshape": (None,)},
        ))  # fmt: skip
        first = group.create_dataset("conv0/kernel:0", dtype="f4", **options)
        for number in range(rng.choice((1, 200))):
            file[f"layers/conv2d_{number}/vars/0"] = first
            group.attrs["weight_names"] = [b"conv0/kernel:0"]


def _linked_hdf5(rng: random.Random, path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["layers/a/vars/0"] = h5py.ExternalLink("/etc/hostname", "/")
        file["layers/b/vars/0"] = h5py.SoftLink("/layers")
        file.create_dataset("layers/c/vars/0", (4,), "u1", external=[("/etc/hostname", 0, 4)])
        file["layers/d/vars"] = file["layers"]


def _deep_hdf5(rng: random.Random, path: Path) -> None:
    with h5py.File(path, "w") as file:
        group = file
        for _ in range(rng.choice((50, 500, 1500))):
            group = group.create_group("layers")
        group.create_dataset("vars/0", data=np.zeros(3))


def _deep_json(rng: random.Random, path: Path) -> None:
    word = rng.choice(('{"layers":', '{"config":', "[", '{"neural_network":', '{"a":[{"b":'))
    path.write_text(word * rng.choice((100, 5000, 200_000)))


def _many_json(rng: random.Random, path: Path) -> None:
    path.write_text(
        "[" + rng.choice(("{},", "[],", "0,", '"a",')) * rng.choice((1000, 2**21)) + "0]"
    )


def _nested_models(rng: random.Random, path: Path) -> None:
    model: Any = None
    calls = rng.choice((2, 12, 40))
    for depth in range(8):
        layers: list[Any] = [{"class_name": "InputLayer", "name": "i", "inbound_nodes": [],
                              "config": {"batch_input_shape": [None, 32, 32, 1]}}]  # fmt: skip
        ends = [["i", 0, 0]]
        if model is not None:
            layers.append({**model, "inbound_nodes": [[["i", 0, 0, {}]]] * calls})
            ends = [[model["name"], calls - 1, 0]]
        config = {"layers": layers, "input_layers": [["i", 0, 0]], "output_layers": ends}
        name = f"m{depth}"
        model = {"class_name": "Functional", "name": name, "config": {"name": name, **config}}
    path.write_text(json.dumps(model))


def _nonsense_dicom(rng: random.Random, path: Path) -> None:
    import fuzz_readers
    import pydicom

    fuzz_readers.READERS["DICOM"].write(path, 0)
    dataset = pydicom.dcmread(path)
    key = rng.choice(("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth"))
    value = rng.choice(("nan", "1e308", "-inf", "0", "1e-300"))
    with path.open("r+b") as file:
        content = file.read()
        old = str(dataset[key].value).encode()
        place = content.rfind(old, 0, content.find(b"\xe0\x7f"))
        file.seek(max(0, place))
        file.write(value.encode()[: len(old)].ljust(len(old)))
    if rng.random() < 0.5:
        dataset.Rows = dataset.Columns = rng.choice((1, 65535))
        dataset.save_as(path)


def _foul_pickle(rng: random.Random, path: Path) -> None:
    import torch

    content = rng.choice((
        {"keeper": (-1.0, "/any/file"), "epoch": 10**30}, {"state_dict": {"a": 1j}}, [1], "x",
        {"a": torch.zeros(1).expand(10**6, 10**6)}, {"a": torch.zeros(4, dtype=torch.complex64)},
        {"a": torch.zeros(2, 2).to_sparse()}, {"a": torch.empty(10**9, device="meta")},
        {(("a",),): torch.zeros(1)}, {"state_dict": {}},
    ))  # fmt: skip
    torch.save(content, path)


def _no_file(rng: random.Random, path: Path) -> None:
    target = rng.choice(("/dev/zero", "/dev/null", str(path), "", "/"))
    if target:
        path.symlink_to(target)
    else:
        os.mkfifo(path)


CRAFTED = (
    ("", _no_file),
    ("png", _vast_png), ("npz", _vast_npz), ("npy", _vast_npy), ("HDF5", _vast_hdf5),
    ("HDF5", _linked_hdf5), ("h5", _vast_hdf5), ("h5", _linked_hdf5), ("h5", _deep_hdf5),
    ("HDF5", _deep_hdf5), ("JSON", _deep_json), ("JSON", _many_json), ("JSON", _nested_models),
    ("config", _deep_json), ("config", _many_json), ("DICOM", _nonsense_dicom),
    (".pt", _foul_pickle),
)  # fmt: skip
