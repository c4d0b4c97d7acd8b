"""From a module to what a channels-last runtime stores: the float graph that is then quantized."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from zoo.errors import MismatchError
from zoo.graph.check import check
from zoo.graph.ir import Graph, Kind, Op, Tensor, fuse
from zoo.graph.trace import trace

FUSED = frozenset({"relu", "relu6", "clamp"})
Move = Callable[[NDArray[Any]], NDArray[Any]]
_NHWC, _NCHW = (0, 2, 3, 1), (0, 3, 1, 2)  # order of dimensions, as in permute
_AXIS = {0: 0, 1: 3, 2: 1, 3: 2}  # a dimension's new number


def lower(module: nn.Module, input_shape: tuple[int, ...]) -> Graph:
    """Return the deployed network in the layout "channels_last", in float, with its values.

    Batch norms are folded, activations fused, scalars become constants, every layer has a bias, and
    what a convolution pads beyond TFLite's SAME becomes an operator. Inputs and outputs of 4
    dimensions are (N, H, W, C).

    Raises:
        MismatchError: an operator has no channels-last form here; the message names it.

    """
    graph = fuse(trace(module, input_shape, values=True), FUSED)
    lowered = _Lowering(graph).run()
    check(lowered)
    return lowered


def _copy(name: str, copy: str) -> Op:
    return Op(
        name=copy, kind="reshape", inputs=(name,), outputs=(copy,), attributes={}, macs=0, module=""
    )


def _same_move(first: Move, second: Move, shape: tuple[int, ...]) -> bool:
    places = np.arange(math.prod(shape)).reshape(shape)
    return np.array_equal(first(places), second(places))


def _moved(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[i] for i in _NHWC) if len(shape) == 4 else shape


class _Lowering:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.ops: list[Op] = []
        self.values: dict[str, NDArray[Any]] = {}
        self.moves: dict[str, Move] = {}  # how each parameter came to its form
        self.tensors = {
            t.name: dataclasses.replace(t, shape=_moved(t.shape), dtype="float32")
            for t in graph.tensors.values()
            if not t.is_parameter
        }

    def run(self) -> Graph:
        for op in self.graph.ops:
            handler = _HANDLERS.get(op.kind)
            if handler is None:
                raise MismatchError(
                    f"{op.label} has no channels-last form: replace it by one of "
                    f"{', '.join(sorted(_HANDLERS))}, or add it to zoo/graph/lower.py"
                )
            handler(self, op)
        outputs = self.outputs()
        used = {name for op in self.ops for name in (*op.inputs, *op.outputs)}
        used |= {*self.graph.inputs, *outputs}
        return dataclasses.replace(
            self.graph,
            ops=tuple(self.ops),
            outputs=outputs,
            tensors={name: t for name, t in self.tensors.items() if name in used},
            layout="channels_last",
            values={name: v for name, v in self.values.items() if name in used},
        )

    def outputs(self) -> tuple[str, ...]:
        """Return the outputs, each a tensor of its own; copies of inputs and of each other."""
        names: list[str] = []
        for place, name in enumerate(self.graph.outputs):
            if name in self.graph.inputs or name in names:
                copy = f"{name}.output{place}"
                self.tensors[copy] = dataclasses.replace(
                    self.tensors[name], name=copy, kind="output"
                )
                self.ops.append(_copy(name, copy))
                name = copy
            names.append(name)
        return tuple(names)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape in the layout "torch"."""
        return self.graph.tensors[name].shape

    def emit(self, op: Op, **changes: Any) -> None:
        self.ops.append(dataclasses.replace(op, **changes))

    def constant(
        self, name: str, value: NDArray[Any], kind: Kind = "constant", source: str = ""
    ) -> str:
        """Store a value; `source` is the parameter it came from."""
        self.values[name] = np.ascontiguousarray(value, np.float32)
        self.tensors[name] = Tensor(
            name=name, shape=value.shape, dtype="float32", kind=kind, source=source
        )
        return name

    def parameter(self, op: Op, place: int, move: Move = np.asarray) -> str:
        """Store a parameter in the form that an op takes it; return its name.

        Ops that share one share what is stored, unless they take it in different forms.
        """
        name = op.inputs[place]
        like, value = self.graph.tensors[name], self.graph.values[name]
        if name in self.moves and not _same_move(self.moves[name], move, value.shape):
            name = f"{op.name}.{like.kind}"
        self.moves[name] = move
        return self.constant(name, move(value), like.kind, like.source)

    def layer(self, op: Op, source: str, move: Move, **changes: Any) -> None:
        """Emit a convolution or fully connected layer; LiteRT takes no convolution without bias."""
        inputs = [source, self.parameter(op, 1, move)]
        if len(op.inputs) > 2:
            inputs.append(self.parameter(op, 2))
        else:
            zeros = np.zeros(self.graph.kernel(op)[0])
            inputs.append(self.constant(f"{op.name}.bias", zeros, "bias"))
        self.emit(op, inputs=tuple(inputs), **changes)

    def before(self, op: Op, kind: str, shape: tuple[int, ...], attributes: dict[str, Any]) -> str:
        """Put an op of another kind between `op` and its first input; return its output."""
        name = f"{op.name}.{kind}"
        self.tensors[name] = Tensor(name=name, shape=shape, dtype="float32", kind="activation")
        self.emit(
            op,
            name=name,
            kind=kind,
            inputs=op.inputs[:1],
            outputs=(name,),
            attributes=attributes,
            macs=0,
        )
        return name


