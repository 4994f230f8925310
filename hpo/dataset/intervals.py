"""How sure a test score is: images of one patient are drawn together, for they are one draw."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from studies.prepare.groups import read_groups
from trainer import rundir
from trainer.bounded import MAX_NAME, BoundError, finite, split_lines
from trainer.errors import DataError
from trainer.metrics.bootstrap import COUNTS, bootstrap_scores, column, interval

MIN_GROUPS = 5  # of fewer, a percentile interval says nothing
MAX_CLASSES = 256  # of masks of 8 bits
MAX_ROW_BYTES = 2**16


@dataclass(frozen=True)
class Grouping:
    """Which images belong together.

    Attributes:
        root: the data folder, with a groups.csv or none.
        pattern: the regular expression of `--group-by`, which goes before the table.
    """

    root: Path
    pattern: str | None

    @property
    def is_known(self) -> bool:
        """Whether anything is said about groups."""
        return self.pattern is not None or bool(read_groups(self.root))

    def groups_of(self, names: Sequence[str]) -> list[str]:
        """Return the group of each image; one of which nothing is known is its own."""
        table = read_groups(self.root) if self.pattern is None else {}
        found = []
        for name in names:
            stem = PurePosixPath(name).stem
            match = re.search(self.pattern, stem) if self.pattern else None
            group = (match[1] if match.re.groups else match[0]) if match else table.get(stem)
            found.append(f"image {name}" if group is None else f"group {group}")
        return found

    def unmatched(self, names: Sequence[str]) -> list[str]:
        """Return the images that the pattern does not match."""
        if self.pattern is None:
            return []
        return [name for name in names if not re.search(self.pattern, PurePosixPath(name).stem)]


@dataclass(frozen=True)
class Interval:
    """A 95 % bootstrap interval of `dice_dataset`, or why there is none.

    Attributes:
        bounds: None where there are fewer than MIN_GROUPS.
        num_groups: what was drawn: groups, or images where no groups are known.
        unit: "groups" or "images".
    """

    bounds: tuple[float, float] | None
    num_groups: int
    unit: str

    def __str__(self) -> str:
        if self.bounds is None:
            return f"no interval, {self.num_groups} {self.unit} are too few"
        text = "{:.4f} .. {:.4f}".format(*self.bounds)
        return text if self.unit == "images" else f"{text} over {self.num_groups} groups"


def interval_of_runs(
    run_dirs: Sequence[Path], grouping: Grouping, *, num_images: int
) -> Interval | None:
    """Return the interval of the mean `dice_dataset` of evaluations of the same images.

    All runs get the same draws of groups. None where an engine leaves no table of images, or one
    that cannot be that of `num_images` images.
    """
    samples = []
    groups: list[str] = []
    for run_dir in run_dirs:
        try:
            classes = _classes_averaged(run_dir)
            rows = _read_rows(run_dir, classes, num_images)
            groups = grouping.groups_of([row["name"] for row in rows])
            samples.append(bootstrap_scores(rows, classes, groups=groups))
        except (ValueError, KeyError, csv.Error, DataError):
            return None
    if not samples:
        return None
    number, unit = len(set(groups)), "groups" if grouping.is_known else "images"
    bounds = interval(np.mean(samples, axis=0)) if number >= MIN_GROUPS else None
    if bounds is not None and not all(finite(bound, 0, 1) is not None for bound in bounds):
        return None
    return Interval(bounds, number, unit)


def _classes_averaged(run_dir: Path) -> list[str]:
    """Return the classes that an evaluation has averaged, by their names in its table.

    Raises:
        BoundError: it does not say, or says what no study of ours has.
    """
    entries = rundir.read_metrics(run_dir, num_epochs=0)
    classes = entries[-1].get("classes_averaged") if entries else None
    if not isinstance(classes, list) or len(classes) > MAX_CLASSES:
        raise BoundError("no classes")
    if not all(isinstance(name, str) for name in classes) or len({*classes}) < len(classes):
        raise BoundError("not the names of classes")
    return classes


def _read_rows(run_dir: Path, classes: Sequence[str], num_images: int) -> list[dict[str, str]]:
    """Return the counts of each image, as text.

    Raises:
        BoundError: there are more images than were evaluated.
        ValueError, csv.Error: it is no such table.
    """
    max_bytes = min(rundir.MAX_LOG_BYTES, (num_images + 1) * MAX_ROW_BYTES)
    content = rundir.read_untrusted(run_dir / rundir.PER_IMAGE, max_bytes)
    # names may have line breaks, which csv puts together again
    lines = [f"{line}\n" for line in split_lines(content, max_lines=2 * num_images + 2)]
    columns = ["name", *(column(name, count) for name in classes for count in COUNTS)]
    rows: list[dict[str, str]] = []
    for row in csv.DictReader(lines):
        if len(rows) == num_images or len(row["name"]) > MAX_NAME:
            raise BoundError("more images, or longer names, than there are")
        rows.append({name: row[name] for name in columns})
    return rows
