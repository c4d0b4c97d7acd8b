"""The demo page: a picture in, the enlarged one beside bicubic, and what it costs on a device.

Nothing leaves the machine: Gradio's analytics and the Hub client are switched off before they are
imported, the theme's fonts are Gradio's own, and no folder is open to visitors. What belongs to
one visitor lives in that visitor's session and is deleted with it.
"""

import atexit
import contextlib
import html
import os
import shutil
import socket
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.errors import MissingExtraError, ZooError

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # these are read once, at import
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
try:
    import gradio as gr
    from gradio.events import Dependency
    from gradio.media import get_image
except ImportError as error:
    raise MissingExtraError.of("gradio", "serve") from error

from zoo.page import enlarging as demo
from zoo.page.enlarging import Comparison, Loaded
from zoo.page.pictures import in_one_piece
from zoo.page.tabs import adapters as serve_adapters

PORTS = range(7860, 7960)
_PHOTOGRAPHS = ("cheetah1.jpg", "lion.jpg")
MAX_FILE_SIZE = "50mb"
_FORGET = (600, 3600)  # seconds: every ten minutes, files older than an hour go
_THEME = gr.themes.Default(
    primary_hue="teal",
    neutral_hue="slate",
    # Gradio's semi-bold files lack most Latin letters; its bold ones are whole.
    font=[gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif"],
)
_HEADER = """
<header class="zoo-header"><small>edge-zoo, a model zoo for efficient edge AI</small>
<h1>Small networks, sharp pictures</h1>
<p>Drop in a picture. A network of a few thousand weights, small enough for a microcontroller,
enlarges it; the line compares it with bicubic. {privacy}</p></header>"""
_PRIVACY = {
    True: "Nothing leaves this machine.",
    False: "Only you see your picture, and it is deleted after you leave.",
}
_WHOLE = "<div class='zoo-caption'><b>Whole picture</b> drag the line, scroll to zoom</div>"
_DETAIL = (
    "<div class='zoo-caption'><b>Magnified</b> where they differ most; "
    "click your picture to move</div>"
)
_CSS = """
.gradio-container { max-width: 1240px !important; margin: 0 auto !important; }
.gradio-container main { width: 100%; }
footer .divider { display: none !important; }
.html-container { padding: 0 !important; }
.zoo-header h1 { font-size: 1.5rem; font-weight: 600; margin: 0; letter-spacing: -.01em; }
.zoo-header small { color: var(--color-accent); }
.zoo-header p { color: var(--body-text-color-subdued); margin: .15rem 0 0; }
.zoo-slider .image-container::before, .zoo-slider .image-container::after {
  position: absolute; bottom: 8px; z-index: 60; pointer-events: none; padding: 1px 8px;
  border-radius: 999px; background: rgb(15 23 42 / 72%); color: #fff; font-size: 12px; }
.zoo-slider .image-container::before { content: "bicubic"; left: 8px; }
.zoo-slider .image-container::after { content: "network"; right: 8px; }
.zoo-detail img { image-rendering: pixelated; }
.zoo-caption { font-size: 13px; color: var(--body-text-color-subdued); }
.zoo-caption b { color: var(--body-text-color); }
.zoo-facts { display: grid; grid-template-columns: repeat(4, 1fr); gap: 10px; margin: 0; }
.zoo-facts > div { padding: 10px 14px; border: 1px solid var(--border-color-primary);
  border-radius: var(--radius-lg); background: var(--block-background-fill); }
.zoo-facts > div:first-child { border-color: var(--color-accent); }
.zoo-facts dt { font-size: 12px; color: var(--body-text-color-subdued); }
.zoo-facts dd { margin: 0; }
.zoo-facts b { display: block; white-space: nowrap; font-size: 1.35rem; font-weight: 600;
  line-height: 1.4; }
.zoo-facts span { display: block; font-size: 12px; line-height: 1.35;
  color: var(--body-text-color-subdued); }
.zoo-scroll { overflow-x: auto; width: 0; min-width: 100%; }
.zoo-costs { width: 100%; border-collapse: collapse; font-size: 13px; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
.zoo-costs, .zoo-costs :is(thead, tbody, tr, th, td) { border: 0 !important; }
.zoo-costs :is(th, td) { padding: 4px 10px; text-align: right;
  border-bottom: 1px solid var(--border-color-primary) !important; }
.zoo-costs :is(th, td):is(:nth-child(1), :nth-child(6), :nth-child(8)) {
  text-align: left; }
.zoo-costs thead th { color: var(--body-text-color-subdued); font-weight: 500; }
.zoo-costs tbody th { font-weight: 600; }
.zoo-costs small { display: block; white-space: normal; min-width: 12rem;
  font-weight: 400; color: var(--body-text-color-subdued); }
.zoo-note, .zoo-note dd { color: var(--body-text-color-subdued); font-size: 12px; }
.zoo-note dt { font-weight: 600; margin-top: 6px; }
.zoo-note dd { margin: 0; }
#examples .gallery { gap: 5px; }
.zoo-stack { gap: 6px !important; }
@media (max-width: 900px) { .zoo-facts { grid-template-columns: repeat(2, 1fr); } }
@media (max-width: 640px) { .zoo-slider { height: 300px !important; }
  .zoo-facts b { font-size: 1.15rem; } .zoo-facts > div { padding: 8px 10px; } }
"""


class _Page:
    """What all visitors share: the networks, the examples, and a folder for results."""

    def __init__(self) -> None:
        self.shelf = demo.shelf()
        self.root = Path(tempfile.mkdtemp(prefix="zoo-page-"))
        atexit.register(shutil.rmtree, self.root, ignore_errors=True)
        self.examples = self._examples()
        self.default = "sesr-m5-x2" if "sesr-m5-x2" in self.shelf else next(iter(self.shelf))
        planned = self.compare(str(self.examples[0]), self.default)  # PyTorch's first run is slow
        shutil.rmtree(planned.folder)
        # Shown to everybody before they bring a picture of their own, and never deleted.
        self.first = self.compare(str(self.examples[0]), self.default)

    def _examples(self) -> list[Path]:
        """Return copies of photographs that come with Gradio, and a drawing of our own."""
        found = []
        for name in _PHOTOGRAPHS:
            with contextlib.suppress(ValueError, FileNotFoundError):  # not in this Gradio
                found.append(self.root / name)
                shutil.copyfile(get_image(name), found[-1])
        found.append(self.root / "engraving.png")
        demo.draw_example(found[-1])
        return [file for file in found if file.exists()]

    def compare(self, picture: str, ref: str) -> Comparison:
        """Enlarge into a fresh folder; on failure nothing is left of it."""
        folder = Path(tempfile.mkdtemp(dir=self.root))
        try:
            return demo.compare(self.shelf[ref], Path(picture), folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def forget(self, comparison: Comparison | None) -> None:
        """Delete a visitor's result; the example's is everybody's."""
        if comparison is not None and comparison.folder != self.first.folder:
            shutil.rmtree(comparison.folder, ignore_errors=True)

    def upscale(
        self, picture: str | None, ref: str, previous: Comparison | None
    ) -> tuple[Any, ...]:
        """Enlarge a picture and compare it with bicubic.

        Returns (bicubic, network) at full size, (bicubic, network) of a magnified detail, the
        file to download, and the costs as HTML: the facts, then a row per device.
        """
        if picture is None:
            raise _complaint("There is no picture yet: drop one in, paste one, or take an example.")
        try:
            comparison = self.compare(picture, ref)
        except ZooError as error:
            raise _complaint(str(error).replace(picture, Path(picture).name)) from error
        self.forget(previous)
        if comparison.used != comparison.given:
            gr.Warning(_reduced(comparison, ref), title="Reduced first")
        return (*_shown(comparison), *_costs(comparison, self.shelf[ref]), comparison)

    def clear(self, previous: Comparison | None) -> tuple[Any, ...]:
        """Show nothing, and forget what was shown."""
        self.forget(previous)
        return None, None, None, "", "", None

    def look(self, comparison: Comparison | None, event: gr.SelectData) -> Any:
        """Show the detail where the visitor clicked on the given picture."""
        if comparison is None:
            return None
        try:
            return demo.detail(demo.moved(comparison, event.index))
        except FileNotFoundError:
            raise _complaint("That result is gone; press Enlarge once more.") from None


def _complaint(text: str) -> gr.Error:
    return gr.Error(html.escape(text), title="That did not work", print_exception=False)


def _reduced(comparison: Comparison, ref: str) -> str:
    given, used = (demo.TIMES.join(map(str, size)) for size in (comparison.given, comparison.used))
    return (
        f"The page shows results of up to {demo.OUTPUT_PIXELS / 1e6:.0f} megapixels, so your "
        f"{given} picture was reduced to {used} before it was enlarged. For any size, type: "
        f"zoo run {ref} PICTURE"
    )


def _shown(comparison: Comparison) -> tuple[Any, ...]:
    whole = (str(comparison.bicubic), str(comparison.network))
    return whole, demo.detail(comparison), str(comparison.download)


def _costs(comparison: Comparison, network: Loaded) -> tuple[str, str]:
    pairs = demo.costs(network, comparison.used)
    return demo.headline(comparison, network, pairs), demo.table(comparison, network, pairs)


def _super_resolution(page: _Page) -> None:
    """Lay out the comparison and its events."""
    first, network = page.first, page.shelf[page.default]
    whole, close, download = _shown(first)
    facts, table = _costs(first, network)
    state = gr.State(first, delete_callback=page.forget)
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=260):
            picture = gr.Image(
                str(page.examples[0]), label="Your picture", type="filepath", height=230,
                sources=["upload", "clipboard"], buttons=[], elem_id="picture",
            )  # fmt: skip
            picture.preprocess = _as_uploaded  # type: ignore[method-assign]
            model = gr.Dropdown(
                [(item.label, ref) for ref, item in page.shelf.items()], value=page.default,
                label="Network: scale, name, parameters", filterable=False, elem_id="model",
            )  # fmt: skip
            enlarge = gr.Button("Enlarge", variant="primary", elem_id="enlarge")
            save = gr.DownloadButton("Download PNG", value=download, elem_id="save")
            examples = gr.Examples(
                [[str(file)] for file in page.examples], [picture], label="Or take one of these",
                cache_examples=False, api_visibility="private", elem_id="examples",
            )  # fmt: skip
        with gr.Column(scale=7, min_width=320):
            with gr.Row(equal_height=True):
                options: dict[str, Any] = {
                    "format": "png", "interactive": False, "show_label": False,
                    "height": 380, "max_height": 380,
                }  # fmt: skip
                with gr.Column(min_width=300, elem_classes="zoo-stack"):
                    gr.HTML(_WHOLE)
                    slider = gr.ImageSlider(
                        whole, label="Whole picture: bicubic, network", buttons=["fullscreen"],
                        elem_id="whole", elem_classes="zoo-slider", **options,
                    )  # fmt: skip
                with gr.Column(min_width=300, elem_classes="zoo-stack"):
                    gr.HTML(_DETAIL)
                    magnified = in_one_piece(gr.ImageSlider(
                        close, label="Detail: bicubic, network", buttons=["fullscreen"],
                        elem_id="detail", elem_classes=["zoo-slider", "zoo-detail"], **options,
                    ))  # fmt: skip
            facts_view = gr.HTML(facts, elem_id="facts")
    table_view = gr.HTML(table, elem_id="costs")

    outputs = [slider, magnified, save, facts_view, table_view, state]
    _connect(page, picture, model, enlarge, examples.load_input_event, outputs)


def _connect(
    page: _Page,
    picture: gr.Image,
    model: gr.Dropdown,
    enlarge: gr.Button,
    example: Dependency,
    outputs: Sequence[gr.components.Component],
) -> None:
    """Say what happens when: a new picture or another network runs at once."""
    slider, magnified, *_, state = outputs
    call: Mapping[str, Any] = {
        "fn": page.upscale, "inputs": [picture, model, state], "outputs": outputs,
        "trigger_mode": "always_last", "concurrency_limit": 1, "concurrency_id": "network",
        "show_progress_on": [slider, magnified],
    }  # fmt: skip
    for run in (
        gr.on([enlarge.click, picture.upload, model.input], api_name="upscale", **call),
        example.then(api_visibility="private", **call),
    ):
        # What is shown always belongs to the picture beside it, also when that was refused.
        run.failure(page.clear, state, outputs, api_visibility="private", show_progress="hidden")
    picture.select(page.look, state, magnified, api_visibility="private", show_progress="hidden")


def _as_uploaded(payload: Any) -> str | None:
    """Hand over the uploaded file itself.

    Gradio would open it first: a file that is no picture would end in a traceback, and one of
    16 bits or with a rotation would arrive changed.
    """
    return None if payload is None else payload.path


def build(*, local: bool = True) -> gr.Blocks:
    """Return the page; `local` when only this machine can see it.

    Raises:
        MissingWeightsError: no network has weights.

    """
    shared = _Page()
    with gr.Blocks(title="edge-zoo", analytics_enabled=False, delete_cache=_FORGET) as page:
        gr.HTML(_HEADER.format(privacy=_PRIVACY[local]))
        with gr.Tabs():
            with gr.Tab("Enlarge"):
                _super_resolution(shared)
            with gr.Tab("Adapters", id="adapters"):
                serve_adapters.tab()
    page.queue(max_size=32)
    return page


def serve(
    port: int | None = None,
    host: str | None = None,
    *,
    open_browser: bool = False,
    block: bool = True,
) -> str:
    """Serve the page; return its address once it is served (or, with `block`, once it ended).

    Args:
        port: None takes GRADIO_SERVER_PORT, or else the first free one from 7860 on.
        host: None takes GRADIO_SERVER_NAME (which a Space sets), or else this machine only.
        open_browser: open the page in the browser.
        block: wait until interrupted.

    Raises:
        ZooError: the port is in use, or none is free.
        MissingWeightsError: no network has weights.

    """
    host = host or os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1"
    if port is None and os.environ.get("GRADIO_SERVER_PORT", "").isdigit():
        port = int(os.environ["GRADIO_SERVER_PORT"])
    port = _free_port(port, host)
    page = build(local=host in ("127.0.0.1", "localhost", "::1"))
    try:
        _, address, _ = page.launch(
            server_name=host, server_port=port, inbrowser=open_browser, share=False,
            prevent_thread_lock=True, quiet=True, ssr_mode=False, run_history=False, pwa=False,
            max_file_size=MAX_FILE_SIZE, allowed_paths=[], footer_links=["api"],
            theme=_THEME, css=_CSS,
        )  # fmt: skip
    except OSError as error:  # somebody took the port since it was looked at
        raise ZooError(f"{host}:{port} cannot be served: {error}; type: zoo serve") from error
    print(f"The page is at {address} (Ctrl+C ends it)", flush=True)
    if block:
        page.block_thread()
    return str(address)


def _free_port(port: int | None, host: str) -> int:
    """Return `port` if it can be listened on, or the first free one of `PORTS` for None."""
    if port is not None and _is_free(port, host):
        return port
    free = next((number for number in PORTS if _is_free(number, host)), None)
    if port is not None:
        raise ZooError(
            f"port {port} of {host} is in use or not allowed; type: zoo serve --port {free or 'N'}"
        )
    if free is None:
        raise ZooError(f"ports {PORTS[0]} to {PORTS[-1]} are all in use; type: zoo serve --port N")
    return free


def _is_free(port: int, host: str) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        if os.name == "posix":  # as servers do: a port that was just closed is free
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError):
            return False
    return True
