"""What a new attempt takes over from the folder of an earlier one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpo.folders import WorkFolders
from hpo.run import attempt
from hpo.run.attempt import MAX_COPIES, prepare_attempt
from trainer import rundir

CONFIG = {"checkpoints": {"resume": True}}


@pytest.fixture
def folders(tmp_path: Path) -> WorkFolders:
    """A study whose trial 0 has an attempt that was evaluated after one epoch."""
    folders = WorkFolders(output=tmp_path, study=tmp_path / "runs/s")
    run_dir = prepare_attempt(folders, 0, 1, CONFIG).run_dir
    (run_dir / rundir.TEST_LOG).write_text("1 0.5 0.1 0.7\n")
    (run_dir / rundir.CHECKPOINTS).mkdir()
    (run_dir / rundir.CHECKPOINTS / rundir.RESUME).write_text("state")
    return folders


@pytest.mark.parametrize("num_replaced", [0, 1, MAX_COPIES])
def test_state_that_its_worker_replaces_is_copied_again_but_not_for_ever(
    folders: WorkFolders, monkeypatch: pytest.MonkeyPatch, num_replaced: int
) -> None:
    state = folders.attempt(0, 1) / rundir.CHECKPOINTS / rundir.RESUME
    copies = []
    copy = attempt.copy_file

    def copy_and_replace(source: Path, target: Path, **options: Any) -> int:
        done = copy(source, target, **options)
        if source.name == rundir.RESUME:
            copies.append(target)
            if len(copies) <= num_replaced:
                newer = state.with_name("newer")
                newer.write_text(f"state {len(copies)}")
                newer.replace(state)
        return done

    monkeypatch.setattr(attempt, "copy_file", copy_and_replace)
    found = prepare_attempt(folders, 0, 2, CONFIG)
    taken = found.run_dir / rundir.CHECKPOINTS / rundir.RESUME
    if num_replaced < MAX_COPIES:
        assert found.resumed == 1
        assert found.evaluated == {1: 0.7}
        assert taken.read_bytes() == state.read_bytes()
    else:
        assert found.resumed is None
        assert [path.name for path in found.run_dir.iterdir()] == [rundir.CONFIG]
    assert len(copies) == min(num_replaced + 1, MAX_COPIES)


def test_state_behind_a_link_is_left_alone(folders: WorkFolders, tmp_path: Path) -> None:
    checkpoints = folders.attempt(0, 1) / rundir.CHECKPOINTS
    checkpoints.rename(tmp_path / "secret")
    checkpoints.symlink_to(tmp_path / "secret")
    found = prepare_attempt(folders, 0, 2, CONFIG)
    assert found.resumed is None
    assert not (found.run_dir / rundir.CHECKPOINTS).exists()
