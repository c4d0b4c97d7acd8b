"""MXFP8 with elements E5M2, the type with the wider range; eight codes are infinity or NaN."""

from zoo.quantization.grids import _mx
from zoo.quantization.grids._mx import Microscaled, minifloat
from zoo.quantization.options import LayerOptions

BITS = 8
VALUES = minifloat(5, 2, reserved=4)


def make(options: LayerOptions, rows: int, columns: int) -> Microscaled:
    """Return the grid."""
    return _mx.make(options, rows, columns, VALUES, top=15)
