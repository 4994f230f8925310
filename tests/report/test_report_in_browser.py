"""The report as a browser shows it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_study import EVIL, make_minimized, make_study, winner
from playwright.sync_api import Browser, Page, sync_playwright
from support import require

from hpo.report.page import write_report

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        require("browser", "chromium is not installed")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        yield opened
        opened.close()


class Opened:
    """A page, and what it said and asked for while it was opened."""

    def __init__(self, browser: Browser, file: Path, width: int, scheme: str) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme
        )
        self.page: Page = self.context.new_page()
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        began = time.monotonic()
        self.page.goto(file.as_uri())
        self.page.wait_for_selector("#trials-table tbody tr")
        self.seconds = time.monotonic() - began

    def column(self, index: int) -> list[str]:
        """Return the texts of a column of the table, of the rows that are there."""
        cells = self.page.locator(f"#trials-table tbody td:nth-child({index})")
        return [text for text in cells.all_inner_texts() if text]


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (400, "light")])
def test_page_opens_without_an_error_or_a_request(
    browser: Browser, tmp_path: Path, width: int, scheme: str
) -> None:
    file = write_report(make_study(tmp_path), tmp_path)
    opened = Opened(browser, file, width, scheme)
    opened.page.evaluate("new Promise((done) => setTimeout(done, 200))")
    assert opened.said == []
    assert [url for url in opened.asked if not url.startswith("data:")] == [file.as_uri()]
    assert opened.page.title().startswith("Title ")  # no text of the study has run
    assert opened.page.evaluate("document.documentElement.scrollWidth") == width
    for plot in ("curves", "history", "importance", "parallel", "slices", "images"):
        assert opened.page.locator(f"#{plot}-plot svg path, #{plot}-plot svg rect").count() > 1, (
            plot
        )
    assert opened.page.locator("figure image").count() == 18
    opened.context.close()


def test_table_is_sorted_and_filtered(browser: Browser, tmp_path: Path) -> None:
    study = make_study(tmp_path, 60)
    opened = Opened(browser, write_report(study, tmp_path), 1280, "light")
    scores = {str(t.number): t.value for t in study.get_trials(deepcopy=False)}
    numbers = opened.column(1)
    assert numbers[0] == str(winner(study))  # the best first
    ranked = sorted((n for n, v in scores.items() if v is not None), key=lambda n: -scores[n])
    assert numbers == ranked[: len(numbers)]
    opened.page.get_by_role("button", name="trial", exact=True).click()
    assert opened.column(1)[:4] == ["0", "1", "2", "3"]
    opened.page.get_by_role("button", name="trial", exact=True).click()
    assert opened.column(1)[:3] == ["60", "59", "58"]
    opened.page.get_by_role("button", name="Dice", exact=True).click()
    opened.page.get_by_role("button", name="Dice", exact=True).click()
    assert opened.column(1)[0] == ranked[-1]  # what failed has none, and comes last
    opened.page.fill("#filter", "pruned node1")
    expected = [t.number for t in study.trials if t.state.name == "PRUNED" and t.number % 2]
    assert opened.page.inner_text("#shown") == f"{len(expected)} of 61 trials"
    assert set(opened.column(2)) == {"pruned"}
    opened.context.close()


def test_page_of_a_minimized_study_is_that_of_the_negative_upside_down(
    browser: Browser, tmp_path: Path
) -> None:
    studies = make_study(tmp_path, 60), make_minimized(60)
    tables, steps, heights, colours = [], [], [], []
    for index, study in enumerate(studies):
        opened = Opened(browser, write_report(study, tmp_path / str(index)), 1280, "light")
        tables.append(opened.column(1))
        path = opened.page.locator("#history-plot path.step").get_attribute("d")
        steps.append(path.count("V"))
        circles = opened.page.locator("#history-plot circle")
        heights.append(circles.evaluate_all("(all) => all.map((c) => +c.getAttribute('cy'))"))
        lines = opened.page.locator("#parallel-plot path.trial")
        colours.append(lines.evaluate_all("(all) => all.map((line) => line.style.stroke)"))
        opened.context.close()
    assert tables[0] == tables[1]
    assert steps[0] == steps[1] > 1
    assert colours[0] == colours[1]
    middle = heights[0][0] + heights[1][0]
    assert [a + b for a, b in zip(*heights, strict=True)] == pytest.approx(
        [middle] * len(heights[0]), abs=0.5
    )


def test_masks_and_predictions_are_hidden_and_shown(browser: Browser, tmp_path: Path) -> None:
    opened = Opened(browser, write_report(make_study(tmp_path), tmp_path), 1280, "light")
    truth = opened.page.locator("figure path.truth").first
    assert truth.evaluate("(path) => getComputedStyle(path).display") != "none"
    opened.page.locator("input.toggle[value=truth]").uncheck()
    assert truth.evaluate("(path) => getComputedStyle(path).display") == "none"
    opened.context.close()


def test_pointing_at_a_trial_tells_its_values_as_text(browser: Browser, tmp_path: Path) -> None:
    opened = Opened(browser, write_report(make_study(tmp_path), tmp_path), 1280, "light")
    marked = opened.page.locator("#history-plot circle.winner").first
    marked.scroll_into_view_if_needed()
    box = marked.bounding_box()
    assert box is not None
    opened.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert "learning_rate" in opened.page.inner_text("#tip")
    assert opened.page.locator("#tip *").count() == 0
    opened.context.close()


def test_printed_page_has_every_row(browser: Browser, tmp_path: Path) -> None:
    opened = Opened(browser, write_report(make_study(tmp_path, 200), tmp_path), 1280, "light")
    assert opened.page.locator("#trials-table tbody tr").count() < 100
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.page.locator("#trials-table tbody tr").count() == 201
    opened.context.close()


def test_ten_thousand_trials_are_open_soon_and_all_in_the_table(
    browser: Browser, tmp_path: Path
) -> None:
    file = write_report(make_study(tmp_path, 10_000), tmp_path)
    assert file.stat().st_size < 8e6
    opened = Opened(browser, file, 1280, "light")
    assert opened.said == []
    assert opened.seconds < 6  # two on a machine that does nothing else
    assert opened.page.inner_text("#shown") == "10001 trials"
    opened.page.locator("#trials-table").evaluate("(table) => { table.scrollTop = 1e9; }")
    opened.page.wait_for_function(
        "document.querySelector('#trials-table tbody tr:last-child td').textContent === '10000'"
    )
    opened.context.close()


def test_evil_is_shown_as_it_is_written(browser: Browser, tmp_path: Path) -> None:
    opened = Opened(browser, write_report(make_study(tmp_path), tmp_path), 1280, "light")
    assert EVIL in opened.page.inner_text("#failures")
    opened.context.close()
