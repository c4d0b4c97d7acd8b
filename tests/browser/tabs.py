"""A visitor's way to a tab: beside the others, or in the menu of those that the window hides."""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

DESKTOP, PHONE = (1280, 900), (360, 780)
# For a fixture `page`: what a tab shows is tried at both sizes, what it refuses at one of them.
BOTH = {"params": [DESKTOP, PHONE], "ids": ["desktop", "phone"]}
on_desktop = pytest.mark.parametrize("page", [DESKTOP], indirect=True, ids=["desktop"])
on_phone = pytest.mark.parametrize("page", [PHONE], indirect=True, ids=["phone"])

# Gradio measures the tabs in a hidden copy, and removes those from the row that do not fit.
ROW = ".tab-container:not(.visually-hidden) [role=tab]"


def open_tab(page: "Page", title: str) -> None:
    page.wait_for_selector(ROW)
    page.evaluate("() => document.fonts.ready.then(() => new Promise(requestAnimationFrame))")
    found = page.locator(f"{ROW}:text-is('{title}')")
    if not found.count():
        page.get_by_label("More tabs").first.click()
        found = page.locator(f".overflow-dropdown button:text-is('{title}')")
    found.first.click()
