"""`SparseAdapter`: a sparse change to a base model, of any tensors of any shape.

The base's weight W becomes W + S (mode "delta": S is stored, so that a weight alpha and fusion are
exact to fp32) or has single elements replaced (mode "overwrite": the result is stored in the base's
own type, which is half the bytes and exact at alpha = 1). See Bhardwaj et al., arXiv 2406.13175.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from zoo.adapters import origin, storage
from zoo.adapters.sparse import (
    BASE_TENSORS,
    FLOATS,
    Base,
    SparseTensor,
    base_tensor,
    base_tensors,
    check_shape,
    gather,
)
from zoo.errors import MismatchError
from zoo.quantization.bits import digest

Flat = Tensor | np.ndarray[Any, Any] | Sequence[int]
Values = Tensor | np.ndarray[Any, Any] | Sequence[float]


@dataclass(frozen=True, eq=False)
class SparseAdapter:
    """A sparse change to a base model; immutable.

    Attributes:
        tensors: what changes, by checkpoint name.
        mode: "delta" or "overwrite".
        metadata: JSON facts: the base's repo and commit, mask, training, licence.

    ```python
    from zoo.adapters import SparseAdapter

    adapter = SparseAdapter.load("adapters/sesr-m5-x2-text.safetensors")
    print(adapter.mode, len(adapter.tensors))
    ```

    """

    tensors: Mapping[str, SparseTensor]
    mode: str = "delta"
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.mode not in storage.MODES:
            raise MismatchError(f"mode is {self.mode!r}; expected one of {storage.MODES}")
        object.__setattr__(self, "tensors", MappingProxyType(dict(self.tensors)))

    @classmethod
    def from_tensors(
        cls,
        tensors: Mapping[str, tuple[Flat, Values]],
        model: Base,
        *,
        mode: str = "delta",
        metadata: Mapping[str, Any] | None = None,
    ) -> Self:
        """Return the adapter that changes `model` at flat row-major positions.

        Args:
            tensors: per checkpoint name (indices (nnz,) in any order, values (nnz,)).
            model: the pristine base, a module or its state dict; its values at the positions
                are remembered by digest.
            mode: whether values are added ("delta") or replace ("overwrite").
            metadata: JSON facts to keep with the adapter; the digests of the base's whole tensors
                come with them, by which a checkpoint that was packed from it is known.

        Raises:
            MismatchError: an index is outside its tensor or given twice, a value is not finite,
                counts differ, or the model lacks the tensor.

        """
        base = base_tensors(model)
        sparse = {
            name: _sorted(name, base_tensor(base, name), *pair, overwrite=mode == "overwrite")
            for name, pair in tensors.items()
        }
        whole = {name: digest(base[name]) for name in sparse}
        return cls(sparse, mode, {**(metadata or {}), BASE_TENSORS: whole})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file (or the one in a folder), checking all of it; values stay memory-mapped.

        Raises:
            MissingWeightsError: there is no such file.
            UnsafeFileError: it is damaged, hostile, or not a sparse adapter.
            MismatchError: its version is newer than this zoo.

        """
        header, tensors = storage.read(path)
        return cls(tensors, header.mode, header.metadata)

    def save(self, path: str | Path, *, shared_mask: bool = False) -> Path:
        """Write one safetensors file (in a folder: `sparse_adapter.safetensors`), atomically.

        With `shared_mask` the positions go to a file `mask-<digest>.safetensors` next to it, which
        adapters with the same masks share. Returns the path of the adapter's file.
        """
        return storage.write(
            Path(path), self.tensors, self.mode, self.metadata, shared_mask=shared_mask
        )

    @property
    def nnz(self) -> int:
        """Elements that change."""
        return sum(tensor.nnz for tensor in self.tensors.values())

    @property
    def density(self) -> float:
        """Fraction of the elements of the named tensors that change."""
        return self.nnz / max(sum(tensor.numel for tensor in self.tensors.values()), 1)

    def __repr__(self) -> str:
        return (
            f"SparseAdapter({len(self.tensors)} tensors, {self.nnz:,} elements = "
            f"{self.density:.3%}, {self.mode})"
        )

    def check(self, model: Base) -> None:
        """Check that `model` is the pristine base this adapter was made for, or packed from it.

        Raises:
            MismatchError: a tensor is missing, has another shape or type, or differs, even by one
                unit in the last place, at a position that the adapter changes; for packed
                layers see `zoo.adapters.sidecar`.

        """
        base, packed = base_tensors(model), origin.check(self.tensors, self.metadata, model)
        try:
            for name, tensor in self.tensors.items():
                if name in packed:
                    continue
                live = base_tensor(base, name)
                check_form(name, tensor.shape, tensor.dtype, live)
                check_base(name, tensor, gather(live, tensor.indices))
        except MismatchError as error:
            if "base" not in self.metadata:
                raise
            raise MismatchError(f"{error}; it was made for {self.metadata['base']}") from error

    def deltas(self, model: Base | None = None) -> dict[str, Tensor]:
        """Return what is added, by name: (nnz,) in fp32 (fp64 for an fp64 base).

        `model`, the pristine base, is needed by an adapter that overwrites.
        """
        if self.mode == "overwrite" and model is None:
            raise MismatchError("an adapter that overwrites needs its base model to give deltas")
        base = base_tensors(model) if model is not None else {}
        return {
            name: delta(
                tensor,
                gather(base_tensor(base, name), tensor.indices)
                if self.mode == "overwrite"
                else None,
            )
            for name, tensor in self.tensors.items()
        }

    def to_mode(self, mode: str, model: Base) -> Self:
        """Return the adapter as "delta" or "overwrite", given its pristine base.

        To "overwrite": one rounding to the base's type. To "delta": the difference in fp32, which
        is exact for bf16 and fp16 bases whose values are of similar size.
        """
        if mode not in storage.MODES:
            raise MismatchError(f"mode is {mode!r}; expected one of {storage.MODES}")
        self.check(model)
        base = base_tensors(model)
        tensors = {}
        for name, tensor in self.tensors.items():
            before = gather(base[name], tensor.indices)
            change = delta(tensor, before if self.mode == "overwrite" else None)
            values = change if mode == "delta" else added(name, before, change)
            tensors[name] = _with_values(tensor, tensor.values if mode == self.mode else values)
        return type(self)(tensors, mode, self.metadata)

    def cast(self, dtype: torch.dtype) -> Self:
        """Return the adapter with its deltas rounded to `dtype`, to halve a file."""
        if self.mode == "overwrite":
            raise MismatchError("an adapter that overwrites already has its base's type")
        tensors = {}
        for name, tensor in self.tensors.items():
            values = tensor.values.to(dtype)
            if not values.isfinite().all():
                raise MismatchError(f"deltas of {name} do not fit into {dtype}")
            tensors[name] = _with_values(tensor, values)
        return type(self)(tensors, self.mode, self.metadata)


