"""Grids: which values exist. One file each, found by name (`zoo.quantization.options.METHODS`)."""

import importlib

from zoo.quantization.grids.base import Grid
from zoo.quantization.options import LayerOptions

__all__ = ["Grid", "make_grid"]


def make_grid(options: LayerOptions, rows: int, columns: int) -> Grid:
    """Return the grid that `options` ask for, laid out for a (rows, columns) matrix."""
    name = "factored" if options.codebook_rank else options.grid
    module = importlib.import_module(f"zoo.quantization.grids.{name}")
    return module.make(options, rows, columns)
