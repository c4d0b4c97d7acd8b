"""What each kind of operator computes: the columns of this room.

An integer kernel is made once for an operator of a graph and then called with its computed inputs,
the stored integers, channels last, as TFLite Micro's reference kernels define it. Sources:
tensorflow/lite/kernels/internal/reference (integer_ops) and tensorflow/lite/micro/kernels of
tensorflow/tflite-micro.
"""

from zoo.graph.operators.contract import Column
from zoo.graph.operators.mathematics import FUNCTIONS, REDUCTIONS
from zoo.runtime.operators import (
    activations,
    arithmetic,
    casts,
    cutting,
    joining,
    layers,
    mathematics,
    movement,
    pools,
    products,
    recurrent,
    resizing,
)
from zoo.runtime.operators.contract import FloatKernel, IntegerMaker

_PLACE = "zoo/runtime/operators"
_GROUPS = (
    layers,
    products,
    mathematics,
    pools,
    arithmetic,
    activations,
    movement,
    resizing,
    casts,
    cutting,
    joining,
    recurrent,
)

FLOAT: Column[FloatKernel] = Column(
    "float kernel",
    _PLACE,
    *(group.FLOAT for group in _GROUPS),
    absent={"quantize": "a float graph has no integers"},
)
INTEGER: Column[IntegerMaker] = Column(
    "integer kernel",
    _PLACE,
    *(group.INTEGER for group in _GROUPS),
    absent=dict.fromkeys(
        (*FUNCTIONS, *REDUCTIONS, "squared_difference"), "so far only floats are computed so"
    ),
)
