"""Posit of 4 bits without exponent bits (es 0); codes are its bits, in two's complement.

Weights go to the nearest value, where posit arithmetic would round its bit string and never to
zero. Code 8 is NaR, "not a real": it is neither produced nor read.
"""

from zoo.quantization.grids import _levels
from zoo.quantization.grids._levels import Levels
from zoo.quantization.options import LayerOptions

BITS = 4
_POSITIVE = (1 / 4, 1 / 2, 3 / 4, 1.0, 3 / 2, 2.0, 4.0)
VALUES = (0.0, *_POSITIVE, None, *(-value for value in reversed(_POSITIVE)))


def make(options: LayerOptions, rows: int, columns: int) -> Levels:
    """Return the grid."""
    return _levels.make(options, rows, columns, VALUES)
