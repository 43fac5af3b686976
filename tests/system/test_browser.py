"""The report in a real browser, as somebody sees it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from factories import RESULTS, SEARCH, Build, leave_predictions
from playwright.sync_api import Browser, sync_playwright

from experiments.benchmarks.figures.screenshots import start_chromium
from tune_resnet.commands.live_page import EVERY
from tune_resnet.results.page import write_report
from tune_resnet.runs.directory import RunDirectory
from tune_resnet.runs.tables import FINISHED, RUNNING, STOPPED

MIN_CONTRAST = 4.5  # WCAG 2.2, level AA, text of normal size

CONTRASTS = """() => {
  const linear = value => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
  const luminance = ([red, green, blue]) => 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue);
  const opaque = element => {
    for (let at = element; at; at = at.parentElement) {
      const colour = numbers(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
  };
  const texts = [...document.querySelectorAll("main h1, main h2, main p, dt, dd, th, td, pre, li, button, svg text")];
  return texts.filter(element => element.textContent.trim()).map(element => {
    const style = getComputedStyle(element);
    const text = luminance(numbers(element instanceof SVGElement ? style.fill : style.color));
    const back = luminance(opaque(element));
    const contrast = (Math.max(text, back) + 0.05) / (Math.min(text, back) + 0.05);
    return [element.textContent.slice(0, 40), contrast];
  });
}"""

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = start_chromium(playwright)
        if browser is None:
            pytest.skip("there is no chromium")
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a recorded search."""
    return write_report([SEARCH], tmp_path_factory.mktemp("recorded") / "report.html")


@pytest.fixture(scope="module", params=["one run", "several runs", "a thousand trials", "live, and class by class"])
def page_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, recorded: Path) -> Path:
    if request.param == "one run":
        return recorded
    folder = tmp_path_factory.mktemp("pages")
    runs = [SEARCH, RESULTS / "cifar10-jpeg-baseline"]
    if request.param == "a thousand trials":
        build = Build(folder / "run")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RunDirectory, "write_trials", lambda run, lines, *columns: None)  # once is enough, at the end
            for number in range(1000):
                end = 0.5 + number % 97 / 400
                how = ([0.3, 0.4, 0.5, end], FINISHED) if number % 9 == 0 else ([0.2 + end / 9], STOPPED)
                build.trial(*how)
        build.recorder.close()
        runs = [build.directory.path]
    if request.param == "live, and class by class":
        build = Build(folder / "run")
        build.trial([0.5, 0.6, 0.7, 0.8], FINISHED)
        build.trial([0.5, 0.65], RUNNING, max_lr=0.02)
        leave_predictions(build.directory, ("ant", "bee", "<b>cat</b>", "dog"))
        with build.directory.lock():
            return write_report([build.directory.path], folder / "report.html", reload_seconds=EVERY)
    return write_report(runs, folder / "report.html")


class View:
    """A page as a browser shows it, and what went wrong meanwhile."""

    def __init__(self, browser: Browser, file: Path, width: int, scheme: Literal["light", "dark"]) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.wrong: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.wrong.append(message.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("requestfailed", lambda request: self.wrong.append(request.url))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())
        self.page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
        self.page.wait_for_function("[...document.querySelectorAll('.plot')].every(plot => plot.querySelector('svg'))")


@pytest.fixture(scope="module", params=[(1200, "light"), (380, "dark")], ids=["desktop", "phone"])
def view(request: pytest.FixtureRequest, browser: Browser, page_file: Path) -> Iterator[View]:
    view = View(browser, page_file, *request.param)
    yield view
    view.context.close()


def test_a_page_is_whole_fits_and_reads_well(view: View) -> None:
    page = view.page
    assert view.wrong == []
    assert len(view.requests) == 1  # the file itself
    marks = ".trace path, .trace .point, .bars .point, .shapelayer path, .heatmaplayer image"
    drawn = page.evaluate(f"[...document.querySelectorAll('.plot')].map(it => it.querySelectorAll('{marks}').length)")
    assert drawn
    assert min(drawn) > 0
    assert page.viewport_size is not None
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    poor = [(text, contrast) for text, contrast in page.evaluate(CONTRASTS) if contrast < MIN_CONTRAST]
    assert poor == []


def test_a_page_can_be_heard_and_used_by_keyboard(view: View) -> None:
    found = Axe().run(view.page)
    assert found.violations_count == 0, found.generate_report()
    assert view.page.evaluate("[...document.querySelectorAll('figure')].every(part => part.ariaLabel)")
    reached = set()
    for _ in range(20):  # what scrolls sideways, copies, sorts, chooses and folds can be reached
        view.page.keyboard.press("Tab")
        reached.add(view.page.evaluate("document.activeElement.getAttribute('role') || document.activeElement.tagName"))
    assert {"region", "BUTTON"} <= reached


def test_hovering_tells_what_a_mark_is(browser: Browser, recorded: Path) -> None:
    view = View(browser, recorded, 1200, "light")
    plot = view.page.locator("[aria-label^='Learning curves'] .plot")
    plot.scroll_into_view_if_needed()
    point = plot.locator(".trace").last.locator(".point").last
    box = point.bounding_box()
    assert box is not None
    view.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    told = plot.locator(".hoverlayer .hovertext")
    told.wait_for()
    assert re.match(r"epoch 8: 7\d\.\d%trial \d+ \(\w+\).*max_lr 0\.\d+", told.text_content() or "")
    view.context.close()


def test_the_colours_follow_when_night_falls(browser: Browser, recorded: Path) -> None:
    view = View(browser, recorded, 1200, "light")
    fill = "getComputedStyle(document.querySelector('.plot .xtick text')).fill"
    before = view.page.evaluate(fill)
    view.page.emulate_media(color_scheme="dark")
    view.page.wait_for_function(f"{fill} !== '{before}'")
    assert [text for text, contrast in view.page.evaluate(CONTRASTS) if contrast < MIN_CONTRAST] == []
    view.context.close()


def test_a_table_is_sorted_by_a_click_and_a_loss_is_chosen(browser: Browser, recorded: Path) -> None:
    view = View(browser, recorded, 1200, "light")
    head = view.page.get_by_role("button", name="max_lr")
    column = head.locator("xpath=ancestor::table").locator("td:nth-child(6)")
    for order in ("descending", "ascending"):
        head.click()
        values = [float(text.split()[0]) for text in column.all_text_contents()]
        assert values == sorted(values, reverse=order == "descending")
        assert view.page.locator("th[aria-sort]").get_attribute("aria-sort") == order
    view.page.get_by_label("shown:").select_option("training loss")
    title = view.page.locator("[aria-label^='Learning curves'] .ytitle")
    assert title.text_content() == "training loss"
    assert view.wrong == []
    view.context.close()
