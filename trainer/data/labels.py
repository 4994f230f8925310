"""Classification: the name of the folder that an input lies in is its class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
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
    """

    names: tuple[str, ...] = ()

    def describe(self) -> str:
        """Say in one line which class is which."""
        more = ", …" if len(self.names) > NUM_NAMES_SHOWN else ""
        shown = ", ".join(f"{i} {name}" for i, name in enumerate(self.names[:NUM_NAMES_SHOWN]))
        return f"of {self.num_classes} classes, by folder: {shown}{more}"


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
    names = tuple(wanted) if wanted is not None else tuple(sorted(_folders(folder)))
    if len(names) < 2:
        raise DataError(
            f"{key}: {folder} has {len(names)} folders; target_type labels expects one folder for "
            "each class, two or more"
        )
    return names


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
    unknown = [name for name in sorted(folders) if name not in classes]
    if unknown:
        raise DataError(
            f"{key}: folder {unknown[0]!r} in {folder} is none of the classes "
            f"{', '.join(classes[:NUM_NAMES_SHOWN])}"
        )
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
