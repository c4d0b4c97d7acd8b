"""Building integer ONNX files: every operator between QuantizeLinear and DequantizeLinear."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.deploy.formats import ONNX
from zoo.errors import MismatchError
from zoo.graph.ir import Graph, Op, Quantization
from zoo.graph.kinds import is_batched
from zoo.graph.layout import FIRST, NCHW, channels_first

OPSET = 20


class Model:
    """An `onnx.ModelProto` under construction."""

    def __init__(self, graph: Graph, onnx: Any) -> None:
        self.graph, self.onnx, self.batched = graph, onnx, is_batched(graph)
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def model(self) -> Any:
        """Return the finished model."""
        helper, graph = self.onnx.helper, self.graph
        several = len(graph.inputs) > 1, len(graph.outputs) > 1
        inputs, outputs = [], []
        for place, name in enumerate(graph.inputs):
            outer = f"input{place}" if several[0] else "input"
            inputs.append(self.value(outer, name))
            self.quantize(outer, name)
        for op in graph.ops:
            ONNX.of(op)(self, op)
        for place, name in enumerate(graph.outputs):
            outer = f"output{place}" if several[1] else "output"
            outputs.append(self.value(outer, name))
            self.node("Identity", [self.real(name)], outer)
        values = [self.onnx.numpy_helper.from_array(v, n) for n, v in self.constants.items()]
        body = helper.make_graph(self.nodes, "main", inputs, outputs, values)
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(body, opset_imports=opsets, ir_version=9, producer_name="edge-zoo")

    def value(self, outer: str, name: str) -> Any:
        """Return the type of an input or output: any batch of a tensor's shape, if it takes any."""
        first, *rest = channels_first(self.graph.tensors[name].shape)
        return self.onnx.helper.make_tensor_value_info(
            outer, self.onnx.TensorProto.FLOAT, ["batch" if self.batched else first, *rest]
        )

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Append a node; return its output."""
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, name: str, value: Any) -> str:
        """Store an initializer; return its name."""
        self.constants[name] = np.asarray(value, order="C")
        return name

    def meaning(self, name: str, dtype: type[Any], own: str = "") -> list[str]:
        """Return the names, beginning with `own`, of a tensor's scale and zero point."""
        own = own or name
        meaning = self.graph.tensors[name].quantization
        if meaning is None:
            raise MismatchError(f"tensor {name!r} is not quantized")
        shape = () if meaning.axis is None else (-1,)
        scales = np.array(meaning.scales, np.float32).reshape(shape)
        zeros = np.array(meaning.zero_points).astype(dtype).reshape(shape)
        return [self.constant(f"{own}.scale", scales), self.constant(f"{own}.zero", zeros)]

    def quantize(self, real: str, name: str) -> None:
        """Round a real value to the integers of tensor `name`, and turn them back into reals."""
        meaning = self.meaning(name, np.int8)
        integers = self.node("QuantizeLinear", [real, *meaning], f"{name}.integers")
        self.node("DequantizeLinear", [integers, *meaning], f"{name}.real")

    def real(self, name: str) -> str:
        """Return the name of a tensor's real value."""
        return f"{name}.real"

    def parameter(self, name: str, value: NDArray[Any], axis: int = 0) -> str:
        """Store integers of a weight, bias or constant, in ONNX's order; return their reals.

        Each op has its own: ONNX Runtime makes its form of a weight under a name that follows from
        the weight's, and fails at the second ("Attempt to replace the existing tensor").
        """
        own = name
        while f"{own}.integers" in self.constants:
            own += "+"
        meaning = self.meaning(name, value.dtype.type, own)
        stored = self.constant(f"{own}.integers", value)
        return self.node("DequantizeLinear", [stored, *meaning], self.real(own), axis=axis)

    def operand(self, name: str, rank: int) -> str:
        """Return the real value of an operand of an elementwise op."""
        if name not in self.graph.values:
            return self.real(name)
        value = self.graph.values[name]
        value = value.reshape((1,) * (rank - value.ndim) + value.shape)
        return self.parameter(name, value.transpose(NCHW) if rank == 4 else value)

    def emit(self, op: Op, kind: str, inputs: list[str], **attributes: Any) -> None:
        """Add an op, its fused activation, and the rounding of its result."""
        output = op.outputs[0]
        value = self.node(kind, inputs, f"{output}.exact", **attributes)
        activation = op.attributes.get("activation")
        if activation == "relu":
            value = self.node("Relu", [value], f"{output}.relu")
        elif activation == "relu6":
            low, high = (
                self.constant(f"{output}.{key}", np.float32(limit))
                for key, limit in (("low", 0), ("high", 6))
            )
            value = self.node("Clip", [value, low, high], f"{output}.relu6")
        elif activation is not None:
            raise MismatchError(f"{op.label} has the fused activation {activation!r}")
        self.quantize(value, output)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape, channels last."""
        return self.graph.tensors[name].shape

    def axis(self, op: Op, dim: int) -> int:
        """Return where a dimension of an op's input lies in ONNX's order."""
        return FIRST[dim] if len(self.shape(op.inputs[0])) == 4 else dim

    def scale(self, op: Op) -> Quantization:
        """Return the quantization of an op's output."""
        meaning = self.graph.tensors[op.outputs[0]].quantization
        assert meaning is not None
        return meaning
