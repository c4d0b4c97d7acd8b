"""Layers that keep a state from step to step and from call to call: LSTM and SVDF."""

from zoo.errors import MismatchError
from zoo.graph.ir import Graph, Kind, Op
from zoo.graph.operators.contract import OpKind, Shape, never
from zoo.graph.operators.unrolled import READERS

_ABSENT = {
    "aten": "only files contain it",
    "lower": "only files contain it: a module's loop is unrolled into plain operators",
}
GATES = 4  # of an LSTM: input, forget, cell, output
_WEIGHTS: tuple[Kind, ...] = ("weight",) * 8
_BIASES: tuple[Kind, ...] = ("bias",) * 4


def _steps(op: Op, shape: Shape) -> tuple[int, int]:
    """Return the batch and the steps of an LSTM's input."""
    return (shape[1], shape[0]) if op.attributes["time_major"] else (shape[0], shape[1])


def _lstm_shape(graph: Graph, op: Op, shapes: list[Shape]) -> list[Shape]:
    source, inner, outer = shapes[0], shapes[1:5], shapes[5:9]
    if len(source) != 3:
        raise MismatchError(f"{op.label}: its input has shape {source}; expected 3 dimensions")
    batch, _ = _steps(op, source)
    width = shapes[9][0] if shapes[9] else 0
    wanted = [*[(width, source[2])] * GATES, *[(width, width)] * GATES, *[(width,)] * GATES]
    wanted += [(batch, width)] * 2
    if [*inner, *outer, *shapes[9:]] != wanted:
        raise MismatchError(
            f"{op.label}: its weights and states have the shapes {shapes[1:]}; expected {wanted}"
        )
    return [(*source[:2], width), (batch, width), (batch, width)]


def _lstm_macs(graph: Graph, op: Op) -> int:
    batch, steps = _steps(op, graph.tensors[op.inputs[0]].shape)
    per_step = sum(graph.tensors[name].elements for name in op.inputs[1 : 1 + 2 * GATES])
    return batch * steps * per_step


def _svdf_shape(graph: Graph, op: Op, shapes: list[Shape]) -> list[Shape]:
    source, feature, time, *bias, state = shapes
    rank = op.attributes["rank"]
    fits = len(source) == len(feature) == len(time) == 2
    fits = fits and rank > 0 and feature[0] % rank == 0 and feature == (feature[0], source[1])
    fits = fits and time[0] == feature[0] and state == (source[0], time[0] * time[1])
    if not fits or any(shape != (feature[0] // rank,) for shape in bias):
        raise MismatchError(f"{op.label}: shapes {shapes} do not fit each other at rank {rank}")
    return [(source[0], feature[0] // rank), state]


def _svdf_macs(graph: Graph, op: Op) -> int:
    weights = sum(graph.tensors[name].elements for name in op.inputs[1:3])
    return graph.tensors[op.inputs[0]].shape[0] * weights


ROWS = (
    OpKind(
        # x, four input weights, four recurrent weights, four biases, hidden state, cell state
        # -> outputs of all steps, the two states after the last one.
        name="lstm",
        aten=READERS,
        lower=None,
        shape=_lstm_shape,
        mixes_samples=never,
        absent={"lower": _ABSENT["lower"]},
        roles=("activation", *_WEIGHTS, *_BIASES),
        macs=_lstm_macs,
    ),
    OpKind(
        # x, weights of features, weights of time, maybe a bias, state -> output, state.
        name="svdf",
        aten=None,
        lower=None,
        shape=_svdf_shape,
        mixes_samples=never,
        absent=_ABSENT,
        roles=("activation", "weight", "weight", "bias"),
        macs=_svdf_macs,
    ),
)
