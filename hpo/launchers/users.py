"""Chooses the user that a container runs as, and gives that user the folders to write to."""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

from hpo.errors import LauncherError

NOBODY = 65534


def container_user(run_dir: Path, *, rootless: bool = False) -> str:
    """Return `uid:gid` of the worker, which must be able to write the run folder.

    Normally our own. A driver that runs as root never hands root to an image: it takes the
    owner of the run folder, and if that is root as well, gives the folder to `nobody`. In a
    rootless engine, root inside the container is the unprivileged user who runs the engine.
    """
    if rootless:
        return "0:0"
    uid, gid = os.geteuid(), os.getegid()
    if uid != 0:
        return f"{uid}:{gid}"
    owner = run_dir.stat()
    if owner.st_uid != 0:
        return f"{owner.st_uid}:{owner.st_gid}"
    _give_to_nobody(run_dir)
    return f"{NOBODY}:{NOBODY}"


def supplementary_groups(user: str, *, rootless: bool) -> list[str]:
    """Return the further groups of a container's user, by which he may read a project's data.

    Never root's group. A rootless engine cannot give any: it has no right to them.
    """
    if rootless:
        return []
    uid, gid = map(int, user.split(":"))
    if os.geteuid() == uid:
        groups = os.getgroups()
    else:  # a driver that runs as root
        try:
            groups = os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
        except KeyError:  # a uid without a name is in no group
            return []
    return [str(group) for group in sorted({*groups} - {0, gid})]


def owner_of(user: str, *, rootless: bool) -> tuple[int, int] | None:
    """Return whom a folder must be given to, so that a container of `user` can write it.

    None where that is its owner already.
    """
    if rootless or os.geteuid() != 0:
        return None
    uid, gid = map(int, user.split(":"))
    return uid, gid


def _give_to_nobody(run_dir: Path) -> None:
    for folder, _, files in os.walk(run_dir):
        os.chown(folder, NOBODY, NOBODY, follow_symlinks=False)
        for name in files:
            path = Path(folder, name)
            status = path.lstat()
            # a second link is somebody's original: his data must not change hands
            if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
                os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


def make_cache(folder: Path, user: str, *, rootless: bool) -> None:
    """Make the folder that a container of `user` may write, as `container_user` has it."""
    try:
        folder.mkdir(exist_ok=True)
        owner = owner_of(user, rootless=rootless)
        if owner is not None and folder.lstat().st_uid == 0:
            os.chown(folder, *owner, follow_symlinks=False)
    except OSError as error:
        raise LauncherError(f"cannot make the cache folder {folder}: {error.strerror}") from error
