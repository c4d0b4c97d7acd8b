"""The page, a browser, and visitors who watch what the page asks for and complains of."""

import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from zoo import registry
from zoo.registry.checkpoint import Checkpoint, build

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Playwright

QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",  # a webcam that shows a test picture
    "--use-fake-ui-for-media-stream",
]
_ENDS: list[Callable[[], object]] = []  # of what all tests here share, the last to start first
MOST_SECONDS = 120  # on a machine that trains meanwhile


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One page for all tests of a process, with the shipped weights, or random ones without any."""
    gradio = pytest.importorskip("gradio", reason="gradio is not installed")
    from zoo.page.app import serve

    with pytest.MonkeyPatch.context() as patch:
        if not any(registry.shipped_tags(name) for name in registry.names("sesr-*-x2")):
            recipe = registry.find("sesr-m3-x2")
            folder = tmp_path_factory.mktemp("weights")
            Checkpoint.write(folder / "sesr-m3-x2.photos", recipe, build(recipe).state_dict(), {})
            patch.setattr("zoo.registry.catalogue.WEIGHTS", folder)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        yield serve(port, block=False)
        gradio.close_all()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """End the browser after the last test of this folder: tests of others run event loops."""
    if nextitem is None or nextitem.path.parent != item.path.parent:
        while _ENDS:
            _ENDS.pop()()


@pytest.fixture(scope="session")
def playwright() -> "Playwright":
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    manager = sync_api.sync_playwright()
    started: Playwright = manager.start()
    _ENDS.append(started.stop)
    return started


@pytest.fixture(scope="session")
def browser(chromium: str, playwright: "Playwright") -> "Browser":
    started = playwright.chromium.launch(executable_path=chromium, args=QUIET)
    _ENDS.append(started.close)
    return started


@pytest.fixture(scope="session")
def windows() -> "dict[tuple[int, int], BrowserContext]":
    """Windows by size: a visitor is a page of one, and need not load Gradio's scripts again."""
    return {}


@pytest.fixture
def visit(
    browser: "Browser", address: str, windows: "dict[tuple[int, int], BrowserContext]"
) -> Iterator[Callable[[int, int], "Page"]]:
    """Open the page as a fresh visitor; in the end nothing may have gone wrong or elsewhere."""
    pages, requests, errors = [], [], []

    def heard(said: "ConsoleMessage") -> None:
        if said.type == "error":
            errors.append(said.text)

    def opened(width: int = 1280, height: int = 900) -> "Page":
        size = (width, height)
        if size not in windows:
            windows[size] = browser.new_context(viewport={"width": width, "height": height})
            windows[size].set_default_timeout(MOST_SECONDS * 1000)
        page = windows[size].new_page()
        pages.append(page)
        page.on("request", lambda sent: requests.append(sent.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", heard)
        page.goto(address, wait_until="load")
        return page

    yield opened
    for page in pages:
        page.close()
    assert [url for url in requests if not url.startswith((address, "data:", "blob:"))] == []
    assert errors == []
