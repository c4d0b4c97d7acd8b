"""The page's Zoo tab: every recipe and adapter, found by words and ticks, each with its card."""

from collections.abc import Mapping
from typing import Any

import gradio as gr

from zoo.errors import ZooError
from zoo.page import shelving
from zoo.page.parts import CHOOSE, as_given, complaint
from zoo.page.shelving import ANY, KINDS
from zoo.page.tabs.contract import Context

TITLE, ORDER = "Zoo", 30
REQUIRES: Mapping[str, str] = {}
CSS = ""


def build(context: Context) -> None:
    """Lay out the search, the table and the card."""
    everything = shelving.entries()
    tasks = [ANY, *dict.fromkeys(entry.task for entry in everything)]

    def find(words: str, kind: str, task: str, sold: bool, here: bool) -> tuple[str, str]:
        """Find networks and adapters by words: the table of what matches, and no card."""
        try:
            found = shelving.matching(everything, words, kind, task, sold, here)
        except ZooError as error:
            raise complaint(str(error)) from error
        return shelving.table(found, len(everything)), ""

    with gr.Row():
        words = as_given(gr.Textbox(
            "", label="Words", placeholder="x2 super resolution", max_lines=1, elem_id="zoo-words"
        ))  # fmt: skip
        kind = as_given(
            gr.Dropdown([*KINDS], value=ANY, label="Kind", filterable=False, elem_id="zoo-kind")
        )
        task = as_given(gr.Dropdown(
            [(word.replace("-", " "), word) for word in tasks],
            value=ANY, label="Task", elem_id="zoo-task",
        ))  # fmt: skip
    with gr.Row():
        sold = gr.Checkbox(False, label="A product may ship it", elem_id="zoo-sold")
        here = gr.Checkbox(False, label="Its weights are in the package", elem_id="zoo-here")
    table = gr.HTML(
        find("", ANY, ANY, False, False)[0], js_on_load=CHOOSE, max_height=560, elem_id="zoo-table"
    )
    card = gr.Markdown("", elem_id="zoo-card", elem_classes="zoo-card")
    options: Mapping[str, Any] = {"trigger_mode": "always_last", "show_progress": "hidden"}
    inputs = [words, kind, task, sold, here]
    gr.on(
        [words.input, kind.input, task.input, sold.input, here.input],
        find, inputs, [table, card], api_name="find", **options,
    )  # fmt: skip
    table.select(_card, None, card, api_visibility="private", show_progress="hidden")


def _card(event: gr.EventData) -> str:
    try:
        return shelving.card(str(event.ref))
    except ZooError as error:
        raise complaint(str(error)) from error
