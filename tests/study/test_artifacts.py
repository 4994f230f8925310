"""The best model reaches every node through an artifact store."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from databases import empty_database, trials_of
from support import Run, standin_settings

from hpo.artifacts import ArtifactError, open_shelf
from hpo.errors import UsageError
from hpo.models import MODEL, MODEL_FILES

SMALL = ("--layers", "unet:width=4,depth=2", "--resize", "32,32", "--no-gpu", "--num-epochs", "2")


@pytest.mark.postgres
def test_nodes_with_folders_of_their_own_end_with_the_same_best_model(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    # trial 1 beats 0; 2, on the second node, is worse: the first node's model has to get there
    curves = {"0": [0.4, 0.5], "1": [0.6, 0.8], "2": [0.3, 0.3], "3": [0.1, 0.2]}
    worker = standin_settings(tmp_path, {"curve": curves})
    shelf = tmp_path / "shared shelf"
    with empty_database("postgres") as url:
        for node, num_trials in (("a", 2), ("b", 4)):
            (tmp_path / node).mkdir()
            result = run(
                "rml-optimize", *SMALL, "--data", discs, "--worker", worker, "--jobs", 1,
                "--storage", url, "--num-trials", num_trials, "--artifacts", shelf,
                cwd=tmp_path / node,
            )  # fmt: skip
            assert result.returncode == 0, result.stdout + result.stderr
            if node == "a":  # else the second could read its folder
                (tmp_path / "a").rename(tmp_path / "elsewhere")
        stored = [trial.user_attrs.get(MODEL) for trial in trials_of(url)]
        first, second = tmp_path / "elsewhere/best_model", tmp_path / "b/best_model"
        for file in MODEL_FILES:
            assert (first / file).read_bytes() == (second / file).read_bytes()
        assert json.loads((second / "trial.json").read_text())["trial"] == 1
        assert (second / "best_model_file.pt").read_text() == "1 2"
        # only the best is kept
        assert [path.name for path in shelf.iterdir()] == [stored[1]["artifact"]]
        assert [model is not None for model in stored] == [True, True, False, False]


def test_a_shelf_takes_only_the_files_named_out_of_an_archive(tmp_path: Path) -> None:
    shelf = open_shelf(str(tmp_path / "shelf"))
    with tarfile.open(tmp_path / "shelf/x.tar", "w") as archive:
        for name, kind in (("../../escaped", tarfile.REGTYPE), ("a", tarfile.SYMTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member, io.BytesIO(b""))
    (tmp_path / "out").mkdir()
    with pytest.raises(ArtifactError, match="lacks a"):
        shelf.get("x.tar", tmp_path / "out", ["a"])
    assert not list((tmp_path / "out").iterdir())
    assert not shelf.get("nothing.tar", tmp_path / "out", ["a"])


@pytest.mark.parametrize(
    ("location", "text"),
    [
        ("ftp://host/x", "expected a folder"),
        ("s3://bucket/p", r"pip install 'rml-optimize\[s3\]'"),
    ],
)
def test_a_store_that_cannot_be_opened_is_refused(location: str, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        open_shelf(location)
