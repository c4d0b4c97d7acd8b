"""Fusing adapters: what happens where several of them change the same element.

With alpha_i the weights and S_i the changes, outside of overlaps every strategy gives alpha_i S_i
(except for "dare", which drops). On an overlap:

| strategy | result |
|---|---|
| sum | sum of alpha_i S_i (Bhardwaj et al., arXiv 2406.13175) |
| mean | their mean over the adapters that change the element |
| ties | elect the sign of the (weighted) sum, then take the mean of those that agree (Yadav et al., arXiv 2306.01708) |
| dare | each S_i loses elements with probability 1 - density, the rest is divided by density; then the sum (Yu et al., arXiv 2311.03099) |
| priority | the change of the first in `order`; by default, of the greatest weight, then name |
| max-abs | the alpha_i S_i of greatest magnitude; on a tie, the first name |

Adapters are taken in the order of their names, so that the result does not depend on the caller's.
"""  # noqa: E501

import hashlib
import math
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import torch

from zoo.adapters.encoding import Indices
from zoo.adapters.format import SparseAdapter
from zoo.adapters.sparse import Base
from zoo.errors import MismatchError, UnknownNameError

STRATEGIES = ("sum", "mean", "ties", "dare", "priority", "max-abs")
Change = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Fusion:
    """How to fuse.

    Attributes:
        strategy: one of `STRATEGIES`.
        density: the share that "dare" keeps.
        seed: seed of "dare".
        order: names for "priority": the first wins; those not named come last.

    """

    strategy: str = "sum"
    density: float = 0.5
    seed: int = 0
    order: Sequence[str] = ()

    def __post_init__(self) -> None:
        if isinstance(self.order, str) or not isinstance(self.order, Iterable):
            raise MismatchError(f'order is {self.order!r}; expected names: ["first", "second"]')
        object.__setattr__(self, "order", tuple(self.order))  # plans are found by equal fusions
        if self.strategy not in STRATEGIES:
            raise UnknownNameError.near(
                "strategy", self.strategy, STRATEGIES, f"there are {', '.join(STRATEGIES)}"
            )
        if not isinstance(self.density, Real) or not 0 < self.density <= 1:
            raise MismatchError(f"density is {self.density!r}; expected more than 0, at most 1")


class FusionOptions(TypedDict, total=False):
    """The fields of `Fusion` as keywords."""

    strategy: str
    density: float
    seed: int
    order: Sequence[str]


@dataclass(frozen=True, eq=False)
class Part:
    """One adapter's share in one tensor: sorted positions (k,) and what it adds there (k,)."""

    name: str
    weight: float
    indices: Indices
    change: Change


def combine(tensor: str, parts: Sequence[Part], fusion: Fusion) -> tuple[Indices, Change]:
    """Return sorted positions and the fused change there, in the precision of the parts.

    Raises:
        MismatchError: a weight takes a change out of the range of that precision.

    """
    parts = sorted(parts, key=lambda part: part.name)
    if fusion.strategy == "dare":
        parts = [_dropped(tensor, part, fusion) for part in parts]
    weighted = [_weighted(tensor, part) for part in parts]
    if len(parts) == 1:
        return parts[0].indices, weighted[0]
    union = np.unique(np.concatenate([part.indices for part in parts]))
    places = [np.searchsorted(union, part.indices) for part in parts]
    if fusion.strategy in ("priority", "max-abs"):
        return union, _chosen(union, parts, places, weighted, fusion)
    total = np.zeros(len(union), dtype=weighted[0].dtype)
    for place, change in zip(places, weighted, strict=True):
        total[place] += change
    if fusion.strategy in ("sum", "dare"):
        return union, total
    count = np.zeros(len(union), dtype=np.int64)
    if fusion.strategy == "mean":
        for place in places:
            count[place] += 1
        return union, total / count.astype(total.dtype)
    # TIES: a sum of zero elects plus, as in the authors' code.
    elected = np.where(total >= 0, 1, -1)
    agreed = np.zeros_like(total)
    for place, change in zip(places, weighted, strict=True):
        agrees = np.sign(change) == elected[place]
        agreed[place[agrees]] += change[agrees]
        count[place[agrees]] += 1
    return union, agreed / np.maximum(count, 1).astype(total.dtype)


def _weighted(tensor: str, part: Part) -> Change:
    kind = part.change.dtype.type
    with np.errstate(over="ignore"):
        change = part.change * kind(part.weight)
    if not np.isfinite(change).all():
        raise MismatchError(
            f"the weight of {part.name} is {part.weight:g}, with which its change of {tensor} is "
            f"beyond the range of {change.dtype}; give a smaller one"
        )
    return change


def _chosen(
    union: Indices,
    parts: Sequence[Part],
    places: Sequence[Indices],
    weighted: Sequence[Change],
    fusion: Fusion,
) -> Change:
    """Return one adapter's change per position; the last one written wins."""
    change = np.zeros(len(union), dtype=weighted[0].dtype)
    if fusion.strategy == "priority":
        rank = {name: place for place, name in enumerate(fusion.order)}
        order = sorted(
            range(len(parts)),
            key=lambda i: (rank.get(parts[i].name, len(rank)), -parts[i].weight, parts[i].name),
        )
        for i in reversed(order):
            change[places[i]] = weighted[i]
        return change
    for i in reversed(range(len(parts))):
        wins = np.abs(weighted[i]) >= np.abs(change[places[i]])
        change[places[i][wins]] = weighted[i][wins]
    return change


