"""Cutting an image into tiles that fit a device's memory.

A network whose outputs depend on at most `halo` input pixels on each side can run on overlapping
tiles: what lies within the halo of a tile's inner edge is computed and thrown away.
"""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A tiling of one image.

    Attributes:
        height: of a tile's input in pixels, halo included.
        width: likewise.
        halo: pixels on each inner side whose outputs are thrown away.
        count: tiles that cover the image.

    """

    height: int
    width: int
    halo: int
    count: int

    @property
    def pixels(self) -> int:
        """Input pixels of all tiles together."""
        return self.height * self.width * self.count


def best_tile(
    height: int, width: int, halo: int, most_pixels: int, multiple: int = 1
) -> Tile | None:
    """Return the tiling of an image that computes the fewest pixels in all, or None.

    Every tile has at most `most_pixels`, and all have one shape, since a device's network has a
    fixed input; None when not even one output pixel and its halo fit. Sides of tiles are multiples
    of `multiple`, as those of the image are, and the halo too.
    """
    best: Tile | None = None
    for rows, tile_height in _cuts(height, halo, multiple):
        for columns, tile_width in _cuts(width, halo, multiple):
            if tile_height * tile_width > most_pixels:
                continue
            tile = Tile(height=tile_height, width=tile_width, halo=halo, count=rows * columns)
            if best is None or (tile.pixels, tile.count) < (best.pixels, best.count):
                best = tile
            break  # more columns are smaller tiles, which compute more
    return best


def _cuts(length: int, halo: int, multiple: int) -> Iterator[tuple[int, int]]:
    """Give (number, size) of equal overlapping pieces of a line, from one piece to the smallest."""
    yield 1, length
    inner = length - 2 * halo  # the two outer pieces have no halo at the image's edge
    for count in range(2, max(inner, 1) + 1):
        size = -(-inner // (count * multiple)) * multiple + 2 * halo
        if size < length and -(-inner // (size - 2 * halo)) == count:
            yield count, size
