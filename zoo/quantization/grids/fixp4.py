"""FixP4: fixed point of 4 bits, two of them behind the point; codes in two's complement."""

from zoo.quantization.grids import _levels
from zoo.quantization.grids._levels import Levels
from zoo.quantization.grids._tables import signed
from zoo.quantization.options import LayerOptions

BITS = 4
VALUES = signed(4, 1 / 4)  # -2, -7/4, ..., 7/4


def make(options: LayerOptions, rows: int, columns: int) -> Levels:
    """Return the grid."""
    return _levels.make(options, rows, columns, VALUES)
