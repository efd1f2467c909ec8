"""The page in a real browser: headless Chromium, as it is installed on the machine."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from browsing import ARGUMENTS, CHROMIUM, READY, opened

REQUIRED = os.environ.get("KNEREX_REQUIRE_BROWSER") == "1"
pytestmark = pytest.mark.skipif(
    CHROMIUM is None and not REQUIRED, reason="no Chromium on this machine (KNEREX_REQUIRE_BROWSER=1 makes this fail)"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    assert CHROMIUM is not None, "KNEREX_REQUIRE_BROWSER=1, but there is no Chromium: apt-get install chromium"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def drawn(browser, good) -> tuple[Any, list[str]]:
    page, faults = opened(browser, good.paths["report_html"])
    page.wait_for_function(READY)
    return page, faults


def assert_drawn(page: Any, faults: list[str]) -> None:
    places = page.locator("[data-figure]").count()
    assert places > 2 and page.locator("[data-figure] .main-svg").count() >= places
    assert faults == [] and page.evaluate("window.broken") is None


def test_it_draws_everything_and_complains_of_nothing(drawn):
    assert_drawn(*drawn)


@pytest.mark.parametrize("name", ["bad", "estimated"])
def test_so_does_a_report_with_less_in_it(browser, request, name):
    page, faults = opened(browser, request.getfixturevalue(name).paths["report_html"])
    page.wait_for_function(READY)
    assert_drawn(page, faults)


def test_a_click_shows_a_node_and_its_tensor(drawn):
    page, faults = drawn
    page.locator(".box", has_text="branch").click()
    details = page.locator("#details")
    assert details.locator("h3").inner_text() == "branch"
    assert "SNR accumulated" in details.inner_text() and "weight radix" in details.inner_text()
    assert page.locator("#tensor").input_value() == "c" and page.locator("#tensor-codes .main-svg").count() > 0
    page.locator("#node-1 td").first.click()  # its row in the table
    assert "window.broken" in details.locator("h3").inner_text()
    page.locator("input[value=cost]").check()
    assert page.locator(".by-cost").is_visible() and not page.locator(".by-snr").is_visible()
    assert faults == []


def test_the_table_is_filtered_and_sorted(drawn):
    page, _ = drawn
    page.locator("#filter").fill("conv branch")
    rows = page.locator("#nodes tbody tr:visible")
    assert (
        rows.count() == 1 and "branch" in rows.first.inner_text() and page.locator("#shown").inner_text() == "1 nodes"
    )
    page.locator("#filter").fill("")
    page.locator("#nodes th", has_text="accumulated").click()
    snr = page.locator("#nodes tbody tr td:nth-child(6)").evaluate_all("cs => cs.map(c => Number(c.dataset.value))")
    assert len(snr) > 4 and snr == sorted(snr, reverse=True)


@pytest.mark.parametrize("width", [360, 1400])
def test_nothing_is_wider_than_the_window(drawn, width):
    page, _ = drawn
    page.set_viewport_size({"width": width, "height": 800})
    page.wait_for_function(f"document.documentElement.scrollWidth <= {width}")


def test_the_verdict_is_visible_without_javascript(browser, bad):
    page, _ = opened(browser, bad.paths["report_html"], java_script_enabled=False)
    box = page.locator(".alarms li.alarm").first
    assert box.is_visible() and "output y is constant" in box.inner_text()
    assert box.bounding_box()["y"] < 400, "the alarm is the first thing seen"
    assert page.locator("#nodes").is_visible() and not page.locator("#filter").is_visible()
    assert page.locator(".box").first.is_visible(), "the drawing needs no script"
