"""What convolutions and pools share: padding, and the positions of a window."""

from typing import TYPE_CHECKING, Any

from zoo.graph.ir import Op

if TYPE_CHECKING:
    from zoo.graph.lower import Lowering


def pair(value: Any) -> tuple[int, int]:
    """Return a size of height and width, given as one number, one in a list, or two."""
    items = [value] if isinstance(value, int) else list(value)
    return (items[0], items[-1])


def same_padding(
    size: tuple[int, ...],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[int, ...]:
    """Return TensorFlow's SAME as (top, bottom, left, right): the odd pixel is at the end."""
    sides: list[int] = []
    for n, k, s, d in zip(size, kernel, stride, dilation, strict=True):
        total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        sides += [total // 2, total - total // 2]
    return tuple(sides)


def positions(op: Op, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the height and width of a window op's output, of an input (N, H, W, C)."""
    top, bottom, left, right = op.attributes["padding"]
    size = (shape[1] + top + bottom, shape[2] + left + right)
    keys = ("kernel", "stride", "dilation")
    return tuple(
        (n - (k - 1) * d - 1) // s + 1
        for n, k, s, d in zip(size, *(op.attributes[key] for key in keys), strict=True)
    )


def padded(lowering: "Lowering", op: Op, value: float) -> tuple[str, dict[str, Any]]:
    """Return the input and attributes of a window op whose padding TFLite can express."""
    height, width, channels = lowering.tensors[op.inputs[0]].shape[1:]
    a = op.attributes
    same = same_padding((height, width), a["kernel"], a["stride"], a["dilation"])
    top, bottom, left, right = a["padding"]
    if not any(a["padding"]) or (a["padding"] == same and not a.get("count_padding")):
        return op.inputs[0], dict(a)
    shape = (lowering.shape(op.inputs[0])[0], height + top + bottom, width + left + right, channels)
    around = {"padding": (0, 0, left, right, top, bottom, 0, 0), "value": value}
    return lowering.before(op, "pad", shape, around), {**a, "padding": (0, 0, 0, 0)}
