"""The demo page without a browser: what is compared, said and refused."""

import inspect
import json
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image

import zoo
from zoo import registry
from zoo.errors import MissingWeightsError, ZooError
from zoo.page import app as serve
from zoo.page import enlarging, gpu
from zoo.page.parts import in_one_piece
from zoo.page.tabs import enlarge
from zoo.page.tabs.enlarge import Enlarger, last
from zoo.registry.checkpoint import Checkpoint, build


@pytest.fixture(scope="module", autouse=True)
def weights(tmp_path_factory: pytest.TempPathFactory):
    """Random weights of two networks: the page's behaviour does not depend on their quality."""
    folder = tmp_path_factory.mktemp("weights")
    for name in ("sesr-m3-x2", "sesr-m5-x4"):
        recipe = registry.find(name)
        Checkpoint.write(folder / f"{name}.photos", recipe, build(recipe).state_dict(), {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zoo.registry.catalogue.WEIGHTS", folder)
        yield folder


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Enlarger:
    return Enlarger(tmp_path_factory.mktemp("page"))


def picture(path: Path, width: int = 40, height: int = 30, bands: int = 3) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, bands), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_shelf_has_the_networks_with_weights(page: Enlarger) -> None:
    assert list(page.shelf) == ["sesr-m3-x2", "sesr-m5-x4"]
    assert page.shelf["sesr-m3-x2"].label == "2\N{MULTIPLICATION SIGN} · sesr-m3-x2 · 9.0 k"


def test_without_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("zoo.registry.catalogue.WEIGHTS", tmp_path)
    with pytest.raises(MissingWeightsError, match="zoo train sesr-m5-x2"):
        serve.build()


@pytest.mark.parametrize(("ref", "scale"), [("sesr-m3-x2", 2), ("sesr-m5-x4", 4)])
def test_comparison_is_lossless_and_of_output_size(
    page: Enlarger, tmp_path: Path, ref: str, scale: int
) -> None:
    source = picture(tmp_path / "a.png")
    found = last(page.compare(str(source), ref))
    assert found.output == (40 * scale, 30 * scale)
    for file in (found.bicubic, found.network, found.download):
        with Image.open(file) as image:
            assert (image.format, image.size) == ("PNG", found.output)
    assert found.download.name == f"a-{ref}.png"
    with Image.open(found.network) as image:
        assert np.array_equal(image, zoo.run(ref, source).image)


def test_download_keeps_transparency(page: Enlarger, tmp_path: Path) -> None:
    found = last(page.compare(str(picture(tmp_path / "a.png", bands=4)), "sesr-m3-x2"))
    with Image.open(found.download) as file, Image.open(found.network) as shown:
        assert (file.mode, shown.mode) == ("RGBA", "RGB")


def test_large_picture_is_reduced_and_said_to_be(
    page: Enlarger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(enlarging, "OUTPUT_PIXELS", 1200)
    monkeypatch.setattr(gr, "Warning", lambda text, **_: said.append(text))
    *_, found = last(page.upscale(str(picture(tmp_path / "a.png")), "sesr-m3-x2", None))
    assert found.given == (40, 30)
    assert found.used == (20, 15)
    assert "zoo run sesr-m3-x2" in said[0]


def test_detail_is_cut_from_the_result(page: Enlarger, tmp_path: Path) -> None:
    found = last(page.compare(str(picture(tmp_path / "a.png", 200, 150)), "sesr-m3-x2"))
    corner = enlarging.moved(found, (0, 0))
    assert corner.spot == (0, 0)
    left, right = enlarging.detail(corner)
    size = tuple(length * enlarging.ZOOM for length in enlarging.DETAIL)
    assert left.size == right.size == size
    with Image.open(found.network) as image:
        part = np.asarray(image)[: enlarging.DETAIL[1], : enlarging.DETAIL[0]]
    assert np.array_equal(np.asarray(right)[:: enlarging.ZOOM, :: enlarging.ZOOM], part)
    assert enlarging.moved(found, (10_000, -5)).spot == (398, 0)


@pytest.mark.parametrize("size", [(1, 1), (300, 2), (2, 300)])
def test_odd_sizes(page: Enlarger, tmp_path: Path, size: tuple[int, int]) -> None:
    found = last(page.compare(str(picture(tmp_path / "a.png", *size)), "sesr-m3-x2"))
    assert enlarging.detail(found)[0].width > 0
    assert enlarging.costs(page.shelf["sesr-m3-x2"], found.used)


def test_costs_name_the_npu_and_how_each_is_known(page: Enlarger) -> None:
    network = page.shelf[page.default]
    facts, table = enlarge._costs(page.first, network)
    assert "Ethos-U55-256, estimated" in facts
    assert re.search(r"measured, \d+ thread", facts)
    rows = table.count('<th scope="row">')
    assert rows == 1 + sum(
        enlarging.target(name).method == "roofline" for name in enlarging.target_names()
    )
    assert table.count("estimated (roofline)") == rows - 1


def test_macs_to_720p_are_the_papers(page: Enlarger) -> None:
    """Convolutions of SESR-M3 x2: 2.05 G (arXiv 2103.09404, table 1); the residual adds none."""
    reference = enlarging.costs(page.shelf["sesr-m3-x2"], (640, 360))[0][1]
    assert enlarging.work(reference.macs).startswith("2.05")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("text.png", b"no picture <b>", "text.png is not a picture"),
        ("empty.png", b"", "empty.png is an empty file"),
        ("<i>.png", b"x", "&lt;i&gt;.png is not a picture"),
        ("a.heic", b"\0\0\0\x18ftypheic" + b"\0" * 99, "a.heic is a HEIC picture, which is not"),
    ],
    ids=["text", "empty", "markup", "heic"],
)
def test_bad_file_is_one_clear_line(
    page: Enlarger, tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    before = sorted(page.root.iterdir())
    with pytest.raises(gr.Error) as caught:
        last(page.upscale(str(path), "sesr-m3-x2", None))
    assert caught.value.message.startswith(message)
    assert not caught.value.print_exception
    assert str(tmp_path) not in caught.value.message
    assert sorted(page.root.iterdir()) == before


def test_truncated_and_missing_pictures(page: Enlarger, tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", 100, 100)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(gr.Error, match="truncated"):
        last(page.upscale(str(path), "sesr-m3-x2", None))
    with pytest.raises(gr.Error, match="no picture yet"):
        last(page.upscale(None, "sesr-m3-x2", None))


def test_result_is_forgotten_and_the_example_is_not(page: Enlarger, tmp_path: Path) -> None:
    source = str(picture(tmp_path / "a.png"))
    *_, first = last(page.upscale(source, "sesr-m3-x2", page.first))
    *_, second = last(page.upscale(source, "sesr-m3-x2", first))
    assert page.first.network.is_file()
    assert not first.folder.exists()
    assert page.clear(second)[-1] is None
    assert not second.folder.exists()


def test_a_large_picture_comes_tile_by_tile(page: Enlarger, tmp_path: Path) -> None:
    source = str(picture(tmp_path / "a.png", 300, 520))  # two tiles wide, three high
    *steps, found = page.upscale(source, "sesr-m3-x2", None)
    assert [f"Tile {n} of 6" in step[3] for n, step in enumerate(steps, 1)] == [True] * 5 + [False]
    assert "Writing the pictures" in steps[-1][3]
    for bicubic, detail, save, _, costs, _ in steps:  # nothing of before is shown meanwhile
        assert (bicubic, detail, costs) == (None, None, "")
        assert save["interactive"] is False
    assert found[-1].output == (600, 1040)
    with Image.open(found[-1].network) as image:
        assert np.array_equal(image, zoo.run("sesr-m3-x2", source).image)


def test_a_stopped_enlargement_ends_and_leaves_nothing(
    page: Enlarger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Any] = []
    real = enlarging.enlarge._run_tile
    monkeypatch.setattr(enlarging.enlarge, "_run_tile", lambda *x: ran.append(x) or real(*x))
    before = sorted(page.root.iterdir())
    work = page.upscale(str(picture(tmp_path / "a.png", 300, 520)), "sesr-m3-x2", None)
    next(work)
    assert len(sorted(page.root.iterdir())) == len(before) + 1
    work.close()  # as Gradio does for who presses Stop
    assert len(ran) == 1
    assert sorted(page.root.iterdir()) == before
    assert "Stopped" in page.stop(None)[3]


def test_a_gpu_is_asked_for_where_one_is_lent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Any] = []

    def door(duration: int) -> Any:
        return lambda function: asked.append((duration, function)) or function

    monkeypatch.setitem(sys.modules, "spaces", SimpleNamespace(GPU=door))
    page = Enlarger(tmp_path)
    ((seconds, function),) = asked
    assert seconds == gpu.SECONDS
    assert inspect.isgeneratorfunction(function)  # which the door looks at
    assert page.first.by.endswith(("thread", "threads"))  # there is none to compute on here
    monkeypatch.setitem(sys.modules, "spaces", ModuleType("spaces"))  # a folder of that name
    assert gpu.lent(lambda *, device: device)() == "cpu"
    monkeypatch.setitem(sys.modules, "spaces", None)
    assert gpu.lent(lambda *, device: device)() == "cpu"


def test_a_page_that_comes_slowly_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradio asks for it once, and by default gives up after three seconds."""
    monkeypatch.setattr("gradio.networking.url_ok", lambda url: False)
    monkeypatch.setattr(serve, "_fill", lambda tab, context: None)
    assert serve.serve(block=False).startswith("http://127.0.0.1:")
    gr.close_all()


def test_tools_that_cannot_be_offered_are_not_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradio keeps to itself why there are none."""
    monkeypatch.setattr(serve, "missing", lambda packages: "")
    monkeypatch.setattr(serve, "_fill", lambda tab, context: None)

    def broken(page: Any) -> Any:
        raise ValueError("no such schema")

    monkeypatch.setitem(sys.modules, "gradio.mcp", SimpleNamespace(GradioMCPServer=broken))
    monkeypatch.setattr(gr, "mcp", sys.modules["gradio.mcp"], raising=False)
    with pytest.raises(ZooError, match=r"no tools: .*no such schema; type: zoo serve"):
        serve.serve(mcp=True, block=False)


def test_port_in_use() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ZooError, match=rf"port {port} .* type: zoo serve --port \d+"):
            serve.serve(port)
    with pytest.raises(ZooError, match="not allowed"):
        serve.serve(70_000)


