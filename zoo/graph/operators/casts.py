"""From real numbers to integers, between integers of different meanings and types, and back."""

from zoo.graph.operators.contract import OpKind, never
from zoo.graph.operators.elementwise import same_shape

_ABSENT = dict.fromkeys(("aten", "lower"), "only files contain it: a module computes real numbers")

ROWS = tuple(
    OpKind(
        name=name,
        aten=None,
        lower=None,
        shape=same_shape,
        mixes_samples=never,
        absent=_ABSENT,
        plain=name != "quantize",  # dequantize: of float16
    )
    for name in ("quantize", "dequantize", "cast")
)
