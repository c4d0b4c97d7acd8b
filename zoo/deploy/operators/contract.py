"""How files express a kind of operator: a row for TFLite, and what groups share in reading one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zoo.deploy import tflite_schema
from zoo.errors import MismatchError, UnsafeFileError
from zoo.graph.ir import Graph, Op, Tensor
from zoo.graph.windows import same_padding

if TYPE_CHECKING:
    from zoo.deploy.onnx_model import Model

_ACTIVATIONS = {number: name for name, number in tflite_schema.ACTIVATIONS.items()}


class OperatorCall:
    """One operator of the file: its operands, options, and constants that become attributes.

    An operand that the file leaves out has the name "".
    """

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
        """Return the shape of an operand.

        Raises:
            MismatchError: the file leaves it out.

        """
        if not self.inputs[place]:
            raise MismatchError(f"{self.name} at {self.output} leaves out operand {place}")
        return self.tensors[self.inputs[place]].shape

    def option(self, key: str, default: Any = 0) -> Any:
        """Return an option, or the schema's default if it is absent."""
        return self.options.get(key, default)

    def expect(self, *counts: int) -> None:
        """Raise a MismatchError unless the number of operands is one of these."""
        if len(self.inputs) not in counts:
            raise MismatchError(
                f"{self.name} at {self.output} has {len(self.inputs)} operands; "
                f"expected {' or '.join(map(str, counts))}"
            )

    def rank4(self, *places: int) -> None:
        """Raise a MismatchError unless these operands are images or kernels: 4 dimensions."""
        for place in places:
            if len(self.shape(place)) != 4:
                raise MismatchError(
                    f"{self.name} at {self.output} has an operand of shape {self.shape(place)}; "
                    "expected 4 dimensions"
                )

    def constant(self, place: int) -> NDArray[Any]:
        """Return an operand that must be constant integers.

        Raises:
            MismatchError: it is computed at run time, or not integers.

        """
        name = self.inputs[place]
        value = self.values.get(name)
        if value is None or value.dtype.kind != "i":
            raise MismatchError(
                f"{self.name} at {self.output}: {name!r} is computed at run time; expected "
                "constant integers"
            )
        return value

    def activation(self) -> dict[str, Any]:
        """Return the fused activation as an attribute; {} if there is none.

        Raises:
            MismatchError: the schema's number for it is unknown.

        """
        number = self.option("activation")
        if number not in _ACTIVATIONS:
            raise MismatchError(f"{self.name} at {self.output} has fused activation {number}")
        return {"activation": _ACTIVATIONS[number]} if number else {}

    def axes(self) -> list[int]:
        """Return the dimensions that the second operand lists, counted from 0.

        Raises:
            UnsafeFileError: there are none, or one is out of range.

        """
        rank, axes = len(self.shape(0)), self.constant(1).reshape(-1)
        if not len(axes) or np.any(axes < -rank) or np.any(axes >= rank):
            raise UnsafeFileError(f"{self.name} at {self.output} has axes outside its {rank}")
        return [int(axis) % rank for axis in axes]


Parsed = tuple[tuple[str, ...], dict[str, Any]]  # operands, attributes
Options = dict[str, Any]
Parts = tuple[str, Options, list[NDArray[Any]]]  # operator, options, constant operands to append
Emit = Callable[["Model", Op], None]  # adds an op to an ONNX file


@dataclass(frozen=True, kw_only=True)
class TfliteOp:
    """A kind of operator in `.tflite` files.

    Attributes:
        names: names of the file's operators that are of this kind, as in the schema.
        write: returns the operator for an op of a graph.
        read: returns the op's operands and attributes for an operator of a file.
        order: where the first operands of the file's operator stand among the op's and, after
            them, the constants of `write` (-1 is the last); the others follow in their order.
        states: how many of the last operands it reads are states that the operator overwrites;
            the op returns them after its outputs.

    """

    names: tuple[str, ...]
    write: Callable[[Graph, Op], Parts]
    read: Callable[[OperatorCall], Parsed]
    order: tuple[int, ...] = ()
    states: int = 0


def unwritten(graph: Graph, op: Op) -> Parts:
    """Refuse to write a kind that is only read.

    Raises:
        MismatchError: always.

    """
    raise MismatchError(f"{op.label} is read from files, not written: keep the file it came from")


def without_options(*counts: int) -> Callable[[OperatorCall], Parsed]:
    """Return the reader of an operator without options, with one of these numbers of operands."""

    def read(call: OperatorCall) -> Parsed:
        call.expect(*counts)
        return call.inputs, {}

    return read


def alone(graph: Graph, op: Op) -> Parts:
    """Write an operator without options, named like its kind."""
    return op.kind.upper(), {}, []


def activation_code(op: Op) -> int:
    """Return the schema's number for an op's fused activation.

    Raises:
        MismatchError: TFLite has no such activation.

    """
    activation = op.attributes.get("activation")
    if activation not in tflite_schema.ACTIVATIONS:
        raise MismatchError(
            f"{op.label} has the fused activation {activation!r}, unknown to TFLite; for clamps "
            "use zoo.graph.rewrite.without_clamps"
        )
    return tflite_schema.ACTIVATIONS[activation]


def window_options(graph: Graph, op: Op) -> Options:
    """Return the options that convolutions and pools share.

    Raises:
        MismatchError: the padding is neither zero nor TFLite's SAME.

    """
    a = op.attributes
    size = graph.tensors[op.inputs[0]].shape[1:3]
    same = same_padding(size, a["kernel"], a["stride"], a["dilation"])
    if any(a["padding"]) and a["padding"] != same:
        raise MismatchError(f"{op.label} has padding {a['padding']}, which is not TFLite's SAME")
    return {
        "padding": tflite_schema.SAME if any(a["padding"]) else tflite_schema.VALID,
        "stride_h": a["stride"][0],
        "stride_w": a["stride"][1],
        "activation": activation_code(op),
    }


def window(
    call: OperatorCall, kernel: tuple[int, int], size: tuple[int, ...] | None = None
) -> dict[str, Any]:
    """Return the attributes that convolutions and pools share; SAME padding as numbers.

    Args:
        call: the operator.
        kernel: height and width of its window.
        size: height and width of what the window moves over; None: of the first operand.

    Raises:
        UnsafeFileError: a stride, dilation or kernel size is below 1.

    """
    stride = (call.option("stride_h"), call.option("stride_w"))
    dilation = (call.option("dilation_h", 1), call.option("dilation_w", 1))
    if min(*stride, *dilation, *kernel) < 1:
        raise UnsafeFileError(f"{call.name} at {call.output} has stride or kernel below 1")
    padding: tuple[int, ...] = (0, 0, 0, 0)
    if call.option("padding") == tflite_schema.SAME:
        padding = same_padding(size or call.shape(0)[1:3], kernel, stride, dilation)
    attributes = {"kernel": kernel, "stride": stride, "dilation": dilation}
    return {**attributes, "padding": padding, **call.activation()}


def onnx_window(op: Op) -> dict[str, Any]:
    """Return the window of an op as attributes of an ONNX node."""
    top, bottom, left, right = op.attributes["padding"]
    return {
        "kernel_shape": list(op.attributes["kernel"]),
        "strides": list(op.attributes["stride"]),
        "pads": [top, left, bottom, right],
    }