def _dropped(tensor: str, part: Part, fusion: Fusion) -> Part:
    """Return the part without a random share of its elements, the rest scaled up (DARE)."""
    text = f"{fusion.seed}\n{tensor}\n{part.name}".encode()
    seed = int.from_bytes(hashlib.sha256(text).digest()[:16], "little")
    kept = np.random.Generator(np.random.PCG64(seed)).random(len(part.indices)) < fusion.density
    change = part.change[kept] / part.change.dtype.type(fusion.density)
    return Part(part.name, part.weight, part.indices[kept], change)


def weights_of(names: Sequence[str], weights: Mapping[str, float] | None) -> dict[str, float]:
    """Return the weight of each name, 1 if not given; names of weight 0 are left out.

    Raises:
        UnknownNameError: a weight is for another name.
        MismatchError: these are not weights by name, or one is not a finite number.

    """
    if not isinstance(weights, Mapping | None):
        raise MismatchError(f'weights are {weights!r}; expected numbers by name: {{"a": 0.5}}')
    given = dict(weights or {})
    for name in given:
        if name not in names:
            raise UnknownNameError.near("adapter", name, names, "weights name given adapters")
    by_name = {name: _number(name, given.get(name, 1.0)) for name in sorted(names)}
    return {name: weight for name, weight in by_name.items() if weight != 0}


def _number(name: str, weight: Any) -> float:
    try:
        number = float(weight)
    except (TypeError, ValueError, OverflowError):  # "much", None, 10**400
        number = math.nan
    if not math.isfinite(number):
        text = reprlib.repr(weight)
        raise MismatchError(f"the weight of {name} is {text}; expected a finite number")
    return number


def refuse_others(adapters: Mapping[str, SparseAdapter]) -> None:
    """Raise a MismatchError unless all of these are adapters: a name or a file is not one."""
    for name, adapter in adapters.items():
        if not isinstance(adapter, SparseAdapter):
            raise MismatchError(
                f"the adapter {name!r} is a {type(adapter).__name__}; expected a SparseAdapter: "
                "SparseAdapter.load(FILE)"
            )


def fuse(
    adapters: Mapping[str, SparseAdapter],
    model: Base,
    weights: Mapping[str, float] | None = None,
    strategy: str = "sum",
    *,
    density: float = 0.5,
    seed: int = 0,
    order: Sequence[str] = (),
    metadata: Mapping[str, Any] | None = None,
) -> SparseAdapter:
    """Return one adapter that stands for several, in mode "delta"; see the module for strategies.

    Args:
        adapters: by name, all of the same base.
        model: that base, pristine: a module or a state dict.
        weights: alpha by name, 1 if not given.
        strategy: what happens on overlaps.
        density: what "dare" keeps.
        seed: seed of "dare".
        order: names for "priority"; the first wins.
        metadata: JSON facts to add to those recorded about the fusion.

    Raises:
        MismatchError: an adapter does not fit the model, or the strategy, a weight or the density
            is not a valid one.

    ```python
    import zoo
    from zoo.adapters import SparseAdapter, fuse

    model = zoo.load("sesr-m5-x2")
    adapters = {
        name: SparseAdapter.load(f"adapters/sesr-m5-x2-{name}.safetensors")
        for name in ("screens", "text")
    }
    both = fuse(adapters, model, {"screens": 0.5, "text": 0.5})
    print(both.density)
    ```

    """
    fusion = Fusion(strategy, density, seed, order)
    refuse_others(adapters)
    alphas = weights_of(list(adapters), weights)
    for name in fusion.order:
        if name not in adapters:
            raise UnknownNameError.near("adapter", name, adapters, "order names given adapters")
    changes = {}
    for name in alphas:
        adapters[name].check(model)
        changes[name] = adapters[name].deltas(model)
    tensors = {}
    for tensor in sorted({key for name in alphas for key in adapters[name].tensors}):
        parts = [
            Part(
                name,
                alphas[name],
                adapters[name].tensors[tensor].indices.numpy(),
                changes[name][tensor].numpy(),
            )
            for name in alphas
            if tensor in adapters[name].tensors
        ]
        tensors[tensor] = combine(tensor, parts, fusion)
    record: dict[str, Any] = {"strategy": strategy, "weights": alphas}
    if strategy == "dare":
        record |= {"density": density, "seed": seed}
    facts: dict[str, Any] = {"fusion": record}
    bases = [adapters[name].metadata.get("base") for name in alphas]
    if bases and all(base == bases[0] for base in bases) and bases[0] is not None:
        facts["base"] = bases[0]
    pairs = {name: (torch.from_numpy(i), torch.from_numpy(c)) for name, (i, c) in tensors.items()}
    return SparseAdapter.from_tensors(pairs, model, metadata={**facts, **(metadata or {})})
