"""NF4: 16 values that a normal distribution takes about equally often (QLoRA, 2305.14314).

The numbers are those of appendix E, as bitsandbytes has them (torchao rounds them to four places);
codes count upwards.
"""

from zoo.quantization.grids import _levels
from zoo.quantization.grids._levels import Levels
from zoo.quantization.options import LayerOptions

BITS = 4
VALUES = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


def make(options: LayerOptions, rows: int, columns: int) -> Levels:
    """Return the grid."""
    return _levels.make(options, rows, columns, VALUES)
