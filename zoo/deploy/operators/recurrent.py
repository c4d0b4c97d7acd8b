"""LSTM and SVDF in files; their states are variable tensors there, which operators overwrite."""

from zoo.deploy.operators.contract import OperatorCall, Parsed, TfliteOp, unwritten
from zoo.errors import MismatchError

_TANH = 4  # among the schema's fused activations
# Operands of an LSTM that change what it computes, by place, and what they make of it.
_VARIANTS = {
    9: "peepholes",
    10: "peepholes",
    11: "peepholes",
    16: "a projection",
    17: "a projection",
    20: "a layer norm",
    21: "a layer norm",
    22: "a layer norm",
    23: "a layer norm",
}
_PLAIN = (*range(9), *range(12, 16), 18, 19)


def _read_lstm(call: OperatorCall) -> Parsed:
    inputs = (*call.inputs, *("",) * (24 - len(call.inputs)))
    for place, what in _VARIANTS.items():
        if inputs[place]:
            raise MismatchError(f"{call.name} at {call.output} has {what}, which is not supported")
    if not inputs[1]:
        raise MismatchError(
            f"{call.name} at {call.output} couples its input and forget gates, which is not "
            "supported"
        )
    if call.option("activation") != _TANH or call.option("diagonal_recurrent_tensors", False):
        raise MismatchError(f"{call.name} at {call.output} is not a plain LSTM with tanh")
    attributes = {
        "cell_clip": float(call.option("cell_clip", 0.0)),
        "time_major": bool(call.option("time_major", False)),
    }
    return tuple(inputs[place] for place in _PLAIN), attributes


def _read_svdf(call: OperatorCall) -> Parsed:
    call.expect(5)
    inputs = tuple(name for place, name in enumerate(call.inputs) if name or place != 3)
    return inputs, {"rank": call.option("rank"), **call.activation()}


TFLITE = {
    "lstm": TfliteOp(
        names=("UNIDIRECTIONAL_SEQUENCE_LSTM",), write=unwritten, read=_read_lstm, states=2
    ),
    "svdf": TfliteOp(names=("SVDF",), write=unwritten, read=_read_svdf, states=1),
}
