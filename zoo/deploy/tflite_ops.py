"""What each operator of a `.tflite` file is in the graph IR."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.deploy import tflite_schema
from zoo.errors import MismatchError, UnsafeFileError
from zoo.graph.ir import Tensor

_ACTIVATIONS = {number: name for name, number in tflite_schema.ACTIVATIONS.items()}


class Call:
    """One operator of the file: its operands, options, and constants that become attributes."""

    def __init__(
        self,
        name: str,
        inputs: tuple[str, ...],
        output: str,
        *,
        options: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        values: Mapping[str, NDArray[Any]],
    ) -> None:
        self.name, self.inputs, self.output = name, inputs, output
        self.options, self.tensors, self.values = options, tensors, values

    def shape(self, place: int) -> tuple[int, ...]:
        """Return the shape of an operand."""
        return self.tensors[self.inputs[place]].shape

    def option(self, key: str, default: Any = 0) -> Any:
        """Return an option, or what the schema says when it is absent."""
        return self.options.get(key, default)

    def expect(self, *counts: int) -> None:
        """Raise unless there are so many operands."""
        if len(self.inputs) not in counts:
            raise MismatchError(
                f"{self.name} at {self.output} has {len(self.inputs)} operands; "
                f"expected {' or '.join(map(str, counts))}"
            )

    def rank4(self, *places: int) -> None:
        """Raise unless these operands are images or kernels."""
        for place in places:
            if len(self.shape(place)) != 4:
                raise MismatchError(
                    f"{self.name} at {self.output} has an operand of shape {self.shape(place)}; "
                    "expected 4 dimensions"
                )

    def constant(self, place: int) -> NDArray[Any]:
        """Return an operand that must be constant integers."""
        name = self.inputs[place]
        value = self.values.get(name)
        if value is None or value.dtype.kind != "i":
            raise MismatchError(
                f"{self.name} at {self.output}: {name!r} is computed while running; expected "
                "constant integers"
            )
        return value

    def activation(self) -> dict[str, Any]:
        """Return the fused activation as an attribute."""
        number = self.option("activation")
        if number not in _ACTIVATIONS:
            raise MismatchError(f"{self.name} at {self.output} has fused activation {number}")
        return {"activation": _ACTIVATIONS[number]} if number else {}


Parsed = tuple[str, tuple[str, ...], dict[str, Any]]


def _window(call: Call, kernel: tuple[int, int]) -> dict[str, Any]:
    """Attributes of a convolution or pool; SAME padding as numbers (the odd pixel at the end)."""
    stride = (call.option("stride_h"), call.option("stride_w"))
    dilation = (call.option("dilation_h", 1), call.option("dilation_w", 1))
    if min(*stride, *dilation, *kernel) < 1:
        raise UnsafeFileError(f"{call.name} at {call.output} has stride or kernel below 1")
    padding = []
    for size, k, s, d in zip(call.shape(0)[1:3], kernel, stride, dilation, strict=True):
        total = 0
        if call.option("padding") == tflite_schema.SAME:
            total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        padding += [total // 2, total - total // 2]
    attributes = {"kernel": kernel, "stride": stride, "dilation": dilation}
    return {**attributes, "padding": tuple(padding), **call.activation()}


def _conv(call: Call) -> Parsed:
    call.expect(2, 3)
    call.rank4(0, 1)
    weight = call.shape(1)
    depthwise = call.name == "DEPTHWISE_CONV_2D"
    channels = call.shape(0)[3]
    attributes = _window(call, (weight[1], weight[2]))
    attributes["groups"] = channels if depthwise else max(1, channels // weight[3])
    kind = "depthwise_conv2d" if depthwise else "conv2d"
    return kind, call.inputs, attributes


def _fully_connected(call: Call) -> Parsed:
    call.expect(2, 3)
    if call.option("weights_format"):
        raise MismatchError(f"FULLY_CONNECTED at {call.output} has shuffled weights")
    return "fully_connected", call.inputs, call.activation()


def _pool(kind: str) -> Callable[[Call], Parsed]:
    def parse(call: Call) -> Parsed:
        call.expect(1)
        call.rank4(0)
        kernel = (call.option("filter_height"), call.option("filter_width"))
        return kind, call.inputs, {**_window(call, kernel), "count_padding": False}

    return parse


def _binary(kind: str) -> Callable[[Call], Parsed]:
    def parse(call: Call) -> Parsed:
        call.expect(2)
        if call.tensors[call.output].dtype == "int16" and call.option("pot_scale_int16", False):
            raise MismatchError(
                f"{call.name} at {call.output} may shift int16 instead of rescaling it, which "
                "runtimes do differently; convert the file with pot_scale_int16 = false"
            )
        return kind, call.inputs, call.activation()

    return parse


def _unary(kind: str) -> Callable[[Call], Parsed]:
    def parse(call: Call) -> Parsed:
        call.expect(2 if kind == "prelu" else 1)
        return kind, call.inputs, {}

    return parse


def _concat(call: Call) -> Parsed:
    rank = len(call.shape(0))
    axis = call.option("axis")
    return "concat", call.inputs, {"dim": axis + rank if axis < 0 else axis, **call.activation()}


def _softmax(call: Call) -> Parsed:
    call.expect(1)
    beta = call.option("beta", 0.0)
    if not 0 < beta < math.inf:
        raise UnsafeFileError(f"SOFTMAX at {call.output} has beta {beta}")
    return "softmax", call.inputs, {"dim": len(call.shape(0)) - 1, "beta": beta}


def _reshape(call: Call) -> Parsed:
    return "reshape", call.inputs[:1], {}


def _pad(call: Call) -> Parsed:
    call.expect(3 if call.name == "PADV2" else 2)
    pairs = call.constant(1)
    if pairs.shape != (len(call.shape(0)), 2) or np.any(pairs < 0) or np.any(pairs > 2**20):
        raise UnsafeFileError(f"PAD at {call.output} has impossible paddings")
    padding = tuple(int(size) for pair in pairs[::-1] for size in pair)
    attributes = {"padding": padding, "value": _pad_value(call)}
    return "pad", call.inputs[:1], attributes


def _pad_value(call: Call) -> float:
    """Return the value PADV2 pads with: an integer minus the zero point, or a float."""
    if call.name == "PAD":
        return 0
    value = call.values.get(call.inputs[2])
    if value is None or value.size != 1 or not value.flat[0] < math.inf:
        raise MismatchError(f"PADV2 at {call.output} does not pad with one constant number")
    if value.dtype.kind == "f":
        return float(value.flat[0])
    meaning = call.tensors[call.inputs[0]].quantization
    return int(value.flat[0]) - (0 if meaning is None else meaning.zero_point)


def _axes(call: Call) -> list[int]:
    rank, axes = len(call.shape(0)), call.constant(1).reshape(-1)
    if not len(axes) or np.any(axes < -rank) or np.any(axes >= rank):
        raise UnsafeFileError(f"{call.name} at {call.output} has axes outside its {rank}")
    return [int(axis) % rank for axis in axes]


def _transpose(call: Call) -> Parsed:
    call.expect(2)
    return "transpose", call.inputs[:1], {"dims": tuple(_axes(call))}


def _mean(call: Call) -> Parsed:
    call.expect(2)
    dims = tuple(sorted(set(_axes(call))))
    return "mean", call.inputs[:1], {"dim": dims, "keepdim": bool(call.option("keep_dims"))}


def _depth_to_space(call: Call) -> Parsed:
    call.expect(1)
    return "depth_to_space", call.inputs, {"block": call.option("block_size")}


def _resize(kind: str) -> Callable[[Call], Parsed]:
    def parse(call: Call) -> Parsed:
        call.expect(2)
        size = tuple(int(item) for item in call.constant(1).reshape(-1))
        keys = ("align_corners", "half_pixel_centers")
        attributes = {key: bool(call.option(key)) for key in keys}
        return kind, call.inputs[:1], {"size": size, **attributes}

    return parse


KINDS: dict[str, Callable[[Call], Parsed]] = {
    "ADD": _binary("add"),
    "AVERAGE_POOL_2D": _pool("avg_pool2d"),
    "CONCATENATION": _concat,
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _conv,
    "DEPTH_TO_SPACE": _depth_to_space,
    "DEQUANTIZE": _unary("dequantize"),
    "FULLY_CONNECTED": _fully_connected,
    "MAX_POOL_2D": _pool("max_pool2d"),
    "MAXIMUM": _binary("maximum"),
    "MEAN": _mean,
    "MINIMUM": _binary("minimum"),
    "MUL": _binary("mul"),
    "PAD": _pad,
    "PADV2": _pad,
    "PRELU": _unary("prelu"),
    "QUANTIZE": _unary("quantize"),
    "RELU": _unary("relu"),
    "RELU6": _unary("relu6"),
    "RESHAPE": _reshape,
    "RESIZE_BILINEAR": _resize("resize_bilinear"),
    "RESIZE_NEAREST_NEIGHBOR": _resize("resize_nearest"),
    "SOFTMAX": _softmax,
    "SQUEEZE": _reshape,
    "SUB": _binary("sub"),
    "TRANSPOSE": _transpose,
}
