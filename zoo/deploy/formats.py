"""Which kinds of operators each file format has: the columns of this room, and a table."""

from typing import Any

from zoo.deploy.operators import (
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
from zoo.deploy.operators.contract import Emit, TfliteOp
from zoo.graph.kinds import KINDS
from zoo.graph.operators.contract import Column
from zoo.graph.operators.mathematics import FUNCTIONS, REDUCTIONS

_PLACE = "zoo/deploy/operators"
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

_UNTRACED = (joining, recurrent)
_REAL = (*FUNCTIONS, *REDUCTIONS, "squared_difference")

TFLITE: Column[TfliteOp] = Column(
    "TFLite operator", _PLACE, *(group.TFLITE for group in _GROUPS), absent={}
)
ONNX: Column[Emit] = Column(
    "ONNX operator",
    _PLACE,
    *(group.ONNX for group in _GROUPS if group not in _UNTRACED),
    absent={
        "dequantize": "every value of these files is real already",
        **dict.fromkeys(("lstm", "svdf"), "only .tflite files hold it, with its state"),
        **dict.fromkeys(
            (
                *("cast", "pack", "unpack", "arg_max", "arg_min", "split"),
                *("tile", *_REAL),
            ),
            "so far only .tflite files hold it",
        ),
    },
)
# What to do if an Ethos-U leaves an operator to the host CPU; "" if it takes every form.
NPU: Column[str] = Column(
    "form on an Ethos-U",
    "zoo/deploy/formats.py",
    dict.fromkeys(
        ("conv2d", "depthwise_conv2d", "fully_connected", "avg_pool2d", "max_pool2d"), ""
    ),
    dict.fromkeys(("add", "sub", "mul", "maximum", "minimum", "relu", "relu6", "prelu"), ""),
    dict.fromkeys(("sigmoid", "tanh", "leaky_relu", "hard_swish", "elu"), ""),
    dict.fromkeys(("reshape", "concat", "quantize", "pack", "unpack", "split"), ""),
    dict.fromkeys(("arg_max", "arg_min"), "leave it to the program, which reads the scores"),
    dict.fromkeys(("resize_bilinear", "resize_nearest"), "enlarge by 2, 4 or 8 at a time"),
    {
        "depth_to_space": "export with --npu, which makes it a transposition",
        "mean": "average with nn.AvgPool2d over the whole map",
        "softmax": "leave it out: the largest logit is the answer",
        "pad": "pad inside the convolution",
        "transpose": "keep channels last, or leave the order to the host",
        "strided_slice": "slice without a stride, or in the program",
        "transpose_conv2d": "keep its stride at 1x1, 1x2 or 2x2",
        "gelu": "export with --npu, which makes it of tanh and products",
        "rsqrt": "normalise over batches (nn.BatchNorm2d), which costs nothing",
        "batch_matmul": "multiply with stored matrices, or leave attention to the host",
        "space_to_depth": "cut the picture into blocks in the program",
        "tile": "repeat in the program",
        "cast": "quantize instead, or leave it to the program",
        "lstm": "keep it to one direction, without peepholes",
        "svdf": "write it as a depthwise convolution over time and a fully connected layer",
    },
    absent={
        "dequantize": "it makes real numbers, which no Ethos-U has",
        **dict.fromkeys(_REAL, "an Ethos-U computes in integers"),
    },
)


def operators_by_format() -> list[dict[str, str]]:
    """Return one row per kind: its name, and what it is in each format; "" if it has no form.

    "trace" has the ATen operators that become it, "tflite" the operators of a file, "vela" what to
    do about those that the compiler leaves to the host, "note" why cells are empty.
    """
    from zoo.runtime.kernels import FLOAT, INTEGER  # torch, which files and costs do without

    columns: dict[str, Column[Any]] = {
        "float": FLOAT,
        "integer": INTEGER,
        "tflite": TFLITE,
        "onnx": ONNX,
        "vela": NPU,
    }
    rows = []
    for name, row in KINDS.items():
        cells = {key: "yes" if name in column else "" for key, column in columns.items()}
        if name in TFLITE:
            cells["tflite"] = ", ".join(TFLITE[name].names)
        if NPU.get(name):
            cells["vela"] = f"may stay on the host: {NPU[name]}"
        reasons = [
            *row.absent.values(),
            *(c.absent[name] for c in columns.values() if name in c.absent),
        ]
        trace, note = ", ".join(row.aten or ()), "; ".join(dict.fromkeys(reasons))
        rows.append({"kind": name, "trace": trace, **cells, "note": note})
    return rows
