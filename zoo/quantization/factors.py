"""Factors of forms on a grid: what a checkpoint stores of a network whose matrices are in forms.

A structure says which factors, their shapes, and the grid:

```json
{"version": 4, "forms": {"fc": {"lowrank": {"rank": 8}}},
 "factors": {"grid": {"method": "rtn", "bits": 8},
             "shapes": {"fc.left": [96, 8], "fc.right": [8, 48]}}}
```

In place of the tensor `fc.left` there are `fc.left.codes` and what the grid stores. They are
decoded when the checkpoint is opened, in float32, to the same bits everywhere.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from zoo.errors import MismatchError, UnsafeFileError
from zoo.quantization.core import QuantizedMatrix, quantize_matrix
from zoo.quantization.options import FORMATS, LayerOptions

Tensors = Mapping[str, Tensor]


def grid_options(format: str, group_size: int) -> LayerOptions:
    """Return how factors are rounded to a format, e.g. "int8" or "nf4".

    Raises:
        MismatchError: the format takes no such groups.

    """
    return LayerOptions(method="rtn", **FORMATS[format], group_size=group_size or None)


def encoded(
    tensors: Tensors, layers: Sequence[str], options: LayerOptions
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a network's tensors with the factors of some layers on a grid, and the `factors`.

    Vectors stay as they are: biases, and diagonals between factors.
    """
    stored: dict[str, Tensor] = {}
    shapes: dict[str, list[int]] = {}
    for name, value in tensors.items():
        layer = name.rpartition(".")[0]
        if layer not in layers or value.ndim != 2 or not value.numel():
            stored[name] = value
            continue
        shapes[name] = list(value.shape)
        matrix = quantize_matrix(value, None, options)
        stored |= {f"{name}.{part}": tensor for part, tensor in matrix.tensors().items()}
    return stored, {"grid": options.to_dict(), "shapes": shapes}


def decoded(tensors: Tensors, factors: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return a network's tensors with factors in float32, from what `encoded` returned.

    Raises:
        MismatchError, UnknownNameError: `factors` is not what `encoded` writes.
        UnsafeFileError: the tensors are not what it says.

    """
    shapes, grid = (factors.get(key) if isinstance(factors, Mapping) else None
                    for key in ("shapes", "grid"))  # fmt: skip
    if not isinstance(shapes, Mapping) or not isinstance(grid, Mapping):
        raise MismatchError(f"structure.factors is {factors!r:.80}; expected grid and shapes")
    options = LayerOptions.from_dict(grid)
    found = dict(tensors)
    for name, shape in shapes.items():
        whole = isinstance(shape, list) and len(shape) == 2
        if not whole or not all(type(size) is int and size > 0 for size in shape):
            raise MismatchError(
                f"structure.factors.shapes.{name} is {shape!r:.80}; expected [rows, columns]"
            )
        parts = {part: found.pop(part) for part in list(found) if part.startswith(f"{name}.")}
        own = {part.removeprefix(f"{name}."): tensor for part, tensor in parts.items()}
        try:
            found[name] = QuantizedMatrix.from_tensors(
                own, (shape[0], shape[1]), options
            ).dequantize()
        except UnsafeFileError as error:
            raise UnsafeFileError(f"factor {name!r}: {error}") from error
    return found


def bits_per_number(tensors: Tensors, factors: Mapping[str, Any]) -> float:
    """Return the stored bits of each number of the factors, scales and all included."""
    names = tuple(f"{name}." for name in factors["shapes"])
    stored = sum(
        t.numel() * t.element_size() for name, t in tensors.items() if name.startswith(names)
    )
    numbers = sum(rows * columns for rows, columns in factors["shapes"].values())
    return 8 * stored / numbers
