"""The page in headless Chromium: it sorts, filters, shows pictures, and works by keyboard.

Needs Playwright's client (`pip install -e '.[browser]'`) and a Chromium on the PATH, or the
browser that BENCH_CHROMIUM names; without them it is skipped.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from bench.results.store import Store
from bench.webpage.chosen import Asked, choose
from bench.webpage.pictures import Picture, Strip, Strips
from bench.webpage.write import report

from .made import N, cell, keep, ladder

playwright = pytest.importorskip(
    "playwright.sync_api", reason="Playwright's client is not installed: pip install playwright"
)
_CHROMIUM = os.environ.get("BENCH_CHROMIUM") or shutil.which("chromium")
pytestmark = pytest.mark.skipif(
    _CHROMIUM is None, reason="there is no chromium on the PATH, nor BENCH_CHROMIUM"
)
SCRIPT = "<script>document.title='run'</script>"
_PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNgAAAAAgAB"
    "SK+kcQAAAABJRU5ErkJggg=="
)
DARK, LIGHT = "rgb(20, 23, 28)", "rgb(255, 255, 255)"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    store = Store(folder / "results")
    key, _ = ladder(store, params={"sigma": 0.1})
    ladder(store, params={"sigma": 0.2}, eps=Fraction(1, 5))
    keep(store, cell("half"), [True] * 4 + [False] * 4)
    keep(store, cell("gone"), [True] * N, legal=False)
    keep(store, cell(SCRIPT), [True] * N, flags=[SCRIPT])
    picture = Picture(_PIXEL, "attacked", "class 1", "Image 0 of made, attacked")
    strips = Strips((Strip("made", "Image 0", key, (picture,)),), ())
    path = folder / "page.html"
    path.write_text(report(choose(store, Asked()), strips))
    return path


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium: Any, file: Path) -> Iterator[Any]:
    """Open the page with options of a context; nothing may be said on the console."""
    said: list[str] = []
    contexts = []

    def opened(**options: Any) -> Any:
        context = chromium.new_context(**{"offline": True, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(file.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert said == []


def column(page: Any, name: str) -> list[str]:
    """Return the texts of a column, of the rows that can be seen."""
    heads = page.locator(".matrix thead th").all_inner_texts()
    place = [head.strip() for head in heads].index(name) + 1
    cells = page.locator(f".matrix tbody tr:visible > :nth-child({place})")
    return [text.split("\n")[0].strip() for text in cells.all_inner_texts()]


def robust(page: Any) -> list[float]:
    found = [text.split()[0] for text in column(page, "robust")]
    return [float(text) for text in found if text != "void"]


def test_it_sorts_both_ways_and_says_so(opened: Any) -> None:
    page = opened()
    button = page.get_by_role("button", name="robust", exact=True)
    head = page.locator("th", has=button)
    button.click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert robust(page) == sorted(robust(page))
    assert column(page, "robust")[-1] == "void"
    button.click()
    assert head.get_attribute("aria-sort") == "descending"
    assert robust(page) == sorted(robust(page), reverse=True)
    assert column(page, "robust")[-1] == "void"  # what has no number is last either way
    assert "sorted by robust, descending" in page.get_by_role("status").inner_text()
    page.get_by_role("button", name="attack", exact=True).click()
    assert page.locator("th[aria-sort]").count() == 1
    assert column(page, "attack") == sorted(column(page, "attack"))


def test_it_filters_and_shows_all_again(opened: Any) -> None:
    page = opened()
    everything = len(column(page, "defense"))
    page.get_by_label("settings of the defense").select_option(label="sigma=0.2")
    assert column(page, "defense") == ["made"] * 3
    page.locator("select[name=show]").select_option("=worst")
    assert column(page, "attack") == ["worst case"]
    assert page.get_by_role("status").inner_text() == f"1 of {everything} rows."
    page.get_by_role("button", name="Show all rows").click()
    assert len(column(page, "defense")) == everything
    page.get_by_label("words in a row").fill("HALF apgd")
    assert set(column(page, "defense")) == {"half"}


def test_names_are_text_and_pictures_are_there(opened: Any) -> None:
    page = opened()
    assert page.title() != "run"
    assert SCRIPT in column(page, "defense")
    picture = page.get_by_alt_text("Image 0 of made, attacked")
    picture.scroll_into_view_if_needed()
    assert picture.evaluate("image => image.complete && image.naturalWidth") == 1


def test_the_keyboard_is_enough(opened: Any) -> None:
    page = opened()

    def go_to(name: str, *, most: int = 60) -> None:
        for _ in range(most):
            page.keyboard.press("Tab")
            if name == page.evaluate("document.activeElement.textContent.trim()"):
                return
        pytest.fail(f"Tab does not reach {name}")

    go_to("Skip to the content")
    page.keyboard.press("Enter")
    go_to("robust")
    outline = page.evaluate("getComputedStyle(document.activeElement).outline")
    assert "solid 3px" in outline
    page.keyboard.press("Enter")
    assert robust(page) == sorted(robust(page))
    go_to("2 cells")
    page.keyboard.press("Enter")  # to the story of that defense, which unfolds
    assert page.locator("details.told[open]").count() == 1


def test_a_link_to_a_cell_unfolds_its_origin(opened: Any) -> None:
    page = opened()
    link = page.locator(".matrix tbody a[href^='#c-']").first
    key = link.inner_text()
    link.click()
    origin = page.locator(f"[id='c-{key}'] code", has_text=key).first
    assert origin.is_visible()
    page.reload()  # the address names the cell: so does a link that was sent
    assert origin.is_visible()


@pytest.mark.parametrize("system", ["light", "dark"])
def test_colours_follow_the_system_and_the_switch(opened: Any, system: str) -> None:
    page = opened(color_scheme=system)

    def background() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    assert background() == (DARK if system == "dark" else LIGHT)
    for mode, colour in (("dark", DARK), ("light", LIGHT)):
        page.get_by_label(mode, exact=True).check()
        assert background() == colour
    page.get_by_label("dark", exact=True).check()
    page.emulate_media(media="print")
    assert background() == LIGHT


def test_a_phone_scrolls_the_table_and_not_the_page(opened: Any) -> None:
    page = opened(viewport={"width": 390, "height": 800})
    for details in page.locator("details").all():
        details.evaluate("one => { one.open = true; }")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    box = page.locator(".matrix.scroll")
    assert box.evaluate("one => one.scrollWidth > one.clientWidth")
    # What matters most is seen without scrolling: which defense, which attack, how robust.
    assert page.locator(".matrix td.robust b").first.bounding_box()["x"] < 390 - 40


def test_without_scripts_everything_is_there(opened: Any) -> None:
    page = opened(java_script_enabled=False)
    assert len(column(page, "defense")) == len(robust(page)) + 1 == 11
    assert not page.locator(".filters").is_visible()
    assert page.locator("figure svg.chart").first.is_visible()
    page.get_by_text("cell ", exact=False).first.wait_for(state="attached")
    page.get_by_label("dark", exact=True).check()
    assert page.locator("details.told > summary").first.is_visible()
