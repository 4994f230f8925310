"""What a worker leaves is read whole lines only, and without trusting it."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer import rundir
from trainer.rundir import Evaluation, TestLogReader, parse_test_line, read_metrics, write_atomic


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("1 12.5 0.25 0.875", Evaluation(1, 0.875)),
        ("Epoch 3: loss = 0.5, accuracy = 9.04e-1", Evaluation(3, 0.904)),
        ("10, 0.5", Evaluation(10, 0.5)),
        ("2 .5", Evaluation(2, 0.5)),
        ("1 2.0 nan 0.5", Evaluation(1, 0.5)),
        ("1", None),
        ("1 2.0 0.7 nan", None),
        ("1 2.0 0.7 -inf", None),
        ("information 2 0.5", Evaluation(2, 0.5)),
        ("", None),
        ("no numbers", None),
        ("1.5 0.5", None),
        ("-1 0.5", None),
    ],
)
def test_first_number_is_the_epoch_and_last_the_accuracy(line, expected) -> None:
    assert parse_test_line(line) == expected


@given(st.text())
def test_any_line_parses_or_is_left_out(line: str) -> None:
    found = parse_test_line(line)
    assert found is None or found.epoch >= 0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), max_size=8), st.data())
def test_lines_arrive_once_however_the_file_grows(tmp_path_factory, accuracies, data) -> None:
    path = tmp_path_factory.mktemp("log") / "out_test.txt"
    lines = [f"{epoch} 1.0 0.5 {value:.9f}\n" for epoch, value in enumerate(accuracies, 1)]
    content = "".join(lines).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=5)))
    reader, found = TestLogReader(path), []
    for start, end in zip([0, *cuts], [*cuts, len(content)], strict=True):
        with path.open("ab") as file:
            file.write(content[start:end])
        new = reader.read_new()
        found += new
        assert len(found) == content[:end].count(b"\n")
    assert found == [Evaluation(n, float(f"{v:.9f}")) for n, v in enumerate(accuracies, 1)]


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_is_skipped_and_does_not_hide_what_follows(tmp_path_factory, garbage) -> None:
    path = tmp_path_factory.mktemp("log") / "out_test.txt"
    path.write_bytes(garbage + b"\n7 0.5\n")
    assert TestLogReader(path).read_new()[-1] == Evaluation(7, 0.5)


def test_number_beyond_all_bounds_is_no_epoch(tmp_path: Path) -> None:
    path = tmp_path / "out_test.txt"
    path.write_text(f"1e999 0.5\n{'9' * 5000} 0.5\n3 1e999\n4 0.25\n")
    assert TestLogReader(path).read_new()[-1] == Evaluation(4, 0.25)


def test_absent_file_gives_nothing_until_it_is_there(tmp_path: Path) -> None:
    reader = TestLogReader(tmp_path / "out_test.txt")
    assert reader.read_new() == []
    (tmp_path / "out_test.txt").write_text("1 0.5\n")
    assert reader.read_new() == [Evaluation(1, 0.5)]


def test_fifo_and_link_and_folder_are_not_read_and_do_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "real").write_text("1 0.5\n")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "folder").mkdir()
    started = time.monotonic()
    for name in ("fifo", "link", "folder"):
        assert TestLogReader(tmp_path / name).read_new() == []
    assert time.monotonic() - started < 1


def test_file_without_end_is_read_up_to_the_limit(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(rundir, "MAX_LOG_BYTES", 100)
    path = tmp_path / "out_test.txt"
    path.write_text("1 0.5\n" * 1000)
    reader = TestLogReader(path)
    assert len(reader.read_new()) == 100 // 6
    assert reader.read_new() == []


def test_metrics_leave_out_what_is_no_object(tmp_path: Path) -> None:
    lines = [
        b'{"epoch": 1}',
        b"[2]",
        b"nonsense",
        b"\xff",
        b"[" * 100_000,
        b'{"epoch": 2}',
        b'{"ep',
    ]
    (tmp_path / rundir.METRICS).write_bytes(b"\n".join(lines))
    assert read_metrics(tmp_path) == [{"epoch": 1}, {"epoch": 2}]
    assert read_metrics(tmp_path / "none") == []


def test_names_of_log_files_follow_the_outfile() -> None:
    assert rundir.log_files("out.txt") == (rundir.TRAIN_LOG, rundir.TEST_LOG)
    assert rundir.log_files("a.b/result.log") == ("a.b/result_train.log", "a.b/result_test.log")
    assert rundir.log_files("plain") == ("plain_train.txt", "plain_test.txt")
    assert re.fullmatch(r"model_checkpoint_12\.pt", rundir.checkpoint_file(12))


def test_failed_atomic_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a b.json"
    write_atomic(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "\ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_at_the_limit_is_read_once(tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.rundir.MAX_LOG_BYTES", 64)
    path = tmp_path / "out_test.txt"
    path.write_bytes(b"1 0.5 0.25\n" + bytes(200))
    reader = TestLogReader(path)
    assert reader.read_new() == [Evaluation(1, 0.25)]
    with path.open("r+b") as file:
        file.seek(11)
        file.write(b"2 0.5 0.75\n")
    assert reader.read_new() == []
