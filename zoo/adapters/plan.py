"""Plans: everything a switch writes, worked out, rounded and checked before the first write."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo.adapters.encoding import block_size
from zoo.adapters.fusion import Fusion
from zoo.adapters.packed_plan import PackedEdit
from zoo.adapters.sparse import base_tensor, unwrapped
from zoo.errors import MismatchError
from zoo.quantization.bits import integers

_BLOCK_BYTES = 16  # from here on rows of a view are copied faster than single elements


@dataclass(frozen=True)
class Key:
    """What is active: adapters with their weights in the order of names, and how they are fused."""

    weights: tuple[tuple[str, float], ...]
    fusion: Fusion


class TensorMemory:
    """A base tensor's memory, seen as a line of integers of its width.

    Attributes:
        name: checkpoint name.
        tensor: the live tensor.
        line: (span,) integers from its first to its last element in memory.
        numbers: the same as a NumPy array, on the CPU.

    Args:
        name: see above.
        model: where the tensor lives.
        tensors: see `base_tensors`.
        place: the unwrapped model's own name for it.

    """

    def __init__(
        self, name: str, model: nn.Module, tensors: Mapping[str, Tensor], place: str
    ) -> None:
        self.name = name
        self.tensor = base_tensor(tensors, name)
        path, _, self._leaf = place.rpartition(".")
        home = unwrapped(model).get_submodule(path)
        self._home = home._parameters if self._leaf in home._parameters else home._buffers
        live = self.tensor.detach()
        if type(live) not in (Tensor, nn.Parameter):
            raise MismatchError(
                f"{name} is a {type(live).__name__} (quantized or sharded); sparse adapters "
                "change plain tensors"
            )
        self.span = 1 + sum((n - 1) * s for n, s in zip(live.shape, live.stride(), strict=True))
        if live.numel() == 0:
            self.span = 0
        elif _overlaps_itself(live):
            raise MismatchError(f"elements of {name} share memory (an expanded tensor)")
        line = torch.as_strided(live, (self.span,), (1,), live.storage_offset())
        self.line = integers(line)
        self.numbers = self.line.numpy() if live.device.type == "cpu" else None
        self._place = self.tensor.data_ptr(), self.tensor.stride()
        self._version = -1 if live.is_inference() else live._version

    @property
    def moved(self) -> bool:
        """Whether the tensor is no longer what it was (`.to`, `.half`, assignment)."""
        live = self._home.get(self._leaf)
        return live is not self.tensor or (live.data_ptr(), live.stride()) != self._place

    def offsets(self, indices: Tensor) -> Tensor:
        """Return where flat row-major positions lie on the line."""
        if self.tensor.is_contiguous():
            return indices
        offsets, rest = torch.zeros_like(indices), indices
        sizes = zip(reversed(self.tensor.shape), reversed(self.tensor.stride()), strict=True)
        for size, stride in sizes:
            offsets += (rest % size) * stride
            rest = rest // size
        return offsets

    def written(self) -> None:
        """Tell autograd: a backward pass through an earlier forward pass now raises."""
        if not self.tensor.is_inference():
            torch.autograd.graph.increment_version(self.tensor)
            self._version = self.tensor._version

    @property
    def trained(self) -> bool:
        """Whether somebody else, like an optimizer, has written since `written`."""
        return not self.tensor.is_inference() and self.tensor._version != self._version


def _overlaps_itself(tensor: Tensor) -> bool:
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride <= reach:
                return True
            reach += stride * (size - 1)
    return False


@dataclass(frozen=True, eq=False)
class Edit:
    """What a plan does to one tensor.

    Attributes:
        memory: what changes.
        block: elements per row; `where` counts rows of that length.
        where: int64 (k,), rows to write.
        new: (k * block,) integers, the fused values.
        old: (k * block,) integers, the base's values.
        mask: digest of the positions: equal masks need no restoring in between.

    """

    memory: TensorMemory
    block: int
    where: Tensor
    new: Tensor
    old: Tensor
    mask: str

    @classmethod
    def of(
        cls, memory: TensorMemory, indices: Tensor, new: Tensor, old: Tensor, mask: str
    ) -> "Edit":
        """Lay out the edit that turns base values `old` at flat `indices` into `new`."""
        where = memory.offsets(indices)
        if where is not indices:
            where, order = where.sort()
            new, old = new[order], old[order]
        block = block_size(where.numpy(), memory.span)
        if block * old.element_size() < _BLOCK_BYTES:
            block = 1
        rows = where[::block] // block if block > 1 else where
        return cls(memory, block, rows, integers(new.contiguous()), integers(old), mask)

    def apply(self) -> None:
        """Write the fused values into the live tensor."""
        self._write(self._prepared[2])

    def undo(self) -> None:
        """Write the base's values into the live tensor."""
        self._write(self._prepared[3])

    @cached_property
    def _prepared(self) -> tuple[Any, ...]:
        """The line, `where`, `new` and `old` in the shape and the library that write fastest."""
        if self.memory.numbers is None:
            line, shape = self.memory.line, (-1, self.block)
            return line.view(shape), self.where, self.new.view(shape), self.old.view(shape)
        parts: tuple[Any, ...] = (self.memory.numbers, self.new.numpy(), self.old.numpy())
        if self.block > 1:  # a block as one opaque element: its bytes are copied at once
            kind = np.dtype(f"V{self.block * self.memory.numbers.itemsize}")
            parts = tuple(part.view(kind) for part in parts)
        return parts[0], self.where.numpy(), *parts[1:]

    def _write(self, values: Any) -> None:
        line, where, *_ = self._prepared
        if isinstance(line, Tensor):
            line.index_copy_(0, where, values)
        else:
            # The fastest of PyTorch's and NumPy's ways on a CPU, in every type; torch's
            # `scatter_` in bf16 is the slowest by far.
            line[where] = values

    def holds(self) -> bool:
        """Whether the live tensor has the fused values."""
        live = self.memory.line.view(-1, self.block).index_select(0, self.where)
        return torch.equal(live.view(-1), self.new)


