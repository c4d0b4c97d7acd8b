"""The page's On-device cost tab: what a network costs where, and which networks fit a device."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from zoo.errors import ZooError
from zoo.page import charts, costing, shelving
from zoo.page.costing import Pricelist, Prices
from zoo.page.parts import CHOOSE, as_given, as_uploaded, complaint
from zoo.page.tabs.contract import Context

TITLE, ORDER = "On-device cost", 18
REQUIRES: Mapping[str, str] = {}
CSS = charts.CSS


class Till:
    """What all visitors share."""

    def __init__(self, context: Context) -> None:
        self.counter = Pricelist(context.models)
        own = [artifact.ref for artifact in context.models if artifact.ref in self.counter.labels]
        self.default = own[0] if own else costing.DEFAULT

    def price(
        self, ref: str | None, file: str | None = None, devices: Sequence[str] | None = None
    ) -> Iterator[tuple[str, str, str]]:
        """Price a network or a .tflite file on devices: a table, the operators, and Python."""
        given: Any = devices or []  # a program may name one alone, or send anything
        names: list[str] = list(given) if isinstance(given, list) else [given]
        source: str | Path = ref or "" if file is None else Path(file)
        shown = Path(file).name if file else ref or ""
        try:
            for priced in self.counter.price(source, names):
                yield self._shown(priced, names, shown)
        except ZooError as error:
            text = str(error) if file is None else str(error).replace(file, Path(file).name)
            raise complaint(text) from error

    def _shown(self, priced: Prices, names: Sequence[str], ref: str) -> tuple[str, str, str]:
        code = costing.code(f"./{ref}" if ref.endswith(".tflite") else ref, names)
        return costing.table(priced), costing.operators(priced, names[0]), code

    def fits(self, device: str, task: str) -> tuple[str, str]:
        """Say which networks fit a device: a chart and a table, and no card."""
        try:
            return costing.chart(self.counter.fits(device, task), device), ""
        except ZooError as error:
            raise complaint(str(error)) from error


def build(context: Context) -> None:
    """Lay out both questions: what one network costs, and which networks fit."""
    page = Till(context)
    names = list(costing.DEVICES)
    with gr.Tabs():
        with gr.Tab("One network", id="one"):
            _one(page, names)
        with gr.Tab("What fits a device", id="fits") as fits:
            _fits(page, fits, names[0])


def _one(page: Till, names: list[str]) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=280):
            model = as_given(gr.Dropdown(
                [(label, ref) for ref, label in page.counter.labels.items()], value=page.default,
                label="Network", elem_id="cost-model",
            ))  # fmt: skip
            file = gr.File(
                label="Or a .tflite file of yours", file_types=[".tflite"], height=150,
                elem_id="cost-file",
            )  # fmt: skip
            as_uploaded(file)
            where = as_given(gr.Dropdown(
                costing.devices(), value=names, multiselect=True, label="Devices",
                max_choices=costing.MOST_DEVICES, elem_id="cost-devices",
            ))  # fmt: skip
            with gr.Row():
                start = gr.Button("What does it cost?", variant="primary", elem_id="cost-start")
                stop = gr.Button("Stop", elem_id="cost-stop", min_width=60)
        with gr.Column(scale=8, min_width=320):
            table = gr.HTML(_EMPTY, elem_id="cost-table")
            parts = gr.HTML("", elem_id="cost-operators")
    with gr.Accordion("Use this: lines of Python", open=False):
        lines = gr.Code(
            costing.code(page.default, names), language="python", show_label=False,
            interactive=False, lines=4, elem_id="cost-code",
        )  # fmt: skip
    outputs = [table, parts, lines]
    call: Mapping[str, Any] = {
        "fn": page.price, "inputs": [model, file, where], "outputs": outputs,
        "concurrency_limit": 1, "concurrency_id": "cost", "show_progress_on": [table],
    }  # fmt: skip
    model.input(lambda: None, None, file, api_visibility="private")  # the last choice counts
    run = gr.on(
        [start.click, model.input, file.upload, where.input],
        api_name="price", trigger_mode="always_last", **call,
    )  # fmt: skip
    run.failure(_nothing, None, outputs, api_visibility="private", show_progress="hidden")
    stop.click(None, None, None, cancels=[run], api_visibility="private")


_EMPTY = (
    "<p class='zoo-note'>Choose a network, or drop in a file; every method that knows a device "
    "answers, and how far they are apart is how sure anyone can be.</p>"
)


def _nothing() -> tuple[str, str, str]:
    """Show nothing: what is shown always belongs to the network beside it."""
    return _EMPTY, "", ""


def _fits(page: Till, tab: gr.Tab, name: str) -> None:
    tasks = costing.tasks()
    with gr.Row():
        device = as_given(
            gr.Dropdown(costing.devices(), value=name, label="Device", elem_id="fits-device")
        )
        task = as_given(gr.Dropdown(
            [(word.replace("-", " "), word) for word in tasks], label="Task", filterable=False,
            value="keyword-spotting" if "keyword-spotting" in tasks else tasks[0],
            elem_id="fits-task",
        ))  # fmt: skip
    chart = gr.HTML("", js_on_load=CHOOSE, elem_id="fits-chart", min_height=60)
    card = gr.Markdown("", elem_id="fits-card", elem_classes="zoo-card")
    outputs = [chart, card]
    call: Mapping[str, Any] = {
        "fn": page.fits, "inputs": [device, task], "outputs": outputs,
        "trigger_mode": "always_last", "concurrency_limit": 1, "concurrency_id": "cost",
        "show_progress_on": [chart],
    }  # fmt: skip
    for run in (
        gr.on([device.input, task.input], api_name="fits", **call),
        tab.select(api_visibility="private", **call),
    ):
        run.failure(
            lambda: ("", ""), None, outputs, api_visibility="private", show_progress="hidden"
        )
    chart.select(_card, None, card, api_visibility="private", show_progress="hidden")


def _card(event: gr.EventData) -> str:
    try:
        return shelving.card(str(event.ref))
    except ZooError as error:
        raise complaint(str(error)) from error
