"""The tab On-device cost in Chromium: what a network costs where, and what fits a device."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import zoo
from tests.browser.tabs import BOTH, on_desktop, on_phone, open_tab

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser
DONE = "text => document.querySelector('#cost-table').innerText.includes(text)"


@pytest.fixture(**BOTH)
def page(request: pytest.FixtureRequest, visit: Callable[..., "Page"]) -> "Page":
    visitor = visit(*request.param)
    open_tab(visitor, "On-device cost")
    visitor.wait_for_selector("#cost-start")
    visitor.set_default_timeout(60_000)
    return visitor


def fits_the_window(page: "Page") -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


def test_methods_stand_side_by_side_as_the_command_prints_them(page: "Page") -> None:
    assert "Choose a network" in page.inner_text("#cost-table")
    page.click("#cost-start")
    page.wait_for_function(DONE, arg="times apart")
    text = " ".join(page.inner_text("#cost-table").split())
    found = zoo.estimate("micronet-kws-s", ["ethos-u55-128"], method="all")
    assert len(found) >= 2
    for cost in found:
        assert f"{cost.latency_ms:.2f} ms" in text
        assert cost.method in text
    assert "stm32f746-216mhz-cmsisnn" in text
    assert "where the time goes" in page.inner_text("#cost-operators")
    assert page.locator("#cost-operators svg circle").count() > 5
    assert fits_the_window(page)


@on_desktop
def test_a_file_of_ones_own(page: "Page", tmp_path: Path) -> None:
    file = tmp_path / "mine.tflite"
    zoo.export("mlperf-tiny-ic.cifar10-int8", file, format="tflite", int8=True)
    page.set_input_files("#cost-file input[type=file]", file)
    page.wait_for_function(DONE, arg="times apart")
    text = page.inner_text("#cost-table")
    assert "mine.tflite, one inference" in text
    assert str(tmp_path) not in page.inner_text("body")


@on_phone
def test_a_wrong_file_is_refused_in_words(page: "Page", tmp_path: Path) -> None:
    (tmp_path / "wrong.tflite").write_text("this is not a network")
    page.set_input_files("#cost-file input[type=file]", tmp_path / "wrong.tflite")
    page.wait_for_selector(".toast-body")
    said = page.inner_text(".toast-body")
    assert "wrong.tflite" in said
    assert str(tmp_path) not in said
    page.wait_for_function(DONE, arg="Choose a network")
    assert "Traceback" not in page.inner_text("body")


@on_phone
def test_no_device_is_refused_in_words(page: "Page") -> None:
    page.locator("#cost-devices .remove-all").click()
    page.click("#cost-start")
    page.wait_for_selector(".toast-body")
    assert "0 devices are chosen" in page.inner_text(".toast-body")


def test_what_fits_and_its_card(page: "Page") -> None:
    open_tab(page, "What fits a device")
    page.wait_for_selector("#fits-chart table")
    names = page.locator("#fits-chart table [data-ref]").all_inner_texts()
    times = page.locator("#fits-chart table td:nth-child(2)").all_inner_texts()
    numbers = [float(text.removesuffix(" ms")) for text in times]
    assert len(numbers) == len(names) > 5
    assert numbers == sorted(numbers)  # the fastest first
    assert names.index("st-tree-kws") < names.index("ds-cnn-s")
    page.locator("#fits-chart svg [data-ref=micronet-kws-s]").click()
    page.wait_for_selector("#fits-card h1")
    assert "MicroNet-KWS-S" in page.inner_text("#fits-card")
    page.locator("#fits-chart table").get_by_role("button", name="mlperf-tiny-kws").press("Enter")
    page.wait_for_function(
        "document.querySelector('#fits-card').innerText.includes('mlperf-tiny-kws')"
    )
    assert fits_the_window(page)
