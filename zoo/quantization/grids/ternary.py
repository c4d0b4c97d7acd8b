"""Ternary: -1, 0 and 1 times a scale, two bits a code in two's complement; code 2 is none."""

from zoo.quantization.grids import _levels
from zoo.quantization.grids._levels import Levels
from zoo.quantization.grids._tables import signed
from zoo.quantization.options import LayerOptions

BITS = 2
VALUES = signed(2, least=-1)


def make(options: LayerOptions, rows: int, columns: int) -> Levels:
    """Return the grid."""
    return _levels.make(options, rows, columns, VALUES)
