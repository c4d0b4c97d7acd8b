"""MXFP6 with elements E3M2, the type with the wider range."""

from zoo.quantization.grids import _mx
from zoo.quantization.grids._mx import Microscaled, minifloat
from zoo.quantization.options import LayerOptions

BITS = 6
VALUES = minifloat(3, 2)


def make(options: LayerOptions, rows: int, columns: int) -> Microscaled:
    """Return the grid."""
    return _mx.make(options, rows, columns, VALUES, top=4)
