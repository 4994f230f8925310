"""Who waits for room on a disk waits no longer than there is something to wait for."""

from __future__ import annotations

from pathlib import Path

from hpo.run.disk import DiskFullError


def test_folder_that_is_gone_is_not_full(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    error = DiskFullError(folder)
    folder.rmdir()
    assert error.has_room()
