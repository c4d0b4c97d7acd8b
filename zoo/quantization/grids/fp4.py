"""FP4, E2M1: a sign, two bits of exponent, one of mantissa, with a 16-bit scale per group."""

from zoo.quantization.grids import _levels
from zoo.quantization.grids._levels import Levels
from zoo.quantization.grids._tables import symmetric
from zoo.quantization.options import LayerOptions

BITS = 4
VALUES = symmetric((0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0), zero=-0.0)


def make(options: LayerOptions, rows: int, columns: int) -> Levels:
    """Return the grid."""
    return _levels.make(options, rows, columns, VALUES)
