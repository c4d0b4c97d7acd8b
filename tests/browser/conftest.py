"""The page, a browser, and visitors who watch what the page asks for and complains of."""

import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from zoo import registry
from zoo.registry.checkpoint import Checkpoint, build

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

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


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator["Browser"]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=QUIET)
        yield started
        started.close()


@pytest.fixture
def visit(browser: "Browser", address: str) -> Iterator[Callable[[int, int], "Page"]]:
    """Open the page as a fresh visitor; in the end nothing may have gone wrong or elsewhere."""
    contexts, requests, errors = [], [], []

    def heard(said: "ConsoleMessage") -> None:
        if said.type == "error":
            errors.append(said.text)

    def opened(width: int = 1280, height: int = 900) -> "Page":
        context = browser.new_context(viewport={"width": width, "height": height})
        contexts.append(context)
        context.set_default_timeout(MOST_SECONDS * 1000)
        page = context.new_page()
        page.on("request", lambda sent: requests.append(sent.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", heard)
        page.goto(address, wait_until="load")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [url for url in requests if not url.startswith((address, "data:", "blob:"))] == []
    assert errors == []
