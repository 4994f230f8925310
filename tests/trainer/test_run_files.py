"""Runs in one folder leave each other's files alone; a folder that was moved scores again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support import Run, write_discs
from worker import Worker

from trainer.output.files import OutputFiles
from trainer.rundir import METRICS, named_after


@pytest.mark.parametrize(
    ("outfile", "expected"),
    [
        ("out.txt", "metrics.jsonl"),
        ("out", "metrics.jsonl"),
        ("logs/out.txt", "logs/metrics.jsonl"),
        ("run.txt", "run_metrics.jsonl"),
        ("run", "run_metrics.jsonl"),
        ("a/run.log", "a/run.log_metrics.jsonl"),
        ("out.log", "out.log_metrics.jsonl"),
        ("run.v2.txt", "run.v2_metrics.jsonl"),
    ],
)
def test_files_are_named_after_outfile(outfile: str, expected: str) -> None:
    assert named_after(outfile, METRICS) == Path(expected)


def test_runs_of_other_names_leave_all_files_as_they_are(worker: Worker, tmp_path: Path) -> None:
    worker(debug=True).succeeded()
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    del before[tmp_path / "config.json"]
    assert {path.name for path in before} == {
        "out_train.txt", "out_test.txt", "metrics.jsonl", "per_image.csv", "network.dot",
    }  # fmt: skip
    for outfile in ("other.txt", "other.log", "out.log"):
        worker(outfile=outfile, debug=True, seed=5).succeeded()
        for path, content in before.items():
            assert path.read_bytes() == content, path.name
        before |= {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
        del before[tmp_path / "config.json"]
    assert len(before) == 4 * 5


def test_an_evaluation_leaves_the_train_log_of_a_training(worker: Worker, tmp_path: Path) -> None:
    worker(checkpoints={"save": "."}).succeeded()
    log = (tmp_path / "out_train.txt").read_text()
    assert log
    worker(
        data__input_path=None,
        data__target_path=None,
        checkpoints={"load": "model_checkpoint_1.pt"},
    ).succeeded()
    assert (tmp_path / "out_train.txt").read_text() == log


@pytest.fixture
def project(run: Run, tmp_path: Path) -> Path:
    """A project with images, and a best_model/ as a search leaves it."""
    project = tmp_path / "first place" / "project"
    data = write_discs(project / "data")
    (project / "best_model").mkdir()
    section = {
        "test_input_path": str(data / "test/inputs"),
        "test_target_path": str(data / "test/targets"),
        "transforms": [{"resize": [32, 32]}],
    }
    train = {
        "input_path": str(data / "train/inputs"),
        "target_path": str(data / "train/targets"),
    }
    layers = project / "best_model" / "layers.json"
    written = run("rmldnn", "--write-network", "unet:width=2,depth=1", "--input", "32,32,3",
                  "-o", layers)  # fmt: skip
    assert written.returncode == 0, written.stderr
    config = {
        "outfile": "out.txt",
        "layers": "./layers.json",
        "relative_to": "config",
        "written_at": str(project / "best_model"),
        "checkpoints": {"load": "./model_checkpoint_1.pt"},
        "data": section,
        "loss": {"function": "Dice"},
    }
    training = config | {"data": section | train, "checkpoints": {"save": "."}}
    path = project / "best_model" / "config.json"
    path.write_text(json.dumps({"neural_network": training}))
    result = run("rmldnn", "--config=config.json", cwd=project / "best_model")
    assert result.returncode == 0, result.stderr
    path.write_text(json.dumps({"neural_network": config}))
    return project


def _score(folder: Path) -> str:
    return (folder / "out_test.txt").read_text().split()[-1]


def test_best_model_scores_again_where_its_project_or_itself_was_moved(
    project: Path, run: Run, tmp_path: Path
) -> None:
    expected = _score(project / "best_model")
    alone = tmp_path / "alone"
    shutil.copytree(project / "best_model", alone)
    moved = tmp_path / "another place" / "deeper" / "renamed"
    moved.parent.mkdir(parents=True)
    for folder, config in ((alone, "config.json"), (moved, "best_model/config.json")):
        if folder == moved:
            project.rename(moved)
        (folder / "out_test.txt").unlink(missing_ok=True)
        result = run("rmldnn", f"--config={config}", cwd=folder)
        assert result.returncode == 0, result.stderr
        assert _score(folder) == expected


def test_where_the_images_are_gone_the_message_says_which_option_gives_them(
    project: Path, run: Run, tmp_path: Path
) -> None:
    expected = _score(project / "best_model")
    (project / "data").rename(tmp_path / "images")
    result = run("rmldnn", "--config=best_model/config.json", cwd=project)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    options = ["--set data.test_input_path=FOLDER", "--set data.test_target_path=FOLDER"]
    assert all(option in line for option in options)
    settings = []
    for option, kind in zip(options, ("inputs", "targets"), strict=True):
        place = tmp_path / "images" / "test" / kind
        settings += option.replace("FOLDER", str(place)).split(" ", maxsplit=1)
    result = run("rmldnn", "--config=best_model/config.json", *settings, cwd=project)
    assert result.returncode == 0, result.stderr
    assert _score(project) == expected


def test_lines_that_are_none_of_a_log_are_dropped_by_the_run_that_goes_on(tmp_path: Path) -> None:
    first = "1 2.5 0.4 0.650000000\n"
    (tmp_path / "out_test.txt").write_text(f"{first}\n2 3.5 0.3 0.7\nsome text\n\0\n")
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n{"epoch": \n{"epoch": null}\n')
    with OutputFiles.open(str(tmp_path / "out.txt"), keep_epochs=1):
        pass
    assert (tmp_path / "out_test.txt").read_text() == first
    assert (tmp_path / "metrics.jsonl").read_text() == '{"epoch": 1}\n'
