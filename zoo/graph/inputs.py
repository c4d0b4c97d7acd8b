"""What a module takes: one tensor, several in order, or several by name.

A shape is a tuple of sizes, (1, 3, 96, 96); several are a tuple of shapes or, for arguments by
name, a mapping. Batches have the same form, with tensors in place of shapes. Graphs and files have
their inputs in that order.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.errors import MismatchError

Shape = tuple[int, ...]
Shapes = Shape | tuple[Shape, ...] | Mapping[str, Shape]
Inputs = Tensor | tuple[Tensor, ...] | Mapping[str, Tensor]


def shapes(given: Shapes) -> dict[str, Shape]:
    """Return each input's shape, by its name or, without names, by its place.

    Raises:
        MismatchError: a shape is not one of fixed sizes; it is named.

    """
    if isinstance(given, Mapping):
        named: dict[str, Any] = {str(name): shape for name, shape in given.items()}
    elif isinstance(given, tuple | list) and given and not isinstance(given[0], int):
        named = {str(place): shape for place, shape in enumerate(given)}
    else:
        named = {"": given}
    if not named:
        raise MismatchError("the input shape () is not fixed; give one like (1, 3, 96, 96)")
    for name, shape in named.items():
        sizes = list(shape) if isinstance(shape, tuple | list | torch.Size) else []
        if not sizes or any(type(size) is not int or size < 1 for size in sizes):
            shown = tuple(sizes) if isinstance(shape, tuple | list) else repr(shape)
            which = f" of input {name!r}" if name else ""
            raise MismatchError(
                f"the input shape {shown}{which} is not fixed; a deployed graph has one size, "
                "e.g. (1, 3, 96, 96): make a graph for each"
            )
    return {name: tuple(shape) for name, shape in named.items()}


def arguments(batch: Inputs) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Return the positional and the named arguments of a module's call."""
    if isinstance(batch, Tensor):
        return (batch,), {}
    return ((), dict(batch)) if isinstance(batch, Mapping) else (tuple(batch), {})


def tensors(batch: Inputs) -> tuple[Tensor, ...]:
    """Return the tensors of a batch in order."""
    positional, named = arguments(batch)
    return (*positional, *named.values())


def made(given: Shapes, make: Callable[[Shape], Tensor]) -> Inputs:
    """Return a batch of these shapes, each tensor from `make`."""
    if isinstance(given, Mapping):
        return {name: make(shape) for name, shape in shapes(given).items()}
    several = tuple(make(shape) for shape in shapes(given).values())
    return several if is_several(given) else several[0]


def changed(given: Shapes, change: Callable[[Shape], Shape]) -> Shapes:
    """Return the same form with each shape changed."""
    if isinstance(given, Mapping):
        return {name: change(shape) for name, shape in shapes(given).items()}
    several = tuple(change(shape) for shape in shapes(given).values())
    return several if is_several(given) else several[0]


def of_batch(batch: Inputs) -> Shapes:
    """Return the shapes of a batch."""
    if isinstance(batch, Mapping):
        return {name: tuple(x.shape) for name, x in batch.items()}
    if isinstance(batch, Tensor):
        return tuple(batch.shape)
    return tuple(tuple(x.shape) for x in batch)


def of_one(batch: Inputs, like: Shapes | None = None) -> Shapes:
    """Return the shapes of one call of a batch, with first sizes of `like` if they fit, or 1."""
    firsts = [shape[0] for shape in shapes(like).values()] if like is not None else []
    sizes = [len(x) for x in tensors(batch)]
    if len(firsts) != len(sizes) or any(n % size for n, size in zip(sizes, firsts, strict=True)):
        firsts = [1] * len(sizes)
    places = iter(firsts)
    return changed(of_batch(batch), lambda shape: (next(places), *shape[1:]))


def calls(batch: Inputs, firsts: Sequence[int]) -> list[Inputs]:
    """Return a batch as the inputs of single calls, whose first sizes are `firsts`.

    Those are 1 for samples, and may be more for states: (layers, 1, width).
    """
    each = [x.split(size) for x, size in zip(tensors(batch), firsts, strict=True)]
    found: list[Inputs] = []
    for parts in zip(*each, strict=True):
        if isinstance(batch, Mapping):
            found.append(dict(zip(batch, parts, strict=True)))
        else:
            found.append(parts[0] if isinstance(batch, Tensor) else tuple(parts))
    return found


def is_several(given: Shapes) -> bool:
    """Whether shapes are of more than a tensor alone: a tuple of shapes, or by name."""
    return not isinstance(given[0], int) if isinstance(given, tuple | list) else True


def words(given: Shapes) -> str:
    """Return shapes as messages say them."""
    named = shapes(given)
    if list(named) == [""]:
        return f"an input of shape {named['']}"
    return f"inputs of the shapes {', '.join(f'{name} {shape}' for name, shape in named.items())}"
