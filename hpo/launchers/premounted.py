"""Folders that a warm container has mounted before anybody knows for which runs they are.

A container's mounts are fixed when it is made, and each run has a folder of its own. So empty
folders are made beforehand, each mounted on its own. When a run begins, what it is given is moved
into the next of them, which is then renamed to be the run's folder: a bind mount follows. What
is on disk afterwards looks as if each run had had a container.

The container may be anybody's program, and can write to these folders all the time. Therefore a
run's files are written where it cannot see them, and only renamed into the folder: rename(2)
replaces a link of the same name, and never follows it. A folder in which something is already is
not used.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path

from hpo.errors import LauncherError
from hpo.owner import HOST, SESSION, driver_labels, is_dead
from hpo.worker_files import remove

NUM_PREMOUNTED = 16  # runs of a container; it bounds as well what a worker may leak
PREFIX = ".pool_"


class NoFolderLeftError(LauncherError):
    """A folder is not as it was made, so that no run may have it."""


class PremountedFolders:
    """The empty folders of one container, each of which is taken by one run."""

    def __init__(self, parent: Path, inside: str, owner: tuple[int, int] | None) -> None:
        """Make the folders.

        Args:
            parent: where, on the file system of the runs' folders.
            inside: the folder in the container below which they are mounted.
            owner: user and group to give them to.

        Raises:
            LauncherError: they cannot be made.
        """
        ours = driver_labels("")
        name = f"{PREFIX}{ours[HOST]}_{ours[SESSION]}_{uuid.uuid4().hex[:8]}"
        self._root = parent / name
        self._inside = inside
        self._free = [self._root / str(number) for number in range(NUM_PREMOUNTED)]
        try:
            for folder in self._free:
                folder.mkdir(parents=True)
                if owner is not None:
                    os.chown(folder, *owner, follow_symlinks=False)
        except OSError as error:
            remove(self._root)
            raise LauncherError(f"cannot make {self._root}: {error.strerror}") from error

    @property
    def is_full(self) -> bool:
        """Whether no folder is left."""
        return not self._free

    def mounts(self) -> Mapping[str, Path]:
        """Return the free folders by their paths in the container."""
        return {self._path_inside(folder): folder for folder in self._free}

    def enter(self, run_dir: Path) -> str:
        """Make the next folder the run's, with all that is in it; return its path inside.

        Raises:
            NoFolderLeftError: the folder is not empty, say; the run's own is as it was.
            LauncherError: what the run is given could not be moved.
        """
        free_folder = self._free[0]
        try:
            with os.scandir(free_folder) as entries:
                planted = next(entries, None)
        except OSError as error:
            raise NoFolderLeftError(
                f"the folder of a run to come is gone ({error.strerror})"
            ) from None
        if planted is not None:
            raise NoFolderLeftError(
                f"the worker has put {planted.name!r} into the folder of a later run"
            )
        try:
            for name in os.listdir(run_dir):  # noqa: PTH208  # no iteration over what changes
                (run_dir / name).rename(free_folder / name)
            free_folder.rename(run_dir)
        except OSError as error:
            raise LauncherError(
                f"cannot move {run_dir} to a warm container ({error.strerror}); "
                "--no-warm does without"
            ) from error
        self._free.pop(0)
        return self._path_inside(free_folder)

    def close(self) -> None:
        """Remove the folders that no run has taken, whatever its container has made of them."""
        remove(self._root)

    def _path_inside(self, free_folder: Path) -> str:
        return f"{self._inside}/{free_folder.name}"


def remove_dead(parent: Path) -> None:
    """Remove what drivers of this machine have left that were killed."""
    prefix = f"{PREFIX}{driver_labels('')[HOST]}_"
    for root in parent.glob(f"{PREFIX}*"):
        if root.name.startswith(prefix) and is_dead(root.name.removeprefix(prefix).split("_")[0]):
            remove(root)
