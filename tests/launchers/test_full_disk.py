"""A disk that is full when a launcher makes folders is told from a launcher that cannot work."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from hpo.errors import LauncherError
from hpo.launchers.premounted import PremountedFolders
from hpo.launchers.users import make_cache
from hpo.run.disk import is_full_error


def fail(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("what", ["berths", "move", "cache"])
def test_error_of_a_full_disk_is_known_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    premounted = PremountedFolders(tmp_path, "/rml/runs", None)
    acts = {
        "berths": lambda: PremountedFolders(tmp_path, "/rml/runs", None),
        "move": lambda: premounted.enter(tmp_path),
        "cache": lambda: make_cache(tmp_path / "cache", "1:1", rootless=True),
    }
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", fail)
        patch.setattr(Path, "rename", fail)
        with pytest.raises(LauncherError) as caught:
            acts[what]()
    premounted.close()
    assert is_full_error(caught.value.__cause__)
