"""The page's Enlarge tab: a picture in, the enlarged one next to bicubic, and the cost.

What belongs to one visitor lives in that visitor's session and is deleted with it. What is
computed is in `zoo.page.enlarging`.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.events import Dependency
from gradio.media import get_image

from zoo.errors import ZooError
from zoo.page import enlarging, gpu
from zoo.page.cards import progress
from zoo.page.drawing import draw_example
from zoo.page.enlarging import Comparison, Loaded
from zoo.page.given import choice
from zoo.page.parts import as_given, as_uploaded, complaint, in_one_piece, once
from zoo.page.tabs.contract import Context

TITLE, ORDER = "Enlarge", 10
REQUIRES: Mapping[str, str] = {}
CSS = """
.zoo-slider .image-container::before, .zoo-slider .image-container::after {
  position: absolute; bottom: 8px; z-index: 60; pointer-events: none; padding: 1px 8px;
  border-radius: 999px; background: rgb(15 23 42 / 72%); color: #fff; font-size: 12px; }
.zoo-slider .image-container::before { content: "bicubic"; left: 8px; }
.zoo-slider .image-container::after { content: "network"; right: 8px; }
.zoo-detail img { image-rendering: pixelated; }
.zoo-costs small { display: block; font-weight: 400; color: var(--body-text-color-subdued); }
@media (min-width: 641px) {
  .zoo-costs :is(th, td):not(:nth-child(1), :nth-child(6), :nth-child(8)) { text-align: right; }
}
#examples .gallery { gap: 5px; }
@media (max-width: 640px) { .zoo-slider { height: 300px !important; } }
"""
_PHOTOGRAPHS = ("cheetah1.jpg", "lion.jpg")
_WHOLE = "<div class='zoo-caption'><b>Whole picture</b> drag the line, scroll to zoom</div>"
_DETAIL = (
    "<div class='zoo-caption'><b>Magnified</b> where they differ most; "
    "click your picture to move</div>"
)
_STOPPED = (
    "<p class='zoo-note' role='status'>Stopped: there is no result. Press Enlarge for one.</p>"
)


class Enlarger:
    """What all visitors share: the networks, the examples, and a folder for results.

    Raises:
        MissingWeightsError: no network has weights.

    """

    def __init__(self, root: Path) -> None:
        self.shelf = enlarging.shelf()
        self.compare = gpu.lent(self._compare)
        self.root = root
        self.examples = self._examples()
        self.default = "sesr-m5-x2" if "sesr-m5-x2" in self.shelf else next(iter(self.shelf))
        # PyTorch's first run is slow
        shutil.rmtree(last(self.compare(str(self.examples[0]), self.default)).folder)
        # Shown to everybody before they bring a picture of their own, and never deleted.
        self.first = last(self.compare(str(self.examples[0]), self.default))

    def _examples(self) -> list[Path]:
        """Return copies of photographs that come with Gradio, and a drawing of our own."""
        files = []
        for name in _PHOTOGRAPHS:
            with contextlib.suppress(ValueError, FileNotFoundError):  # not in this Gradio
                files.append(self.root / name)
                shutil.copyfile(get_image(name), files[-1])
        files.append(self.root / "engraving.png")
        draw_example(files[-1])
        return [file for file in files if file.exists()]

    def _compare(
        self, picture: str, ref: str, device: str
    ) -> Iterator[tuple[int, int] | Comparison]:
        """Enlarge into a fresh folder; yield how far it is, then the result.

        Nothing is left of what fails, or of what nobody waits for any more.
        """
        network = self.shelf[choice(ref, "network", self.shelf)]
        folder = Path(tempfile.mkdtemp(dir=self.root))
        try:
            made = yield from enlarging.compare(network, Path(picture), folder, device)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        yield made

    def forget(self, comparison: Comparison | None) -> None:
        """Delete a visitor's result; the example's is everybody's."""
        if comparison is not None and comparison.folder != self.first.folder:
            shutil.rmtree(comparison.folder, ignore_errors=True)

    def upscale(
        self, picture: str | None, ref: str, previous: Comparison | None
    ) -> Iterator[tuple[Any, ...]]:
        """Enlarge a picture and compare it with bicubic.

        Yields (bicubic, network) at full size, (bicubic, network) of a magnified detail, the
        file to download, and the costs as HTML: the facts, then a row per device. While tiles of
        a large picture are made, the facts say how far it is, and nothing else is shown.
        """
        if picture is None:
            raise complaint("There is no picture yet: drop one in, paste one, or take an example.")
        try:
            for made in self.compare(picture, ref):
                if isinstance(made, Comparison):
                    break
                if made[1] > 1:
                    yield None, None, _missing(), progress(*made), "", gr.skip()
        except ZooError as error:
            raise complaint(str(error).replace(picture, Path(picture).name)) from error
        assert isinstance(made, Comparison)
        self.forget(previous)
        if made.used != made.given:
            gr.Warning(_reduced(made, ref), title="Reduced first")
        yield (*_shown(made), *_costs(made, self.shelf[ref]), made)

    def opening_costs(self) -> tuple[str, str]:
        """Return the costs of the example, which everybody sees first."""
        return _costs(self.first, self.shelf[self.default])

    def stop(self, previous: Comparison | None) -> tuple[Any, ...]:
        """Show that there is no result, and forget the one before."""
        *rest, _, table, none = self.clear(previous)
        return (*rest, _STOPPED, table, none)

    def clear(self, previous: Comparison | None) -> tuple[Any, ...]:
        """Show nothing, and forget what was shown."""
        self.forget(previous)
        return None, None, _missing(), "", "", None

    def look(self, comparison: Comparison | None, event: gr.SelectData) -> Any:
        """Show the detail where the visitor clicked on the given picture."""
        if comparison is None:
            return None
        try:
            return enlarging.detail(enlarging.moved(comparison, event.index))
        except FileNotFoundError:
            raise complaint("That result is gone; press Enlarge once more.") from None


def _reduced(comparison: Comparison, ref: str) -> str:
    given, used = (
        enlarging.TIMES.join(map(str, size)) for size in (comparison.given, comparison.used)
    )
    return (
        f"The page makes results of up to {enlarging.OUTPUT_PIXELS / 1e6:.0f} megapixels, so your "
        f"{given} picture was reduced to {used} before it was enlarged. For any size, type: "
        f"zoo run {ref} PICTURE"
    )


def _shown(comparison: Comparison) -> tuple[Any, ...]:
    bicubic, network = comparison.shown
    return (str(bicubic), str(network)), enlarging.detail(comparison), str(comparison.download)


def _costs(comparison: Comparison, network: Loaded) -> tuple[str, str]:
    pairs = enlarging.costs(network, comparison.used)
    return enlarging.headline(comparison, network, pairs), enlarging.table(
        comparison, network, pairs
    )


def build(context: Context) -> None:
    """Lay out the comparison and its events."""
    page = Enlarger(context.folder)
    first = page.first
    whole, close, download = _shown(first)
    state = gr.State(first, delete_callback=page.forget)
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=260):
            picture = gr.Image(
                str(page.examples[0]), label="Your picture", type="filepath", height=230,
                sources=["upload", "clipboard"], buttons=[], elem_id="picture",
            )  # fmt: skip
            as_uploaded(picture)
            model = as_given(gr.Dropdown(
                [(loaded.label, ref) for ref, loaded in page.shelf.items()], value=page.default,
                label=f"Network: scale, name, parameters, PSNR on {enlarging.JUDGED_ON}",
                filterable=False, elem_id="model",
            ))  # fmt: skip
            with gr.Row():
                enlarge = gr.Button("Enlarge", variant="primary", elem_id="enlarge")
                stop = gr.Button("Stop", elem_id="enlarge-stop", min_width=60)
            save = gr.DownloadButton("Download PNG", value=download, elem_id="save")
            examples = gr.Examples(
                [[str(file)] for file in page.examples], [picture], label="Or take one of these",
                cache_examples=False, api_visibility="private", elem_id="examples",
            )  # fmt: skip
        with gr.Column(scale=7, min_width=320):
            slider, magnified = _views(whole, close)
            facts_view = gr.HTML("", elem_id="facts", min_height=120)
    table_view = gr.HTML("", elem_id="costs")

    outputs = [slider, magnified, save, facts_view, table_view, state]
    _connect(page, picture, model, (enlarge, stop), examples.load_input_event, outputs)
    if context.opened:  # tracing the network for all devices takes seconds
        once(context.opened)(
            page.opening_costs, None, [facts_view, table_view], api_visibility="private",
            concurrency_limit=1, concurrency_id="network", show_progress_on=[facts_view],
        )  # fmt: skip


