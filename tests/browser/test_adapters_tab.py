"""The Adapters tab in Chromium: sliders, outputs, times and hashes; each visitor for themselves."""

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
import torch
from PIL import Image

from tests.browser.tabs import open_tab
from zoo.adapters import Switcher, registry
from zoo.artifacts import adapters as adapter_refs
from zoo.page import switching
from zoo.tasks import super_resolution

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

MOST_SECONDS = 120
SESR = registry.names(base="sesr-m5-x2.free")


class Visitor:
    """One visitor on the tab, on the bench of SESR."""

    def __init__(self, page: "Page") -> None:
        self.page = page
        open_tab(page, "Adapters")
        open_tab(page, "Enlarging")
        page.wait_for_selector("#run-picture")

    def set(self, **weights: float) -> None:
        for name, weight in weights.items():
            box = self.page.locator(f"#weight-sesr-m5-x2-{name} input[type=number]")
            box.fill(str(weight))
            box.press("Tab")

    def bring(self, file: Path) -> None:
        self.page.set_input_files("#input-picture input[type=file]", file)

    def run(self, expected: Image.Image) -> tuple[Image.Image, str]:
        """Press the button, wait until the output is as expected; return the base's and the facts.

        Sliders answer too when they are let go of, so answers to earlier weights may come before
        this one, and the same answer twice: only what is shown in the end counts.
        """
        self.page.click("#run-picture")
        last = time.monotonic() + MOST_SECONDS
        while not np.array_equal(self._shown("fused"), expected):
            assert time.monotonic() < last, "the page never showed what was asked for"
            self.page.wait_for_timeout(50)
        return self._shown("base"), self.page.inner_text("#facts-picture .zoo-facts")

    def _shown(self, part: str) -> Image.Image:
        url = self.page.locator(f"#{part}-picture img").get_attribute("src")
        with urllib.request.urlopen(str(url)) as answer:
            return Image.open(io.BytesIO(answer.read())).convert("RGB")


def alone(picture: Path, weights: dict[str, float]) -> Image.Image:
    """What one visitor must see, worked out with a model of its own."""
    bench = next(b for b in switching.benches() if b.kind == "picture")
    switcher = Switcher(bench.base.model)
    for name in SESR:
        switcher.register(name, adapter_refs.adapter(name))
    with torch.no_grad(), switcher.using({f"sesr-m5-x2-{k}": w for k, w in weights.items()}):
        *_, last = bench.task.demo(bench.base.model, bench.base.recipe, None, picture)
        return last


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return super_resolution.samples(tmp_path_factory.mktemp("samples"))


@pytest.mark.parametrize("width", [1280, 390], ids=["desktop", "phone"])
def test_adapters_go_in_and_out(
    visit: Callable[..., "Page"], width: int, samples: list[Path]
) -> None:
    visitor = Visitor(visit(width))
    visitor.set(text=1, screens=0)
    base, facts = visitor.run(alone(samples[0], {"text": 1.0}))
    assert np.array_equal(base, alone(samples[0], {}))
    assert "unchanged" in facts
    assert " ms" in facts
    assert "linear layers only" in facts  # what peft says to convolutions
    hashes = [word.strip("…,") for word in facts.split() if word.endswith(("…", "…,"))]
    assert len(hashes) == 2
    assert hashes[0] == hashes[1]
    assert not visitor.page.is_visible("#interference-picture img")
    visitor.set(screens=0.5)
    visitor.run(alone(samples[0], {"text": 1.0, "screens": 0.5}))
    visitor.page.wait_for_selector("#interference-picture img")
    overflow = visitor.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert overflow <= 0
    if folder := os.environ.get("ZOO_SCREENSHOTS"):
        visitor.page.screenshot(path=f"{folder}/adapters-{width}.png", full_page=True)


def test_no_choice_shows_in_anybody_elses_output(
    visit: Callable[..., "Page"], address: str, samples: list[Path], tmp_path: Path
) -> None:
    """A browser changes weights while others ask through the API, all at once."""
    from gradio_client import Client, handle_file

    picture, choices = (
        tmp_path / "mine.png",
        [{"text": 1.0}, {"screens": 1.0}, {"text": 0.5, "screens": -0.5}, {}],
    )
    with Image.open(samples[1]) as sample:
        sample.rotate(180).save(picture)  # a visitor's own
    expected = [np.asarray(alone(picture, weights)) for weights in choices]
    wrong: list[object] = []

    def ask(me: int) -> None:
        client = Client(address, verbose=False)
        for turn in range(4):
            k = (me + turn) % len(choices)
            weights = [choices[k].get(name.removeprefix("sesr-m5-x2-"), 0.0) for name in SESR]
            result = client.predict(
                handle_file(picture), "sum", *weights, api_name="/adapters_picture"
            )
            with Image.open(
                result[1]["path"] if isinstance(result[1], dict) else result[1]
            ) as seen:
                if not np.array_equal(np.asarray(seen.convert("RGB")), expected[k]):
                    wrong.append((me, choices[k]))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    visitor = Visitor(visit())
    visitor.bring(picture)
    visitor.set(text=1, screens=0)
    visitor.run(alone(picture, {"text": 1.0}))
    for thread in threads:
        thread.join(MOST_SECONDS)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


def test_a_wrong_weight_is_refused_in_words(address: str, samples: list[Path]) -> None:
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    client = Client(address, verbose=False)
    with pytest.raises(AppError, match=r"is 5; expected -1 to 1\.5"):
        client.predict(handle_file(samples[0]), "sum", 5.0, 0.0, api_name="/adapters_picture")
    result = client.predict(handle_file(samples[0]), "sum", 0.0, 0.0, api_name="/adapters_picture")
    assert "no adapter" in result[2]
