"""Question: does a product of ternary weights and 8-bit inputs pay, beside one of 8-bit weights?

The layers of the zoo's ternary networks, as matrices and pixels of one picture or clip: a pointwise
filter bank (a sum, then a sum of its products) and what stands for it; and a matrix that no cache
holds. The ternary product is the room's own kernel for codes of 4 bits, which looks weights up in a
table of -1, 0 and 1 and sums in whole numbers; it is compared with 8-bit weights by oneDNN, both
with the rounding of the inputs, and with the layer of 8-bit filters that the bank stands for. In
turn, one thread.

Run: python -m benchmarks.ternary_kernel
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.common import alternate, ratio, report
from zoo.quantization.kernels import int8
from zoo.quantization.kernels.matvec import library
from zoo.quantization.operands import Nibbles
from zoo.quantization.packing import half_bits

BANKS = {  # inputs, filters, products, pixels
    "st-tree-kws, a block": (64, 64, 48, 125),
    "mobilenet-v1-025-hybrid, layer 7": (128, 64, 128, 16),
    "mobilenet-v1-050-hybrid, layer 7": (256, 128, 256, 196),
    "mobilenet-v1-050-hybrid, layer 13": (512, 256, 512, 49),
    "out of cache": (4096, 16384, 0, 1),  # one ternary matrix
}
TERNARY, EIGHT, FILTERS = "ternary x int8", "int8 x int8, the same sums", "int8 x int8, the filters"
Work = Callable[[], Any]


def ternary(rows: int, columns: int) -> Nibbles:
    """Return a random ternary matrix with a scale for each row."""
    digits = torch.randint(0, 3, (rows, columns // 2, 2), dtype=torch.uint8)
    table = torch.zeros(16, dtype=torch.int8)
    table[:3] = torch.tensor([-1, 0, 1], dtype=torch.int8)
    codes = digits[..., 0] | digits[..., 1] << 4
    return Nibbles(columns, columns, codes, half_bits(torch.rand(1, rows)), table=table)


def eight(weight: Nibbles) -> Any:
    """Return torch's layer of 8-bit weights that computes the same."""
    layer = torch.nn.Linear(weight.columns, len(weight.codes), bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight.units() * weight.steps().T)
    torch.backends.quantized.engine = "onednn"
    return torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(layer), {torch.nn.Linear})


def product(weight: Nibbles, x: torch.Tensor) -> torch.Tensor:
    """Return the product with the inputs, which are rounded to 8 bits."""
    rounded = int8.inputs(x, weight.span)
    y = int8.product(weight, *rounded)
    return int8.in_order(weight, *rounded) if y is None else y


def through(chain: list[Nibbles], x: torch.Tensor) -> torch.Tensor:
    """Return the inputs after one ternary product after another."""
    for weight in chain:
        x = product(weight, x)
    return x


def works(inputs: int, filters: int, products: int, pixels: int) -> dict[str, Work]:
    """Return what is timed, by name."""
    torch.manual_seed(0)
    x = torch.randn(pixels, inputs)
    shapes = [(products, inputs), (filters, products)] if products else [(filters, inputs)]
    chain = [ternary(*shape) for shape in shapes]
    layers = torch.nn.Sequential(*(eight(weight) for weight in chain))
    kinds: dict[str, Work] = {
        TERNARY: lambda: through(chain, x),
        EIGHT: lambda: layers(x),
    }
    if products:
        filter_layer = eight(ternary(filters, inputs))
        kinds[FILTERS] = lambda: filter_layer(x)
    return kinds


def main() -> None:
    """Time them in turn."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=301)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows, found = [["layer", "product", "median", "least", "over the ternary one"]], {}
    for name, shape in BANKS.items():
        with torch.inference_mode():
            seconds = alternate(works(*shape), args.rounds, 5)
        over = {kind: ratio(seconds, kind, TERNARY) for kind in seconds if kind != TERNARY}
        found[name] = {
            "median_us": {kind: 1e6 * statistics.median(some) for kind, some in seconds.items()},
            "least_us": {kind: 1e6 * min(some) for kind, some in seconds.items()},
            f"over {TERNARY}": over,
        }
        for kind, some in seconds.items():
            text = f"{over[kind]['median']:.2f}x" if kind in over else ""
            times = (f"{1e6 * of(some):.0f} us" for of in (statistics.median, min))
            rows.append([name, kind, *times, text])
    result = {"kernel": library() is not None, "level": int8.LEVELS[int8.level()], "layers": found}
    report("ternary_kernel", 1, result, rows)


if __name__ == "__main__":
    main()
