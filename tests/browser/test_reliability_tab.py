"""The tab Reliability in Chromium: a bit is flipped, and what it does is shown."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tests.browser.tabs import BOTH, on_phone, open_tab

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser


@pytest.fixture(**BOTH)
def page(request: pytest.FixtureRequest, visit: Callable[..., "Page"]) -> "Page":
    visitor = visit(*request.param)
    open_tab(visitor, "Reliability")
    visitor.wait_for_selector("#flip-maps img")
    return visitor


def fits(page: "Page") -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


def test_a_flip_is_shown_and_another(page: "Page") -> None:
    assert page.locator("#flip-maps img").count() == 3
    for picture in page.locator("#flip-maps img").all():
        assert picture.get_attribute("alt")
        assert picture.evaluate("image => image.complete && image.naturalWidth > 0")
    assert "Bit 22 of an accumulator register" in page.inner_text("#flip-words")
    assert "%" in page.inner_text("#flip-before")
    assert "%" in page.inner_text("#flip-after")
    assert fits(page)
    before = page.inner_text("#flip-words")
    page.get_by_role("button", name="Another place").click()
    page.wait_for_function(
        "old => { const text = document.querySelector('#flip-words').innerText;"
        " return text && text != old }",
        arg=before,
    )
    assert page.locator("#flip-place input").input_value() == "2"


def test_a_network_that_sees_brings_its_pictures_and_its_heat_map(page: "Page") -> None:
    page.get_by_label("weight", exact=True).locator("visible=true").check()
    page.wait_for_function(
        "document.querySelector('#flip-words').innerText.includes('Bit 7 of a weight register')"
    )
    page.click("#flip-network input")
    page.get_by_role("option", name="mlperf-tiny-ic.cifar10-int8").click()
    page.wait_for_function("document.querySelector('#flip-example').innerText.includes('cat')")
    page.wait_for_function("document.querySelector('#flip-before').innerText.includes('cat')")
    assert "Measure: 800 faults" in page.inner_text("#flip-measure")  # 10 layers, 8 bits, 10 each
    page.click("#flip-measure")
    page.wait_for_function(
        "document.querySelector('#flip-heat').innerText.includes('800 of 800 flips tried')"
    )
    assert page.locator("#flip-heat td").count() == 80
    assert fits(page)
    page.get_by_label("activation", exact=True).locator("visible=true").check()
    page.wait_for_function("!document.querySelector('#flip-heat td')")  # it is of weights


@on_phone
def test_a_bit_that_is_not_there_is_refused_in_words(page: "Page") -> None:
    page.get_by_label("weight", exact=True).locator("visible=true").check()
    page.wait_for_function(
        "document.querySelector('#flip-words').innerText.includes('Bit 7 of a weight register')"
    )
    box = page.locator("#flip-bit input[type=number]")
    box.fill("99")
    box.press("Enter")
    page.wait_for_selector(".toast-body")
    assert "expected 0 to 7" in page.inner_text(".toast-body")
    page.wait_for_function("!document.querySelector('#flip-maps img')")  # of another bit
    assert "Traceback" not in page.inner_text("body")