def _same_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def _padded(lowering: _Lowering, op: Op, value: float) -> tuple[str, dict[str, Any]]:
    """Return the input and attributes of a window op whose padding TFLite can express."""
    height, width, channels = lowering.tensors[op.inputs[0]].shape[1:]
    a = op.attributes
    keys = zip((height, width), a["kernel"], a["stride"], a["dilation"], strict=True)
    same = tuple(side for sizes in keys for side in _same_padding(*sizes))
    top, bottom, left, right = a["padding"]
    if not any(a["padding"]) or (a["padding"] == same and not a.get("count_padding")):
        return op.inputs[0], dict(a)
    shape = (lowering.shape(op.inputs[0])[0], height + top + bottom, width + left + right, channels)
    around = {"padding": (0, 0, left, right, top, bottom, 0, 0), "value": value}
    return lowering.before(op, "pad", shape, around), {**a, "padding": (0, 0, 0, 0)}


def _conv2d(lowering: _Lowering, op: Op) -> None:
    source, attributes = _padded(lowering, op, 0.0)
    order = (1, 2, 3, 0) if op.kind == "depthwise_conv2d" else _NHWC
    lowering.layer(op, source, lambda weight: weight.transpose(order), attributes=attributes)


def _fully_connected(lowering: _Lowering, op: Op) -> None:
    if len(lowering.shape(op.inputs[0])) == 4:
        raise MismatchError(f"{op.label} acts on the width of images; use a 1x1 convolution")
    move: Move = np.asarray
    flat = lowering.graph.producers.get(op.inputs[0])
    if flat is not None and flat.kind == "reshape" and _reads_flat(lowering, flat):
        # The flattened image comes channels last here: its order moves into the weights.
        _, c, h, w = lowering.shape(flat.inputs[0])

        def move(weight: NDArray[Any]) -> NDArray[Any]:
            return weight.reshape(-1, c, h, w).transpose(_NHWC).reshape(len(weight), -1)

    lowering.layer(op, op.inputs[0], move)


def _reads_flat(lowering: _Lowering, flat: Op) -> bool:
    """Whether a reshape turns images into rows that only fully connected layers read."""
    graph, output = lowering.graph, flat.outputs[0]
    before, after = lowering.shape(flat.inputs[0]), lowering.shape(output)
    readers = graph.consumers.get(output, [])
    return (
        (len(before), len(after)) == (4, 2)
        and before[0] == after[0]
        and output not in graph.outputs
        and all(op.kind == "fully_connected" for op in readers)
    )


