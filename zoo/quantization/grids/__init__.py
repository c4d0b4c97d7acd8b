"""Grids: which values exist. One file each, found by name (`zoo.quantization.options.METHODS`)."""

import importlib

from zoo.quantization.grids.base import Grid
from zoo.quantization.options import LayerOptions

__all__ = ["Grid", "make_grid"]


def make_grid(options: LayerOptions, rows: int, columns: int) -> Grid:
    """Return the grid that `options` ask for, laid out for a (rows, columns) matrix."""
    module = importlib.import_module(f"zoo.quantization.grids.{options.grid}")
    return module.make(options, rows, columns)
