"""The guide's pictures of the page: taken here, and compared with those that the guide shows."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from tests.browser.tabs import open_tab

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser
WRITE = bool(os.environ.get("ZOO_GUIDE_PICTURES"))
# Fonts and times differ from machine to machine; another layout, or an older page, does not pass.
MOST_BYTES = 250_000
MOST_APART = 0.03  # mean absolute difference of pictures that were shrunk to 64 columns, in [0, 1]


def taken(page: "Page") -> Image.Image:
    page.wait_for_timeout(500)  # images fade in
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def coarse(picture: Image.Image) -> np.ndarray:
    height = round(64 * picture.height / picture.width)
    return np.asarray(picture.resize((64, height), Image.Resampling.BOX), np.float32) / 255


def kept(picture: Image.Image, path: Path) -> None:
    """Compare with the guide's picture; or, where it is asked for, write it."""
    if WRITE:
        for colours in (192, 128, 96, 64):
            picture.quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)
            if path.stat().st_size <= MOST_BYTES:
                break
    assert path.stat().st_size <= MOST_BYTES
    shown = Image.open(path).convert("RGB")
    assert shown.size == picture.size, "type: make screenshots"
    assert np.abs(coarse(shown) - coarse(picture)).mean() < MOST_APART, "type: make screenshots"


def test_the_page_as_it_opens(visit: Callable[..., "Page"], repository: Path) -> None:
    page = visit(1280, 900)
    page.wait_for_function(
        "() => { const all = [...document.querySelectorAll('#looks-view img')];"
        " return all.length == 2 && all.every(i => i.complete && i.naturalWidth) }"
    )
    kept(taken(page), repository / "docs" / "images" / "page-looks.png")


def test_the_tab_that_enlarges(visit: Callable[..., "Page"], repository: Path) -> None:
    page = visit(1280, 900)
    open_tab(page, "Enlarge")
    page.wait_for_selector("#costs table")
    page.wait_for_function(
        "() => { const all = [...document.querySelectorAll('#whole img')];"
        " return all.length == 2 && all.every(i => i.complete && i.naturalWidth) }"
    )
    kept(taken(page), repository / "docs" / "images" / "page-enlarge.png")


def test_more_tabs(visit: Callable[..., "Page"], repository: Path) -> None:
    page = visit(1280, 900)
    for titles, ready, name in (
        (["Adapters", "Enlarging"], "#fused-picture img", "page-adapters"),
        (["Reliability"], "#flip-maps img", "page-reliability"),
        (["On-device cost", "What fits a device"], "#fits-chart table", "page-fits"),
    ):
        for title in titles:
            open_tab(page, title)
        page.wait_for_selector(ready)
        page.wait_for_function(
            "[...document.images].filter(i => i.offsetParent).every("
            "i => i.complete && i.naturalWidth)"
        )
        kept(taken(page), repository / "docs" / "images" / f"{name}.png")
