"""The documentation as a site: it builds strictly and loads nothing; its commands exist."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer
from support import clean_environment, require

import hpo.cli
import hpo.data.cli
from hpo.study.cli import COMMANDS, make_app

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "studies/README.md"]
APPS = {"rml-optimize": hpo.cli.app, "rml-study": make_app(), "rml-data": hpo.data.cli.app}
LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built."""
    if any(importlib.util.find_spec(name) is None for name in ("material", "mkdocstrings")):
        require("mkdocs", "not installed; pip install -c constraints.txt '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class _Loaded(HTMLParser):
    """Collects what a page loads: no link that a reader follows."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in LOADS and given.get("rel") not in ("canonical", "prev", "next"):
            self.found.append(given.get(LOADS[tag]) or "")


def test_site_builds_strictly_and_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = [*site.rglob("*.html")]
    assert len(pages) > len(PAGES)
    for page in pages:
        parser = _Loaded()
        parser.feed(page.read_text(encoding="utf-8"))
        assert not [url for url in parser.found if re.match(r"(\w+:)?//", url)], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(\w+:)?//|@import", sheet.read_text("utf-8")), sheet


def test_api_pages_have_what_they_are_about(site: Path) -> None:
    for page, names in {
        "hpo": ("num_trials", "best_params", "trials_dataframe", "num_drawn"),
        "trainer": ("preprocess", "probability"),
        "plugins": ("study_seed", "num_warmup_epochs", "stratum"),
    }.items():
        text = (site / f"api/{page}.html").read_text(encoding="utf-8")
        assert [name for name in names if name not in text] == []


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_pages_open_from_the_disk_and_are_searched(site: Path, width: int, scheme: str) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        require("browser", "chromium is not installed")
    playwright = pytest.importorskip("playwright.sync_api")
    asked: list[str] = []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("request", lambda request: asked.append(request.url))
        for name in ("index", "tutorial", "notebook", "files", "coming-from/nnunet"):
            page.goto((site / f"{name}.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") == width, name
        if width > 1000:
            page.click("input.md-search__input")
            page.keyboard.type("asha", delay=50)
            page.wait_for_selector(".md-search-result__item a[href*='pruning']")
        browser.close()
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


def command_lines() -> Iterator[tuple[str, tuple[str, ...], list[str]]]:
    """Yield page, program with its first words, and long options of each line in the pages."""
    for page in PAGES:
        blocks = re.findall(r"^```\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
        for line in "".join(blocks).replace("\\\n", " ").splitlines():
            words = re.sub(r"\s#.*", "", line).split()
            if words and words[0] in APPS:
                yield page.name, (*words[:3],), re.findall(r"\s(--[\w-]+)", " ".join(words))


def options_of(program: str, *words: str) -> set[str]:
    """Return the options that a command takes; of a group, those of all its commands."""
    found = typer.main.get_command(APPS[program])
    for word in words:
        found = getattr(found, "commands", {}).get(word, found)
    each = getattr(found, "commands", {"": found}).values()
    return {
        text for one in each for name in one.params for text in name.opts + name.secondary_opts
    }


def test_commands_of_the_pages_have_the_options_that_they_are_given() -> None:
    found = [*command_lines()]
    assert len(found) > 60
    known = {words: options_of(*words) | {"--help"} for _, words, _ in found}
    wrong = [
        (page, *words, option)
        for page, words, options in found
        for option in options
        if option not in known[words]
    ]
    assert wrong == []
    studied = {words[1] for _, words, _ in found if words[0] == "rml-study" and words[1:]}
    assert {word for word in studied if word.islower()} <= COMMANDS.keys()
