"""MXFP8 with elements E4M3, the type with the finer steps; two codes are NaN."""

from zoo.quantization.grids import _mx
from zoo.quantization.grids._mx import Microscaled, minifloat
from zoo.quantization.options import LayerOptions

BITS = 8
VALUES = minifloat(4, 3, reserved=1)


def make(options: LayerOptions, rows: int, columns: int) -> Microscaled:
    """Return the grid."""
    return _mx.make(options, rows, columns, VALUES, top=8)
