"""The best model reaches every node through an artifact store."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from databases import empty_database, trials_of
from support import BIN, Run, standin_settings, wait_for

from hpo.errors import UsageError
from hpo.keys import MODEL
from hpo.results.artifacts import ArtifactError, open_model_store
from hpo.results.model_folder import MODEL_FILES

SMALL = ("--layers", "unet:width=4,depth=2", "--resize", "32,32", "--no-gpu", "--num-epochs", "2")


@pytest.mark.postgres
def test_nodes_with_folders_of_their_own_end_with_the_same_best_model(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    # trial 1 beats 0; 2, on the second node, is worse: the first node's model has to get there
    curves = {"0": [0.4, 0.5], "1": [0.6, 0.8], "2": [0.3, 0.3], "3": [0.1, 0.2]}
    worker = standin_settings(tmp_path, {"curve": curves})
    model_store = tmp_path / "shared shelf"
    with empty_database("postgres") as url:
        for node, num_trials in (("a", 2), ("b", 4)):
            (tmp_path / node).mkdir()
            result = run(
                "rml-optimize", *SMALL, "--data", discs, "--worker", worker, "--jobs", 1,
                "--storage", url, "--num-trials", num_trials, "--artifacts", model_store,
                "--select-on", "validation", cwd=tmp_path / node,
            )  # fmt: skip
            assert result.returncode == 0, result.stdout + result.stderr
            if node == "a":  # else the second could read its folder
                (tmp_path / "a").rename(tmp_path / "elsewhere")
        stored = [trial.user_attrs.get(MODEL) for trial in trials_of(url)]
        first, second = tmp_path / "elsewhere/best_model", tmp_path / "b/best_model"
        for file in (*MODEL_FILES, "test.json"):
            assert (first / file).read_bytes() == (second / file).read_bytes()
        # the second node took the test score from the first
        assert list((tmp_path / "elsewhere").glob("runs/*/test_of_trial_00001"))
        assert not list((tmp_path / "b").glob("runs/*/test_of_trial_*"))
        assert json.loads((second / "trial.json").read_text())["trial"] == 1
        assert (second / "best_model_file.pt").read_text() == "1 2"
        # only the best is kept
        assert [path.name for path in model_store.glob("*.tar")] == [stored[1]["artifact"]]
        assert [model is not None for model in stored] == [True, True, False, False]


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of an S3 server of our own, which our commands find as well."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {"ENDPOINT_URL": f"http://127.0.0.1:{port}", "DEFAULT_REGION": "us-east-1"}
    for name, value in {**settings, "ACCESS_KEY_ID": "me", "SECRET_ACCESS_KEY": "x"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    server = subprocess.Popen(
        [BIN / "moto_server", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    client = boto3.client("s3")

    def is_up() -> bool:
        assert server.poll() is None, "the S3 server does not start"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_for(is_up, 60)
        yield client
    finally:
        client.close()
        server.kill()
        server.wait()


def test_best_model_goes_through_a_bucket(discs: Path, run: Run, tmp_path: Path, s3: Any) -> None:
    s3.create_bucket(Bucket="models")
    worker = standin_settings(tmp_path, {"curve": {"0": [0.4, 0.5], "1": [0.6, 0.8]}})
    study, model_store = ("--storage", f"sqlite:///{tmp_path / 's.db'}"), "s3://models/our team"
    here, there = tmp_path / "here", tmp_path / "there"
    for node in (here, there):
        node.mkdir()
    search = run(
        "rml-optimize", *SMALL, *study, "--data", discs, "--worker", worker, "--jobs", 1,
        "--num-trials", 2, "--artifacts", model_store, "--select-on", "validation", cwd=here,
    )  # fmt: skip
    assert search.returncode == 0, search.stdout + search.stderr
    stored = [each["Key"] for each in s3.list_objects_v2(Bucket="models")["Contents"]]
    assert all(key.startswith("our team/") for key in stored)
    pictures = [key for key in stored if key.startswith("our team/pictures/")]
    assert len(stored) == 1 + len(pictures)  # of the models the best only
    assert pictures
    here.rename(tmp_path / "elsewhere")
    export = run("rml-study", "export", *study, "--artifacts", model_store, cwd=there)
    assert export.returncode == 0, export.stdout + export.stderr
    for file in (*MODEL_FILES, "test.json"):
        ours = (tmp_path / "elsewhere/best_model" / file).read_bytes()
        assert (there / "best_model" / file).read_bytes() == ours
    assert (there / "best_model/best_model_file.pt").read_text() == "1 2"


def test_doctor_says_what_is_wrong_with_a_bucket(run: Run, s3: Any) -> None:
    s3.create_bucket(Bucket="models")
    for bucket, verdict in (("models", "takes and gives"), ("nowhere", "bucket does not exist")):
        text = run("rml-study", "doctor", "--artifacts", f"s3://{bucket}").stdout
        assert verdict in text
    assert "Contents" not in s3.list_objects_v2(Bucket="models")  # nothing stays behind


def test_a_shelf_takes_only_the_files_named_out_of_an_archive(tmp_path: Path) -> None:
    model_store = open_model_store(str(tmp_path / "shelf"))
    with tarfile.open(tmp_path / "shelf/x.tar", "w") as archive:
        for name, kind in (("../../escaped", tarfile.REGTYPE), ("a", tarfile.SYMTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member, io.BytesIO(b""))
    (tmp_path / "out").mkdir()
    with pytest.raises(ArtifactError, match="lacks a"):
        model_store.get("x.tar", tmp_path / "out", ["a"])
    assert not list((tmp_path / "out").iterdir())
    assert not model_store.get("nothing.tar", tmp_path / "out", ["a"])


@pytest.mark.parametrize(
    ("location", "text"),
    [
        ("ftp://host/x", "expected a folder"),
        ("s3://bucket/p", r"pip install 'boto3>=1.34'"),
        ("gs://bucket/p", r"pip install 'google-cloud-storage>=2.14'"),
    ],
)
def test_a_store_that_cannot_be_opened_is_refused(
    location: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("boto3", "google.cloud.storage"):
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(UsageError, match=text):
        open_model_store(location)
