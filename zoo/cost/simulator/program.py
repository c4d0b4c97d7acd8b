"""From an int8 graph to a C program: a function for each operator, and all of its constants."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from zoo.cost import memory
from zoo.errors import MismatchError
from zoo.graph.ir import Graph, Op
from zoo.graph.kinds import ELEMENTWISE
from zoo.runtime.fixedpoint import mean_multiplier, quantize_multiplier, softmax_input
from zoo.runtime.integer_base import quantization_of, stored_limits
from zoo.runtime.kernels import INTEGER

MOST_RUNS = 1000
KERNELS = Path(__file__).parent / "kernels.c"
_MAIN = """
#include <stdio.h>
#include <string.h>
#include <time.h>
static int8_t input[{inputs}];
static double now(void) {{
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec + 1e-9 * time.tv_nsec;
}}
/* Printed at the end: how a number is printed depends on it, and so do the caches. */
static double spent[{most}][{ops}];
static void run(double *spent) {{
  memcpy(arena + {at}, input, {inputs});
  double from = now(), to;
{calls}
}}
static int filled(const char *name, void *to, size_t size) {{
  FILE *file = fopen(name, "rb");
  const size_t got = file ? fread(to, 1, size, file) : 0;
  if (file) fclose(file);
  return got == size;
}}
int main(int count, char **words) {{
  int runs = 0;
  if (count != 2 || sscanf(words[1], "%d", &runs) != 1 || runs > {most}) return 2;
  if (!filled("constants", constants, {constants}) || !filled("input", input, {inputs})) return 3;
  for (int i = 0; i < runs; i++) run(spent[i]);
  FILE *file = fopen("output", "wb");
  if (!file || fwrite(arena + {out}, 1, {outputs}, file) != {outputs}) return 4;
  fclose(file);
  for (int i = 0; i < runs; i++)
    for (int j = 0; j < {ops}; j++) printf("%.9f%c", spent[i][j], j + 1 < {ops} ? ' ' : '\\n');
  return 0;
}}
"""


@dataclass
class Program:
    """A network in C.

    Attributes:
        graph: int8, channels last, of one input and one output.
        calls: the body of each operator's function.
        constants: what they read.

    """

    graph: Graph
    calls: list[str] = field(default_factory=list)
    constants: bytearray = field(default_factory=bytearray)

    @classmethod
    def of(cls, graph: Graph) -> "Program":
        """Return the program of an int8 graph.

        Raises:
            MismatchError: it has an operator without a kernel here, several inputs or outputs, or
                other numbers than int8; the operator is named.

        """
        names = (*graph.inputs, *graph.outputs)
        if len(names) != 2 or graph.states or any(graph.tensors[n].dtype != "int8" for n in names):
            raise MismatchError("simulated networks have one int8 input and one int8 output")
        made = cls(graph)
        for op in graph.ops:
            made.calls.append(made.call(op))
        return made

    def call(self, op: Op) -> str:
        """Return the statements that compute an operator."""
        computed = (*(n for n in op.inputs if n in self.plan.offsets), *op.outputs)
        unary = op.kind in ELEMENTWISE and len(op.inputs) == 1
        write = _look_up if unary else _WRITERS.get(op.kind)
        if write is None or any(self.graph.tensors[n].dtype != "int8" for n in computed):
            kinds = ", ".join(sorted(_WRITERS))
            raise MismatchError(
                f"{op.label} has no kernel to simulate, in int8 there are: {kinds} and functions "
                "of single elements"
            )
        return write(self, op)

    @functools.cached_property
    def plan(self) -> memory.ArenaPlan:
        """Where activations lie."""
        return memory.plan(self.graph, "int8", in_place=False)

    def at(self, name: str) -> str:
        """Return the C expression of where an activation or an int8 constant lies."""
        if name in self.plan.offsets:
            return f"arena + {self.plan.offsets[name]}"
        return f"(const int8_t *)({self.keep(self.graph.values[name])})"

    def keep(self, values: NDArray[np.generic]) -> str:
        """Store a constant and return where it lies."""
        self.constants += b"\0" * (-len(self.constants) % 64)
        place = len(self.constants)
        self.constants += np.ascontiguousarray(values).tobytes()
        return f"constants + {place}"

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape, channels last."""
        return self.graph.tensors[name].shape

    def source(self) -> str:
        """Return the C text: the kernels, a function for each operator, and `main`."""
        graph = self.graph
        functions = "\n".join(
            f"OPERATOR op_{n}(void) {{ {call} }}  // {op.label}"
            for n, (op, call) in enumerate(zip(graph.ops, self.calls, strict=True))
        )
        first, last = graph.tensors[graph.inputs[0]], graph.tensors[graph.outputs[0]]
        size = max(len(self.constants), 1)
        main = _MAIN.format(
            at=self.plan.offsets[first.name],
            out=self.plan.offsets[last.name],
            inputs=first.elements,
            outputs=last.elements,
            constants=len(self.constants),
            most=MOST_RUNS,
            ops=len(graph.ops),
            calls="\n".join(
                f"  op_{n}(); to = now(); spent[{n}] = to - from; from = now();"
                for n in range(len(graph.ops))
            ),
        )
        memories = (
            f"static int8_t arena[{self.plan.arena_bytes}] __attribute__((aligned(64)));\n"
            f"static uint8_t constants[{size}] __attribute__((aligned(64)));\n"
        )
        return "\n".join((KERNELS.read_text(encoding="utf-8"), memories, functions, main))


