"""The parts of a model that are quantized one after another, found without knowing its names."""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import MismatchError
from zoo.quantization.coverage import is_linear

Group = list[str]  # linear layers that get the same input and hence share a Hessian
Level = list[Group]  # groups that do not feed each other: their inputs are seen in one pass


def linears(module: nn.Module) -> dict[str, nn.Linear]:
    """Return the linear layers below a module by name."""
    return {name: layer for name, layer in module.named_modules() if is_linear(layer)}


def find_blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Return the repeated blocks of a transformer, and their name: "model.layers".

    Raises:
        MismatchError: there is no list of similar modules that hold linear layers.

    """
    best: tuple[int, str, nn.ModuleList] | None = None
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or len({type(block) for block in module}) != 1:
            continue
        weights = sum(layer.weight.numel() for layer in linears(module).values())
        if weights and (best is None or weights > best[0]):
            best = weights, name, module
    if best is None:
        raise MismatchError(
            f"{type(model).__name__} has no list of similar blocks with linear layers, so it "
            "cannot be compressed block by block; quantize it whole, in memory, with "
            "zoo.quantization.generic.quantize_model(model, batches, options)"
        )
    return best[1], best[2]


@dataclass
class BlockCall:
    """The arguments of a block besides the hidden states."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """Return the hidden states after `block`, (1, length, width)."""
        out = block(hidden, *self.args, **self.kwargs)
        return out if isinstance(out, Tensor) else out[0]


class _Enough(Exception):  # noqa: N818  # no error: it ends a forward pass whose rest is not needed
    """Raised when everything that a pass was run for has been seen."""


@contextmanager
def replaced_forward(modules: Iterator[nn.Module] | nn.ModuleList, make: Any) -> Iterator[None]:
    """Let `make(i)` stand in for the i-th module's forward while the block lasts."""
    items = list(modules)
    try:
        for number, module in enumerate(items):
            module.forward = make(number)
        yield
    finally:
        for module in items:
            module.__dict__.pop("forward", None)


