"""What `rml-study doctor` says of an engine; the engine here is a stand-in on a socket."""

from __future__ import annotations

import json
import os
import socketserver
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from support import Run

from hpo.study import enginecheck
from hpo.study.finding import Finding

Serve = Callable[..., None]


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Let DOCKER_HOST be an engine of that kind."""
    servers: list[socketserver.UnixStreamServer] = []

    def start(*, engine: str = "Engine", **info: object) -> None:
        version = {"Components": [{"Name": engine, "Version": "1"}], "ApiVersion": "1.41"}

        class Engine(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer = {"ServerVersion": "1", **info} if self.path.endswith("info") else version
                status = 404 if "/images/" in self.path else 200
                body = json.dumps(answer | {"message": "No such image"}).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def address_string(self) -> str:
                return "local"

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        path = tmp_path / f"engine{len(servers)}.sock"
        server = socketserver.ThreadingUnixStreamServer(str(path), Engine)
        server.daemon_threads = True
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def check(*folders: Path) -> dict[str, Finding]:
    found = enginecheck.check_engine("x:1", folders, has_gpus=False)
    return {finding.topic: finding for finding in found}


def test_podman_is_told_from_docker(serve: Serve) -> None:
    serve(engine="Engine")
    assert check()["engine"].text == "Docker 1"
    assert "podman" not in check()
    serve(engine="Podman Engine")
    assert check()["engine"].text == "Podman 1"
    assert check()["podman"].verdict == "WARN"


def test_where_podman_could_answer_the_remedy_is_named(
    run: Run, searched: Path, tmp_path: Path
) -> None:
    program = tmp_path / "bin/podman"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    result = run(
        "rml-study", "doctor", cwd=searched, DOCKER_HOST=f"unix://{tmp_path}/none.sock",
        PATH=f"{program.parent}:{os.environ['PATH']}",
    )  # fmt: skip
    assert "WARN podman" in result.stdout
    assert "start podman.socket`, then DOCKER_HOST=unix:///run/" in result.stdout


def test_folders_that_selinux_closes_to_containers_are_named(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enforce, data, output = tmp_path / "enforce", tmp_path / "my data", tmp_path / "out"
    data.mkdir()
    output.mkdir()
    contexts = {data: b"unconfined_u:object_r:container_file_t:s0"}
    monkeypatch.setattr(os, "getxattr", lambda path, name: contexts.get(path, b"user_home_t"))
    monkeypatch.setattr(enginecheck, "SELINUX", enforce)
    serve(SecurityOptions=["name=seccomp,profile=default", "name=selinux"])
    assert "selinux" not in check(data, output)  # another kind of system
    enforce.write_text("0")
    assert "selinux" not in check(data, output)
    enforce.write_text("1")
    finding = check(data, output)["selinux"]
    assert (finding.verdict, finding.text.partition("`")[2]) == (
        "WARN", f"chcon -Rt container_file_t {output}`",
    )  # fmt: skip
    assert check(data)["selinux"].verdict == "OK"
    serve(SecurityOptions=["name=seccomp,profile=default"])
    assert check(output)["selinux"].verdict == "OK"
