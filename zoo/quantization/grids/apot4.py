"""Additive powers of two of 4 bits (APoT, 1909.13144): a sign and a sum of two powers of two.

Magnitudes are one of 0, 1/16, 1/4, 1/2 plus one of 0, 1/8, here in units of 1/16. Codes are sign
and magnitude; that of minus zero is none.
"""

from zoo.quantization.grids import _levels
from zoo.quantization.grids._levels import Levels
from zoo.quantization.grids._tables import symmetric
from zoo.quantization.options import LayerOptions

BITS = 4
VALUES = symmetric((0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0))


def make(options: LayerOptions, rows: int, columns: int) -> Levels:
    """Return the grid."""
    return _levels.make(options, rows, columns, VALUES)
