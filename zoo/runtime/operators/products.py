"""Products of two computed matrices."""

import numpy as np
import torch
from torch import Tensor

from zoo.errors import MismatchError
from zoo.graph.ir import Graph, Op
from zoo.runtime.integer_base import Kernel, operands, quantization_of, reach
from zoo.runtime.integer_tables import output_rescale
from zoo.runtime.operators.contract import FloatKernel, IntegerMaker


def _turned(op: Op, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the matrices as they are multiplied."""
    x = x.mT if op.attributes["adj_x"] else x
    return x, y.mT if op.attributes["adj_y"] else y


def _product(graph: Graph, op: Op, x: Tensor, y: Tensor) -> Tensor:
    x, y = _turned(op, x, y)
    return x @ y


def _integer_product(graph: Graph, op: Op) -> Kernel:
    """Sums of products without zero points, exact in float64, and one rescaling."""
    dtypes = {graph.tensors[name].dtype for name in (*op.inputs, *op.outputs)}
    if dtypes != {"int8"}:
        raise MismatchError(f"it is on {', '.join(sorted(dtypes))}; its kernel here is for int8")
    first, second, output = (quantization_of(graph, n) for n in (*op.inputs, *op.outputs))
    # The runtimes multiply the two scales in float32, and divide in float64.
    factor = float(np.float32(first.scale) * np.float32(second.scale)) / output.scale
    shape = graph.tensors[op.inputs[0]].shape
    depth = shape[-2] if op.attributes["adj_x"] else shape[-1]
    bound = depth * reach(graph, op.inputs[0]) * reach(graph, op.inputs[1])
    if bound >= 2**31:
        raise MismatchError("its accumulator can exceed 32 bits")
    rescale = output_rescale(graph, op, factor, bound)

    def run(*inputs: Tensor) -> Tensor:
        x, y = operands(graph, op, inputs)
        pair = _turned(op, x.double() - first.zero_point, y.double() - second.zero_point)
        return rescale(torch.matmul(*pair))

    return run


FLOAT: dict[str, FloatKernel] = {"batch_matmul": _product}
INTEGER: dict[str, IntegerMaker] = {"batch_matmul": _integer_product}