def _limits(program: Program, op: Op) -> tuple[int, int]:
    return stored_limits(program.graph, op)


def _window(program: Program, op: Op) -> str:
    source, output = program.shape(op.inputs[0]), program.shape(op.outputs[0])
    a, graph = op.attributes, program.graph
    top, _, left, _ = a["padding"]
    numbers = (*source[1:], *output[1:], *a["kernel"], *a["stride"], top, left)
    zeros = (quantization_of(graph, n).zero_point for n in (op.inputs[0], op.outputs[0]))
    values = (*numbers, *a.get("dilation", (1, 1)), *zeros, *_limits(program, op))
    return f"(Window){{{', '.join(map(str, values))}}}"


def _layer(program: Program, op: Op) -> str:
    graph = program.graph
    weight = graph.values[op.inputs[1]]
    depthwise = op.kind == "depthwise_conv2d"
    outputs = weight.shape[3 if depthwise else 0]
    bias = graph.values[op.inputs[2]] if len(op.inputs) > 2 else np.zeros(outputs)
    meanings = [quantization_of(graph, n) for n in (op.inputs[0], op.inputs[1], op.outputs[0])]
    source, weights, output = meanings
    if any(weights.zero_points):
        raise MismatchError(f"{op.label} has weights with a zero point")
    factors = source.scale * np.array(weights.scales, np.float64) / output.scale
    if op.kind == "fully_connected" and len(op.inputs) < 3 and len(factors) == 1:
        # Without a bias TFLite Micro multiplies the scales in float32.
        product = np.float32(source.scale) * np.float32(weights.scale)
        factors = np.array([np.float64(product) / output.scale])
    pairs = np.array([quantize_multiplier(float(f)) for f in factors], np.int32)
    pairs = np.broadcast_to(pairs, (outputs, 2))
    words = [program.at(op.inputs[0]), program.at(op.outputs[0]), program.at(op.inputs[1])]
    for values in (bias, pairs[:, 0], pairs[:, 1]):
        words.append(f"(const int32_t *)({program.keep(values.astype(np.int32))})")
    if op.kind == "fully_connected":
        rows = graph.tensors[op.inputs[0]].elements // weight.shape[1]
        sizes = (rows, 1, weight.shape[1], rows, 1, outputs, 1, 1, 1, 1, 0, 0, 1, 1)
        zeros = (source.zero_point, output.zero_point, *_limits(program, op))
        words.append(f"(Window){{{', '.join(map(str, (*sizes, *zeros)))}}}")
    else:
        words.append(_window(program, op))
    return f"{'depthwise' if depthwise else 'conv2d'}({', '.join(words)});"


def _pool(program: Program, op: Op) -> str:
    a = op.attributes
    padded = any(a["padding"]) and op.kind == "avg_pool2d" and a.get("count_padding")
    if padded or tuple(a.get("dilation", (1, 1))) != (1, 1):
        raise MismatchError(f"{op.label} counts its padding or is dilated, unlike TFLite's pools")
    name = "average_pool" if op.kind == "avg_pool2d" else "max_pool"
    words = (program.at(op.inputs[0]), program.at(op.outputs[0]), _window(program, op))
    return f"{name}({', '.join(words)});"


def _pair(program: Program, op: Op, operands: list[float], last: float) -> str:
    """Return the C value of an operator on two operands, whose factors are given."""
    graph = program.graph
    zeros = [quantization_of(graph, name).zero_point for name in (*op.inputs, op.outputs[0])]
    pairs = [quantize_multiplier(factor) for factor in operands]
    (multiplier, shift), (low, high) = quantize_multiplier(last), _limits(program, op)
    columns = [zeros[:2], [m for m, _ in pairs], [s for _, s in pairs]]
    listed = ", ".join(f"{{{first}, {second}}}" for first, second in columns)
    count = graph.tensors[op.outputs[0]].elements
    return f"(Pair){{{count}, {listed}, {zeros[2]}, {multiplier}, {shift}, {low}, {high}}}"


