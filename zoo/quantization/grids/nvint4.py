"""NVINT4: NVFP4 with integers from -7 to 7, as "INT v.s. FP" (2510.25602) has it."""

from zoo.quantization.grids import _nv
from zoo.quantization.grids._nv import TwoScales
from zoo.quantization.grids._tables import signed
from zoo.quantization.options import LayerOptions

BITS = 4
VALUES = signed(4, least=-7)


def make(options: LayerOptions, rows: int, columns: int) -> TwoScales:
    """Return the grid."""
    return _nv.make(options, rows, columns, VALUES)
