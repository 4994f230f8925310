"""Names that some file systems take for one, as they ignore case or how accents are written."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath


def ignores_case(folder: Path) -> bool:
    """Say whether the folder's file system takes `a` and `A` for one name."""
    probe = folder / f".rml-Case-{os.urandom(8).hex()}"
    probe.touch()
    try:
        return probe.with_name(probe.name.lower()).exists()
    finally:
        probe.unlink(missing_ok=True)


def find_clash(names: Iterable[str]) -> tuple[str, str] | None:
    """Return two names, of files or of the folders that they are in, that would be one."""
    spelling: dict[str, str] = {}
    for name in names:
        for path in (name, *map(str, PurePosixPath(name).parents)):
            folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
            other = spelling.setdefault(folded, path)
            if other != path:
                return other, path
    return None