def _two(program: Program, op: Op) -> str:
    if len(op.inputs) != 2:
        raise MismatchError(f"{op.label} has a number for an operand, which is not simulated")
    first, second, output = (
        quantization_of(program.graph, name).scale for name in (*op.inputs, op.outputs[0])
    )
    words = [program.at(name) for name in (*op.inputs, *op.outputs)]
    if op.kind == "mul":
        pair = _pair(program, op, [0.0, 0.0], first * second / output)
        return f"multiply({', '.join((*words, _grid(program, op), pair))});"
    twice = 2 * max(first, second)
    pair = _pair(program, op, [first / twice, second / twice], twice / (2**20 * output))
    sign = "-1" if op.kind == "sub" else "1"
    return f"add({', '.join((*words, sign, _grid(program, op), pair))});"


def _grid(program: Program, op: Op) -> str:
    """Return the C value of how two operands lie beside their result, of four dimensions at most.

    Operands that are not repeated are walked through as one line.
    """
    output = program.shape(op.outputs[0])
    shapes = [program.shape(name) for name in op.inputs]
    if all(shape == output for shape in shapes):
        return f"(Grid){{{{1, 1, 1, {math.prod(output)}}}, {{0, 0, 0, 1}}, {{0, 0, 0, 1}}}}"
    if len(output) > 4:
        raise MismatchError(f"{op.label} repeats an operand of {len(output)} dimensions, above 4")
    listed = [", ".join(map(str, (*(1,) * (4 - len(output)), *output)))]
    for shape in shapes:
        sizes = (*(1,) * (4 - len(shape)), *shape)
        steps = [math.prod(sizes[place + 1 :]) * (size > 1) for place, size in enumerate(sizes)]
        listed.append(", ".join(map(str, steps)))
    return f"(Grid){{{', '.join(f'{{{part}}}' for part in listed)}}}"


def _prelu(program: Program, op: Op) -> str:
    channels = program.shape(op.outputs[0])[-1]
    if program.graph.tensors[op.inputs[1]].elements != channels:
        raise MismatchError(f"{op.label} has no slope for each channel, which is not simulated")
    source, slope, output = (
        quantization_of(program.graph, name).scale for name in (*op.inputs, op.outputs[0])
    )
    pair = _pair(program, op, [source / output, source * slope / output], 0.0)
    words = [program.at(name) for name in (*op.inputs, *op.outputs)]
    return f"prelu({', '.join((*words, str(channels), pair))});"


def _look_up(program: Program, op: Op) -> str:
    """Return a table's use: the runtime computes what an operator makes of each of 256 values."""
    every = torch.arange(-128, 128).to(torch.int8)
    shape = (1,) * (len(program.shape(op.inputs[0])) - 1) + (256,)
    made = INTEGER.of(op)(program.graph, op)(every.view(shape))
    assert isinstance(made, torch.Tensor)
    table = made.flatten().numpy()
    words = (program.at(op.inputs[0]), program.at(op.outputs[0]))
    count = program.graph.tensors[op.outputs[0]].elements
    return f"look_up({', '.join(words)}, (const int8_t *)({program.keep(table)}), {count});"


def _reshape(program: Program, op: Op) -> str:
    count = program.graph.tensors[op.outputs[0]].elements
    return f"copy({program.at(op.inputs[0])}, {program.at(op.outputs[0])}, 1, {count}, 0, 0);"


def _pad(program: Program, op: Op) -> str:
    given, shape = program.shape(op.inputs[0]), program.shape(op.outputs[0])
    pads = op.attributes["padding"]  # as torch.nn.functional.pad: from the last dimension
    before, after = pads[::2][::-1], pads[1::2][::-1]
    # Of fewer dimensions than four, the last are given.
    before, after = ((0,) * (len(shape) - len(p)) + tuple(p) for p in (before, after))
    if len(shape) != 4 or min(*before, *after) < 0 or given[0] != shape[0]:
        raise MismatchError(f"{op.label} pads samples or cuts, which is not simulated")
    meaning = quantization_of(program.graph, op.outputs[0])
    value = round(op.attributes.get("value", 0) / meaning.scale) + meaning.zero_point
    row, wide = given[2] * given[3], shape[2] * shape[3]
    start = before[1] * wide + before[2] * shape[3] + before[3]
    to = program.at(op.outputs[0])
    count = program.graph.tensors[op.outputs[0]].elements
    ends = f"{program.at(op.inputs[0])}, {to} + {start}, {given[1]}"
    if given[3] == shape[3]:
        return f"fill({to}, {count}, {value}); copy({ends}, {row}, {row}, {wide});"
    sizes = f"{given[2]}, {given[3]}, {wide}, {shape[3]}"
    return f"fill({to}, {count}, {value}); place({ends}, {sizes});"


