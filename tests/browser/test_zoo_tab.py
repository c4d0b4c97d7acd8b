"""The tab Zoo in Chromium: a search, and a card."""

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tests.browser.tabs import open_tab

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser


def look_for(page: "Page", words: str, shown: str) -> None:
    from playwright.sync_api import TimeoutError as Waited

    for _ in range(12):  # what is typed before the page listens is lost
        page.fill("#zoo-words :is(input, textarea)", "")
        page.type("#zoo-words :is(input, textarea)", words)
        with contextlib.suppress(Waited):
            page.wait_for_function(
                "text => document.querySelector('#zoo-table').innerText.includes(text)",
                arg=shown, timeout=8_000,
            )  # fmt: skip
            return
    assert shown in page.inner_text("#zoo-table")


@pytest.mark.parametrize("size", [(1280, 900), (360, 780)], ids=["desktop", "phone"])
def test_words_find_a_network_and_a_click_shows_its_card(
    visit: Callable[..., "Page"], size: tuple[int, int]
) -> None:
    page = visit(*size)
    open_tab(page, "Zoo")
    page.wait_for_selector("#zoo-table table")
    look_for(page, "kws micronet", "3 of ")
    page.locator("#zoo-table [data-ref=micronet-kws-s]").click()
    page.wait_for_selector("#zoo-card h1")
    assert "MicroNet-KWS-S" in page.inner_text("#zoo-card")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    look_for(page, "no such thing", "take a word or a tick away")
    page.wait_for_selector("#zoo-card h1", state="detached")
