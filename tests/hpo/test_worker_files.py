"""What workers leave is copied and removed within bounds, and never through a link."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from pathlib import Path

import pytest

from hpo import worker_files
from hpo.errors import EndingError
from hpo.worker_files import copy_file, remove, tree_size

DEEP = 1500  # folders within each other; Python recurses a thousand times


def make_deep(folder: Path, depth: int = DEEP) -> None:
    """Make folders within each other, deeper than a path may be long."""
    folder.mkdir()
    descriptor = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("dddd", dir_fd=descriptor)
        inner = os.open("dddd", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)


@pytest.fixture
def as_a_user(tmp_path: Path) -> object:
    """Root may do everything, so modes would show nothing."""
    if os.geteuid() != 0:
        yield
        return
    os.chown(tmp_path, 65534, 65534)
    for folder in tmp_path.parents:
        if folder.stat().st_uid == 0 and folder.is_relative_to(tempfile.gettempdir()):
            folder.chmod(folder.stat().st_mode | 0o55)
    os.setegid(65534)
    os.seteuid(65534)
    yield
    os.seteuid(0)
    os.setegid(0)


def test_folders_beyond_any_recursion_are_removed(tmp_path: Path) -> None:
    make_deep(tmp_path / "deep")
    assert remove(tmp_path / "deep") is None
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("as_a_user")
def test_closed_folders_are_removed_and_no_mode_changes_behind_a_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("mine")
    (victim / "file").chmod(0o644)
    tree = tmp_path / "tree"
    for name, mode in (("a", 0o500), ("b", 0o000), ("c/d", 0o500), ("c/e/f", 0o000)):
        (tree / name).mkdir(parents=True)
        (tree / name / "s").symlink_to(victim / "file")
        (tree / name / "t").symlink_to(victim)
        (tree / name).chmod(mode)
    (tree / "c").chmod(0o500)
    assert remove(tree) is None
    assert not tree.exists()
    assert (victim / "file").stat().st_mode & 0o777 == 0o644
    assert (victim / "file").read_text() == "mine"


def test_a_link_goes_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim/file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    os.mkfifo(tmp_path / "fifo")
    for name in ("link", "fifo", "none"):
        assert remove(tmp_path / name) is None
    assert [path.name for path in tmp_path.iterdir()] == ["victim"]
    assert (tmp_path / "victim/file").exists()


def test_one_entry_can_be_kept(tmp_path: Path) -> None:
    folder = tmp_path / "temp_model"
    (folder / "sub/keep").mkdir(parents=True)
    for name in ("keep", "other", "sub/file"):
        (folder / name).touch()
    assert remove(folder, keep="keep") is None
    assert [path.name for path in folder.iterdir()] == ["keep"]
    (tmp_path / "link").symlink_to(folder)
    remove(tmp_path / "link", keep="none")
    assert (folder / "keep").exists(), "a link in the folder's place is no folder"


def test_removal_ends_in_time_and_says_what_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(100):
        (folder / str(number)).touch()
    line = remove(folder, limit_s=-1)
    assert line is not None
    assert str(folder) in line
    assert "in time" in line


def test_removal_heeds_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_files, "STOP_LIMIT_S", -1.0)
    (tmp_path / "folder/sub").mkdir(parents=True)
    stopping = threading.Event()
    stopping.set()
    assert "in time" in str(remove(tmp_path / "folder", stopping=stopping))


def test_removal_says_why_something_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").touch()
    monkeypatch.setattr(worker_files.os, "unlink", refuse)
    assert remove(tmp_path / "folder") == (
        f"{tmp_path / 'folder'} cannot be removed (Read-only file system)"
    )


def test_holes_stay_holes_in_a_copy(tmp_path: Path) -> None:
    source, target = tmp_path / "sparse", tmp_path / "copy"
    with source.open("wb") as file:
        file.write(b"begin")
        file.seek(2**30)
        file.write(b"middle")
        file.truncate(2**34)
    began = time.process_time()
    num_copied = copy_file(source, target)
    assert time.process_time() - began < 5
    assert num_copied < 2**20
    assert target.stat().st_size == 2**34
    assert target.stat().st_blocks * 512 < 2**20
    with target.open("rb") as file:
        assert file.read(5) == b"begin"
        file.seek(2**30)
        assert file.read(6) == b"middle"


def test_a_copy_heeds_a_stop(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    stopping = threading.Event()
    stopping.set()
    with pytest.raises(EndingError):
        copy_file(tmp_path / "file", tmp_path / "copy", stopping=stopping)


def test_size_is_bounded_in_depth_and_entries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_deep(tmp_path / "tree")
    try:
        (tmp_path / "tree/file").write_bytes(b"12345")
        (tmp_path / "tree/link").symlink_to("/etc/passwd")
        assert tree_size(tmp_path / "tree") == (5, False)
    finally:
        remove(tmp_path / "tree")  # pytest's own removal, some runs later, cannot
    (tmp_path / "small/sub").mkdir(parents=True)
    for number in range(9):
        (tmp_path / f"small/sub/{number}").write_bytes(b"12")
    assert tree_size(tmp_path / "small") == (18, True)
    monkeypatch.setattr(worker_files, "MAX_SIZE_ENTRIES", 5)
    total, is_all = tree_size(tmp_path / "small")
    assert total < 18
    assert not is_all


def test_copy_goes_on_where_a_write_has_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is nearly full takes a part, and says so at the next write only."""
    content = os.urandom(100_000)
    (tmp_path / "a").write_bytes(content)
    whole = os.pwrite
    monkeypatch.setattr(
        os, "pwrite", lambda fd, chunk, at: whole(fd, chunk[: max(1, len(chunk) // 2)], at)
    )
    assert copy_file(tmp_path / "a", tmp_path / "b") == len(content)
    assert (tmp_path / "b").read_bytes() == content