def _reshape(lowering: _Lowering, op: Op) -> None:
    before, after = lowering.shape(op.inputs[0]), lowering.shape(op.outputs[0])
    source = op.inputs[0]
    if not _reads_flat(lowering, op) and len(before) == 4 and _order_matters(before):
        source = lowering.before(op, "transpose", before, {"dims": _NCHW})
    if len(after) == 4 and _order_matters(after):
        name = f"{op.name}.reshape"
        lowering.tensors[name] = Tensor(name=name, shape=after, dtype="float32", kind="activation")
        lowering.emit(op, name=name, inputs=(source,), outputs=(name,))
        lowering.emit(op, kind="transpose", inputs=(name,), attributes={"dims": _NHWC})
        return
    lowering.emit(op, inputs=(source,))


def _order_matters(shape: tuple[int, ...]) -> bool:
    return shape[1] > 1 and shape[2] * shape[3] > 1


def _elementwise(lowering: _Lowering, op: Op) -> None:
    if "activation" in op.attributes and op.kind not in ("add", "sub", "mul"):
        raise MismatchError(f"{op.label} cannot take a fused activation")
    rank = len(lowering.shape(op.outputs[0]))
    names = []

    def move(value: NDArray[Any]) -> NDArray[Any]:
        value = value.reshape((1,) * (rank - value.ndim) + value.shape)
        return value.transpose(_NHWC) if rank == 4 else value

    for place, name in enumerate(op.inputs):
        parameter = lowering.graph.tensors[name].is_parameter
        names.append(lowering.parameter(op, place, move) if parameter else name)
    attributes = dict(op.attributes)
    if "constant" in attributes:
        value = np.full((1,) * rank, attributes.pop("constant"), np.float32)
        names.append(lowering.constant(f"{op.name}.constant", value))
    lowering.emit(op, inputs=tuple(names), attributes=attributes)


def _prelu(lowering: _Lowering, op: Op) -> None:
    slope, rank = lowering.graph.values[op.inputs[1]], len(lowering.shape(op.inputs[0]))
    shape = (*(1,) * (rank - 2), slope.size)  # without the batch
    slopes = lowering.parameter(op, 1, lambda value: value.reshape(shape))
    lowering.emit(op, inputs=(op.inputs[0], slopes))


def _pool(lowering: _Lowering, op: Op) -> None:
    if op.kind == "avg_pool2d" and any(op.attributes["padding"]):
        a = op.attributes
        if not a["count_padding"]:
            _, attributes = _padded(lowering, op, 0.0)
            if attributes["padding"] != a["padding"]:
                raise MismatchError(f"{op.label}: its padding is not SAME; pad before it instead")
    source, attributes = _padded(lowering, op, -np.inf if op.kind == "max_pool2d" else 0.0)
    lowering.emit(op, inputs=(source,), attributes=attributes)


def _axes(lowering: _Lowering, op: Op, dims: Any) -> tuple[int, ...]:
    rank = len(lowering.shape(op.inputs[0]))
    given = [dims] if isinstance(dims, int) else list(range(rank)) if dims is None else dims
    return tuple(_AXIS[dim % rank] if rank == 4 else dim % rank for dim in given)


def _mean(lowering: _Lowering, op: Op) -> None:
    dims, keep = _axes(lowering, op, op.attributes["dim"]), bool(op.attributes["keepdim"])
    rank = len(lowering.shape(op.inputs[0]))
    if not keep and rank == 4 and set(dims) not in ({1, 2}, {1, 2, 3}):
        raise MismatchError(
            f"{op.label}: average height and width (dim=(2, 3)), or keep dimensions"
        )
    lowering.emit(op, attributes={"dim": tuple(sorted(dims)), "keepdim": keep})


def _softmax(lowering: _Lowering, op: Op) -> None:
    (dim,) = _axes(lowering, op, op.attributes["dim"])
    if dim != len(lowering.shape(op.inputs[0])) - 1:
        raise MismatchError(f"{op.label}: softmax goes over channels (dim=1 of images)")
    lowering.emit(op, attributes={"dim": dim, "beta": 1.0})


