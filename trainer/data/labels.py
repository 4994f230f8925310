"""Classification: the name of the folder that an input lies in is its class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from trainer.data.survey import MaskCoding
from trainer.errors import DataError

NUM_NAMES_SHOWN = 10
T = TypeVar("T")


@dataclass(frozen=True)
class LabelCoding(MaskCoding):
    """The classes of a classification.

    Attributes:
        names: of the folders, in the order of the class ids.
        source: where the classes are from, for the log.
    """

    names: tuple[str, ...] = ()
    source: str = "by folder"

    def describe(self) -> str:
        """Say in one line which class is which."""
        more = ", …" if len(self.names) > NUM_NAMES_SHOWN else ""
        shown = ", ".join(f"{i} {name}" for i, name in enumerate(self.names[:NUM_NAMES_SHOWN]))
        return f"of {self.num_classes} classes, {self.source}: {shown}{more}"

    def names_of(self, num_outputs: int) -> tuple[str, ...]:
        """Return a name for each output: a network may have more than there are folders."""
        more = range(len(self.names), num_outputs)
        return (*self.names, *(f"output {index}" for index in more))


@dataclass(frozen=True)
class Labelled(Generic[T]):
    """The samples of a part with their classes, None where the part has no class folders."""

    samples: list[T]
    names: list[str]
    labels: npt.NDArray[np.int64] | None


def class_names(folder: Path, key: str, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """Return the classes: those of the config, or the names of the folders in alphabetical order.

    Raises:
        DataError: fewer than two.
    """
    return known_classes(dict.fromkeys(_folders(folder), ()), folder, key, wanted)


def known_classes(
    found: Mapping[str, object], folder: Path, key: str, wanted: Sequence[str] | None
) -> tuple[str, ...]:
    """Return the classes: those of the config, or those found, in alphabetical order.

    Raises:
        DataError: fewer than two.
    """
    names = tuple(wanted) if wanted is not None else tuple(sorted(found))
    if len(names) < 2:
        raise DataError(
            f"{key}: {folder} has {len(names)} folders of classes; target_type labels expects one "
            "folder for each class, two or more"
        )
    return names


def below_tag(
    folder: Path,
    key: str,
    tag: str,
    list_folder: Callable[[Path], tuple[list[T], list[str]]],
) -> dict[str, list[tuple[T, str]]]:
    """Find the samples of a folder by class, and name each by its class and its place in it.

    The class is the folder below the folder `tag`, which is anywhere in the path, above `folder`
    or in it; the last one counts. Samples without one are of another part.

    Raises:
        DataError: none has one.
    """
    found: dict[str, list[tuple[T, str]]] = {}
    above = folder.absolute().parts
    for sample, name in zip(*list_folder(folder), strict=True):
        parts = (*above, *name.split("/"))
        places = [place for place, part in enumerate(parts[:-2]) if part == tag]
        if places:
            below = parts[places[-1] + 1 :]
            found.setdefault(below[0], []).append((sample, "/".join(below)))
    if not found:
        raise DataError(
            f"{key}: no image in {folder} has a folder {tag!r} in its path, with the folder of "
            "its class underneath"
        )
    return found


def label_found(
    found: Mapping[str, Sequence[tuple[T, str]]], classes: Sequence[str], folder: Path, key: str
) -> Labelled[T]:
    """Return what `below_tag` found with their class ids.

    Raises:
        DataError: a folder that is no class.
    """
    _refuse_unknown(found, classes, folder, key)
    result: Labelled[T] = Labelled([], [], None)
    labels: list[int] = []
    for label, name in enumerate(classes):
        for sample, sample_name in found.get(name, ()):
            result.samples.append(sample)
            result.names.append(sample_name)
            labels.append(label)
    return Labelled(result.samples, result.names, np.array(labels, np.int64))


def _refuse_unknown(found: Iterable[str], classes: Sequence[str], folder: Path, key: str) -> None:
    unknown = [name for name in sorted(found) if name not in classes]
    if unknown:
        raise DataError(
            f"{key}: folder {unknown[0]!r} in {folder} is none of the classes "
            f"{', '.join(classes[:NUM_NAMES_SHOWN])}"
        )


def list_labelled(
    folder: Path,
    key: str,
    classes: Sequence[str],
    list_folder: Callable[[Path], tuple[list[T], list[str]]],
    *,
    may_be_flat: bool,
) -> Labelled[T]:
    """List the samples of each class.

    Args:
        folder: holds one folder for each class.
        key: the config's key for it.
        classes: in the order of the class ids.
        list_folder: returns the samples of a folder, and their names.
        may_be_flat: a folder without folders is to be predicted only.

    Raises:
        DataError: no such folder, a folder that is no class, or nothing in it.
    """
    folders = _folders(folder)
    if not folders and may_be_flat:
        samples, names = list_folder(folder)
        return Labelled(samples, names, None)
    _refuse_unknown(folders, classes, folder, key)
    result: Labelled[T] = Labelled([], [], None)
    labels: list[int] = []
    for label, name in enumerate(classes):
        if name not in folders:
            continue
        samples, names = list_folder(folder / name)
        result.samples.extend(samples)
        result.names.extend(f"{name}/{sample}" for sample in names)
        labels.extend([label] * len(samples))
    if not labels:
        raise DataError(f"{key}: no folder of a class in {folder}")
    return Labelled(result.samples, result.names, np.array(labels, np.int64))


def code_labels(classes: tuple[str, ...], parts: Sequence[Labelled[T]]) -> LabelCoding | None:
    """Describe the classes, with the number of samples of each; None without any labels."""
    counts: Counter[int] = Counter()
    for part in parts:
        if part.labels is not None:
            counts.update(part.labels.tolist())
    if not counts:
        return None
    return LabelCoding("labels", len(classes), (), counts, classes)


def _folders(folder: Path) -> set[str]:
    if not folder.is_dir():
        return set()
    return {
        path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    }
