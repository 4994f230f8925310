"""A run folder belongs to an image that we don't trust: what it leaves there harms nothing."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import h5py
import pytest
from support import Run, list_acc

from hpo.worker_files import copy_file
from trainer.errors import DataError

SMALL = ("--layers", "unet:width=4,depth=2", "--resize", "32,32", "--no-gpu", "--num-epochs", "1")
SECRET = "1 0.5 0.1 0.987654321\n"  # would be a score, if anybody read it
HUGE = 100 * 2**30

HOSTILE = """
import os, sys
from pathlib import Path

secret = sys.argv[1]
if not sys.argv[2].startswith("--config="):
    sys.exit(64)
number = int(Path.cwd().parent.name.removeprefix("trial_"))
log, folder = Path("out_test.txt"), Path("temp_model")
checkpoint = folder / "model_checkpoint_1.pt"
folder.mkdir()
checkpoint.write_text(f"weights {number}")
if number == 0:
    log.symlink_to(secret)
elif number == 1:
    os.mkfifo(log)
else:
    log.write_text(f"1 0.5 0.1 0.{number}\\n")
if number == 2:
    os.truncate(log, 100 * 2**30)
    Path("metrics.jsonl").touch()
    os.truncate("metrics.jsonl", 100 * 2**30)
if number == 3:
    checkpoint.unlink()
    checkpoint.symlink_to(secret)
if number == 4:
    checkpoint.unlink()
    folder.rmdir()
    folder.symlink_to(Path(secret).parent)
if number == 5:
    os.truncate(checkpoint, 100 * 2**30)
if number == 6:
    checkpoint.unlink()
    os.mkfifo(checkpoint)
if number == 7:
    import h5py
    with h5py.File("output_1.h5", "w") as file:
        file["a"] = h5py.ExternalLink(secret, "/")
    Path("per_image.csv").symlink_to(secret)
"""


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file that the worker can name and we could read, named as a checkpoint is."""
    folder = tmp_path / "victim"
    folder.mkdir()
    path = folder / "model_checkpoint_1.pt"
    path.write_text(SECRET)
    return path


def test_nothing_is_read_through_it_and_it_is_reported(
    discs: Path, run: Run, tmp_path: Path, secret: Path
) -> None:
    script = tmp_path / "worker.py"
    script.write_text(HOSTILE)
    result = run(
        "rml-optimize", *SMALL, "--data", discs, "--num-trials", 6, "--study-name", "evil",
        "--jobs", 1, "--worker", f"{sys.executable} {script} {secret}",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    said = " ".join((result.stdout + result.stderr).split())
    assert said.count("without a line in out_test.txt") == 2  # the link and the pipe
    for number in (3, 4, 6):
        assert f"trial {number} is the best so far, but left no checkpoint" in said
    assert f"model_checkpoint_1.pt: {HUGE} bytes, more than" in said
    scores = {entry["number"]: entry["max_acc"] for entry in list_acc(tmp_path)}
    assert scores == {number: number / 10 for number in range(2, 8)}
    assert (tmp_path / "best_model" / "best_model_file.pt").read_text() == "weights 7"
    assert secret.read_text() == SECRET, "nor is it written or deleted"


def test_copy_takes_regular_files_up_to_a_size(tmp_path: Path) -> None:
    source, target = tmp_path / "folder" / "model.pt", tmp_path / "copy.pt"
    source.parent.mkdir()
    source.write_bytes(b"x" * 100)
    copy_file(source, target, max_bytes=100)
    assert target.read_bytes() == b"x" * 100
    target.unlink()
    (tmp_path / "link").symlink_to(source.parent)
    (tmp_path / "folder" / "link.pt").symlink_to(source)
    os.mkfifo(tmp_path / "folder" / "pipe.pt")
    for path in ("folder/link.pt", "link/model.pt", "folder/pipe.pt", "folder/none.pt", "folder"):
        with pytest.raises(DataError, match=path):
            copy_file(tmp_path / path, target)
    with pytest.raises(DataError, match="100 bytes, more than 99"):
        copy_file(source, target, max_bytes=99)
    assert not target.exists()


def test_the_hostile_predictions_do_link_out(tmp_path: Path, secret: Path) -> None:
    """Else the case above would show nothing."""
    with h5py.File(secret.with_suffix(".h5"), "w") as file:
        file["x"] = json.dumps("secret")
    with h5py.File(tmp_path / "links.h5", "w") as file:
        file["a"] = h5py.ExternalLink(str(secret.with_suffix(".h5")), "/x")
    with h5py.File(tmp_path / "links.h5") as file:
        assert b"secret" in file["a"][()]
