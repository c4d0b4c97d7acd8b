"""Posit4 and FixP4 mixed: each group of a row takes the table of less weighted error.

Of "Low-Precision Mixed-Computation Models for Inference on Edge" (arXiv 2312.02210), whose
choice is by sensitivity too; here it is by the diagonal of the Hessian, or of what is left of it
once earlier columns are fixed. It takes one bit per group and row.
"""

from zoo.quantization.grids import _levels
from zoo.quantization.grids._levels import Levels
from zoo.quantization.grids.fixp4 import VALUES as FIXED
from zoo.quantization.grids.posit4 import VALUES as POSIT
from zoo.quantization.options import LayerOptions

BITS = 4


def make(options: LayerOptions, rows: int, columns: int) -> Levels:
    """Return the grid: table 0 is FixP4, table 1 Posit4."""
    return _levels.make(options, rows, columns, FIXED, POSIT)
