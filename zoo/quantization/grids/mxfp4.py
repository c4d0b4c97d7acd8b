"""MXFP4: elements E2M1."""

from zoo.quantization.grids import _mx
from zoo.quantization.grids._mx import Microscaled, minifloat
from zoo.quantization.options import LayerOptions

BITS = 4
VALUES = minifloat(2, 1)


def make(options: LayerOptions, rows: int, columns: int) -> Microscaled:
    """Return the grid."""
    return _mx.make(options, rows, columns, VALUES, top=2)
