"""What adapters do to each other, before they are fused.

Weight-space figures see only elements that two adapters both change. Adapters on disjoint elements
of one layer still meet in its output, which only a measured loss shows: give `loss` if there are
data.

AWOM and AWOR follow Bhardwaj et al. (arXiv 2406.13175, section on orthogonality) and are reported
for parity with the paper. AWOR counts zeros of A1'A2, which for unstructured masks follows from the
densities, whatever was learned: (1 - p1 p2)^n for n rows, reported next to it. It says nothing
about the quality of a fusion.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoo.adapters.format import SparseAdapter
from zoo.adapters.fusion import refuse_others, weights_of
from zoo.adapters.meeting import Meeting, meet
from zoo.adapters.sparse import Base
from zoo.errors import MismatchError

if TYPE_CHECKING:
    from PIL.Image import Image

CAVEAT = "AWOR follows from densities alone and is not a measure of quality; the loss is."


@dataclass(frozen=True)
class Orthogonality:
    """AWOM = ||A1'A2||_F, AWOR = 1 - ||A1'A2||_0 / m^2, over all shared matrices.

    `baseline` is the AWOR of random masks of these densities.
    """

    awom: float
    awor: float
    baseline: float


@dataclass(frozen=True)
class InterferenceReport:
    """What `compare` found.

    Attributes:
        names: names of the adapters.
        pairs: per pair of names, the meeting in the whole model.
        tensors: per pair of names, per tensor that both change.
        orthogonality: per pair of names, if it was asked for.
        losses: the measured losses of "base", each name, and "fused", if `loss` was given.

    """

    names: tuple[str, ...]
    pairs: Mapping[tuple[str, str], Meeting]
    tensors: Mapping[tuple[str, str], Mapping[str, Meeting]]
    orthogonality: Mapping[tuple[str, str], Orthogonality] = field(default_factory=dict)
    losses: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON."""
        pairs = []
        for pair, meeting in self.pairs.items():
            row = {"adapters": list(pair), **asdict(meeting)}
            for key in ("jaccard", "overlap_share", "conflict_share", "cosine", "energy_ratio"):
                row[key] = getattr(meeting, key)
            if pair in self.orthogonality:
                row |= asdict(self.orthogonality[pair])
            pairs.append(row)
        return {"adapters": list(self.names), "pairs": pairs, "losses": dict(self.losses)}

    def table(self) -> str:
        """Return the report as text, a line per pair."""
        head = ["adapters", "overlap", "Jaccard", "conflicts", "energy in conflict", "cosine",
                "energy ratio"]  # fmt: skip
        if self.orthogonality:
            head += ["AWOM", "AWOR", "of chance"]
        rows = [head]
        for pair, meeting in self.pairs.items():
            row = [
                " + ".join(pair), f"{meeting.overlap:,}", f"{meeting.jaccard:.4f}",
                f"{meeting.conflicts:,}", f"{meeting.conflict_share:.2%}",
                f"{meeting.cosine:+.3f}", f"{meeting.energy_ratio:.3f}",
            ]  # fmt: skip
            if self.orthogonality:
                measures = self.orthogonality[pair]
                row += [f"{measures.awom:.3g}", f"{measures.awor:.4f}", f"{measures.baseline:.4f}"]
            rows.append(row)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(f"{c:{'<' if not i else '>'}{w}}" for i, (c, w) in enumerate(
                zip(row, widths, strict=True))).rstrip()
            for row in rows
        ]  # fmt: skip
        if self.orthogonality:
            lines.append(CAVEAT)
        if self.losses:
            base = self.losses["base"]
            for name, loss in self.losses.items():
                change = "" if name == "base" else f"  {loss - base:+.4f}"
                lines.append(f"loss {name:<{max(map(len, self.losses))}}  {loss:.4f}{change}")
        return "\n".join(lines)

    def picture(self, path: str | Path | None = None) -> "Image":
        """Return (and with `path` write) the report as a picture."""
        from zoo.adapters.picture import draw

        target = None if path is None else Path(path)
        return draw(self.names, self.pairs, self.tensors, target)


