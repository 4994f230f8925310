"""Files are identified by their content, also while other drivers make links to them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hpo.dataset.content_hashes import Contents
from trainer.errors import DataError


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    path.write_bytes(b"pixels")
    return path


def disturb_reading(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Have something done to a file each time that it was read."""
    digest_of = hashlib.file_digest

    def disturbed(*arguments: object) -> object:
        digest = digest_of(*arguments)  # type: ignore[arg-type]
        act()
        return digest

    monkeypatch.setattr(hashlib, "file_digest", disturbed)


@pytest.mark.parametrize("num_drivers", [1, 9])
def test_file_that_others_link_while_it_is_read_is_whole(
    image: Path, monkeypatch: pytest.MonkeyPatch, num_drivers: int
) -> None:
    links = iter(range(num_drivers))

    def link() -> None:
        if (number := next(links, None)) is not None:
            os.link(image, image.with_name(f"link_{number}"))

    disturb_reading(monkeypatch, link)
    digests = Contents(image.with_name("memory.json")).digests([image])
    assert digests == {image: hashlib.sha256(b"pixels").hexdigest()}


def test_file_that_is_written_while_it_is_read_is_refused(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disturb_reading(monkeypatch, lambda: os.utime(image, ns=(0, 0)))
    with pytest.raises(DataError, match="changed while it was read"):
        Contents(image.with_name("memory.json")).digests([image])
