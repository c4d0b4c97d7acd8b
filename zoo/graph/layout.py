"""Orders of dimensions: images are (N, C, H, W) in "torch", (N, H, W, C) in "channels_last"."""

from collections.abc import Sequence

NHWC, NCHW = (0, 2, 3, 1), (0, 3, 1, 2)  # as in permute
LAST = {0: 0, 1: 3, 2: 1, 3: 2}  # where a dimension of (N, C, H, W) lies in (N, H, W, C)
FIRST = {last: first for first, last in LAST.items()}  # and the way back


def channels_last(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return an (N, C, H, W) shape as (N, H, W, C); any other as it is."""
    return tuple(shape[i] for i in NHWC) if len(shape) == 4 else shape


def channels_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return an (N, H, W, C) shape as (N, C, H, W); any other as it is."""
    return tuple(shape[i] for i in NCHW) if len(shape) == 4 else shape


def order_matters(shape: Sequence[int]) -> bool:
    """Whether images of this (N, C, H, W) shape lie differently in memory in the two layouts."""
    return shape[1] > 1 and shape[2] * shape[3] > 1