def test_next_free_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "_is_free", lambda port, host: port > 7862)
    assert serve._free_port(None, "127.0.0.1") == 7863
    monkeypatch.setattr(serve, "_is_free", lambda port, host: False)
    with pytest.raises(ZooError, match="all in use"):
        serve._free_port(None, "127.0.0.1")


def test_page_promises_privacy_only_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "_fill", lambda tab, context: None)  # the header says it
    pages = [serve.build(local=local) for local in (True, False)]
    texts = [json.dumps(page.get_config_file(), default=str) for page in pages]
    assert ["Nothing leaves this machine" in text for text in texts] == [True, False]


def test_without_gradio() -> None:
    code = "import sys; sys.modules['gradio'] = None; import zoo.page.app"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert "gradio is not installed; type: " in last
    assert last.endswith("[serve]'")


def test_import_turns_analytics_off() -> None:
    code = "import zoo.page.app, os, huggingface_hub.constants as c, gradio.analytics as a; "
    code += (
        "assert c.HF_HUB_OFFLINE and c.HF_HUB_DISABLE_TELEMETRY; assert not a.analytics_enabled()"
    )
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GRADIO_", "HF_"))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=kept)
    assert done.returncode == 0, done.stderr


def test_a_picture_shown_again_is_whole_for_who_is_fetching_it(page: Enlarger) -> None:
    """Two visitors are shown the same picture: one fetches while the other's is filed."""
    comparison = last(page.compare(str(page.examples[0]), "sesr-m3-x2"))
    pair = enlarging.detail(comparison)
    with gr.Blocks():
        sliders = [in_one_piece(gr.ImageSlider(format="png")) for _ in range(2)]
    fetched = {Path(side.path): 0 for side in sliders[0].postprocess(pair).root}
    for file in fetched:
        fetched[file] = file.stat().st_size
    again = [Path(side.path) for side in sliders[1].postprocess(pair).root]
    assert again == list(fetched)  # one file for both: it must not be written over
    short: list[int] = []
    stop = threading.Event()

    def fetch() -> None:
        while not stop.is_set():
            short.extend(n for file, n in fetched.items() if len(file.read_bytes()) != n)

    reader = threading.Thread(target=fetch)
    reader.start()
    for _ in range(50):
        sliders[1].postprocess(pair)
    stop.set()
    reader.join()
    assert short == []
