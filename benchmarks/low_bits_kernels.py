"""Claim: out of cache, 4-bit weights are multiplied with 8-bit inputs faster than 8-bit ones are.

One product of --tokens tokens with a (49152, 576) matrix, which no cache holds, and with the
(1536, 576) of a layer of SmolLM2, which stays in one: 4-bit integers with scale and zero point per
64 weights and inputs of 8 bits; rows of 8-bit integers with float inputs, and with inputs of 8 bits
(by oneDNN, through torch: the 8x8 product); codebooks of 2D 3 bit with inputs of 8 bits and in
floats; ONNX Runtime's MatMulNBits at accuracy level 4 (int8) on 4-bit blocks of 64 and of 32; torch
in bfloat16. In turn, one thread unless --threads; scales and the rounding of inputs included.
Run: python -m benchmarks.low_bits_kernels
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper

from benchmarks.common import alternate, ratio, report
from zoo.quantization.grids import make_grid
from zoo.quantization.kernels import int8
from zoo.quantization.kernels.matvec import Matvec, library, rows_matvec
from zoo.quantization.operands import Entries, Nibbles
from zoo.quantization.options import LayerOptions
from zoo.quantization.packing import half_bits

SHAPES = {"out of cache": (49152, 576), "in cache": (1536, 576)}
INT4 = "int4 g64 x int8"
EIGHT = "int8 x int8 (oneDNN)"
BOOKS = "2D 3 bit x int8"
ORT64, ORT32 = (f"MatMulNBits, level 4, g{size}" for size in (64, 32))
GOALS = {(EIGHT, INT4): 1.7, (ORT32, INT4): 1.3}


def four_bits(rows: int, columns: int, x: torch.Tensor) -> Callable[[], Any]:
    """4-bit integers of ours; the rounding of the inputs is part of it."""
    groups = columns // 64
    weight = Nibbles(
        columns,
        64,
        torch.randint(0, 256, (rows, columns // 2), dtype=torch.uint8),
        half_bits(torch.rand(groups, rows) * 0.01 + 1e-3),
        torch.randint(0, 256, (groups, rows // 2), dtype=torch.uint8),
    )
    return lambda: int8.product(weight, *int8.inputs(x, 64))


def codebooks(rows: int, columns: int, x: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """Codebooks of ours, with both kinds of inputs."""
    grid: Any = make_grid(LayerOptions(bits=3, dim=2, group_size=8192), rows, columns)
    stored: dict[str, torch.Tensor] = {
        name: torch.zeros(shape, dtype=kind) for name, (shape, kind) in grid.layout().items()
    }
    stored["codebook"].random_(-127, 128)
    stored["codebook_scale"].copy_(half_bits(torch.full(stored["codebook_scale"].shape, 2.4e-4)))
    stored["codes"] = torch.randint(0, 256, (rows, columns // 2 * 6 // 8), dtype=torch.uint8)
    entries, floats = grid.integers(stored), Matvec(grid)
    assert isinstance(entries, Entries)
    given = stored["codes"], stored["codebook"], stored["codebook_scale"]
    return {
        BOOKS: lambda: int8.product(entries, *int8.inputs(x, entries.span)),
        "2D 3 bit x float": lambda: floats(x, *given),
    }


def eight_bits(rows: int, columns: int, x: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """Rows of 8-bit integers: ours with float inputs, and torch's dynamic linear layer."""
    codes, scale = torch.randint(-127, 128, (rows, columns), dtype=torch.int8), torch.rand(rows)
    stored = half_bits(scale)
    layer = torch.nn.Linear(columns, rows, bias=False)
    with torch.no_grad():
        layer.weight.copy_(codes * 0.01)
    kinds: dict[str, Callable[[], Any]] = {"int8 x float": lambda: rows_matvec(x, codes, stored)}
    torch.backends.quantized.engine = "onednn"
    dynamic = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(layer), {torch.nn.Linear})
    kinds[EIGHT] = lambda: dynamic(x)
    return kinds


def runtime(rows: int, columns: int, block: int, x: torch.Tensor, threads: int) -> Any:
    """ONNX Runtime's product of 4-bit blocks."""
    blocks = columns // block
    values = {
        "B": np.random.randint(0, 256, (rows, blocks, block // 2), np.uint8),
        "scales": (np.random.rand(rows * blocks) * 0.01).astype(np.float32),
        "zero_points": np.random.randint(0, 256, rows * ((blocks + 1) // 2), np.uint8),
    }
    node = helper.make_node(
        "MatMulNBits", ["x", *values], ["y"], domain="com.microsoft",
        K=columns, N=rows, bits=4, block_size=block, accuracy_level=4,
    )  # fmt: skip
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [len(x), columns])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [len(x), rows])],
        [onnx.numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    domains = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=domains, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    given = {"x": x.numpy()}
    return lambda: session.run(None, given)


def products(rows: int, columns: int, tokens: int, threads: int) -> dict[str, Callable[[], Any]]:
    """Return what is timed, by name."""
    torch.manual_seed(0)
    x = torch.randn(tokens, columns)
    dense, short = torch.randn(rows, columns, dtype=torch.bfloat16), x.bfloat16()
    return {
        INT4: four_bits(rows, columns, x),
        **codebooks(rows, columns, x),
        **eight_bits(rows, columns, x),
        ORT64: runtime(rows, columns, 64, x, threads),
        ORT32: runtime(rows, columns, 32, x, threads),
        "bfloat16 (torch)": lambda: torch.nn.functional.linear(short, dense),
    }


def main() -> None:
    """Time them in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=51)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows, results, missed = [], {}, []
    for place, (count, columns) in SHAPES.items():
        with torch.no_grad():
            seconds = alternate(products(count, columns, args.tokens, args.threads), args.rounds, 5)
        over = {name: ratio(seconds, name, INT4) for name in seconds if name != INT4}
        results[place] = {
            "rows": count,
            "columns": columns,
            "median_us": {name: 1e6 * statistics.median(v) for name, v in seconds.items()},
            "least_us": {name: 1e6 * min(v) for name, v in seconds.items()},
            f"over {INT4}": over,
        }
        for name, values in seconds.items():
            text = "" if name == INT4 else f"{over[name]['median']:.2f}x the time of {INT4}"
            times = f"{1e6 * statistics.median(values):.0f} us, least {1e6 * min(values):.0f}"
            rows.append([place, name, times, text])
        if place == "out of cache":
            missed = [n for (n, _), goal in GOALS.items() if over[n]["median"] < goal]
    result = {"kernel": library() is not None, "level": int8.LEVELS[int8.level()],
              "tokens": args.tokens, "products": results}  # fmt: skip
    report("low_bits_kernels", args.threads, result, rows)
    if missed:
        raise SystemExit(f"claim not met: too near to {', '.join(missed)}")


if __name__ == "__main__":
    main()
