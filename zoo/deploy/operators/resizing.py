"""Images made larger or smaller, in files."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from zoo.deploy.operators.contract import Emit, OperatorCall, Parsed, Parts, TfliteOp
from zoo.graph.ir import Graph, Op

if TYPE_CHECKING:
    from zoo.deploy.onnx_model import Model

_KEYS = ("align_corners", "half_pixel_centers")


def _write(name: str) -> Callable[[Graph, Op], Parts]:
    def write(graph: Graph, op: Op) -> Parts:
        options = {key: op.attributes[key] for key in _KEYS}
        return name, options, [np.array(op.attributes["size"], np.int32)]

    return write


def _read(call: OperatorCall) -> Parsed:
    call.expect(2)
    size = tuple(int(pixels) for pixels in call.constant(1).reshape(-1))
    return call.inputs[:1], {"size": size, **{key: bool(call.option(key)) for key in _KEYS}}


def _factor(before: int, after: int) -> np.float32:
    """Return the factor of sizes that ONNX's floor(before * factor) brings back to `after`."""
    factor = np.float32(after / before)
    if before * float(factor) < after:
        factor = np.nextafter(factor, np.float32(np.inf))
    return factor


def _onnx(interpolation: str) -> Emit:
    def emit(model: "Model", op: Op) -> None:
        mode = "half_pixel" if op.attributes["half_pixel_centers"] else "asymmetric"
        mode = "align_corners" if op.attributes["align_corners"] else mode
        before = model.shape(op.inputs[0])[1:3]
        # All four factors: ONNX Runtime loses sizes, and mixes up factors of some axes, where it
        # moves the channels last for the convolutions around.
        factors = [_factor(*pair) for pair in zip(before, op.attributes["size"], strict=True)]
        scales = model.constant(f"{op.name}.scales", np.array([1, 1, *factors], np.float32))
        model.emit(
            op,
            "Resize",
            [model.real(op.inputs[0]), "", scales],
            mode=interpolation,
            coordinate_transformation_mode=mode,
            nearest_mode="floor" if mode == "asymmetric" else "round_prefer_ceil",
        )

    return emit


TFLITE = {
    "resize_bilinear": TfliteOp(
        names=("RESIZE_BILINEAR",), write=_write("RESIZE_BILINEAR"), read=_read
    ),
    "resize_nearest": TfliteOp(
        names=("RESIZE_NEAREST_NEIGHBOR",), write=_write("RESIZE_NEAREST_NEIGHBOR"), read=_read
    ),
}
ONNX: dict[str, Emit] = {
    "resize_bilinear": _onnx("linear"),
    "resize_nearest": _onnx("nearest"),
}