def _views(whole: Any, close: Any) -> tuple[gr.ImageSlider, gr.ImageSlider]:
    """Lay out the whole picture and the detail, bicubic and network each."""
    options: dict[str, Any] = {
        "format": "png", "interactive": False, "show_label": False, "height": 380,
        "max_height": 380, "buttons": ["fullscreen"],
    }  # fmt: skip
    with gr.Row(equal_height=True):
        with gr.Column(min_width=300, elem_classes="zoo-stack"):
            gr.HTML(_WHOLE)
            slider = gr.ImageSlider(
                whole, label="Whole picture: bicubic, network", elem_id="whole",
                elem_classes="zoo-slider", **options,
            )  # fmt: skip
        with gr.Column(min_width=300, elem_classes="zoo-stack"):
            gr.HTML(_DETAIL)
            magnified = in_one_piece(gr.ImageSlider(
                close, label="Detail: bicubic, network", elem_id="detail",
                elem_classes=["zoo-slider", "zoo-detail"], **options,
            ))  # fmt: skip
    return slider, magnified


def _connect(
    page: Enlarger,
    picture: gr.Image,
    model: gr.Dropdown,
    buttons: tuple[gr.Button, gr.Button],
    example: Dependency,
    outputs: Sequence[gr.components.Component],
) -> None:
    """Say what happens when: a new picture or another network runs at once."""
    slider, magnified, save, *_, state = outputs
    enlarge, stop = buttons
    call: Mapping[str, Any] = {
        "fn": page.upscale, "inputs": [picture, model, state], "outputs": outputs,
        "trigger_mode": "always_last", "concurrency_limit": 1, "concurrency_id": "network",
        "show_progress_on": [slider, magnified],
    }  # fmt: skip
    runs = [
        gr.on([enlarge.click, picture.upload, model.input], api_name="upscale", **call),
        example.then(api_visibility="private", **call),
    ]
    for run in runs:
        # What is shown always belongs to the picture next to it, even one that was refused.
        run.failure(page.clear, state, outputs, api_visibility="private", show_progress="hidden")
        run.success(_ready, None, save, api_visibility="private", show_progress="hidden")
    stop.click(
        page.stop, state, outputs, cancels=runs, api_visibility="private", show_progress="hidden"
    )
    picture.select(page.look, state, magnified, api_visibility="private", show_progress="hidden")


def _ready() -> Any:
    """Let the result be downloaded."""
    return gr.update(interactive=True)


def _missing() -> Any:
    """Offer no download where there is no result."""
    return gr.update(value=None, interactive=False)


def last(steps: Iterable[Any]) -> Any:
    """Return what comes last."""
    *_, end = steps
    return end
