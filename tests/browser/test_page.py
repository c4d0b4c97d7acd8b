"""The demo page in Chromium: a picture in, the enlarged one out, and not a word to anyone."""

import io
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tests.browser.tabs import BOTH, on_desktop, on_phone, open_tab
from zoo.tasks.super_resolution import enlarging

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser
WIDTH, HEIGHT = 60, 44
# Every control that is seen has a name, and some are.
NAMED = """() => { const all = [...document.querySelectorAll('button, input, textarea')]
  .filter(e => e.offsetParent); return all.length > 20 && all.every(e =>
  (e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.title || e.innerText)
  || [...(e.labels || [])].some(l => l.innerText.trim())) }"""


@pytest.fixture(**BOTH)
def page(request: pytest.FixtureRequest, visit: Callable[..., "Page"]) -> "Page":
    visitor = visit(*request.param)
    open_tab(visitor, "Enlarge")
    visitor.wait_for_selector("#enlarge")
    visitor.wait_for_selector("#whole img")
    visitor.wait_for_selector("#costs table")
    return visitor


def sources(page: "Page", part: str) -> list[str]:
    found: list[str] = page.evaluate(
        f"[...document.querySelectorAll('#{part} img')].map(image => image.src)"
    )
    return found


def fetch(url: str) -> Image.Image:
    with urllib.request.urlopen(url) as answer:
        return Image.open(io.BytesIO(answer.read()))


def photo(folder: Path) -> Path:
    pixels = np.random.default_rng(1).integers(0, 256, (HEIGHT // 4, WIDTH // 4, 3), np.uint8)
    path = folder / "my photo.jpg"
    Image.fromarray(pixels).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(path)
    return path


def upload(page: "Page", file: Path) -> None:
    page.set_input_files("#picture input[type=file]", file)


def enlarge(page: "Page", file: Path) -> None:
    """Bring a picture, press the button, and wait for the result of another size."""
    upload(page, file)
    page.wait_for_selector("#picture .image-frame img")
    page.click("#enlarge")
    page.wait_for_function(
        "size => { const all = [...document.querySelectorAll('#whole img')];"
        " return all.length == 2 && all.every(i => i.complete && i.naturalWidth == size) }",
        arg=2 * WIDTH,
    )
    page.wait_for_function(  # the other pair comes with the same answer, a moment apart
        "[...document.querySelectorAll('#detail img')].filter("
        "i => i.getAttribute('src') && i.complete && i.naturalWidth).length == 2"
    )


def test_something_is_seen_before_anything_is_done(page: "Page") -> None:
    assert len(sources(page, "whole")) == len(sources(page, "detail")) == 2
    assert page.locator("#costs tbody tr").count() > 3
    assert "microcontroller NPU" in page.inner_text("#facts")
    overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert overflow <= 0
    page.get_by_role("button", name="Example: engraving").wait_for()
    for title in ("Looks", "Detect", "Adapters"):
        open_tab(page, title)
        page.wait_for_function(NAMED)  # for who cannot see them


def test_upload_and_compare(page: "Page", tmp_path: Path) -> None:
    enlarge(page, photo(tmp_path))
    images = [fetch(url) for url in sources(page, "whole")]
    assert [(image.format, image.size) for image in images] == [
        ("PNG", (2 * WIDTH, 2 * HEIGHT))
    ] * 2
    with Image.open(tmp_path / "my photo.jpg") as source:
        bicubic = source.resize(images[0].size, Image.Resampling.BICUBIC)
    assert np.array_equal(images[0], bicubic)  # lossless, and bicubic is on the left
    assert not np.array_equal(*images)
    assert all(fetch(url).format == "PNG" for url in sources(page, "detail"))
    assert f"{2 * WIDTH}\N{MULTIPLICATION SIGN}{2 * HEIGHT}" in page.inner_text("#facts")


@on_phone
def test_download(page: "Page", tmp_path: Path) -> None:
    enlarge(page, photo(tmp_path))
    with page.expect_download() as waiting:
        page.click("#save")
    assert waiting.value.suggested_filename.startswith("my")
    with Image.open(waiting.value.path()) as image:
        assert (image.format, image.size) == ("PNG", (2 * WIDTH, 2 * HEIGHT))


@on_desktop
def test_click_moves_the_detail(page: "Page") -> None:
    before = sources(page, "detail")
    page.click("#picture .image-frame img", position={"x": 20, "y": 60})
    page.wait_for_function("old => document.querySelector('#detail img').src != old", arg=before[0])


@pytest.fixture
def tiles(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Those that were made, half a second each."""
    made: list[Any] = []
    real = enlarging._run_tile

    def slow(*given: Any) -> Any:
        made.append(given)
        time.sleep(0.5)
        return real(*given)

    monkeypatch.setattr(enlarging, "_run_tile", slow)
    return made


def begin_many(page: "Page", folder: Path) -> None:
    """Bring a picture of 120 tiles, and wait until some are made."""
    Image.new("RGB", (256 * 60, 300), "navy").save(folder / "wide.png")
    upload(page, folder / "wide.png")
    page.wait_for_function("document.querySelector('#facts').innerText.includes('of 120')")


def ended(page: "Page", tiles: list[Any]) -> bool:
    """Whether no more tiles are made, long before the last; the one under way may end."""
    for _ in range(20):
        before = len(tiles)
        page.wait_for_timeout(2_000)
        if len(tiles) == before:
            return before < 100
    return False


@on_phone
def test_a_large_picture_is_stopped(
    page: "Page", tmp_path: Path, tiles: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_many(page, tmp_path)
    assert page.locator("#facts progress").get_attribute("max") == "120"
    assert page.locator("#costs table").count() == 0  # nothing of before stands beside it
    page.click("#enlarge-stop")
    page.wait_for_function("document.querySelector('#facts').innerText.includes('Stopped')")
    assert ended(page, tiles)
    monkeypatch.undo()
    enlarge(page, photo(tmp_path))  # and the page goes on


@on_desktop
def test_a_browser_that_is_killed_ends_its_work(
    page: "Page", visit: Callable[..., "Page"], tmp_path: Path, tiles: list[Any]
) -> None:
    begin_many(page, tmp_path)
    page.close()
    other = visit()
    open_tab(other, "Enlarge")
    other.wait_for_selector("#costs table")  # the page goes on
    assert ended(other, tiles)


@on_phone
def test_wrong_file_is_refused_in_words(page: "Page", tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.png"
    wrong.write_text("this is not a picture")
    before = sources(page, "whole")
    page.locator("#examples img").nth(1).click()  # Gradio makes the control anew for it
    page.wait_for_function(
        "old => { const all = [...document.querySelectorAll('#whole img')];"
        " return all.length == 2 && all[0].src != old }",
        arg=before[0],
    )
    upload(page, wrong)
    page.wait_for_selector(".toast-body")
    assert "wrong.png is not a picture" in page.inner_text(".toast-body")
    page.wait_for_function("document.querySelectorAll('#whole img').length == 0")
    assert "Traceback" not in page.inner_text("body")
    enlarge(page, photo(tmp_path))  # and the page goes on


@on_desktop
def test_visitors_do_not_see_each_other(
    page: "Page", visit: Callable[..., "Page"], tmp_path: Path
) -> None:
    enlarge(page, photo(tmp_path))
    other = visit()
    open_tab(other, "Enlarge")
    other.wait_for_selector("#whole img")
    assert not set(sources(other, "whole")) & set(sources(page, "whole"))
