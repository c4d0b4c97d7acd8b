"""The page's Detect tab: a picture in, the objects that a small network finds in it, with boxes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from zoo.errors import MissingWeightsError, ZooError
from zoo.page import detecting
from zoo.page.detecting import EXAMPLES, Scout
from zoo.page.parts import as_given, as_uploaded, complaint, in_one_piece, note, once
from zoo.page.shelf import costs
from zoo.page.tabs.contract import Context

TITLE, ORDER = "Detect", 16
REQUIRES: Mapping[str, str] = {}
TASKS = detecting.TASKS
CSS = ""


class Spotter:
    """What all visitors share."""

    def __init__(self, context: Context) -> None:
        self.scout = Scout(context.models)

    def detect(self, source: str | None, ref: str, threshold: Any) -> tuple[Any, str, Any, str]:
        """Find objects in a picture: it with boxes, facts, the boxes as JSON, Python."""
        if source is None:
            raise complaint("There is no picture yet: take one, drop one in, or take an example.")
        try:
            found = self.scout.find(Path(source), ref, threshold)
        except ZooError as error:
            raise complaint(str(error).replace(source, Path(source).name)) from error
        eye = self.scout.shelf[ref]
        words = detecting.facts(found, eye, costs(eye))
        return detecting.shown(found), words, found.to_json(), detecting.code(ref)


def build(context: Context) -> None:
    """Lay out the picture and what is found, and connect them."""
    try:
        page = Spotter(context)
    except MissingWeightsError as error:
        note(f"{error}")
        return
    code = detecting.code(page.scout.default)
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=300):
            *inputs, example = _inputs(page)
        with gr.Column(scale=7, min_width=300):
            view = in_one_piece(gr.Image(
                label="What was found", interactive=False, format="png",
                buttons=["fullscreen"], elem_id="detect-found",
            ))  # fmt: skip
            said = gr.HTML("", elem_id="detect-facts", min_height=120)
    with gr.Accordion("The boxes: left, top, width and height in pixels", open=False):
        listed = gr.JSON(show_label=False, max_height=300, elem_id="detect-boxes")
    with gr.Accordion("Use this: two lines of Python", open=False):
        lines = gr.Code(
            code, language="python", show_label=False, interactive=False, lines=3,
            elem_id="detect-code",
        )  # fmt: skip
    outputs = [view, said, listed, lines]
    call: Mapping[str, Any] = {
        "fn": page.detect, "inputs": inputs, "outputs": outputs,
        "trigger_mode": "always_last", "concurrency_limit": 1, "concurrency_id": "detect",
        "show_progress_on": [view],
    }  # fmt: skip
    source, model, least = inputs
    runs = [
        gr.on([source.input, model.input, least.release], api_name="detect", **call),
        example.then(api_visibility="private", **call),
    ]
    if context.opened:  # what it costs takes a second to work out
        runs.append(once(context.opened)(api_visibility="private", **call))
    for run in runs:
        run.failure(_nothing, None, outputs, api_visibility="private", show_progress="hidden")


def _inputs(page: Spotter) -> tuple[Any, Any, Any, Any]:
    """Lay out the picture, the network and the least score; return also when an example comes."""
    source = gr.Image(
        str(EXAMPLES[0]), label="A picture, or your webcam", type="filepath", height=260,
        sources=["upload", "webcam", "clipboard"], buttons=[], elem_id="detect-picture",
    )  # fmt: skip
    as_uploaded(source)
    model = as_given(gr.Dropdown(
        [(eye.label, ref) for ref, eye in page.scout.shelf.items()],
        value=page.scout.default, label="Network", filterable=False, elem_id="detect-model",
    ))  # fmt: skip
    least = as_given(gr.Slider(
        0, 1, page.scout.threshold(page.scout.default), step=0.05, label="Least score",
        buttons=[], elem_id="detect-threshold",
    ))  # fmt: skip
    examples = gr.Examples(
        [[str(file)] for file in EXAMPLES], [source], label="Or take one of these",
        cache_examples=False, api_visibility="private", elem_id="detect-pictures",
    )  # fmt: skip
    return source, model, least, examples.load_input_event


def _nothing() -> tuple[None, str, None, str]:
    """Show nothing: what is shown always belongs to the picture beside it."""
    return None, "", None, ""
