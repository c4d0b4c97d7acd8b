"""The page's Listen tab: a sound or a microphone in, the words that a small network hears."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from zoo.errors import MissingWeightsError, ZooError
from zoo.page import listening
from zoo.page.listening import EXAMPLES, Ears
from zoo.page.parts import as_given, as_uploaded, complaint, note
from zoo.page.tabs.contract import Context

TITLE, ORDER = "Listen", 15
REQUIRES: Mapping[str, str] = {"soundfile": "audio", "soxr": "audio"}
TASKS = listening.TASKS
CSS = """
.zoo-words { position: relative; height: 2.6rem; margin: 0 .5rem; padding: 0; list-style: none;
  border-bottom: 3px solid var(--color-accent); }
.zoo-words li { position: absolute; bottom: 0; transform: translateX(-50%); white-space: nowrap;
  padding: 1px 8px; border-radius: 999px 999px 0 0; background: var(--color-accent); color: #fff;
  font-size: 13px; }
"""


class Booth:
    """What all visitors share."""

    def __init__(self, context: Context) -> None:
        self.ears = Ears(context.models)
        self.examples = sorted(EXAMPLES.glob("*.wav"))
        self.opening = self.listen(str(self.examples[0]), self.ears.default)

    def listen(self, source: str | None, ref: str) -> tuple[Any, str, str, str]:
        """Say which words are in a sound: probabilities, words along it, facts, Python."""
        if source is None:
            raise complaint("There is no sound yet: record one, drop one in, or take an example.")
        try:
            hearing = self.ears.hear(Path(source), ref)
        except ZooError as error:
            raise complaint(str(error).replace(source, Path(source).name)) from error
        ear = self.ears.shelf[ref]
        return (
            hearing.likely,
            listening.timeline(hearing),
            listening.facts(hearing, ear),
            listening.code(ref),
        )


def build(context: Context) -> None:
    """Lay out the sound and what is heard, and connect them."""
    try:
        page = Booth(context)
    except MissingWeightsError as error:
        note(f"{error}")
        return
    likely, words, facts, code = page.opening
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=300):
            source = gr.Audio(
                str(page.examples[0]), label="A sound, or your microphone", type="filepath",
                sources=["upload", "microphone"], buttons=[], elem_id="listen-sound",
            )  # fmt: skip
            as_uploaded(source)
            model = as_given(gr.Dropdown(
                [(ear.label, ref) for ref, ear in page.ears.shelf.items()],
                value=page.ears.default, label="Network", filterable=False,
                elem_id="listen-model",
            ))  # fmt: skip
            examples = gr.Examples(
                [[str(file)] for file in page.examples], [source], label="Or take one of these",
                cache_examples=False, api_visibility="private", elem_id="listen-sounds",
            )  # fmt: skip
        with gr.Column(scale=6, min_width=300):
            shares = gr.Label(
                likely, num_top_classes=5, label="The loudest second", elem_id="listen-likely"
            )
            line = gr.HTML(words, elem_id="listen-words")
            said = gr.HTML(facts, elem_id="listen-facts")
    with gr.Accordion("Use this: three lines of Python", open=False):
        lines = gr.Code(
            code, language="python", show_label=False, interactive=False, lines=4,
            elem_id="listen-code",
        )  # fmt: skip
    outputs = [shares, line, said, lines]
    call: Mapping[str, Any] = {
        "fn": page.listen, "inputs": [source, model], "outputs": outputs,
        "trigger_mode": "always_last", "concurrency_limit": 1, "concurrency_id": "listen",
        "show_progress_on": [shares],
    }  # fmt: skip
    for run in (
        gr.on([source.upload, source.stop_recording, model.input], api_name="listen", **call),
        examples.load_input_event.then(api_visibility="private", **call),
    ):
        run.failure(_nothing, None, outputs, api_visibility="private", show_progress="hidden")


def _nothing() -> tuple[None, str, str, str]:
    """Show nothing: what is shown always belongs to the sound beside it."""
    return None, "", "", ""
