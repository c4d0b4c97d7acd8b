"""Grids: which values exist. One file each, found by being here; see `contract`."""

from zoo import extensions
from zoo.quantization.grids.contract import Grid, GridModule
from zoo.quantization.options import LayerOptions

__all__ = ["Grid", "make_grid"]

POINT = "zoo.quantization.grids"


def make_grid(options: LayerOptions, rows: int, columns: int) -> Grid:
    """Return the grid that `options` ask for, laid out for a (rows, columns) matrix."""
    name = "factored" if options.codebook_rank else options.grid
    module: GridModule = extensions.member(POINT, name, "grid")
    return module.make(options, rows, columns)