def precision(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which changes to a base of type `dtype` are summed."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def delta(tensor: SparseTensor, before: Tensor | None) -> Tensor:
    """Return what is added, (nnz,); `before` are the base's values if the adapter overwrites."""
    values = tensor.values.to(precision(tensor.dtype))
    return values if before is None else values - before.to(values.dtype)


def added(name: str, before: Tensor, change: Tensor) -> Tensor:
    """Return base plus change, rounded once to the base's type.

    Raises:
        MismatchError: the sum is beyond the range of that type.

    """
    result = (before.to(change.dtype) + change).to(before.dtype)
    if not result.isfinite().all():
        raise MismatchError(f"{name} plus the adapter is beyond the range of {before.dtype}")
    return result


def check_form(name: str, shape: tuple[int, ...], dtype: torch.dtype, live: Tensor) -> None:
    """Check a base tensor's shape and type against those that an adapter was made for."""
    check_shape(name, shape, tuple(live.shape))
    if live.dtype != dtype:
        raise MismatchError(
            f"{name} is {live.dtype}; the adapter was made for {dtype} (load the base in that type)"
        )


def check_base(name: str, tensor: SparseTensor, before: Tensor) -> None:
    """Check the base's values at the adapter's positions by digest."""
    if digest(before) != tensor.base_sha256:
        raise MismatchError(
            f"{name} differs from the base that the adapter was made for, at positions that it "
            "changes; load that base and revision, with no adapter active"
        )


def _with_values(tensor: SparseTensor, values: Tensor) -> SparseTensor:
    return SparseTensor(tensor.indices, values, tensor.shape, tensor.dtype, tensor.base_sha256)


def _sorted(
    name: str, live: Tensor, indices: Flat, values: Values, *, overwrite: bool
) -> SparseTensor:
    """Return what the caller gave for one tensor, checked and sorted."""
    where = torch.as_tensor(indices).detach().cpu()
    what = torch.as_tensor(values).detach().cpu()
    if where.ndim != 1 or what.shape != where.shape:
        raise MismatchError(
            f"{name}: {tuple(where.shape)} indices and {tuple(what.shape)} values; expected as "
            "many flat indices as values"
        )
    if where.is_floating_point() or where.is_complex() or where.dtype == torch.bool:
        if len(where):
            raise MismatchError(f"{name}: indices are {where.dtype}; expected integers")
        where = where.to(torch.int64)
    where, order = where.to(torch.int64).sort(stable=True)
    what = what[order].clone()
    if len(where) and (int(where[0]) < 0 or int(where[-1]) >= live.numel()):
        wrong = int(where[0]) if int(where[0]) < 0 else int(where[-1])
        raise MismatchError(f"{name}: index {wrong} lies outside its {live.numel()} elements")
    if (where.diff() == 0).any():
        raise MismatchError(f"{name}: an index is given twice")
    if overwrite and what.dtype != live.dtype:
        raise MismatchError(f"{name} is {live.dtype}; it cannot be overwritten by {what.dtype}")
    if what.dtype not in FLOATS:
        raise MismatchError(f"{name}: values are {what.dtype}; expected floating point")
    if not what.isfinite().all():
        raise MismatchError(f"{name}: a value is NaN or infinite; expected finite ones")
    before = digest(gather(live, where))
    return SparseTensor(where, what, tuple(live.shape), live.dtype, before)