def _mean(program: Program, op: Op) -> str:
    graph, shape = program.graph, program.shape(op.inputs[0])
    dims = sorted(dim % len(shape) for dim in op.attributes["dim"])
    if dims != list(range(dims[0], dims[-1] + 1)):
        raise MismatchError(f"{op.label} is over dimensions apart, which is not simulated")
    outer, count, inner = (
        math.prod(part)
        for part in (shape[: dims[0]], shape[dims[0] : dims[-1] + 1], shape[dims[-1] + 1 :])
    )
    source, output = (quantization_of(graph, name) for name in (op.inputs[0], op.outputs[0]))
    multiplier, shift = mean_multiplier(source.scale / output.scale, count)
    low, high = _limits(program, op)
    pair = f"(Pair){{0, {{{source.zero_point}, 0}}, {{0, 0}}, {{0, 0}}, {output.zero_point}, "
    pair += f"{multiplier}, {shift}, {low}, {high}}}"
    words = (program.at(op.inputs[0]), program.at(op.outputs[0]), outer, count, inner, pair)
    return f"mean({', '.join(map(str, words))});"


def _softmax(program: Program, op: Op) -> str:
    source, output = (quantization_of(program.graph, n) for n in (op.inputs[0], op.outputs[0]))
    if not math.isclose(output.scale, 1 / 256, rel_tol=1e-3) or output.zero_point != -128:
        raise MismatchError(f"{op.label} has another output than 1/256 steps from 0")
    multiplier, shift, radius = softmax_input(source.scale, op.attributes.get("beta", 1.0))
    depth = program.shape(op.inputs[0])[-1]
    rows = program.graph.tensors[op.inputs[0]].elements // depth
    words = (program.at(op.inputs[0]), program.at(op.outputs[0]))
    numbers = (rows, depth, multiplier, shift, radius)
    return f"softmax({', '.join((*words, *map(str, numbers)))});"


def _concat(program: Program, op: Op) -> str:
    graph, shape, start = program.graph, program.shape(op.outputs[0]), 0
    to = program.at(op.outputs[0])
    axis = op.attributes["axis"] % len(shape)
    inner = int(np.prod(shape[axis + 1 :]))
    statements = []
    for name in op.inputs:
        if quantization_of(graph, name) != quantization_of(graph, op.outputs[0]):
            raise MismatchError(f"{op.label} rescales an input, which is not simulated")
        length = program.shape(name)[axis] * inner
        rows = graph.tensors[name].elements // length
        sizes = f"{rows}, {length}, {length}, {shape[axis] * inner}"
        statements.append(f"copy({program.at(name)}, {to} + {start}, {sizes});")
        start += length
    return " ".join(statements)


def _transpose(program: Program, op: Op) -> str:
    """Return a transposition; dimensions that stay neighbours are moved as one, up to four."""
    shape, dims = program.shape(op.inputs[0]), op.attributes["dims"]
    runs: list[list[int]] = []
    for dim in (d % len(shape) for d in dims):
        if shape[dim] == 1:
            continue
        if runs and dim == runs[-1][-1] + 1:
            runs[-1].append(dim)
        else:
            runs.append([dim])
    if len(runs) > 4:
        raise MismatchError(f"{op.label} moves {len(runs)} dimensions apart; 4 are simulated")
    sizes = [math.prod(shape[dim] for dim in run) for run in runs]
    steps = [math.prod(shape[run[-1] + 1 :]) for run in runs]
    filled = [", ".join(map(str, [first] * (4 - len(runs)) + part))
              for first, part in ((1, sizes), (0, steps))]  # fmt: skip
    order = f"(Order){{{{{filled[0]}}}, {{{filled[1]}}}}}"
    return f"transpose({program.at(op.inputs[0])}, {program.at(op.outputs[0])}, {order});"


def _depth_to_space(program: Program, op: Op) -> str:
    _, height, width, channels = program.shape(op.inputs[0])
    block = program.shape(op.outputs[0])[1] // height
    words = (program.at(op.inputs[0]), program.at(op.outputs[0]), height, width, channels, block)
    return f"depth_to_space({', '.join(map(str, words))});"


_WRITERS: dict[str, Callable[[Program, Op], str]] = {
    "conv2d": _layer,
    "depthwise_conv2d": _layer,
    "fully_connected": _layer,
    "avg_pool2d": _pool,
    "max_pool2d": _pool,
    "mean": _mean,
    "softmax": _softmax,
    "add": _two,
    "sub": _two,
    "mul": _two,
    "prelu": _prelu,
    "reshape": _reshape,
    "pad": _pad,
    "concat": _concat,
    "depth_to_space": _depth_to_space,
    "transpose": _transpose,
}
