"""LSTM and SVDF: TFLite Micro's kernels, tensorflow/lite/micro/kernels/lstm_eval and svdf_common.

LiteRT's LSTM has other approximations of the sigmoid and of the tanh: its int8 outputs differ by a
step here and there.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from zoo.errors import MismatchError
from zoo.graph.ir import LIMITS, Graph, Op
from zoo.graph.operators.recurrent import GATES
from zoo.runtime import fixedpoint, lut
from zoo.runtime.integer_base import TYPES, centered, quantization_of
from zoo.runtime.operators.contract import FloatKernel, IntegerMaker

_GATE = 2.0**-12  # one step of a gate before its activation
_UNIT = 2.0**-15  # and after it

Step = Callable[..., Tensor]
Recurrent = Callable[..., tuple[Tensor, ...]]


def _by_time(op: Op, x: Tensor) -> Tensor:
    return x if op.attributes["time_major"] else x.transpose(0, 1)


def _float_lstm(graph: Graph, op: Op, x: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    inner = torch.cat(rest[:GATES])
    outer, bias = torch.cat(rest[GATES : 2 * GATES]), torch.cat(rest[2 * GATES : 3 * GATES])
    hidden, cell = rest[3 * GATES :]
    clip = op.attributes["cell_clip"] or math.inf
    outputs = []
    for step in _by_time(op, x):
        gates = step @ inner.T + hidden @ outer.T + bias
        admit, forget, candidate, show = gates.chunk(GATES, -1)
        cell = forget.sigmoid() * cell + admit.sigmoid() * candidate.tanh()
        cell = cell.clamp(-clip, clip)
        hidden = show.sigmoid() * cell.tanh()
        outputs.append(hidden)
    return _by_time(op, torch.stack(outputs)), hidden, cell


def _rescaled(factor: float, low: int, high: int, zero: int = 0) -> Step:
    """Return int64 x -> clamp(x * factor + zero), rounded twice."""
    multiplier, shift = (torch.tensor(number) for number in fixedpoint.quantize_multiplier(factor))
    if not math.isfinite(factor) or shift > 30:
        raise MismatchError("its scales do not fit each other")

    def run(x: Tensor) -> Tensor:
        return (fixedpoint.multiply(x, multiplier, shift) + zero).clamp(low, high)

    return run


def _product(graph: Graph, weight: str, source: str) -> Step:
    """Return the int16 gates, scale 2^-12, of stored inputs, as int64; add the bias before."""
    matrix = centered(graph, weight)
    scale = np.float32(quantization_of(graph, source).scale)
    product = float(scale * np.float32(quantization_of(graph, weight).scale))
    rescale = _rescaled(product / _GATE, *LIMITS["int16"])
    zero = quantization_of(graph, source).zero_point

    def run(x: Tensor, bias: Tensor | float = 0.0) -> Tensor:
        return rescale(((x.double() - zero) @ matrix.T + bias).to(torch.int64))

    return run


def _sigmoid(x: Tensor) -> Tensor:
    return torch.from_numpy(lut.sigmoid(x.numpy()))


def _tanh(x: Tensor, scale: float = _GATE) -> Tensor:
    return torch.from_numpy(lut.tanh(x.numpy(), scale))


def _saturated(x: Tensor) -> Tensor:
    return x.clamp(*LIMITS["int16"])


def _integer_lstm(graph: Graph, op: Op) -> Recurrent:
    source, hidden, cell = op.inputs[0], *op.inputs[-2:]
    kinds = [graph.tensors[name].dtype for name in (source, hidden, cell)]
    if kinds != ["int8", "int8", "int16"]:
        raise MismatchError(
            f"its input and states are {', '.join(kinds)}; expected int8/int8/int16"
        )
    if quantization_of(graph, op.outputs[0]) != quantization_of(graph, hidden):
        raise MismatchError("its output and hidden state differ in scale or zero point")
    inner = [_product(graph, name, source) for name in op.inputs[1 : 1 + GATES]]
    outer = [_product(graph, name, hidden) for name in op.inputs[1 + GATES : 1 + 2 * GATES]]
    biases = [torch.from_numpy(graph.values[n].astype(np.float64)) for n in op.inputs[9:13]]
    scale = quantization_of(graph, cell).scale
    if math.frexp(scale)[0] != 0.5:
        raise MismatchError(f"its cell state has scale {scale:g}; expected a power of two")
    meaning, wide = quantization_of(graph, hidden), LIMITS["int16"]
    keep = _rescaled(_UNIT * scale / scale, *wide)
    admit = _rescaled(_UNIT * _UNIT / scale, *wide)
    show = _rescaled(_UNIT * _UNIT / meaning.scale, *LIMITS["int8"], meaning.zero_point)
    clip = op.attributes["cell_clip"]
    most = int(min(max(clip / scale, -32768.0), 32767.0)) if clip > 0 else None

    def step(x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        gates = [
            _saturated(into(x, bias) + back(h))
            for into, back, bias in zip(inner, outer, biases, strict=True)
        ]
        let_in, forget, let_out = (_sigmoid(gates[place]) for place in (0, 1, 3))
        candidate = _tanh(gates[2])
        c = _saturated(keep(forget * c) + admit(let_in * candidate))
        if most is not None:
            c = c.clamp(-most, most)
        return show(_tanh(c, scale) * let_out), c

    def run(x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden, cell = h.to(torch.int64), c.to(torch.int64)
        outputs = []
        for part in _by_time(op, x):
            hidden, cell = step(part, hidden, cell)
            outputs.append(hidden)
        return _by_time(op, torch.stack(outputs)).to(x.dtype), hidden.to(h.dtype), cell.to(c.dtype)

    return run


def _shifted(state: Tensor, newest: Tensor, memory: int) -> Tensor:
    """Return (N, filters, memory), the oldest column replaced by the newest at the end."""
    filters = state.reshape(len(state), -1, memory)
    return torch.cat([filters[:, :, 1:], newest[:, :, None]], -1)


def _float_svdf(graph: Graph, op: Op, x: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
    feature, time, *bias, state = rest
    filters = _shifted(state, x @ feature.T, time.shape[1])
    sums = (filters * time).sum(-1).reshape(len(x), -1, op.attributes["rank"]).sum(-1)
    return sum(bias, sums), filters.reshape(state.shape)


def _integer_svdf(graph: Graph, op: Op) -> Recurrent:
    source, first, second, state = (op.inputs[place] for place in (0, 1, 2, -1))
    dtypes = [graph.tensors[name].dtype for name in (source, first, state, op.outputs[0])]
    if dtypes[:2] + dtypes[3:] != ["int8"] * 3 or dtypes[2] != graph.tensors[second].dtype:
        raise MismatchError(f"its tensors are {', '.join(dtypes)}; expected int8")
    names = (source, first, second, state, op.outputs[0])
    scales = [np.float64(quantization_of(graph, name).scale) for name in names]
    zero, kept, after = (quantization_of(graph, n).zero_point for n in (source, state, names[4]))
    feature, time = centered(graph, first), centered(graph, second)
    bias = centered(graph, op.inputs[3]) if len(op.inputs) == 5 else torch.zeros(1).double()
    into = _rescaled(float(scales[0] * scales[1] / scales[3]), *LIMITS[dtypes[2]], kept)
    out = _rescaled(float(scales[3] * scales[2] / scales[4]), *LIMITS["int8"], after)
    rank, memory = op.attributes["rank"], time.shape[1]

    def run(x: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        newest = into(((x.double() - zero) @ feature.T).to(torch.int64))
        filters = _shifted(before, newest.to(before.dtype), memory)
        sums = ((filters.double() - kept) * time).sum(-1).reshape(len(x), -1, rank).sum(-1) + bias
        y = out(sums.to(torch.int64)).to(TYPES["int8"])
        return y, filters.reshape(before.shape)

    return run


FLOAT: dict[str, FloatKernel] = {"lstm": _float_lstm, "svdf": _float_svdf}
INTEGER: dict[str, IntegerMaker] = {"lstm": _integer_lstm, "svdf": _integer_svdf}
