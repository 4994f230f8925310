"""The dashboard, as a browser shows it."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

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