def _concat(lowering: _Lowering, op: Op) -> None:
    (dim,) = _axes(lowering, op, op.attributes["dim"])
    lowering.emit(op, attributes={**op.attributes, "dim": dim})


def _pad(lowering: _Lowering, op: Op) -> None:
    rank, given = len(lowering.shape(op.inputs[0])), op.attributes["padding"]
    pairs = [(0, 0)] * rank  # by dimension
    for place in range(len(given) // 2):
        pairs[rank - 1 - place] = (given[2 * place], given[2 * place + 1])
    if rank == 4:
        pairs = [pairs[i] for i in _NHWC]
    if any(side < 0 for pair in pairs for side in pair):
        raise MismatchError(f"{op.label} cuts instead of padding")
    padding = tuple(side for pair in reversed(pairs) for side in pair)
    lowering.emit(op, attributes={**op.attributes, "padding": padding})


def _transpose(lowering: _Lowering, op: Op) -> None:
    dims = tuple(op.attributes["dims"])
    if len(dims) == 4:  # out (new order) <- torch order <- in (new order)
        dims = tuple(_AXIS[dims[i] % 4] for i in _NHWC)
    lowering.emit(op, attributes={"dims": dims})


def _depth_to_space(lowering: _Lowering, op: Op) -> None:
    """Reorder the channels for TFLite: its cells hold (row, column, channel), torch's the reverse.

    Where a convolution makes them for this op alone, its kernels change places, which costs
    nothing; else they are transposed.
    """
    block, outputs = op.attributes["block"], lowering.shape(op.outputs[0])[1]
    source = op.inputs[0]
    if outputs == 1:
        lowering.emit(op)
        return
    order = np.arange(outputs * block**2).reshape(outputs, block**2).T.reshape(-1)
    maker = lowering.graph.producers.get(source)
    alone = len(lowering.graph.consumers[source]) == 1 and source not in lowering.graph.outputs
    if maker is not None and maker.kind == "conv2d" and alone:
        for place, name in enumerate(maker.inputs[1:]):
            if len([o for o in lowering.graph.consumers[name] if o is not maker]):
                break
            if place < 2:
                lowering.values[name] = np.ascontiguousarray(lowering.values[name][order])
        else:
            lowering.emit(op)
            return
    _, height, width, channels = lowering.tensors[source].shape
    pixels = lowering.shape(source)[0], height * width
    x = lowering.before(op, "reshape", (*pixels, outputs, block**2), {})
    name = f"{op.name}.transpose"
    shape = (*pixels, block**2, outputs)
    lowering.tensors[name] = Tensor(name=name, shape=shape, dtype="float32", kind="activation")
    lowering.emit(
        op,
        name=name,
        kind="transpose",
        inputs=(x,),
        outputs=(name,),
        attributes={"dims": (0, 1, 3, 2)},
    )
    back = f"{op.name}.back"
    shape = (pixels[0], height, width, channels)
    lowering.tensors[back] = Tensor(name=back, shape=shape, dtype="float32", kind="activation")
    lowering.emit(op, name=back, kind="reshape", inputs=(name,), outputs=(back,), attributes={})
    lowering.emit(op, inputs=(back,))


def _resize(lowering: _Lowering, op: Op) -> None:
    lowering.emit(op)


_HANDLERS: dict[str, Callable[[_Lowering, Op], None]] = {
    "conv2d": _conv2d,
    "depthwise_conv2d": _conv2d,
    "fully_connected": _fully_connected,
    "reshape": _reshape,
    "add": _elementwise,
    "sub": _elementwise,
    "mul": _elementwise,
    "relu": _elementwise,
    "relu6": _elementwise,
    "prelu": _prelu,
    "avg_pool2d": _pool,
    "max_pool2d": _pool,
    "mean": _mean,
    "softmax": _softmax,
    "concat": _concat,
    "pad": _pad,
    "transpose": _transpose,
    "depth_to_space": _depth_to_space,
    "resize_nearest": _resize,
    "resize_bilinear": _resize,
}
