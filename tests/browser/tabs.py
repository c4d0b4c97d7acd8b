"""A visitor's way to a tab: beside the others, or in the menu of those that the window hides."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

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
