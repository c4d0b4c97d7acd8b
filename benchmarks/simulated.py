"""Counted instructions against the clock: sixteen operators of one int8 network.

    python -m benchmarks.simulated

Goals: two simulations are equal to the instruction and the miss; the rank correlation (Spearman) of
estimated cycles with the median wall-clock time, operators taking turns, is 0.8.
"""

import tempfile
from pathlib import Path

import torch

from benchmarks.common import report
from tests.parity.test_simulator import Kernels, spearman, timed
from zoo.cost.simulator.cachegrind import counted
from zoo.cost.simulator.program import Program
from zoo.quantization.int8.post_training import quantize

RUNS = 200


def main() -> None:
    torch.manual_seed(0)
    graph = quantize(Kernels().eval(), [torch.randn(2, 3, 48, 48)], (1, 3, 48, 48))
    given = torch.randint(-128, 128, (1, 48, 48, 3)).to(torch.int8)
    program = Program.of(graph)
    found, _ = counted(program, given.numpy())
    again, _ = counted(program, given.numpy())
    with tempfile.TemporaryDirectory() as folder:
        seconds = timed(program, Path(folder), given, RUNS)
    correlation = spearman([float(counts.cycles) for counts in found], seconds)
    rows = [["OPERATOR", "INSTRUCTIONS", "L1 MISSES", "CYCLES", "MEASURED us"]]
    for op, counts, time in zip(graph.ops, found, seconds, strict=True):
        numbers = (counts.instructions, counts.l1_misses, counts.cycles)
        rows.append([op.kind, *(f"{number:,}" for number in numbers), f"{time * 1e6:.1f}"])
    report(
        "simulated",
        1,
        {
            "equal": found == again,
            "spearman": correlation,
            "runs": RUNS,
            "operators": [
                {"kind": op.kind, **vars(counts), "measured_us": time * 1e6}
                for op, counts, time in zip(graph.ops, found, seconds, strict=True)
            ],
        },
        rows,
    )
    print(f"equal: {found == again}; rank correlation {correlation:.3f}")
    assert found == again
    assert correlation >= 0.8


if __name__ == "__main__":
    main()
