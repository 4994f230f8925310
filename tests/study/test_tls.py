"""Databases that take encrypted connections only, with a certificate of the user's own CA."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from databases import SERVERS, trials_of
from support import Run, one_error, optimize, require, standin_settings

SCRIPTS = Path(__file__).parents[2] / "scripts/ci"
CONTROLS = {"postgres": SCRIPTS / "postgres.sh", "mysql": SCRIPTS / "mariadb.sh"}
VERIFIED = {"postgres": "sslmode=verify-full&sslrootcert={}", "mysql": "ssl_ca={}"}
CURVE = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"]


@dataclass(frozen=True)
class Server:
    """A server that takes encrypted connections only, and who vouches for it."""

    kind: str
    url: str
    certificates: Path

    def verified_by(self, authority: str) -> str:
        return f"{self.url}?{VERIFIED[self.kind]}".format(self.certificates / f"{authority}.crt")


def certify(folder: Path, name: str, *options: str) -> None:
    """Write NAME.key and NAME.crt, a self-signed authority unless the options name another."""
    subprocess.run(
        ["openssl", "req", "-x509", *CURVE, "-days", "2", "-subj", f"/CN={name}", "-keyout",
         f"{name}.key", "-out", f"{name}.crt", *options],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    certify(folder, "ours")
    certify(folder, "another")
    certify(
        folder, "server", "-CA", "ours.crt", "-CAkey", "ours.key",
        "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE",
    )  # fmt: skip
    return folder


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("postgres", marks=pytest.mark.postgres),
        pytest.param("mysql", marks=pytest.mark.mysql),
    ],
)
def server(request: pytest.FixtureRequest, certificates: Path) -> Iterator[Server]:
    kind: str = request.param
    if os.environ.get(SERVERS[kind]) is None:
        require(kind, f"{SERVERS[kind]} names no server, so it may not be installed")
    if shutil.which("openssl") is None:
        require(kind, "openssl is not installed")
    folder = Path(tempfile.mkdtemp(prefix="rml-tls-"))  # it runs as a user of its own
    try:
        started = subprocess.run(
            [CONTROLS[kind], "start", folder], env=os.environ | {"TLS": str(certificates)},
            check=True, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        yield Server(kind, started.stdout.strip(), certificates)
    finally:
        subprocess.run([CONTROLS[kind], "stop", folder], check=True)
        shutil.rmtree(folder)


def assert_refused(run: Run, arguments: list[str], url: str, reason: str) -> None:
    for command in (["rml-optimize", *arguments], ["rml-study", "status"]):
        result = run(*command, RML_STORAGE=url)
        (line,) = one_error(result).splitlines()
        assert "cannot be reached" in line
        assert reason in line
        assert "test-only" not in result.stdout + result.stderr
    result = run("rml-study", "doctor", RML_STORAGE=url)
    assert result.returncode == 1
    (line,) = (each for each in result.stdout.splitlines() if "database" in each)
    assert line.startswith("FAIL")
    assert reason in line
    assert "test-only" not in result.stdout + result.stderr


def test_search_over_an_encrypted_connection(
    server: Server, discs: Path, run: Run, tmp_path: Path
) -> None:
    url = server.verified_by("ours")
    empty = run("rml-study", "status", RML_STORAGE=url)
    assert "the database has no studies yet" in one_error(empty)
    worker = standin_settings(tmp_path, {})
    search = run(
        "rml-optimize", *optimize(discs, "--num-trials", 2, "--worker", worker), RML_STORAGE=url
    )
    assert search.returncode == 0, search.stdout + search.stderr
    assert len(trials_of(url)) == 2
    assert run("rml-study", "status", RML_STORAGE=url).returncode == 0
    findings = run("rml-study", "doctor", "--data", discs, RML_STORAGE=url)
    assert "answers in" in findings.stdout
    assert "1 study" in findings.stdout


def test_server_of_another_authority_is_refused(server: Server, discs: Path, run: Run) -> None:
    url = server.verified_by("another")
    assert_refused(run, optimize(discs), url, "certificate verify failed")


def test_server_of_another_name_is_refused(server: Server, run: Run) -> None:
    url = server.verified_by("ours").replace("127.0.0.1", "localhost")
    error = one_error(run("rml-study", "status", RML_STORAGE=url))
    assert {"postgres": "does not match host name", "mysql": "mismatch"}[server.kind] in error


def test_server_without_encryption_is_refused(server: Server, discs: Path, run: Run) -> None:
    plain = Server(server.kind, os.environ[SERVERS[server.kind]], server.certificates)
    reason = {"postgres": "does not support SSL", "mysql": "server doesn't support it"}
    assert_refused(run, optimize(discs), plain.verified_by("ours"), reason[server.kind])


@pytest.mark.mysql
def test_certificate_that_is_not_there_is_named(run: Run) -> None:
    url = "mysql+pymysql://me:test-only@127.0.0.1/studies?ssl_ca=/nowhere/ca.crt"
    error = one_error(run("rml-study", "status", RML_STORAGE=url))
    assert (
        error
        == "error: --storage: ssl_ca=/nowhere/ca.crt: cannot be read (No such file or directory)"
    )
