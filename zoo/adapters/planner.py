"""`Planner`: the adapters that a switcher knows, and the plans worked out from them."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from zoo.adapters import origin, registry, storage
from zoo.adapters.format import SparseAdapter, added, check_base, check_form, delta
from zoo.adapters.fusion import Fusion, Part, combine
from zoo.adapters.packed_plan import PackedEdit, PackedMemory
from zoo.adapters.plan import Edit, Key, SwitchPlan, TensorMemory
from zoo.adapters.sparse import (
    SparseTensor,
    base_tensors,
    check_shape,
    gather,
    mask_digest,
    packed_layers,
    places,
)
from zoo.errors import MismatchError, UnknownNameError
from zoo.quantization.bits import integers

_K = TypeVar("_K")
_T = TypeVar("_T")


class Recent(Generic[_K, _T]):
    """The most recently used values within a budget of bytes; the newest always stays.

    In a plain dict, oldest first: an interrupt in the hash of a key leaves an OrderedDict with a
    key in its order that is not among its items.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._items: dict[_K, tuple[_T, int]] = {}

    def __len__(self) -> int:
        return len(self._items)

    @property
    def nbytes(self) -> int:
        """Size of all values together."""
        return sum(size for _, size in self._items.values())

    def get(self, key: _K) -> _T | None:
        """Return a value and make it the newest."""
        entry = self._items.pop(key, None)
        if entry is None:
            return None
        self._items[key] = entry
        return entry[0]

    def put(self, key: _K, value: _T, nbytes: int) -> None:
        """Keep a value; the oldest go until the budget holds."""
        self._items.pop(key, None)
        self._items[key] = (value, nbytes)
        while self.nbytes > self.budget and len(self._items) > 1:
            del self._items[next(iter(self._items))]

    def drop(self, which: Callable[[_K], bool]) -> None:
        """Let go of the values whose keys `which` accepts."""
        for key in [key for key in self._items if which(key)]:
            del self._items[key]


