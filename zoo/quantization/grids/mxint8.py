"""MXINT8: two's complement, six bits behind the point; -2, the code 128, is left unused."""

from zoo.quantization.grids import _mx
from zoo.quantization.grids._mx import Microscaled
from zoo.quantization.grids._tables import signed
from zoo.quantization.options import LayerOptions

BITS = 8
VALUES = signed(8, 1 / 64, least=-127)


def make(options: LayerOptions, rows: int, columns: int) -> Microscaled:
    """Return the grid."""
    return _mx.make(options, rows, columns, VALUES, top=0)
