"""Grids: which values exist. One file each, found in this folder; see `contract`."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from zoo import extensions

if TYPE_CHECKING:  # the names of grids are known without torch
    from zoo.quantization.grids.contract import Grid, GridModule
    from zoo.quantization.options import LayerOptions

__all__ = ["make_grid"]

POINT = "zoo.quantization.grids"


def find(name: str) -> "GridModule":
    """Return the grid of that name.

    Raises:
        UnknownNameError: there is no such grid.
        MismatchError: it lacks its function, or cannot be imported.

    """
    module: GridModule = extensions.member(POINT, name, "grid")
    extensions.require(module, {"make": Callable}, f"grid {name!r}", f"{POINT}.contract")
    return module


def make_grid(options: "LayerOptions", rows: int, columns: int) -> "Grid":
    """Return the grid that `options` ask for, laid out for a (rows, columns) matrix."""
    name = "factored" if options.codebook_rank else options.grid
    return find(name).make(options, rows, columns)
