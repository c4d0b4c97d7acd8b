"""The page's Look tab: a picture or a webcam in, what a small network sees in it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from zoo.errors import MissingWeightsError, ZooError
from zoo.page import looking
from zoo.page.looking import EXAMPLES, Eyes
from zoo.page.parts import as_given, as_uploaded, complaint, in_one_piece, note
from zoo.page.shelf import costs
from zoo.page.tabs.contract import Context

TITLE, ORDER = "Look", 17
REQUIRES: Mapping[str, str] = {}
TASKS = looking.TASKS
CSS = """
#look-facts .zoo-facts { grid-template-columns: repeat(3, 1fr); }
@media (max-width: 640px) { #look-facts .zoo-facts { grid-template-columns: 1fr; } }
"""


class Lookout:
    """What all visitors share."""

    def __init__(self, context: Context) -> None:
        self.eyes = Eyes(context.models)
        self.opening = self.classify(str(EXAMPLES[0]), self.eyes.default)

    def classify(self, source: str | None, ref: str) -> tuple[Any, Any, str, str]:
        """Say what is in a picture: probabilities, what the network sees, facts, Python."""
        if source is None:
            raise complaint("There is no picture yet: take one, drop one in, or take an example.")
        try:
            sight = self.eyes.look(Path(source), ref)
        except ZooError as error:
            raise complaint(str(error).replace(source, Path(source).name)) from error
        eye = self.eyes.shelf[ref]
        words = looking.facts(sight, eye, costs(eye))
        return sight.likely, sight.seen, words, looking.code(ref)


def build(context: Context) -> None:
    """Lay out the picture and what is seen, and connect them."""
    try:
        page = Lookout(context)
    except MissingWeightsError as error:
        note(f"{error}")
        return
    likely, seen, facts, code = page.opening
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=300):
            source = gr.Image(
                str(EXAMPLES[0]), label="A picture, or your webcam", type="filepath", height=260,
                sources=["upload", "webcam", "clipboard"], buttons=[], elem_id="look-picture",
            )  # fmt: skip
            as_uploaded(source)
            model = as_given(gr.Dropdown(
                [(eye.label, ref) for ref, eye in page.eyes.shelf.items()],
                value=page.eyes.default, label="Network", filterable=False, elem_id="look-model",
            ))  # fmt: skip
            examples = gr.Examples(
                [[str(file)] for file in EXAMPLES], [source], label="Or take one of these",
                cache_examples=False, api_visibility="private", elem_id="look-pictures",
            )  # fmt: skip
        with gr.Column(scale=3, min_width=220):
            pixels = in_one_piece(gr.Image(
                seen, label="What the network sees", interactive=False, format="png",
                buttons=[], elem_id="look-seen",
            ))  # fmt: skip
        with gr.Column(scale=4, min_width=280):
            shares = gr.Label(likely, num_top_classes=5, label="What it is", elem_id="look-likely")
    said = gr.HTML(facts, elem_id="look-facts")
    with gr.Accordion("Use this: three lines of Python", open=False):
        lines = gr.Code(
            code, language="python", show_label=False, interactive=False, lines=4,
            elem_id="look-code",
        )  # fmt: skip
    outputs = [shares, pixels, said, lines]
    call: Mapping[str, Any] = {
        "fn": page.classify, "inputs": [source, model], "outputs": outputs,
        "trigger_mode": "always_last", "concurrency_limit": 1, "concurrency_id": "look",
        "show_progress_on": [shares],
    }  # fmt: skip
    for run in (
        gr.on([source.input, model.input], api_name="classify", **call),
        examples.load_input_event.then(api_visibility="private", **call),
    ):
        run.failure(_nothing, None, outputs, api_visibility="private", show_progress="hidden")


def _nothing() -> tuple[None, None, str, str]:
    """Show nothing: what is shown always belongs to the picture beside it."""
    return None, None, "", ""
