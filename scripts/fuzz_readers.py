"""The readers that `scripts/fuzz.py` tries, and small valid files of each kind."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from hpo.console import console, errors, run_app
from hpo.errors import HpoError
from hpo.plan.studyfile import STUDY_FILE, load_study
from hpo.study.cli import make_app
from studies.prepare.colours import count_colours, recode
from studies.prepare.groups import GROUPS, read_groups, write_groups
from studies.sunnybrook.dicom import read_contour, read_slice
from trainer.config import load_config, parse_config
from trainer.data.arrays import ArrayFiles, list_sources
from trainer.data.headers import read_header
from trainer.data.images import read_image, read_mask
from trainer.errors import DataError, TrainerError
from trainer.networks import check_network, load_network, network_json, parse_network
from trainer.networks.keras_weights import export_keras_h5
from trainer.networks.module import build_module
from trainer.networks.weights import load_weights
from trainer.optimizers.schedule import LearningRate
from trainer.output.checkpoints import CheckpointKeeper, write_checkpoint
from trainer.output.resume import StateKeeper, Training, read_state, restore

REFUSALS = (TrainerError, HpoError)  # one clear line
SHAPE = (8, 8, 1)
SPEC = "unet:width=2,depth=1"
SETTINGS = {
    "layers": SPEC,
    "num_epochs": 2,
    "checkpoints": {"save": "ck", "resume": True},
    "data": {"input_path": "a", "target_path": "b", "batch_size": 2},
    "optimizer": {"type": "Adam", "learning_rate": 0.01},
    "loss": {"function": "BCE"},
}
_GRAPH = parse_network(network_json(SPEC, SHAPE, 1), SPEC)


@dataclass(frozen=True)
class Reader:
    """A kind of file.

    Attributes:
        name: of the file, with its suffix.
        write: makes a valid one, of a number that chooses its form.
        read: does with it what a command does; raises one of REFUSALS.
        num_forms: of what `write` makes.
        archived: it is a zip: its members are changed, too, and packed anew.
    """

    name: str
    write: Callable[[Path, int], None]
    read: Callable[[Path], None]
    num_forms: int = 1
    archived: bool = False


# --- images -----------------------------------------------------------------------------------

_RNG = np.random.default_rng(0)
_GRAY = cv2.GaussianBlur(_RNG.integers(0, 256, (40, 30), dtype=np.uint8), (0, 0), 2)
_MASK = ((_GRAY > 127) * 255).astype(np.uint8)


def _write_image(path: Path, form: int) -> None:
    kind = path.suffix[1:].upper().replace("JPG", "JPEG").replace("TIF", "TIFF")
    modes = {
        "PNG": ("L", "RGB", "P", "RGBA", "I;16"), "JPEG": ("L", "RGB", "L", "RGB", "CMYK"),
        "BMP": ("L", "RGB", "P", "1", "RGB"), "GIF": ("P", "L", "P", "L", "P"),
        "TIFF": ("L", "RGB", "P", "I;16", "RGBA"),
    }[kind]  # fmt: skip
    mode = modes[form % 5]
    image = Image.fromarray(_GRAY)
    image = (
        Image.fromarray(_GRAY.astype(np.uint16) * 200) if mode == "I;16" else image.convert(mode)
    )
    options: dict[str, Any] = {}
    if kind == "TIFF":
        options["compression"] = ("raw", "tiff_lzw", "tiff_deflate", "packbits", "raw")[form % 5]
    if kind == "JPEG" and form % 5 > 1:
        options["progressive"] = True
    image.save(path, kind, **options)


def _read_image(path: Path) -> None:
    header = read_header(path)
    read_image(path, gray=False, header=header)
    read_image(path, gray=True)
    for look in (read_mask, count_colours, lambda path: recode(path, {0: 0})):
        with contextlib.suppress(DataError):
            look(path)


def _write_dicom(path: Path, form: int) -> None:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import (
        DeflatedExplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        MRImageStorage,
        RLELossless,
    )  # fmt: skip

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    syntax = (ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless)[form % 3]
    plain = ExplicitVRLittleEndian if syntax == RLELossless else syntax
    dataset.file_meta.TransferSyntaxUID = plain
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = MRImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3.4"
    dataset.Modality, dataset.SamplesPerPixel = "MR", 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = _GRAY.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = 0
    dataset.RescaleSlope, dataset.RescaleIntercept = "1.5", "-20"
    dataset.WindowCenter, dataset.WindowWidth = "100", "200"
    dataset.PixelData = _GRAY.astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    if syntax == RLELossless:
        dataset.compress(RLELossless, _GRAY.astype(np.uint16), generate_instance_uid=False)
    dataset.save_as(path, enforce_file_format=True)


def _write_contour(path: Path, form: int) -> None:
    path.write_text("1.5 2.25\n10.00 3\n8 12.5\n")


# --- arrays -----------------------------------------------------------------------------------


def _write_npz(path: Path, form: int) -> None:
    save = np.savez_compressed if form % 2 else np.savez
    save(path, a=_GRAY, b=_GRAY.astype(np.float32), c=_MASK)


def _write_hdf5(path: Path, form: int) -> None:
    with h5py.File(path, "w", libver=("latest", "earliest")[form % 2]) as file:
        packed: dict[str, Any] = {"chunks": (8, 8), "compression": ("gzip", "lzf")[form // 2 % 2]}
        for number in range(3):
            file.create_dataset(f"g/{number}", data=_GRAY, **(packed if number else {}))


def _read_arrays(kind: str) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        sources, _ = list_sources(path, kind, "data.input_path")
        files = ArrayFiles()
        for source in sources[:5]:
            files.read(source, tuple(slice(0, 64) for _ in source.shape))
            next(files.blocks(source))

    return read


# --- networks and weights ---------------------------------------------------------------------


def _module() -> Any:
    torch.manual_seed(0)
    return build_module(_GRAPH, SHAPE)


def _write_network(path: Path, form: int) -> None:
    spec = (SPEC, "resunet", "fcn8s:fc=8")[form % 3]
    path.write_text(json.dumps(network_json(spec, (32, 32, 1), 1)))


def _read_network(path: Path) -> None:
    check_network(load_network(path), (32, 32, 1))  # type: ignore[arg-type]


def _write_h5(path: Path, form: int) -> None:
    export_keras_h5(_module(), _GRAPH, path)


def _write_keras(path: Path, form: int) -> None:
    inner = path.with_name("inner.weights.h5")
    export_keras_h5(_module(), _GRAPH, inner)
    packing = zipfile.ZIP_DEFLATED if form % 2 else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", packing) as archive:
        archive.writestr("config.json", json.dumps(network_json(SPEC, SHAPE, 1)))
        archive.writestr("metadata.json", '{"keras_version": "3.5.0"}')
        archive.write(inner, "model.weights.h5")
    inner.unlink()


def _write_pt(path: Path, form: int) -> None:
    content = {"state_dict": dict(_module().state_dict()), "format": 1}
    torch.save(content, path, _use_new_zipfile_serialization=form % 2 == 0)


def _write_torchscript(path: Path, form: int) -> None:
    layer = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(layer), str(path))


def _read_weights(path: Path) -> None:
    load_weights(_module(), _GRAPH, path, lambda line: None, allow_partial=True)


def _read_keras(path: Path) -> None:
    with contextlib.suppress(TrainerError):
        load_network(path)
    _read_weights(path)


# --- states, configs, tables, databases -------------------------------------------------------


def _training(config: Any) -> Training:
    module = _module()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    return Training(
        network=module,
        optimizer=optimizer,
        learning_rate=LearningRate(config.optimizer, optimizer),
        keeper=CheckpointKeeper(config.checkpoints, 2),
    )


def _config(folder: Path) -> Any:
    settings = {**SETTINGS, "checkpoints": {"save": str(folder), "resume": True}}
    return parse_config({"neural_network": settings})


def _write_state(path: Path, form: int) -> None:
    config = _config(path.parent)
    training = _training(config)
    network: Any = training.network
    network(torch.zeros(1, 1, 8, 8)).sum().backward()
    training.optimizer.step()
    content = StateKeeper(training, config, 0.0).content(1)
    assert content is not None
    content["config"]["checkpoints"] = None
    write_checkpoint(content, path)


def _read_state(path: Path) -> None:
    config = _config(path.parent)
    state = read_state(config)
    if state is None:  # a link in a circle is no file
        return
    training = _training(config)
    restore(training, state)
    network: Any = training.network
    network(torch.zeros(1, 1, 8, 8)).sum().backward()
    training.optimizer.step()


_STUDY = """title = "a study"
num_trials = 10
resize = [64, 64]
layers = "unet:width=4,depth=2"
[config]
"data.batch_size" = 8
[[search]]
key = "optimizer.learning_rate"
range = [0.001, 0.1]
log = true
[[search]]
key = "loss.function"
values = ["BCE", "Dice"]
"""


def _write_database(path: Path, form: int) -> None:
    import optuna

    from hpo.store.database import close_storage, open_storage

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = open_storage(f"sqlite:///{path}")
    study = optuna.create_study(storage=storage, study_name="s", direction="maximize")
    for number in range(4):
        trial = study.ask()
        trial.suggest_float("optimizer.learning_rate", 0.01, 0.1)
        trial.set_user_attr("seconds", number)
        trial.report(0.5, 1)
        study.tell(trial, 0.5)
    close_storage(storage)


def _read_database(path: Path) -> None:
    shown = io.StringIO()
    for each in (console, errors):
        each.file = shown
    words = ["--storage", f"sqlite:///{path}"]
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
        codes = [
            run_app(make_app([name]), [name, *words, *more])
            for name, more in (("list", ()), ("status", ()), ("show", ("--trial", "1")))
        ]
    if "Traceback" in shown.getvalue():
        raise AssertionError(shown.getvalue())
    if any(codes):
        raise HpoError(shown.getvalue())


READERS = {
    **{
        f"image {suffix[1:]}": Reader(f"x{suffix}", _write_image, _read_image, 5)
        for suffix in (".png", ".jpg", ".bmp", ".gif", ".tif")
    },
    "DICOM": Reader("x.dcm", _write_dicom, lambda path: (read_slice(path), None)[1], 3),
    "contour": Reader("x.txt", _write_contour, lambda path: (read_contour(path), None)[1]),
    "npy": Reader("x.npy", lambda path, form: np.save(path, _GRAY), _read_arrays("numpy")),
    "npz": Reader("x.npz", _write_npz, _read_arrays("numpy"), 2, archived=True),
    "HDF5 arrays": Reader("x.h5", _write_hdf5, _read_arrays("hdf5"), 4),
    "network JSON": Reader("x.json", _write_network, _read_network, 3),
    "weights .h5": Reader("x.h5", _write_h5, _read_weights),
    "weights .weights.h5": Reader("x.weights.h5", _write_h5, _read_weights),
    "model .keras": Reader("x.keras", _write_keras, _read_keras, 2, archived=True),
    "weights .pt": Reader("x.pt", _write_pt, _read_weights, 2, archived=True),
    "TorchScript": Reader("x.pt", _write_torchscript, _read_weights, archived=True),
    "resume.pt": Reader("resume.pt", _write_state, _read_state, archived=True),
    "config.json": Reader(
        "config.json",
        lambda path, form: (path.write_text(json.dumps({"neural_network": SETTINGS})), None)[1],
        lambda path: (load_config(path), None)[1],
    ),
    "study.toml": Reader(
        STUDY_FILE,
        lambda path, form: (path.write_text(_STUDY), None)[1],
        lambda path: (load_study(path.parent).space(), None)[1],
    ),
    "groups.csv": Reader(
        GROUPS,
        lambda path, form: write_groups(path.parent, [("a", "p1", "train"), ("b", "p2", "test")]),
        lambda path: (read_groups(path.parent), None)[1],
    ),
    "study's SQLite": Reader("x.db", _write_database, _read_database),
}