def record_calls(model: nn.Module, blocks: nn.ModuleList, ids: Tensor) -> list[BlockCall]:
    """Return the arguments with which the model calls each block, for token ids (1, length).

    Masks and rotary angles may differ from block to block (sliding windows); they do not depend
    on the tokens, so one window shows them all. No block is run.
    """
    for as_tuple in (False, True):  # some models expect `(hidden, ...)` from a block
        try:
            return _recorded(model, blocks, ids, as_tuple)
        except (IndexError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            problem = error
    raise MismatchError(
        f"{type(model).__name__} does not call its blocks one after another with the hidden "
        f"states: {problem}"
    ) from problem


def _recorded(
    model: nn.Module, blocks: nn.ModuleList, ids: Tensor, as_tuple: bool
) -> list[BlockCall]:
    calls: list[BlockCall] = []
    first: list[torch.Size] = []
    record = _recorder(calls, first, len(blocks), as_tuple)
    try:
        with replaced_forward(blocks, lambda _: record):
            model(ids, use_cache=False)
    except _Enough:
        return calls
    raise ValueError(f"{len(calls)} of {len(blocks)} were called")


def _recorder(calls: list[BlockCall], first: list[torch.Size], count: int, as_tuple: bool) -> Any:
    def forward(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        first.append(hidden.shape)
        if hidden.shape != first[0]:
            raise ValueError("the hidden states change their shape between blocks")
        calls.append(BlockCall(args, kwargs))
        if len(calls) == count:
            raise _Enough
        return (hidden,) if as_tuple else hidden

    return forward


def first_hidden(model: nn.Module, blocks: nn.ModuleList, ids: Tensor) -> Tensor:
    """Return the first block's input for token ids (1, length): (1, length, width)."""
    seen: list[Tensor] = []

    def forward(hidden: Tensor, *_: Any, **__: Any) -> Any:
        seen.append(hidden)
        raise _Enough

    try:
        with replaced_forward(iter([blocks[0]]), lambda _: forward):
            model(ids, use_cache=False)
    except _Enough:
        return seen[0]
    raise MismatchError(f"{type(model).__name__} does not call its first block")


@dataclass
class Order:
    """The order in which a module calls its linear layers.

    Attributes:
        groups: layers given the very same tensor (query, key and value), in order of first call.
        names: all layers in order of first call; those that the first run skipped come first.
        runs: the runs that it took to see all layers.
        read: layers whose weight other code reads, and that are never called.

    """

    groups: list[Group]
    names: list[str]
    runs: list[Callable[[], object]]
    read: set[str]


def call_order(module: nn.Module, passes: Iterable[Callable[[], object]]) -> Order:
    """Return the order in which a module's runs call its linear layers."""
    layers = linears(module)
    groups: dict[str, Group] = {}  # by the name of the first member
    runs: list[Callable[[], object]] = []
    first: list[str] = []
    read: set[str] = set()
    for run in passes:
        inputs: list[tuple[Tensor, Group]] = []  # kept alive, so that no id is used twice in a pass

        def see(name: str, value: Tensor, inputs: list[tuple[Tensor, Group]] = inputs) -> None:
            if any(name in group for group in groups.values()):
                return
            for other, group in inputs:
                if other is value or _same_memory(other, value):
                    group.append(name)
                    return
            groups[name] = [name]
            inputs.append((value, groups[name]))

        with watched(layers, see), _reads(layers, read):
            run()
        runs.append(run)
        seen = [name for group in groups.values() for name in group]
        first = first or seen
        if read.union(seen) == layers.keys():
            break
    late = [name for name in layers if name not in first]
    return Order(list(groups.values()), late + first, runs, read.difference(seen))


@contextmanager
def _reads(layers: dict[str, nn.Linear], read: set[str]) -> Iterator[None]:
    """Add to `read` the names of the layers whose weight any code reads.

    Each layer gets its own class while the block lasts: parameters are found by `__getattr__`.
    """
    usual = {name: type(layer) for name, layer in layers.items()}

    def watching(name: str, kind: type[nn.Linear]) -> type[nn.Linear]:
        def getattr_(self: nn.Module, key: str) -> Any:
            if key == "weight":
                read.add(name)
            return kind.__getattr__(self, key)

        return type(kind.__name__, (kind,), {"__getattr__": getattr_})

    try:
        for name, layer in layers.items():
            layer.__class__ = watching(name, usual[name])
        yield
    finally:
        for name, layer in layers.items():
            layer.__class__ = usual[name]


def levels(module: nn.Module, order: Order) -> list[Level]:
    """Return the linear layers of a module as levels, in the order in which they are called.

    Groups whose names differ only in numbers, and that do not feed each other, form a level (the
    experts of a mixture; not the blocks of a stack). Layers that no run calls come last, each
    alone; those whose weight is only read are left out.
    """
    layers = linears(module)
    alike: dict[str, list[Group]] = {}
    for group in order.groups:
        alike.setdefault(re.sub(r"(?<=\.)\d+(?=\.)", "*", f".{group[0]}."), []).append(group)
    ordered = [level for same in alike.values() for level in _independent(same, layers, order.runs)]
    ordered.sort(key=lambda level: order.groups.index(level[0]))
    seen = {name for group in order.groups for name in group} | order.read
    return ordered + [[[name]] for name in layers if name not in seen]


def _independent(
    groups: list[Group], layers: dict[str, nn.Linear], passes: list[Callable[[], object]]
) -> list[Level]:
    """Split groups, in the order of their calls, into levels in which none feeds another.

    A layer feeds what changes when its output is zero.
    """
    if len(groups) == 1:
        return [groups]
    split, usual = [], _inputs(groups, layers, passes, zeros=[])

    def untouched(by: Level) -> Level:
        changed = _inputs(groups, layers, passes, zeros=[name for group in by for name in group])
        return [g for g in groups if _all_equal(usual[g[0]], changed[g[0]])]

    left = groups
    while left:
        level = [g for g in untouched(left[:1]) if g in left]
        if len(level) > 1:  # of those that the first does not feed, none that the others feed
            level = [g for g in untouched(level) if g in level]
        split.append(level)
        left = [g for g in left if g not in level]
    return split


def _inputs(
    groups: list[Group],
    layers: dict[str, nn.Linear],
    passes: list[Callable[[], object]],
    zeros: list[str],
) -> dict[str, list[Tensor]]:
    """Return the input of the first layer of each group, while some layers output zeros."""
    seen: dict[str, list[Tensor]] = {group[0]: [] for group in groups}
    none = [layers[name].register_forward_hook(lambda *args: args[2] * 0) for name in zeros]
    try:
        with watched({name: layers[name] for name in seen}, lambda n, v: seen[n].append(v.clone())):
            for run in passes:
                run()
    finally:
        for handle in none:
            handle.remove()
    return seen


def _all_equal(these: list[Tensor], those: list[Tensor]) -> bool:
    return len(these) == len(those) and all(map(torch.equal, these, those))


def _same_memory(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride()


@contextmanager
def watched(layers: dict[str, nn.Linear], see: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Show the input of each layer to `see(name, input)` while the block lasts."""

    def hook(name: str) -> Any:
        return lambda _, args: see(name, args[0])

    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def run_until(run: Callable[[], object], layers: dict[str, nn.Linear], see: Any) -> None:
    """Run a pass that shows the inputs of `layers`, and end it once each has been called."""
    waiting = set(layers)

    def seen(name: str, value: Tensor) -> None:
        see(name, value)
        waiting.discard(name)
        if not waiting:
            raise _Enough

    with watched(layers, seen):
        try:
            run()
        except _Enough:
            return
