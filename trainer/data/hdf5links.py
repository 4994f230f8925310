"""Judges links in HDF5 files: none is followed, so none may stand for a sample."""

from __future__ import annotations

import json
import posixpath
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py

from trainer.errors import DataError

NUM_NAMED = 5


@dataclass(frozen=True)
class Link:
    """A soft or external link.

    Attributes:
        file: the file that it is in.
        name: its path there, without a slash at the start.
        target: what it leads to, spelled alike.
        other: the file that it leads to; "" for its own.
    """

    file: Path
    name: str
    target: str
    other: str

    def __str__(self) -> str:
        return f"/{self.name} (to {self.other or '/' + self.target})"


def link_of(file: Path, group: str, name: str, link: h5py.SoftLink | h5py.ExternalLink) -> Link:
    """Return a link of a group, its target spelled out; nothing is opened for that."""
    # Not by HDF5, which would open another file if the way leads through an external link.
    target = posixpath.normpath(posixpath.join("/", group, link.path)).lstrip("/")
    other = link.filename if isinstance(link, h5py.ExternalLink) else ""
    return Link(file, f"{group.strip('/')}/{name}".lstrip("/"), target, other)


def refuse_links(links: Sequence[Link], keys: Collection[str], name: str, key: str) -> list[str]:
    """Refuse links in the place of samples, and return a note on those that change nothing.

    Args:
        links: those of one file.
        keys: the names of its arrays.
        name: the array or group that is meant, "" for all; links elsewhere do not matter.
        key: the config's key for the path, for the error.

    Raises:
        DataError: a link among what is meant leads to another file, or to an array that is not
            meant by itself: without it samples would be missing.
    """
    meant = [link for link in links if _is_below(link.name, name) or _is_below(name, link.name)]
    read = [array for array in keys if _is_below(array, name)]
    lacking = [
        link
        for link in meant
        if link.other or not any(_is_below(array, link.target) for array in read)
    ]
    if lacking:
        file = lacking[0].file
        raise DataError(
            f"{key}: {file}: links are not followed, and samples would be missing without: "
            f"{_named(lacking)}; write the values themselves: {_copying(file)}, and put whole.h5 "
            "in its place, or remove the links"
        )
    if not meant:
        return []
    file = meant[0].file
    return [f"{file}: links to arrays that are read anyway, not followed: {_named(meant)}"]


def _is_below(name: str, group: str) -> bool:
    return group in ("", name) or name.startswith(f"{group}/")


def _named(links: Sequence[Link]) -> str:
    more = f", … ({len(links)} in all)" if len(links) > NUM_NAMED else ""
    return ", ".join(map(str, links[:NUM_NAMED])) + more


def _copying(file: Path) -> str:
    """Return the command that writes a copy without links."""
    # Link by link: HDF5 crashes where Group.copy is asked to expand them.
    program = (
        f"import h5py; a, b, names = h5py.File({json.dumps(str(file))}), "
        'h5py.File("whole.h5", "w"), []; a.visit_links(names.append); '
        "[a.copy(n, b, n) for n in names if isinstance(a[n], h5py.Dataset) "
        "or not isinstance(a.get(n, getlink=True), h5py.HardLink)]"
    )
    return f"python -c {shlex.quote(program)}"
