"""Writes what people have beside folders of images: arrays, series, models, configs, databases."""

from __future__ import annotations

import json
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import optuna
from file_kinds import dicom
from support import data_section, write_config

from trainer.networks import network_json

BOM = b"\xef\xbb\xbf"


def write_section(root: Path, section: dict[str, Any], **changes: object) -> None:
    path = write_config(root / "config.json", Path("data"), **changes)
    whole = json.loads(path.read_text())
    whole["neural_network"]["data"] = section
    path.write_text(json.dumps(whole))


def config(**changes: object) -> Callable[[Path], None]:
    """Write a config of the data folder; changes of its section `data` by name."""

    def write(root: Path) -> None:
        write_section(root, data_section(Path("data"), test_output_path="out/", **changes))

    return write


def arrays(kind: str, **changes: object) -> Callable[[Path], None]:
    """Write a config for arrays; paths by name."""

    def write(root: Path) -> None:
        section = {"type": kind, "batch_size": 2, "target_is_mask": True, **changes}
        network = network_json("unet:width=4,depth=2", (8, 8, 1), 1)
        (root / "layers.json").write_text(json.dumps(network))
        write_section(root, section, layers="layers.json")

    return write


def stacks(number: int = 6) -> tuple[np.ndarray, np.ndarray]:
    where = (np.indices((number, 8, 8)).sum(0) > 9).astype(np.uint8)
    return np.random.default_rng(0).random((number, 8, 8, 1), np.float32), where


def npz_of_both(root: Path) -> None:
    np.savez(root / "set.npz", images=stacks()[0][0], masks=stacks()[1][0])


def one_npy(root: Path) -> None:
    for name, array in zip(("images", "masks"), stacks(), strict=True):
        np.save(root / f"{name}.npy", array)


PLACES = ("input_path", "target_path", "test_input_path", "test_target_path")
SAME = dict.fromkeys(PLACES, "set.npz")
NPZ = {key: f"set.npz/{'images' if 'input' in key else 'masks'}" for key in SAME}
NPY = {key: f"{'images' if 'input' in key else 'masks'}.npy" for key in SAME}
H5 = {key: f"{'images' if 'input' in key else 'masks'}.h5" for key in SAME}


def h5_files(root: Path) -> None:
    for name, array in zip(("images", "masks"), stacks(), strict=True):
        with h5py.File(root / f"{name}.h5", "w") as file:
            for index, entry in enumerate(array):
                file[f"s{index}"] = entry


def unknown_filter(root: Path) -> None:
    h5_files(root)
    with h5py.File(root / "images.h5", "a") as file:
        del file["s0"]
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_chunk((8, 8, 1))
        settings.set_filter(32015, h5py.h5z.FLAG_OPTIONAL)  # Zstandard, which hdf5plugin has
        space = h5py.h5s.create_simple((8, 8, 1))
        made = h5py.h5d.create(file.id, b"s0", h5py.h5t.NATIVE_FLOAT, space, settings)
        h5py.Dataset(made).id.write_direct_chunk((0, 0, 0), b"\0" * 40)


def external_link(root: Path) -> None:
    h5_files(root)
    with h5py.File(root / "images.h5", "a") as file:
        file.move("s0", "old")
        with h5py.File(root / "other.h5", "w") as other:
            other["s0"] = file["old"][...]
        del file["old"]
        file["s0"] = h5py.ExternalLink("other.h5", "/s0")


def series(suffix: str, *, with_preamble: bool = True) -> Callable[[Path], None]:
    """Write a case of Sunnybrook's: two slices, two contours."""

    def make(root: Path) -> None:
        for case in (1, 2, 3):
            for number in (40, 60):
                path = root / f"raw/SC-HF-I-{case}/IM-0001-{number:04d}{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                write = dicom(with_preamble=with_preamble, shift=7 * number + 30 * case)
                write(path)
                contour = root / f"raw/contours/SC-HF-I-{case}/contours-manual/IRCCI-expert"
                contour.mkdir(parents=True, exist_ok=True)
                (contour / f"IM-0001-{number:04d}-icontour-manual.txt").write_text(
                    "3 3\n12 3\n12 12\n3 12\n"
                )

    return make


def network_text() -> str:
    return json.dumps(network_json("unet:width=4,depth=2", (32, 32, 1), 1))


def keras_model(root: Path) -> None:
    with zipfile.ZipFile(root / "model.keras", "w") as archive:
        archive.writestr("config.json", network_text())
        archive.writestr("metadata.json", "{}")


def keras_h5(root: Path) -> None:
    with h5py.File(root / "model.h5", "w") as file:
        file.attrs["model_config"] = network_text()


def marked_files(root: Path) -> None:
    (root / "net.json").write_bytes(BOM + network_text().encode())
    (root / "url").write_bytes(BOM + f"sqlite:///{root}/x.db\n".encode())
    (root / "mine").mkdir()
    (root / "mine/study.toml").write_bytes(
        BOM + b'title = "x"\n[config]\n"optimizer.type" = "Adam"\n"loss.function" = "Dice"\n'
        b'[[search]]\nkey = "optimizer.learning_rate"\nrange = [0.001, 0.01]\n'
    )


def marked_config(root: Path) -> None:
    config()(root)
    (root / "config.json").write_bytes(BOM + (root / "config.json").read_bytes())


def foreign_database(root: Path) -> None:
    connection = sqlite3.connect(root / "rml_optimize.db")
    connection.execute("create table studies (title text)")
    connection.commit()
    connection.close()


def other_optuna(root: Path) -> None:
    storage = optuna.storages.RDBStorage(f"sqlite:///{root / 'rml_optimize.db'}")
    optuna.create_study(storage=storage, study_name="data")
    storage.remove_session()
    storage.engine.dispose()
    connection = sqlite3.connect(root / "rml_optimize.db")
    connection.execute("update alembic_version set version_num = 'v9.0.0.a'")
    connection.commit()
    connection.close()
