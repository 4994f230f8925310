"""Segments a folder of images with a trained model: HDF5, masks and overlays to look at."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
from numpy.typing import NDArray

from trainer.commands.cases import Cases
from trainer.compute.parallel import World
from trainer.config import NeuralNetwork
from trainer.data.geometry import classes_at
from trainer.data.images import SUFFIXES, list_images, read_image
from trainer.data.overlay import dashed_outlines, overlay, shown
from trainer.data.spelling import find_clash, ignores_case
from trainer.data.transforms import plan_transforms
from trainer.errors import ConfigError, DataError, TrainerError
from trainer.log import Log
from trainer.model import mask_of, model_config
from trainer.rundir import PREDICTIONS
from trainer.wording import counted

MASKS = "masks"
OVERLAYS = "overlays"


def predict(
    model: Path,
    images: Path,
    output: Path,
    log: Log,
    world: World,
    targets: Path | None = None,
) -> None:
    """Segment every image of a folder, and compare with masks where there are any.

    Writes below `output`: `output_1.h5` as the contract has it (probabilities at the network's
    size, with `data.tiles` the image's), `masks/NAME.png` (the data set's own mask values) and
    `overlays/NAME.png`, both at the size of the input. With `targets` the overlays also have the
    mask's outline, dashed, and `cases.csv` has the Dice of each image, the worst first.

    Args:
        model: a folder with a config.json beside its weights, such as `best_model/`.
        images: folder of images, or one image; of one size if the model has `data.tiles` and no
            resize.
        output: where the results go; made if missing.
        log: where the contract's log lines go.
        world: the processes that share the images; the first one draws.
        targets: folder of masks, named as the images.

    Raises:
        ConfigError: no config in the model's folder.
        DataError: no such folder, no image in it, or one that cannot be read.
        TrainerError: the results cannot be written.
    """
    from trainer.commands.run import run
    from trainer.compute.memory import memory_errors_named

    if images.is_file():
        with _alone(images) as alone:
            predict(model, alone, output, log, world, targets)
        return
    config = _prediction_config(model, images, output)
    paths = {
        path.relative_to(images).as_posix(): path
        for path in list_images(images, "--images", follow_symlinks=config.data.follow_symlinks)
    }
    cases = None
    if world.is_first:
        _refuse_one_name_for_two(paths, output)
        if targets is not None:
            cases = Cases(config, list(paths.values()), images, targets)
    with memory_errors_named(config):
        run(config, model, log, world)
    if not world.is_first:
        return
    try:
        for folder in (MASKS, OVERLAYS):
            (output / folder).mkdir(parents=True, exist_ok=True)
        with h5py.File(output / PREDICTIONS) as file:
            for name, path in paths.items():
                _draw(path, name, file[name][()], output, config, cases)
        if cases is not None:
            cases.write(output, log)
    except OSError as error:
        raise TrainerError(f"--out: {output} cannot be written ({error.strerror})") from None
    log(f"Wrote {counted(len(paths), 'mask')} with overlays to {output}/{{{MASKS},{OVERLAYS}}}/")


@contextlib.contextmanager
def _alone(image: Path) -> Iterator[Path]:
    """Give a folder with one image in it."""
    if image.suffix.lower() not in SUFFIXES:
        raise DataError(f"--images: {image} is no image; expected {', '.join(SUFFIXES)}")
    with tempfile.TemporaryDirectory(prefix="rmldnn-predict-") as folder:
        shutil.copyfile(image, Path(folder) / image.name)
        yield Path(folder)


def _refuse_one_name_for_two(names: Iterable[str], output: Path) -> None:
    clash = find_clash(names)
    if clash is None:
        return
    try:
        output.mkdir(parents=True, exist_ok=True)
        is_one = ignores_case(output)
    except OSError as error:
        raise TrainerError(f"--out: {output} cannot be written ({error.strerror})") from None
    if is_one:
        raise DataError(
            f"--out: the file system of {output} takes {clash[0]!r} and {clash[1]!r} for one "
            "name, so one mask would replace the other; rename one, or write to another disk"
        )


def _prediction_config(model: Path, images: Path, output: Path) -> NeuralNetwork:
    # Absolute, because a relative one that is missing would be looked for beside the model.
    paths = {"test_input_path": str(images.absolute()), "test_output_path": str(output)}
    config = model_config(model, "--predict", **paths)
    if config.data.inputs != "images" or config.data.has_labels:
        raise ConfigError(
            f"--predict: draws masks on images, and the model in {model} is for other data; set "
            "data.test_input_path and data.test_output_path in its config and run rmldnn --config"
        )
    return config


def _draw(
    path: Path,
    name: str,
    probabilities_CHW: NDArray[np.float32],
    output: Path,
    config: NeuralNetwork,
    cases: Cases | None,
) -> None:
    image = shown(read_image(path, gray=False))
    steps, _ = plan_transforms(config.data)
    classes = classes_at(probabilities_CHW, image.shape[:2], steps.reading)
    file = Path(name).with_suffix(".png")
    _write(output / MASKS / file, mask_of(classes, config, len(probabilities_CHW)))
    drawn = overlay(image, classes)
    if cases is not None:
        truth = cases.compare(path, name, classes, len(probabilities_CHW))
        drawn = dashed_outlines(drawn, truth)
    _write(output / OVERLAYS / file, drawn)


def _write(path: Path, image: NDArray[Any]) -> None:
    done, data = cv2.imencode(".png", image)
    assert done, path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.tobytes())
