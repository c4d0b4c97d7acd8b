"""The guide in Chromium, on a telephone and a desk, by day and by night."""

import contextlib
import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def address(guide: Path) -> Iterator[str]:
    handler = functools.partial(Quiet, directory=str(guide))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


# Colours do not change widths: each is seen once, the narrow one always.
@pytest.mark.parametrize(
    ("width", "scheme"), [(360, "dark"), pytest.param(1440, "light", marks=pytest.mark.slow)]
)
def test_pages_fit_their_window_and_ask_no_other_host(
    browser: "Browser", address: str, guide: Path, width: int, scheme: str
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    asked, errors, wide = [], [], []
    page.on("request", lambda sent: asked.append(sent.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    for path in sorted(guide.rglob("*.html")):
        name = path.relative_to(guide).as_posix()
        page.goto(f"{address}/{name}", wait_until="load")
        if page.evaluate("document.documentElement.scrollWidth - window.innerWidth") > 0:
            wide.append(name)
        broken = page.evaluate(
            "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
        )
        assert broken == []
    shade = page.evaluate("document.body.getAttribute('data-md-color-scheme')")
    assert shade == {"light": "default", "dark": "slate"}[scheme]
    context.close()
    assert wide == []
    assert errors == []
    assert [url for url in asked if not url.startswith((address, "data:"))] == []


def test_a_word_is_found(browser: "Browser", address: str) -> None:
    from playwright.sync_api import TimeoutError as Waited

    page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
    page.goto(f"{address}/index.html", wait_until="load")
    found = page.locator(".md-search-result__item a[href*='microcontroller']").first
    for _ in range(12):  # what is typed before the search listens is lost
        page.fill("input[name=query]", "")
        page.type("input[name=query]", "vela", delay=30)
        with contextlib.suppress(Waited):
            found.wait_for(timeout=8_000)
            break
    assert found.is_visible()
    page.context.close()
