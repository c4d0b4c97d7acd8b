"""MXFP6 with elements E2M3, the type with the finer steps."""

from zoo.quantization.grids import _mx
from zoo.quantization.grids._mx import Microscaled, minifloat
from zoo.quantization.options import LayerOptions

BITS = 6
VALUES = minifloat(2, 3)


def make(options: LayerOptions, rows: int, columns: int) -> Microscaled:
    """Return the grid."""
    return _mx.make(options, rows, columns, VALUES, top=2)
