"""MXINT4: two's complement, two bits behind the point, -7/4 to 7/4: MXINT8 with 4 bits.

The specification has no such type; it is the one of "INT v.s. FP" (2510.25602).
"""

from zoo.quantization.grids import _mx
from zoo.quantization.grids._mx import Microscaled
from zoo.quantization.grids._tables import signed
from zoo.quantization.options import LayerOptions

BITS = 4
VALUES = signed(4, 1 / 4, least=-7)


def make(options: LayerOptions, rows: int, columns: int) -> Microscaled:
    """Return the grid."""
    return _mx.make(options, rows, columns, VALUES, top=0)
