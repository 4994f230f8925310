"""The table of groups beside prepared images: who must stay together in any further split."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterable
from pathlib import Path

GROUPS = "groups.csv"


def write_groups(root: Path, rows: Iterable[tuple[str, str, str]]) -> None:
    """Write (name, group, part) of every image."""
    with (root / GROUPS).open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("name", "group", "part"))
        table.writerows(sorted(rows))


def read_groups(root: Path) -> dict[str, str]:
    """Return stem -> group of the images, none where there is no table.

    A group is a patient, or patients that share nearly the same image.
    """
    groups: dict[str, str] = {}
    with (
        contextlib.suppress(FileNotFoundError),
        (root / GROUPS).open(encoding="utf-8-sig") as file,
    ):
        for row in csv.DictReader(file):
            if row.get("name") and row.get("group"):
                groups[row["name"]] = row["group"]
    return groups
