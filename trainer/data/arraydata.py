"""Loads numpy and HDF5 data, and finds the classes of a classification of any kind of data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from trainer.config import Data
from trainer.data.arrayset import ArrayPart, Wanted, load_parts
from trainer.data.images import refuse_foreign_links
from trainer.data.imageset import ImageSet, LoadedData
from trainer.data.labels import (
    Labelled,
    below_tag,
    class_names,
    code_labels,
    known_classes,
    label_found,
    list_labelled,
)
from trainer.data.pairing import Sample, list_part
from trainer.data.transforms import plan_transforms
from trainer.log import Log

Resolve = Callable[[str], Path]
T = TypeVar("T")


def load_arrays(data: Data, resolve: Resolve, log: Log, wanted: Wanted) -> LoadedData:
    """Read what a config with numpy or HDF5 inputs names; see `trainer.data.dataset.load_data`."""
    notes: list[str] = []

    def list_folder(folder: Path) -> tuple[list[Sample], list[str]]:
        samples = list_part(data, folder, None, "data.", notes)
        return samples, [sample.name for sample in samples]

    labelled: dict[str, Labelled[Sample]] = {}
    classes: tuple[str, ...] = ()
    parts: dict[str, list[Sample]] = {}
    if data.has_labels:
        labelled, classes = list_classes(data, resolve, list_folder)
        parts = {name: part.samples for name, part in labelled.items()}
    else:
        for name, (inputs, targets, key) in paths(data).items():
            target = resolve(targets) if targets else None
            parts[name] = list_part(data, resolve(inputs), target, key, notes)
    arrays, coding = load_parts(parts, data, wanted)
    for note in notes:
        log(f"note: {note}")
    steps = plan_transforms(data)

    def image_set(name: str, part: ArrayPart) -> ImageSet:
        slices = tuple(sample.slice for sample in part.samples if sample.slice is not None)
        if data.has_labels:
            names = tuple(labelled[name].names)
            return ImageSet(names, part.inputs, labelled[name].labels, *steps)
        names = tuple(sample.name for sample in part.samples)
        return ImageSet(names, part.inputs, part.targets, *steps, slices=slices, sizes=part.sizes)

    sets = {name: image_set(name, part) for name, part in arrays.items()}
    labels = code_labels(classes, [*labelled.values()]) if data.has_labels else None
    is_padded = bool(data.slicers) and coding is not None and coding.kind != "continuous"
    return LoadedData(
        sets.get("train"),
        sets.get("test"),
        labels or coding,
        pad_id=wanted.pad_id if is_padded else None,
    )


def paths(data: Data) -> dict[str, tuple[str, str | None, str]]:
    """Return inputs, targets and the start of their keys for each part that there is."""
    paths = {}
    if data.input_path is not None:
        paths["train"] = (data.input_path, data.target_path, "data.")
    if data.test_input_path is not None:
        paths["test"] = (data.test_input_path, data.test_target_path, "data.test_")
    return paths


def list_classes(
    data: Data, resolve: Resolve, list_folder: Callable[[Path], tuple[list[T], list[str]]]
) -> tuple[dict[str, Labelled[T]], tuple[str, ...]]:
    """List the samples of each part by class, and the classes.

    The classes are those of the training part; without one, those of the test part, unless it has
    no folders and is to be predicted only.
    """
    parts: dict[str, Labelled[T]] = {}
    classes: tuple[str, ...] = ()
    for name, (inputs, _, key) in paths(data).items():
        folder = resolve(inputs)
        if name in data.tags:
            found = below_tag(folder, *data.tags[name], list_folder)
            classes = classes or known_classes(found, folder, f"{key}input_path", data.class_names)
            parts[name] = label_found(found, classes, folder, f"{key}input_path")
            continue
        is_test = name == "test"
        if folder.is_dir() and not data.follow_symlinks:
            refuse_foreign_links(filter(Path.is_dir, folder.iterdir()), folder, f"{key}input_path")
        if not classes and not (is_test and not any(map(Path.is_dir, folder.glob("*")))):
            classes = class_names(folder, f"{key}input_path", data.class_names)
        parts[name] = list_labelled(
            folder, f"{key}input_path", classes, list_folder, may_be_flat=is_test
        )
    return parts, classes
