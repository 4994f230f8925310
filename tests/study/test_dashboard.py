"""The dashboard, as a browser shows it."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import HTTPCookieProcessor, Request, build_opener

import cv2
import pytest
from databases import empty_database
from support import BIN, Run, clean_environment, one_error, require, standin_settings

CHROMIUM_FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip


@pytest.mark.browser
@pytest.mark.postgres
def test_dashboard_shows_the_study_and_no_password(run: Run, discs: Path, tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        require("browser", "chromium is not installed")
    from playwright.sync_api import sync_playwright

    worker = standin_settings(tmp_path, {"curve": {"0": [0.2, 0.5], "1": [0.4, 0.8]}})
    with empty_database("postgres") as url:
        made = run(
            "rml-optimize", "--layers", "unet:width=4,depth=2", "--resize", "32,32", "--no-gpu",
            "--num-epochs", 2, "--data", discs, "--worker", worker, "--jobs", 1,
            "--num-trials", 2, "--study-name", "lesions", RML_STORAGE=url,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        process = subprocess.Popen(
            [BIN / "rml-study", "dashboard"], text=True, stdout=subprocess.PIPE, cwd=tmp_path,
            env=clean_environment() | {"RML_STORAGE": url, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("dashboard: http://127.0.0.1:")
            assert "test-only" not in line
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=chromium, args=list(CHROMIUM_FLAGS)
                )
                page = browser.new_page(viewport={"width": 1280, "height": 900})
                page.goto(line.split()[1])
                page.get_by_text("lesions").first.click(timeout=60_000)
                # the two trials, drawn by plotly as points of the history
                points = page.locator(".js-plotly-plot .scatterlayer .points .point")
                points.first.wait_for(timeout=60_000)
                assert "lesions" in page.content()
                page.screenshot(path=tmp_path / "study.png")
                browser.close()
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)
        assert process.returncode == 0
        screenshot = cv2.imread(str(tmp_path / "study.png"))
        assert screenshot.shape[:2] == (900, 1280)
        assert screenshot.std() > 5  # not a blank page


@contextlib.contextmanager
def served(folder: Path, *arguments: str) -> Iterator[str]:
    """Serve the study of a folder; yield the address that is printed."""
    process = subprocess.Popen(
        [BIN / "rml-study", "dashboard", *arguments], text=True, stdout=subprocess.PIPE,
        cwd=folder, env=clean_environment() | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[1]
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


def ask(address: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    """Return the status of an answer and its text; redirections are followed, with cookies."""
    browser = build_opener(HTTPCookieProcessor())
    try:
        with browser.open(Request(address, method=method, headers=headers), timeout=30) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def test_another_user_of_the_machine_sees_and_changes_nothing(searched: Path) -> None:
    with served(searched) as address:
        root, _, token = address.partition("?token=")
        assert len(token) > 16
        for path in ("", "dashboard", "api/studies", "csv/1", "api/studies?token=guess"):
            assert ask(root + path)[0] == 403, path
        assert ask(root, Cookie="rml_dashboard_80=x")[0] == 403
        assert ask(address) == ask(f"{root}dashboard?token={token}")
        assert ask(address)[0] == 200
        status, studies = ask(f"{root}api/studies?token={token}")
        number = json.loads(studies)["study_summaries"][0]["study_id"]
        one = f"{root}api/studies/{number}?token={token}"
        assert (status, ask(one)[0]) == (200, 200)
        assert ask(one, "DELETE") == (403, '{"reason": "read-only; see --writable"}')
        assert ask(one)[0] == 200


def test_the_pages_change_a_study_only_where_that_was_asked_for(
    searched: Path, tmp_path: Path
) -> None:
    shutil.copy(searched / "rml_optimize.db", tmp_path)
    with served(tmp_path, "--writable", "--no-token") as address:
        assert "token" not in address
        number = json.loads(ask(f"{address}api/studies")[1])["study_summaries"][0]["study_id"]
        assert ask(f"{address}api/studies/{number}", "DELETE")[0] == 204
        assert json.loads(ask(f"{address}api/studies")[1])["study_summaries"] == []


def test_a_port_that_is_taken_is_one_clear_line(run: Run, searched: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = run("rml-study", "dashboard", "--port", port, cwd=searched)
    assert f"--port {port}" in one_error(result)


def test_an_address_of_another_machine_is_one_clear_line(run: Run, searched: Path) -> None:
    result = run("rml-study", "dashboard", "--host", "203.0.113.1", cwd=searched)
    assert "--host 203.0.113.1" in one_error(result)