class Planner:
    """Reads adapters when they are needed, checks them, and works out plans; writes nothing.

    Not thread-safe by itself: the switcher calls it one thread at a time, while nobody
    writes into the model.

    Args:
        model: the base model.
        strict: whether an adapter's base digest and type must fit.
        cache_bytes: budget for plans, and the same again for adapters read from files.

    """

    def __init__(self, model: nn.Module, *, strict: bool, cache_bytes: int) -> None:
        self.model = model
        self.strict = strict
        self.sources: dict[str, SparseAdapter | Path] = {}
        self.plans: Recent[Key, SwitchPlan] = Recent(cache_bytes)
        self.read: Recent[str, SparseAdapter] = Recent(cache_bytes)
        self.built = self.reused = 0
        self._checked: set[str] = set()
        self._memories: dict[str, TensorMemory | PackedMemory] = {}

    def register(self, name: str, adapter: SparseAdapter | str | Path) -> None:
        """Make an adapter known; of a file only the header is read and checked.

        A text that names no file here may name one that ships: "looks-oil".
        """
        if not isinstance(name, str) or not name:
            raise MismatchError(f"an adapter cannot be called {name!r}; expected a text")
        if name in self.sources:
            raise MismatchError(f"{name!r} is registered already; unregister it first")
        if isinstance(adapter, SparseAdapter):
            self._find(adapter.tensors)
            for tensor, change in adapter.tensors.items():
                self._check_form(tensor, change.shape, change.dtype)
            self.sources[name] = adapter
            return
        header = storage.read_header(_file(adapter))
        self._find(header.tensors)
        for tensor, fields in header.tensors.items():
            self._check_form(tensor, tuple(fields["shape"]), getattr(torch, fields["dtype"]))
        self.sources[name] = header.path

    def forget(self, name: str) -> None:
        """Drop an adapter and what was worked out from it."""
        del self.sources[name]
        self._checked.discard(name)
        self.read.drop(lambda key: key == name)
        self.plans.drop(lambda key: name in dict(key.weights))

    def known(self, name: str) -> None:
        """Raise UnknownNameError unless `name` is registered."""
        if name not in self.sources:
            raise UnknownNameError.near(
                "adapter", name, self.sources, "register it first: switcher.register(name, path)"
            )

    def plan(self, key: Key, active: SwitchPlan | None) -> SwitchPlan:
        """Return the plan for a state, from the cache or newly built, given what is active."""
        self.refresh(active)
        plan = active if active and active.key == key else self.plans.get(key)
        if plan is not None:
            self.reused += 1
            return plan
        plan = self._build(key, active)
        self.built += 1
        self.plans.put(key, plan, plan.nbytes)
        return plan

    def _check_form(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        memory = self._memory(name)
        if isinstance(memory, PackedMemory):
            check_shape(name, shape, memory.shape)
            return
        live = memory.tensor
        check_form(name, shape, dtype if self.strict else live.dtype, live)

    def refresh(self, active: SwitchPlan | None) -> None:
        """Forget plans for memory that the model no longer uses."""
        if not any(memory.moved for memory in self._memories.values()):
            return
        if active:
            raise MismatchError(
                "the model was moved, converted or reloaded while an adapter was active, so the "
                "base cannot be restored; load the base again, and deactivate before moving it"
            )
        self._memories.clear()
        self.plans.drop(lambda _: True)
        self._checked.clear()

    def _find(self, names: Iterable[str]) -> None:
        """Find the memory of these tensors; the model is searched once for all of them."""
        if missing := [name for name in names if name not in self._memories]:
            tensors, own = base_tensors(self.model), places(self.model)
            packed = packed_layers(self.model)
            for name in missing:
                self._memories[name] = (
                    PackedMemory(name, self.model, packed[name])
                    if name in packed
                    else TensorMemory(name, self.model, tensors, own.get(name, name))
                )

    def _memory(self, name: str) -> TensorMemory | PackedMemory:
        self._find((name,))
        return self._memories[name]

    def _build(self, key: Key, active: SwitchPlan | None) -> SwitchPlan:
        adapters = {name: self._adapter(name) for name, _ in key.weights}
        edits: list[Edit | PackedEdit] = []
        names = sorted({t for adapter in adapters.values() for t in adapter.tensors})
        self._find(names)
        for name in set(adapters) - self._checked if self.strict else ():
            origin.check(adapters[name].tensors, adapters[name].metadata, self.model)
        for tensor in names:
            memory = self._memory(tensor)
            parts = [
                (name, alpha, adapters[name])
                for name, alpha in key.weights
                if tensor in adapters[name].tensors
            ]
            if isinstance(memory, PackedMemory):
                edits.append(_beside(memory, parts, key.fusion))
            else:
                edits.append(Edit.of(memory, *self._fused(active, memory, parts, key.fusion)))
        plan = SwitchPlan.of(key, edits)
        self._checked.update(adapters)
        return plan

    def _adapter(self, name: str) -> SparseAdapter:
        source = self.sources[name]
        if isinstance(source, SparseAdapter):
            return source
        adapter = self.read.get(name)
        if adapter is None:
            adapter = SparseAdapter.load(source)
            self._checked.discard(name)
            self.read.put(name, adapter, sum(8 * t.nnz for t in adapter.tensors.values()))
        return adapter

    def _fused(
        self,
        active: SwitchPlan | None,
        memory: TensorMemory,
        parts: list[tuple[str, float, SparseAdapter]],
        fusion: Fusion,
    ) -> tuple[Tensor, Tensor, Tensor, str]:
        """Return positions of one tensor, fused values rounded once, the base's, the mask."""
        shares = []
        for name, alpha, adapter in parts:
            tensor = adapter.tensors[memory.name]
            before = _pristine(active, memory, tensor.indices)
            self._check(name, memory, tensor, before)
            alone = alpha == 1 and len(parts) == 1 and fusion.strategy != "dare"
            if alone and adapter.mode == "overwrite":
                new = tensor.values.to(before.dtype)
                return tensor.indices, new, before, tensor.mask_sha256
            change = delta(tensor, before if adapter.mode == "overwrite" else None)
            shares.append(Part(name, alpha, tensor.indices.numpy(), change.numpy()))
        where, change_there = combine(memory.name, shares, fusion)
        indices, mask = torch.from_numpy(where), tensor.mask_sha256
        if where is not shares[-1].indices:  # of several, or thinned out
            before = _pristine(active, memory, indices)
            mask = mask_digest(indices, memory.tensor.numel())
        new = added(memory.name, before, torch.from_numpy(np.asarray(change_there)))
        return indices, new, before, mask

    def _check(self, name: str, memory: TensorMemory, tensor: SparseTensor, before: Tensor) -> None:
        """Check an adapter's tensor against the live base, once per adapter."""
        if name in self._checked:
            return
        dtype = tensor.dtype if self.strict else memory.tensor.dtype
        check_form(memory.name, tensor.shape, dtype, memory.tensor)
        if self.strict:
            check_base(memory.name, tensor, before)


def _beside(
    memory: PackedMemory, parts: list[tuple[str, float, SparseAdapter]], fusion: Fusion
) -> PackedEdit:
    """Return what lies beside a packed weight for adapters that have been checked."""
    shares, weight = [], None
    for name, alpha, adapter in parts:
        tensor, before = adapter.tensors[memory.name], None
        if adapter.mode == "overwrite":
            weight = memory.tensor if weight is None else weight
            before = gather(weight, tensor.indices)
        change = delta(tensor, before).numpy()
        shares.append(Part(name, alpha, tensor.indices.numpy(), change))
    where, change_there = combine(memory.name, shares, fusion)
    indices = torch.from_numpy(where)
    mask = mask_digest(indices, math.prod(memory.shape))
    return PackedEdit.of(memory, indices, torch.from_numpy(np.asarray(change_there)), mask)


def _file(source: str | Path) -> str | Path:
    """Return the path of an adapter's file; that of a shipped one for its name."""
    if not isinstance(source, str | Path):
        raise MismatchError(
            f"the adapter is a {type(source).__name__}; expected a SparseAdapter, its file, or the "
            "name of one (zoo adapter list)"
        )
    if isinstance(source, str) and source in registry.all_adapters() and not Path(source).exists():
        return registry.file_path(registry.find(source)) or source
    return source


def _pristine(active: SwitchPlan | None, memory: TensorMemory, indices: Tensor) -> Tensor:
    """Return the base's values at flat positions, whatever is active."""
    values = gather(memory.tensor, indices)
    edit = active.edits.get(memory.name) if active else None
    if not isinstance(edit, Edit) or not len(indices):
        return values
    rows = memory.offsets(indices) // edit.block
    written = edit.where.cpu()
    place = torch.searchsorted(written, rows).clamp_(max=max(len(written) - 1, 0))
    covered = written[place] == rows if len(written) else torch.zeros_like(rows, dtype=torch.bool)
    column = memory.offsets(indices) % edit.block
    old = edit.old.cpu()[place[covered] * edit.block + column[covered]]
    integers(values)[covered] = old
    return values
