"""Where a scale per channel goes into a block's weights without changing what the block computes.

A norm or a linear layer whose output reaches other linear layers channel by channel may be divided
by a scale, and their columns multiplied by it. Such places are not known by their names: they are
tried with random scales, and taken if every linear layer and the block give what they gave before.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zoo.quantization.language import blocks

TOLERANCE = 1e-3  # of a token's change, relative to its size; float32 leaves 1e-5


@dataclass(frozen=True, eq=False)
class Fold:
    """A place for scales.

    Attributes:
        before: name of the norm or linear layer whose outputs are divided.
        layers: names of the linear layers, given one input, whose columns are multiplied.
        channels: the output of `before` that each column reads, (columns,); heads of keys and
            values that several heads of queries share are read several times.
        offset: what the norm adds to its stored weight: 1 for Gemma's, 0 for most.

    """

    before: str
    layers: tuple[str, ...]
    channels: Tensor
    offset: float = 0.0


@torch.no_grad()
def apply(block: nn.Module, fold: Fold, scale: Tensor) -> None:
    """Divide the outputs of `fold.before` by `scale` (outputs,), and multiply the columns by it."""
    for _, value in block.get_submodule(fold.before).named_parameters(recurse=False):
        rows = scale if value.ndim == 1 else scale.unsqueeze(1)
        offset = fold.offset if value.ndim == 1 else 0.0
        value.data = (value + offset) / rows - offset
    for name in fold.layers:
        weight = block.get_submodule(name).get_parameter("weight")
        weight.data = weight * scale[fold.channels.to(scale.device)]


@torch.no_grad()
def find(block: nn.Module, run: Callable[[], object]) -> list[Fold]:
    """Return the places for scales in a block, at most one for each input of linear layers.

    Args:
        block: its weights are in float32; they are the same afterwards.
        run: runs it on tokens, and returns a tensor.

    """
    usual, order = _seen(block, run), blocks.call_order(block, [run])
    found = []
    for group in order.groups:
        exact = (fold for fold in _candidates(block, group) if _is_exact(block, fold, run, usual))
        if (fold := next(exact, None)) is not None:
            found.append(fold)
    return found


def _candidates(block: nn.Module, group: blocks.Group) -> Iterator[Fold]:
    """Yield what could be scaled before a group of linear layers: norms first."""
    first = block.get_submodule(group[0])
    assert isinstance(first, nn.Linear)
    columns, layers = torch.arange(first.in_features), tuple(group)
    for name, module in block.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if own and all(value.shape == (first.in_features,) for value in own.values()):
            yield Fold(name, layers, columns)
            if list(own) == ["weight"]:
                yield Fold(name, layers, columns, offset=1.0)
    widths = {getattr(module, "head_dim", None) for module in block.modules()} - {None}
    for name, layer in blocks.linears(block).items():
        outputs = layer.out_features
        if name in group or first.in_features % outputs:
            continue
        if outputs == first.in_features:
            yield Fold(name, layers, columns)
        for width in widths:
            if isinstance(width, int) and width > 0 and outputs % width == 0:
                head = columns // width * outputs // first.in_features
                yield Fold(name, layers, head * width + columns % width)


def _is_exact(
    block: nn.Module, fold: Fold, run: Callable[[], object], usual: dict[str, list[Tensor]]
) -> bool:
    """Say whether nothing but the outputs of `fold.before` changes with a scale."""
    touched = [block.get_submodule(name) for name in (fold.before, *fold.layers)]
    kept = [(value, value.data) for module in touched for value in module.parameters(recurse=False)]
    dice = torch.Generator().manual_seed(0)
    scale = torch.rand(int(fold.channels.max()) + 1, generator=dice) * 1.5 + 0.5
    try:
        apply(block, fold, scale.to(kept[0][1]))
        now = _seen(block, run)
    finally:
        for value, data in kept:
            value.data = data
    return all(
        len(now.get(name, [])) == len(before) and all(map(_equal, now[name], before))
        for name, before in usual.items()
        if name != fold.before
    )


def _equal(now: Tensor, before: Tensor) -> bool:
    off, size = (now - before).norm(dim=-1), before.norm(dim=-1)
    return bool((off <= TOLERANCE * size).all())


def _seen(block: nn.Module, run: Callable[[], object]) -> dict[str, list[Tensor]]:
    """Return what linear layers give in a run, by name, and under "" what the block gives."""
    seen: dict[str, list[Tensor]] = {}
    with _watched(blocks.linears(block), lambda n, v: seen.setdefault(n, []).append(v.clone())):
        answer = run()
    assert isinstance(answer, Tensor)
    return {**seen, "": [answer]}


@contextmanager
def _watched(layers: dict[str, nn.Linear], see: Callable[[str, Tensor], None]) -> Iterator[None]:
    def hook(name: str) -> Callable[..., None]:
        return lambda _, __, output: see(name, output)

    handles = [layer.register_forward_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def structure(block: nn.Module) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Return what is equal for blocks in which scales go to the same places."""
    named = itertools.chain(block.named_parameters(), block.named_buffers())
    return tuple((name, tuple(value.shape)) for name, value in named)
