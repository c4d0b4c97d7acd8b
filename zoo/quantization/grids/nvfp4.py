"""NVFP4: elements E2M1."""

from zoo.quantization.grids import _nv
from zoo.quantization.grids._nv import TwoScales
from zoo.quantization.grids.fp4 import VALUES
from zoo.quantization.options import LayerOptions

BITS = 4


def make(options: LayerOptions, rows: int, columns: int) -> TwoScales:
    """Return the grid."""
    return _nv.make(options, rows, columns, VALUES)