def compare(
    adapters: Mapping[str, SparseAdapter],
    model: Base,
    weights: Mapping[str, float] | None = None,
    *,
    orthogonality: bool = False,
    loss: Callable[[nn.Module], float] | None = None,
    strategy: str = "sum",
) -> InterferenceReport:
    """Return what fusing these adapters with these weights would run into.

    Args:
        adapters: by name, at least two, all of one base.
        model: that base, pristine.
        weights: alpha by name, 1 if not given.
        orthogonality: also compute AWOM and AWOR, which cost a sparse matrix product per matrix.
        loss: returns the loss of the model it is given; measured for the base, for each adapter
            and for all fused with `strategy`.
        strategy: strategy of the fusion that is measured.

    Raises:
        MismatchError: fewer than two adapters are given, or one does not fit the model.

    ```python
    import zoo
    from zoo.adapters import SparseAdapter, compare

    model = zoo.load("sesr-m5-x2")
    adapters = {
        name: SparseAdapter.load(f"adapters/sesr-m5-x2-{name}.safetensors")
        for name in ("screens", "text")
    }
    report = compare(adapters, model)
    print(report)
    ```

    """
    if len(adapters) < 2:
        raise MismatchError(f"{len(adapters)} adapters given; two or more can be compared")
    refuse_others(adapters)
    alphas = {name: 0.0 for name in adapters} | weights_of(list(adapters), weights)
    changes = {}
    for name, adapter in adapters.items():
        adapter.check(model)
        changes[name] = {key: value * alphas[name] for key, value in adapter.deltas(model).items()}
    pairs, tensors, orthogonal = {}, {}, {}
    for pair in itertools.combinations(sorted(adapters), 2):
        one, two = (adapters[name] for name in pair)
        meetings = {
            key: meet(one, two, key, *(changes[name].get(key) for name in pair))
            for key in sorted({*one.tensors, *two.tensors})
        }
        pairs[pair] = sum(meetings.values(), Meeting())
        tensors[pair] = {
            key: value for key, value in meetings.items() if value.first and value.second
        }
        if orthogonality:
            orthogonal[pair] = _orthogonality(one, two, *(changes[name] for name in pair))
    losses = _losses(adapters, model, alphas, loss, strategy) if loss is not None else {}
    return InterferenceReport(tuple(sorted(adapters)), pairs, tensors, orthogonal, losses)


def _orthogonality(
    one: SparseAdapter,
    two: SparseAdapter,
    first: Mapping[str, Tensor],
    second: Mapping[str, Tensor],
) -> Orthogonality:
    """Return AWOM and AWOR over matrices that both change; convolutions as (out, rest)."""
    squares = zeros = cells = chance = 0.0
    for key in sorted({*one.tensors} & {*two.tensors}):
        a, b = one.tensors[key], two.tensors[key]
        if len(a.shape) < 2:
            continue
        rows, columns = a.shape[0], a.numel // a.shape[0]
        left = _csr(b.indices, second[key], rows, columns, transposed=True)
        right = torch.zeros(a.numel, dtype=torch.float32)
        right[a.indices] = first[key].float()
        product = left @ right.view(rows, columns)
        squares += float((product.double() ** 2).sum())
        zeros += float((product == 0).sum())
        cells += columns**2
        chance += columns**2 * (1 - a.density * b.density) ** rows
    if not cells:
        return Orthogonality(0.0, 1.0, 1.0)
    return Orthogonality(squares**0.5, zeros / cells, chance / cells)


def _csr(indices: Tensor, values: Tensor, rows: int, columns: int, *, transposed: bool) -> Tensor:
    where = torch.stack([indices % columns, indices // columns] if transposed
                        else [indices // columns, indices % columns])  # fmt: skip
    size = (columns, rows) if transposed else (rows, columns)
    return torch.sparse_coo_tensor(where, values.float(), size, check_invariants=False).coalesce()


def _losses(
    adapters: Mapping[str, SparseAdapter],
    model: Base,
    alphas: Mapping[str, float],
    loss: Callable[[nn.Module], float],
    strategy: str,
) -> dict[str, float]:
    from zoo.adapters.switcher import Switcher

    if not isinstance(model, nn.Module):
        raise MismatchError("a loss is measured on a model; a state dict was given")
    switcher = Switcher(model)
    try:
        losses = {"base": float(loss(model))}
        for name, adapter in adapters.items():
            switcher.register(name, adapter)
            with switcher.using(name, alpha=alphas[name]):
                losses[name] = float(loss(model))
        with switcher.using(alphas, strategy=strategy):
            losses["fused"] = float(loss(model))
    finally:
        switcher.close()
    return losses
