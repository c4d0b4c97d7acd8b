"""The Looks tab in Chromium: sliders, photographs, downloads; each visitor for themselves."""

import io
import os
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from zoo.page import restyling
from zoo.page.restyling import Studio
from zoo.tasks import picture as task

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [
    pytest.mark.browser,
    # gradio opens an example that was clicked on, and leaves it to the collector
    pytest.mark.filterwarnings(r"ignore:unclosed file .*gradio:ResourceWarning"),
]

MOST_SECONDS = 120
OIL, NIGHT, NEON = "looks-oil", "looks-night", "looks-neon"
SIZES = pytest.mark.parametrize("width", [1280, 360], ids=["desktop", "phone"])


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio()


def fetched(url: str) -> np.ndarray:
    with urllib.request.urlopen(url) as answer:
        return np.asarray(Image.open(io.BytesIO(answer.read())).convert("RGB"))


def near(shown: np.ndarray, expected: Image.Image) -> bool:
    """Whether two pictures are the same but for what JPEG loses."""
    other = np.asarray(expected)
    return shown.shape == other.shape and np.abs(shown.astype(int) - other).mean() < 4


class Visitor:
    """One visitor on the tab."""

    def __init__(self, page: "Page") -> None:
        self.page = page
        page.wait_for_selector("#looks-view img")

    def drag(self, name: str, value: float) -> None:
        self.page.evaluate(
            "([id, value]) => { const range ="
            " document.querySelector(`#strength-${id} input[type=range]`);"
            " range.value = value;"
            " range.dispatchEvent(new Event('input', {bubbles: true})); }",
            [name, str(value)],
        )

    def reset(self, photo: restyling.Photo) -> None:
        """Set all sliders to 0, and wait: what is dragged meanwhile would be set to 0 as well."""
        self.page.click("#looks-reset")
        self.sees(photo.shown(photo.pixels))

    def sees(self, expected: Image.Image, part: int = 1) -> None:
        """Wait until the result (0: the photograph) is as expected."""
        last = time.monotonic() + MOST_SECONDS
        while not near(fetched(self.source(part)), expected):
            assert time.monotonic() < last, "the page never showed what was asked for"
            self.page.wait_for_timeout(50)

    def source(self, part: int) -> str:
        found: list[str] = self.page.evaluate(
            "[...document.querySelectorAll('#looks-view img')].map(image => image.src)"
        )
        return found[part]

    def bring(self, file: Path) -> None:
        self.page.set_input_files("#looks-photo input[type=file]", file)


def noisy(folder: Path, name: str = "my photo.png") -> Path:
    pixels = np.random.default_rng(1).integers(0, 256, (12, 16, 3), np.uint8)
    Image.fromarray(pixels).resize((640, 480), Image.Resampling.BICUBIC).save(folder / name)
    return folder / name


@SIZES
def test_the_picture_follows_a_slider(
    visit: Callable[..., "Page"], studio: Studio, width: int
) -> None:
    visitor = Visitor(visit(width, 800))
    photo = studio.photo(restyling.examples()[0])
    visitor.sees(photo.shown(photo.pixels), 0)
    visitor.reset(photo)
    for value in (0.2, 0.5, 0.8, 1):  # faster than answers come: the last one is shown
        visitor.drag(NIGHT, value)
    visitor.sees(studio.mix(photo, {NIGHT: 1}).picture)
    visitor.drag(OIL, 0.5)
    visitor.sees(studio.mix(photo, {NIGHT: 1, OIL: 0.5}).picture)
    facts = visitor.page.inner_text("#looks-facts")
    assert "untouched" in facts
    assert " ms" in facts
    overflow = visitor.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert overflow <= 0
    visitor.page.get_by_role("button", name="Use this").click()
    visitor.page.wait_for_selector("#looks-code")
    assert "looks-night" in visitor.page.inner_text("#looks-code")
    if folder := os.environ.get("ZOO_SCREENSHOTS"):
        visitor.page.screenshot(path=f"{folder}/looks-{width}.png", full_page=True)


