"""The page's Reliability tab: one flipped bit in a device's register, and what it does."""

from collections.abc import Iterator, Mapping
from typing import Any

import gradio as gr

from zoo.errors import ZooError
from zoo.page import flipped, flipping
from zoo.page.flipping import MOST_PLACES, OPENING, REGISTERS, Rig
from zoo.page.parts import complaint, note
from zoo.page.tabs.contract import Context
from zoo.resilience.faults import BITS

TITLE, ORDER = "Reliability", 18
REQUIRES: Mapping[str, str] = {"soundfile": "audio", "soxr": "audio"}
CSS = flipped.CSS


class Lab:
    """What all visitors share."""

    def __init__(self, context: Context) -> None:
        self.rig = Rig(context.models)

    def flip(
        self, network: Any, example: Any, layer: Any, register: Any, bit: Any, place: Any
    ) -> tuple[dict[str, float], dict[str, float], str, str, str]:
        """Return the answers without and with a flip, the maps, what happened, and Python."""
        try:
            found = self.rig.flip(network, example, layer, register, bit, place)
        except ZooError as error:
            raise complaint(str(error)) from error
        return (
            found.before,
            found.after,
            flipped.maps(found),
            flipped.words(found),
            flipping.code(network),
        )

    def fitted(
        self, network: Any, example: Any, layer: Any, register: Any, bit: Any, place: Any
    ) -> tuple[Any, ...]:
        """Return what the other controls offer for a network and a register, and its flip.

        What was chosen is kept where it can be; the heat map is of something else, and goes.
        """
        try:
            mounted = self.rig.mounted(network)
            count = flipping.faults(mounted, register)
        except ZooError as error:
            raise complaint(str(error)) from error
        examples, layers, most = [*mounted.examples], mounted.layers, BITS[register] - 1
        example = example if example in examples else mounted.first
        layer = layer if layer in layers else layers[0]
        bit = bit if isinstance(bit, int | float) and 0 <= bit <= most else most
        return (
            gr.update(choices=examples, value=example),
            gr.update(choices=layers, value=layer),
            gr.update(maximum=most, value=bit),
            gr.update(value=flipped.button(count)),
            "",
            *self.flip(network, example, layer, register, bit, place),
        )

    def flip_rates(self, network: Any, register: Any) -> Iterator[str]:
        """Draw bit flips in a register: yield how many turned the answer, by layer and bit."""
        try:
            for found in self.rig.rates(network, register):
                yield flipped.heat(found)
        except ZooError as error:
            raise complaint(str(error)) from error


def build(context: Context) -> None:
    """Lay out the choices and what a flip does, and connect them."""
    try:
        page = Lab(context)
        mounted = page.rig.mounted(page.rig.default)
    except ZooError as error:
        note(f"{error}")
        return
    number, register, bit, place = OPENING
    layer = mounted.layers[min(number, len(mounted.layers) - 1)]
    first = page.rig.default, mounted.first, layer, register, bit, place
    before, after, maps, words, code = page.flip(*first)
    note(
        "Radiation or a low voltage may flip a bit in a register of a chip. Choose which, and see "
        "how far it gets."
    )
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=280):
            chosen = _controls(page, first)
            another = gr.Button("Another place", elem_id="flip-another")
        with gr.Column(scale=8, min_width=300):
            shown = gr.HTML(maps, elem_id="flip-maps")
            said = gr.HTML(words, elem_id="flip-words")
            with gr.Row():
                clean = gr.Label(
                    before, num_top_classes=3, label="Without the flip", min_width=140,
                    elem_id="flip-before",
                )  # fmt: skip
                faulty = gr.Label(
                    after, num_top_classes=3, label="With the flip", min_width=140,
                    elem_id="flip-after",
                )  # fmt: skip
    with gr.Row():
        count = flipping.faults(mounted, register)
        start = gr.Button(flipped.button(count), variant="primary", elem_id="flip-measure")
        stop = gr.Button("Stop", elem_id="flip-stop", min_width=60)
    heat = gr.HTML("", elem_id="flip-heat")
    with gr.Accordion("Use this: lines of Python", open=False):
        lines = gr.Code(
            code, language="python", show_label=False, interactive=False, lines=3,
            elem_id="flip-code",
        )  # fmt: skip
    outputs = [clean, faulty, shown, said, lines]
    _connect(page, chosen, outputs, another, (start, stop, heat))


def _controls(page: Lab, first: tuple[Any, ...]) -> list[Any]:
    """Lay out what visitors choose; network, example, layer, register, bit and place."""
    network, example, layer, register, bit, place = first
    mounted = page.rig.mounted(network)
    return [
        gr.Dropdown(
            [(x.label, ref) for ref, x in page.rig.shelf.items()], value=network,
            label="Network", filterable=False, elem_id="flip-network",
        ),
        gr.Radio([*mounted.examples], value=example, label="Input", elem_id="flip-example"),
        gr.Dropdown(
            mounted.layers, value=layer, label="Layer", filterable=False, elem_id="flip-layer"
        ),
        gr.Radio([*REGISTERS], value=register, label="Register", elem_id="flip-register"),
        gr.Slider(
            0, BITS[register] - 1, bit, step=1, label="Bit, 0 is the least", buttons=[],
            elem_id="flip-bit",
        ),
        gr.Number(
            place, label="Place: which cycle, and which register of its kind", precision=0,
            minimum=0, maximum=MOST_PLACES, elem_id="flip-place",
        ),
    ]  # fmt: skip


def _connect(
    page: Lab, chosen: list[Any], outputs: list[Any], another: Any, measuring: tuple[Any, ...]
) -> None:
    network, example, layer, register, bit, place = chosen
    start, stop, heat = measuring
    quiet: Mapping[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    # Gradio would refuse what a control does not offer (any more) with a traceback.
    raw: Mapping[str, Any] = {"preprocess": False, "concurrency_limit": 1}
    measured = start.click(
        page.flip_rates, [network, register], heat, api_name="flip_rates", trigger_mode="once",
        concurrency_id="flip-rates", show_progress="minimal", **raw,
    )  # fmt: skip
    stop.click(None, cancels=[measured], **quiet)  # what was measured stays, with its count
    call: Mapping[str, Any] = {
        "inputs": chosen, "concurrency_id": "flip", "show_progress_on": outputs[:2], **raw
    }  # fmt: skip
    moving = another.click(_next, place, place, preprocess=False, **quiet)
    for run in (
        gr.on(
            [example.input, layer.input, bit.input, place.input], page.flip, outputs=outputs,
            api_name="flip", trigger_mode="always_last", **call,
        ),
        gr.on(
            [network.input, register.input], page.fitted,
            outputs=[example, layer, bit, start, heat, *outputs], cancels=[measured],
            api_visibility="private", trigger_mode="always_last", **call,
        ),
        moving.success(page.flip, outputs=outputs, api_visibility="private", **call),
    ):  # fmt: skip
        run.failure(_nothing, None, outputs, **quiet)


def _next(place: Any) -> int:
    """Return the place after this one, the first after the last."""
    is_number = isinstance(place, int | float) and 0 <= place < MOST_PLACES
    return int(place) + 1 if is_number else 0


def _nothing() -> tuple[None, None, str, str, str]:
    """Show nothing: what is shown always belongs to the choices beside it."""
    return None, None, "", "", ""
