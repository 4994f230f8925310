"""Finds the parts of a data folder: training, test and, where it has one, validation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hpo.dataset.layouts import suggest
from hpo.errors import UsageError
from hpo.launchers.base import Mount

VALIDATION_WORDS = ("val", "valid", "validation")


@dataclass(frozen=True)
class Part:
    """A folder of inputs and a folder of masks, relative to the data folder."""

    inputs: PurePosixPath
    targets: PurePosixPath


def _part(inputs: str, targets: str) -> Part:
    return Part(PurePosixPath(inputs), PurePosixPath(targets))


# The tutorials' three layouts, and the two words that other people use for the same.
LAYOUTS: tuple[tuple[Part, Part], ...] = (
    (_part("train/inputs", "train/targets"), _part("test/inputs", "test/targets")),
    (_part("train_image", "train_mask"), _part("test_image", "test_mask")),
    (_part("training/inputs", "training/masks"), _part("testing/inputs", "testing/masks")),
    (_part("train/images", "train/masks"), _part("test/images", "test/masks")),
)


@dataclass(frozen=True)
class DataFolder:
    """A data set on disk.

    Attributes:
        root: the folder that `--data` names.
        train: where its training images are.
        test: where its test images are, if there are any.
        follow_symlinks: whether images may be links to files elsewhere.
        validation: its own validation part, where that is used.
    """

    root: Path
    train: Part
    test: Part | None
    follow_symlinks: bool = False
    validation: Part | None = None

    def mount(self, *, tests_only: bool) -> Mount:
        """Return what workers get of it: the parts, or the test images only.

        Where images are links, all of the folder, or the links would lead nowhere.
        """
        read = (self.test,) if tests_only else (self.train, self.test)
        parts = [path for part in read if part for path in (part.inputs, part.targets)]
        return Mount(
            name="data",
            path=self.root,
            parts=() if self.follow_symlinks else tuple(parts),
            for_tests=tests_only,
        )


def find_data(root: Path, *, needs_test: bool, wants_validation: bool = False) -> DataFolder:
    """Recognise the layout of a data folder.

    Args:
        root: the folder.
        needs_test: a test part must be there.
        wants_validation: a validation part is used where there is one.

    Raises:
        UsageError: no such folder, no known layout in it, or half of one.
    """
    if not root.is_dir():
        raise UsageError(f"--data: no such folder: {root}")
    for train, test in LAYOUTS:
        if not (root / train.inputs).is_dir() and not (root / train.targets).is_dir():
            continue
        has_test = (root / test.inputs).is_dir() or (root / test.targets).is_dir()
        parts = (train, test) if has_test or needs_test else (train,)
        for folder in (folder for part in parts for folder in (part.inputs, part.targets)):
            if not (root / folder).is_dir():
                raise UsageError(
                    f"--data: {root} has no folder {folder}/"
                    + (
                        "; or select on a part of the training set with --select-on validation"
                        if folder in (test.inputs, test.targets)
                        else ""
                    )
                )
        validation = _find_validation(root, train) if wants_validation else None
        return DataFolder(root, train, test if has_test else None, validation=validation)
    first = LAYOUTS[0][0]
    raise UsageError(
        f"--data: {root} has neither {first.inputs}/ nor {first.targets}/; expected "
        "{train,test}/{inputs,targets}/ (images/masks, or train_image/train_mask, are fine too)"
        + (f"; this makes such a folder: {command}" if (command := suggest(root)) else "")
    )


def _validation_parts(root: Path, train: Part) -> dict[str, Part]:
    """Return folder -> part for each validation part, whole or not, beside a training part."""
    parts = {}
    for word in VALIDATION_WORDS:
        inputs, targets = (
            PurePosixPath(re.sub(r"^train(ing)?", word, str(path)))
            for path in (train.inputs, train.targets)
        )
        if any((root / path).is_dir() for path in (inputs, targets, inputs.parts[0])):
            parts[inputs.parts[0]] = Part(inputs, targets)
    return parts


def _find_validation(root: Path, train: Part) -> Part | None:
    parts = _validation_parts(root, train)
    if len(parts) > 1:
        raise UsageError(
            f"--data: {root} has several validation parts ({', '.join(parts)}); keep one of them"
        )
    for name, part in parts.items():
        for folder in (part.inputs, part.targets):
            if not (root / folder).is_dir():
                raise UsageError(
                    f"--data: {root} has no folder {folder}/, which {name}/ needs as the "
                    f"validation part; or move {name}/ away, to have one split off the training "
                    "images"
                )
        return part
    return None


def unread_parts(folder: DataFolder) -> str | None:
    """Say that a folder has a validation part that is not used, None where it has none."""
    if folder.validation is not None:
        return None
    for name in _validation_parts(folder.root, folder.train):
        return f"{name}/ is not read: --select-on validation compares trials on it"
    return None