def test_a_picture_of_ones_own(
    visit: Callable[..., "Page"], studio: Studio, tmp_path: Path
) -> None:
    visitor, file = Visitor(visit()), noisy(tmp_path)
    visitor.bring(file)
    photo = studio.photo(file)
    visitor.sees(photo.shown(photo.pixels), 0)
    visitor.reset(photo)
    visitor.drag(NIGHT, 1)
    visitor.sees(studio.mix(photo, {NIGHT: 1}).picture)
    with visitor.page.expect_download() as coming:
        visitor.page.click("#looks-save")
    assert coming.value.suggested_filename == "my photo-looks.png"
    with Image.open(coming.value.path()) as image, Image.open(file) as given:
        assert image.size == (640, 480)
        studio._large.switcher.activate(NIGHT)
        expected = task.run(studio._large.model, studio._large.recipe, given).image
        studio._large.switcher.deactivate()
        assert np.array_equal(np.asarray(image), np.asarray(expected))
    visitor.page.locator("#looks-photos button").nth(1).click()
    photo = studio.photo(restyling.examples()[1])
    visitor.sees(studio.mix(photo, {NIGHT: 1}).picture)


def test_what_two_looks_lose(visit: Callable[..., "Page"], studio: Studio) -> None:
    visitor = Visitor(visit())
    visitor.page.get_by_role("button", name="Two looks or more").click()
    visitor.page.wait_for_selector("#looks-losses table")
    visitor.page.wait_for_selector("#looks-interference img")
    assert "Pencil" in visitor.page.inner_text("#looks-losses")
    visitor.page.click("#looks-reset")
    visitor.page.wait_for_selector("text=Move up two sliders")


def test_a_wrong_file_is_refused_in_words(
    visit: Callable[..., "Page"], studio: Studio, tmp_path: Path
) -> None:
    visitor = Visitor(visit())
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    visitor.bring(tmp_path / "broken.png")
    visitor.page.wait_for_selector(".toast-body")
    assert "broken.png" in visitor.page.inner_text(".toast-body")
    assert "Traceback" not in visitor.page.inner_text("body")
    visitor.page.wait_for_function(
        "![...document.querySelectorAll('#looks-view img')].some(i => i.getAttribute('src'))"
    )
    visitor.page.locator("#looks-photos button").nth(2).click()  # and it goes on
    photo = studio.photo(restyling.examples()[2])
    visitor.page.wait_for_selector("#looks-view img")
    visitor.sees(photo.shown(photo.pixels), 0)


def test_no_choice_shows_in_anybody_elses_picture(
    visit: Callable[..., "Page"], address: str, studio: Studio
) -> None:
    """A browser moves sliders while others ask through the API, all at once."""
    from gradio_client import Client, handle_file

    photos = [studio.photo(file) for file in restyling.examples()[:2]]
    choices = [{OIL: 1.0}, {NIGHT: 1.0}, {NEON: 0.5, NIGHT: 0.5}, {}]
    expected = {(p, c): studio.mix(photos[p], choices[c]).picture for p in (0, 1) for c in range(4)}
    wrong: list[object] = []

    def ask(me: int) -> None:
        client = Client(address, verbose=False)
        for turn in range(6):
            p, c = (me + turn) % 2, (me + turn // 2) % 4
            strengths = [choices[c].get(name, 0) for name in studio.looks]
            result = client.predict(
                handle_file(str(restyling.examples()[p])), *strengths, api_name="/restyle"
            )
            with Image.open(result[0][1]) as seen:
                if not near(np.asarray(seen.convert("RGB")), expected[p, c]):
                    wrong.append((me, turn))

    threads = [threading.Thread(target=ask, args=(me,)) for me in range(3)]
    for thread in threads:
        thread.start()
    visitor = Visitor(visit())
    visitor.reset(photos[0])
    visitor.drag(OIL, 1)
    visitor.sees(expected[0, 0])
    for thread in threads:
        thread.join(MOST_SECONDS)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []
    visitor.sees(expected[0, 0])


def test_wrong_strengths_are_refused_in_words(address: str, studio: Studio) -> None:
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    client, photo = Client(address, verbose=False), handle_file(str(restyling.examples()[0]))
    zeros = [0.0] * (len(studio.looks) - 1)
    with pytest.raises(AppError, match=r"(?i)maximum|expected 0 to 1"):
        client.predict(photo, 5.0, *zeros, api_name="/restyle")
    with pytest.raises(AppError, match="There is no picture yet"):
        client.predict(None, 0.5, *zeros, api_name="/restyle")
    result = client.predict(photo, None, *zeros, api_name="/restyle")
    assert "no look" in result[1]
