"""The passes of an Ethos-U that an operator of a graph becomes."""

from dataclasses import dataclass
from typing import Literal

Shape = tuple[int, int, int]
Unit = Literal["conv", "depthwise", "vector", "pool", "reduce", "elementwise", "move"]
MAC_UNITS = ("conv", "depthwise")
TABLE_BYTES = 256  # of a function of 8 bits


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One command of the accelerator.

    Attributes:
        unit: what does it.
        ifm: rows, columns, channels of the input; `ofm` of the output.
        kernel: rows and columns; `stride` and `dilation` likewise.
        upscale: 2 when the input is doubled on the way in.
        output: kind of output, a key of `Array.output_cycles`.
        activation: a key of `Array.activation_cycles`.
        ifm2: shape of a second operand; `scalar` when one operand is a single number.
        constant: the second operand is stored with the weights.
        in_bits: of an input element; `out_bits` of an output's.
        weights: how many there are; `encoded` bytes of them; `scales` channels with a scale.
        reads_bricks: the input lies in bricks of 16 channels; `bricks`: the output does.
        scattered: each byte of the output is written alone.
        table_bytes: of a table that it loads.
        again: its weights were counted with a pass before.
        reads_slow: its input lies in the slow memory; `writes_slow`: its output does.
        chained: elementwise operators that it applies to its result on the way out.
        operands: of these, as large as the output: whether each lies in the slow memory.

    """

    unit: Unit
    ifm: Shape
    ofm: Shape
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    upscale: int = 1
    output: str = "other"
    activation: str = "none"
    ifm2: Shape | None = None
    scalar: bool = False
    constant: bool = False
    in_bits: int = 8
    out_bits: int = 8
    weights: int = 0
    encoded: int = 0
    scales: int = 0
    reads_bricks: bool = True
    bricks: bool = True
    scattered: bool = False
    table_bytes: int = 0
    again: bool = False
    reads_slow: bool = False
    writes_slow: bool = False
    chained: int = 0
    operands: tuple[bool, ...] = ()
