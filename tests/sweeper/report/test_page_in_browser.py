"""The page in a real browser: it draws, asks nobody for anything, lights up what is brushed, and is accessible."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sweeper.report.page.contents import build_page
from sweeper.report.page.html import render_page
from sweeper.tables.run import Run
from sweeper.watch import Pages, Server

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: Debian's package is called chromium")

HOSTILE = "</script><script>window.owned=1</script><img src=x onerror=window.owned=1><!--"
RATE, NORM, CORPUS = "update_rule.learning_rate", "update_rule.clip_norm", "problem.corpus"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as started:
        # Without a sandbox: Chromium refuses to make one for root, as whom containers run. What it opens is our own.
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@dataclass
class Opened:
    """A page in a tab, and what the tab has said and asked for."""

    tab: Any
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def drawn(self) -> int:
        sync_api.expect(self.tab.locator("html")).to_have_attribute("data-drawn", re.compile(r"\d+"), timeout=60_000)
        return int(self.tab.locator("html").get_attribute("data-drawn"))

    def rows(self, selector: str = "#table tbody tr") -> list[str]:
        return [str(text) for text in self.tab.eval_on_selector_all(selector, "rows => rows.map(row => row.innerText)")]

    def lit(self) -> list[str]:
        return self.rows("#table tbody tr.lit")


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Opened]]:
    """Opens a page: ``(html, **options of a context) -> Opened``."""
    contexts = []

    def opened(html: str, **options: Any) -> Opened:
        file = tmp_path / "report.html"
        file.write_text(html, encoding="utf-8")
        contexts.append(browser.new_context(**options))
        one = Opened(contexts[-1].new_page())
        one.tab.on("console", lambda message: one.said.append(message.text))
        one.tab.on("pageerror", lambda error: one.said.append(str(error)))
        one.tab.on("request", lambda request: one.asked.append(request.url))
        one.tab.goto(file.as_uri())
        return one

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def page(made_run: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> str:
    cells = [
        {RATE: rate, NORM: norm, CORPUS: corpus}
        for corpus in (HOSTILE, "plain")
        for rate in (0.3, 1.0, 3.0, 10.0)
        for norm in (None, 0.25, 1.0)
    ]
    run = made_run(
        tmp_path_factory.mktemp("page") / "run",
        cells,
        diverges=lambda swept, seed: swept[NORM] is None and swept[RATE] == 10,
        measured=True,
    )
    return render_page(build_page(run, [run.path]))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 900), (390, 844)], ids=["desk", "phone"])
def test_it_draws_silently_asks_nobody_and_is_accessible(
    show: Callable[..., Opened], page: str, scheme: str, size: tuple[int, int]
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    opened = show(page, color_scheme=scheme, viewport={"width": size[0], "height": size[1]})
    assert opened.drawn() == len(opened.tab.query_selector_all(".chart canvas")) >= 5
    assert opened.said == []
    assert [url for url in opened.asked if not url.startswith("file:")] == []
    found = axe.run(opened.tab)
    assert found.violations_count == 0, found.generate_report()
    assert opened.tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "no sideways scrolling"


def test_a_hostile_name_is_a_text_in_table_chart_and_tip(show: Callable[..., Opened], page: str) -> None:
    opened = show(page)
    opened.drawn()
    assert any("</script>" in row for row in opened.rows())
    opened.tab.locator("#table input[type=checkbox]").first.check()
    assert "</script>" in opened.tab.locator("#lit").inner_text()
    opened.tab.locator(".chart canvas").nth(2).hover()
    assert opened.tab.evaluate("window.owned") is None
    assert opened.tab.locator("img").count() == 0


def test_what_is_brushed_in_one_chart_lights_up_everywhere(show: Callable[..., Opened], page: str) -> None:
    opened = show(page)
    opened.drawn()
    chart = opened.tab.locator("[id^=rates] canvas")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    # The right-hand fifth of the axis: the largest rate alone.
    opened.tab.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + box["height"] * 0.15)
    opened.tab.mouse.down()
    opened.tab.mouse.move(box["x"] + box["width"] - 8, box["y"] + box["height"] * 0.85, steps=5)
    opened.tab.mouse.up()
    opened.tab.wait_for_selector("tr.lit")
    lit = opened.lit()
    assert lit
    assert all(row.split("\t")[1].strip() == "10" or "\t10\t" in row for row in lit)
    assert "Chosen:" in opened.tab.locator("#lit").inner_text()
    pictures = opened.tab.eval_on_selector_all(".chart canvas", "all => all.map(one => one.toDataURL())")
    opened.tab.get_by_role("button", name="Show all cells").click()
    assert opened.lit() == []
    opened.tab.wait_for_timeout(100)
    after = opened.tab.eval_on_selector_all(".chart canvas", "all => all.map(one => one.toDataURL())")
    assert sum(one != other for one, other in zip(pictures, after, strict=True)) == len(after), "every chart had dimmed"


def test_the_table_sorts_and_filters_by_keyboard_alone(show: Callable[..., Opened], page: str) -> None:
    opened = show(page)
    opened.drawn()
    at = [text.strip() for text in opened.rows("#table thead th")].index("learning_rate") + 1

    def rates() -> list[str]:
        return [row.split("\t")[at] for row in opened.rows()]

    assert len(rates()) == 24
    head = opened.tab.get_by_role("button", name="learning_rate")
    head.focus()
    opened.tab.keyboard.press("Enter")
    assert [float(text) for text in rates()] == sorted(float(text) for text in rates())
    opened.tab.keyboard.press("Enter")
    assert [float(text) for text in rates()] == sorted((float(text) for text in rates()), reverse=True)
    assert opened.tab.locator("th[aria-sort=descending]").count() == 1
    opened.tab.locator("#filter").focus()
    opened.tab.keyboard.type("plain 0.25")
    assert len(rates()) == 4
    assert "4 of 24 cells" in opened.tab.locator("#count").inner_text()
    opened.tab.get_by_role("button", name="Choose all rows that match").focus()
    opened.tab.keyboard.press("Enter")
    assert len(opened.lit()) == 4
    opened.tab.locator("#only-best").focus()
    opened.tab.keyboard.press("Space")
    assert all("plain" in row for row in opened.rows())


def test_paper_has_the_charts_on_white_even_of_a_dark_page(
    show: Callable[..., Opened], page: str, tmp_path: Path
) -> None:
    opened = show(page, color_scheme="dark")
    opened.drawn()
    opened.tab.emulate_media(media="print")
    style = "getComputedStyle(document.body).backgroundColor"
    assert opened.tab.evaluate(style) == "rgb(255, 255, 255)"
    assert opened.tab.evaluate("getComputedStyle(document.querySelector('.chart canvas')).filter").startswith("invert")
    assert opened.tab.pdf(format="A4").startswith(b"%PDF")


def test_the_theme_can_be_turned(show: Callable[..., Opened], page: str) -> None:
    opened = show(page, color_scheme="light")
    opened.drawn()
    before = opened.tab.evaluate("getComputedStyle(document.body).backgroundColor")
    opened.tab.locator("#theme").click()
    assert opened.tab.evaluate("getComputedStyle(document.body).backgroundColor") != before
    assert opened.said == []


def test_a_live_page_takes_in_what_is_new_and_keeps_what_was_chosen(
    browser: Any, made_run: Callable[..., Run], tmp_path: Path
) -> None:
    few, more = (
        render_page(build_page(run, [run.path]), live="state")
        for run in (
            made_run(tmp_path / str(count), [{RATE: float(rate), NORM: None} for rate in range(1, count + 1)])
            for count in (2, 3)
        )
    )
    clock = [0.0]
    run = tmp_path / "2"
    (tmp_path / "next").write_text(few)
    with Pages(run, make=next_page, clock=lambda: clock[0]) as pages, Server(pages) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        opened = Opened(browser.new_page())
        opened.tab.on("console", lambda message: opened.said.append(message.text))
        opened.tab.goto(server.url, timeout=120_000)
        opened.drawn()
        assert len(opened.rows()) == 2
        sync_api.expect(opened.tab.locator("#state")).to_contain_text("finished", timeout=60_000)
        opened.tab.locator("#table input[type=checkbox]").nth(1).check()
        opened.tab.locator("#filter").fill("learning_rate")
        (tmp_path / "next").write_text(more)
        (run / "trials.parquet").touch()
        clock[0] = 1e6
        sync_api.expect(opened.tab.locator("body")).to_have_attribute("data-build", "2", timeout=120_000)
        assert len(opened.rows()) == 3
        assert opened.lit() == opened.rows()[1:2], "what was chosen still is"
        assert opened.tab.locator("#filter").input_value() == "learning_rate"
        assert opened.said == []
        opened.tab.route("**/state", lambda route: route.abort())
        sync_api.expect(opened.tab.locator("#state")).to_contain_text("not live any longer", timeout=60_000)
        opened.tab.close()
        server.shutdown()
        thread.join()


def next_page(run: Path) -> str:
    """In place of a page of the run: the one that lies there."""
    return (run.parent / "next").read_text()
