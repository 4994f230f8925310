"""Walks through data folders: what is searched, and what never is."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from trainer.errors import DataError
from trainer.rundir import PREDICTIONS

# Who finds one of these in a folder has found results of ours: masks and overlays, not data.
OUTPUTS = frozenset({PREDICTIONS, "rml_optimize.db", "list_acc.json", "trial.json"})


def walk(folder: Path, key: str, *, follow_symlinks: bool) -> list[Path]:
    """Return all files of a folder and of the folders in it, sorted.

    Left out are hidden files and folders, and folders that hold results of ours. The folder
    itself may be a link. Links to elsewhere are followed only if asked, folders that are links
    within it never: what they lead to is found where it is.

    Raises:
        DataError: a folder that is a link and leaves the one that is searched.
    """
    found: list[Path] = []
    seen: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=follow_symlinks):
        here = Path(root)
        if here != folder and OUTPUTS.intersection(files):
            folders.clear()
            continue
        real = os.path.realpath(root)
        if real in seen:  # a circle of links
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if not follow_symlinks:
            refuse_foreign_links([here / name for name in folders], folder, key)
        found += (here / name for name in files if not name.startswith("."))
    return sorted(found)


def refuse_foreign_links(files: Iterable[Path], folder: Path, key: str) -> None:
    """Refuse symbolic links that leave a folder: a data set from elsewhere could bring them.

    Raises:
        DataError: names the link, `key` and the remedy.
    """
    root = folder.resolve()
    for path in files:
        if path.is_symlink():
            try:
                target = path.resolve()
            except (OSError, RuntimeError):  # a circle of links; Python 3.11 says RuntimeError
                target = path.readlink()
            if not target.is_relative_to(root):
                raise DataError(
                    f"{key}: {path} is a link that leaves the folder, to {target}; put the file "
                    "itself there, or set data.follow_symlinks to true"
                )