@dataclass(frozen=True, eq=False)
class SwitchPlan:
    """All edits of one state of the model, by tensor name."""

    key: Key
    edits: Mapping[str, Edit | PackedEdit]
    nbytes: int

    @classmethod
    def of(cls, key: Key, parts: Iterable[Edit | PackedEdit]) -> "SwitchPlan":
        """Pack the edits: per device one block of memory, brought there in one copy."""
        packed: dict[str, Edit | PackedEdit] = {}
        edits: list[Edit] = []
        nbytes = 0
        for part in parts:
            if isinstance(part, Edit):
                edits.append(part)
            else:
                packed[part.memory.name] = part
                nbytes += part.nbytes
        _refuse_shared_memory([edit.memory for edit in edits])
        for device in {edit.memory.tensor.device for edit in edits}:
            here = [edit for edit in edits if edit.memory.tensor.device == device]
            fields = [part for edit in here for part in (edit.where, edit.new, edit.old)]
            moved = _together(fields, device)
            nbytes += sum(part.nbytes for part in moved)
            for i, edit in enumerate(here):
                where, new, old = moved[3 * i : 3 * i + 3]
                name = edit.memory.name
                packed[name] = Edit(edit.memory, edit.block, where, new, old, edit.mask)
        return cls(key, {name: packed[name] for name in sorted(packed)}, nbytes)


def _together(parts: list[Tensor], device: torch.device) -> list[Tensor]:
    """Return the parts on `device`, as views of one block of memory that was copied once."""
    starts = np.cumsum([0, *(-(-part.nbytes // 8) * 8 for part in parts)])
    blob = torch.zeros(int(starts[-1]), dtype=torch.uint8, pin_memory=device.type == "cuda")
    for start, part in zip(starts[:-1], parts, strict=True):
        blob[start : start + part.nbytes] = part.clone(memory_format=torch.contiguous_format).view(
            torch.uint8
        )
    blob = blob.to(device, non_blocking=True)
    return [
        blob[start : start + part.nbytes].view(part.dtype)
        for start, part in zip(starts[:-1], parts, strict=True)
    ]


def _refuse_shared_memory(memories: list[TensorMemory]) -> None:
    """Refuse memory under two names: it would be written twice and restored wrongly."""
    spans = sorted(
        (str(t.tensor.device), t.tensor.data_ptr(), t.tensor.data_ptr() + t.line.nbytes, t.name)
        for t in memories
        if t.span
    )
    for (device, _, end, name), (other_device, start, _, other) in pairwise(spans):
        if device == other_device and start < end:
            raise MismatchError(
                f"{name} and {other} share memory (tied weights); an adapter may name one of them"
            )
