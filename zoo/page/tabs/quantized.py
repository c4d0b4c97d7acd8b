"""The page's Quantized LLM tab: one prompt, answered by a model and its rounded copies at once."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gradio as gr

from zoo.errors import MissingWeightsError, ZooError
from zoo.page.parts import as_given, complaint, note
from zoo.page.tabs.contract import Context

TITLE, ORDER = "Quantized LLM", 19
REQUIRES: Mapping[str, str] = {"transformers": "adapters", "gguf": "adapters"}
TASKS = ("text-generation",)
CSS = """
.zoo-answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(220px, 1fr));
  gap: 10px; }
.zoo-answers section { padding: 10px 14px; border: 1px solid var(--border-color-primary);
  border-radius: var(--radius-lg); background: var(--block-background-fill); min-width: 0; }
.zoo-answers h4 { margin: 0 0 4px; font-weight: 700; overflow-wrap: anywhere; }
.zoo-answers dl { display: flex; flex-wrap: wrap; gap: 2px 14px; margin: 0 0 8px; }
.zoo-answers dt { font-size: 12px; color: var(--body-text-color-subdued); }
.zoo-answers dd { margin: 0; font-variant-numeric: tabular-nums; }
.zoo-answers p { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
.zoo-wait { color: var(--color-accent); }
"""


class Room:
    """What all visitors share."""

    def __init__(self, context: Context) -> None:
        from zoo.page.answering import Desk

        self.desk = Desk(context.folder, context.models)

    def answer(
        self, prompt: str | None, names: Sequence[str] | None
    ) -> Iterator[tuple[str, str, str]]:
        """Answer a prompt by several models: answers, how figures are known, Python."""
        from zoo.page import answering

        answers: list[Any] = []
        lines = answering.code(names or ())
        try:
            for answers, waiting in self.desk.write(prompt, names):
                yield answering.shown(answers, waiting, True), "", lines
        except ZooError as error:
            raise complaint(str(error)) from error
        yield answering.shown(answers, "", False), answering.notes(answers), lines


def build(context: Context) -> None:
    """Lay out the prompt and the answers, and connect them."""
    from zoo.page import answering

    try:
        page = Room(context)
    except MissingWeightsError as error:
        note(f"{error}")
        return
    desk = page.desk
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=280):
            prompt = as_given(
                gr.Textbox(answering.PROMPTS[0], label="Prompt", lines=3, elem_id="llm-prompt")
            )
            names = as_given(gr.CheckboxGroup(
                desk.names, value=desk.first, label=f"Models, up to {answering.MOST_AT_ONCE}",
                elem_id="llm-models",
            ))  # fmt: skip
            with gr.Row():
                start = gr.Button("Answer", variant="primary", elem_id="llm-start")
                stop = gr.Button("Stop", elem_id="llm-stop", min_width=60)
            examples = gr.Examples(
                [[text] for text in answering.PROMPTS], [prompt], label="Or one of these",
                cache_examples=False, api_visibility="private", elem_id="llm-prompts",
            )  # fmt: skip
        with gr.Column(scale=8, min_width=300):
            said = gr.HTML(_EMPTY, elem_id="llm-answers", min_height=120)
            facts = gr.HTML("", elem_id="llm-notes")
    with gr.Accordion("Use this: lines of Python", open=False):
        lines = gr.Code(
            answering.code(desk.first), language="python", show_label=False, interactive=False,
            lines=4, elem_id="llm-code",
        )  # fmt: skip
    outputs = [said, facts, lines]
    call: Mapping[str, Any] = {
        "fn": page.answer, "inputs": [prompt, names], "outputs": outputs, "concurrency_limit": 1,
        "concurrency_id": "llm", "trigger_mode": "once", "show_progress": "minimal",
    }  # fmt: skip
    first = gr.on([start.click, prompt.submit], api_name="answer", **call)
    again = examples.load_input_event.then(api_visibility="private", **call)
    for run in (first, again):
        run.failure(_nothing, None, outputs, api_visibility="private", show_progress="hidden")
    stop.click(_stopped, said, said, cancels=[first, again], api_visibility="private",
               show_progress="hidden")  # fmt: skip


_EMPTY = (
    "<p class='zoo-note'>Press Answer: the same words go to the model and to copies of it that "
    "take an eighth or less of its memory. The first answer waits some seconds for each.</p>"
)


def _nothing() -> tuple[str, str, str]:
    """Show nothing: what is shown always belongs to the prompt beside it."""
    return _EMPTY, "", ""


def _stopped(shown: str) -> str:
    """Keep what was written, and say so."""
    return f"{shown}<p class='zoo-note'>Stopped.</p>"
