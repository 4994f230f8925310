"""What comes from outside is read so far and no further."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path

import pytest

from trainer.bounded import (
    BoundError,
    check_depth,
    finite,
    open_regular,
    parse_json,
    read_bytes,
    split_lines,
    whole,
)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"text")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "fifo")
    os.close(open_regular(tmp_path / "file"))
    os.close(open_regular(tmp_path / "link", follow_links=True))
    for name in ("link", "fifo", ".", "/dev/zero"):
        with pytest.raises(BoundError, match="not a regular file"):
            open_regular(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "none")


def test_no_more_bytes_than_the_limit_are_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_bytes(path, 5) == b"12345"
    assert read_bytes(path, 3, cut=True) == b"123"
    assert read_bytes(path, 5, offset=3) == b"45"
    with pytest.raises(BoundError, match="larger than 4 bytes"):
        read_bytes(path, 4)


def test_lines_are_bounded_in_number_and_length() -> None:
    content = b"a\n\r\n" + b"x" * 9 + b"\nb\xff\nlast"
    assert list(split_lines(content, max_lines=9, max_line=8)) == [
        "a", "\r", "", "b\ufffd", "last",
    ]  # fmt: skip
    assert list(split_lines(content, max_lines=1)) == ["a"]
    assert list(split_lines(content[:3], max_lines=9)) == ["a", "\r"]


def test_json_is_bounded_in_depth_before_it_is_parsed() -> None:
    assert parse_json('{"a": [[1, "]]][[[", 2.5]]}') == {"a": [[1, "]]][[[", 2.5]]}
    assert parse_json("[" * 64 + "]" * 64)
    for text in ("[" * 65 + "]" * 65, '{"a":' * 50_000, "[" * 10**6):
        with pytest.raises(BoundError, match="deeper than 64"):
            parse_json(text)
    with pytest.raises(BoundError, match="not JSON"):
        parse_json("[1" + "0" * 5000 + "]")
    with pytest.raises(BoundError, match="not JSON"):
        parse_json("{")


@pytest.mark.parametrize("text", ['"\\"' * 300_000, '"' * 10**6, "\\" * 10**6, '"' + "\\" * 10**6])
def test_depth_is_found_in_linear_time(text: str) -> None:
    began = time.process_time()
    check_depth(text)
    assert time.process_time() - began < 2


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_numbers_of_json_are_finite(number: str) -> None:
    with pytest.raises(BoundError, match="no finite number"):
        parse_json(f"[{number}]")
    read = parse_json(f'{{"a": {number}, "b": 0.5}}', non_finite_as_none=True)
    assert json.dumps(read, allow_nan=False) == '{"a": null, "b": 0.5}'


def test_numbers_are_finite_and_in_range() -> None:
    assert finite(0.5, 0, 1) == 0.5
    assert finite(1, 0, 1) == 1.0
    for value in (math.nan, math.inf, -0.1, 1.1, True, "1", None, 10**400):
        assert finite(value, 0, 1) is None
    assert finite(10**400) is None
    assert whole(5, 0, 5) == 5
    for other in (6, -1, 5.0, True, "5", None, 10**21):
        assert whole(other, 0, 5) is None
