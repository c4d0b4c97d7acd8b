"""Which entries of a base model an adapter may change (SHiRA, arXiv 2406.13175, section 3.1).

A mask is, per weight tensor, a sorted 1-D int64 tensor of flat (row-major) indices. Masks are
chosen in a total order, *score descending, index ascending*, so that ties, of which a bf16
weight has thousands, fall the same way on every device. Scores:

| kind | score of entry i | paper |
|---|---|---|
| `wm` | abs(w_i) | SHiRA-WM |
| `grad` | abs(g_i), g of a small calibration set | SHiRA-Grad |
| `snip` | abs(w_i g_i) | SHiRA-SNIP |
| `rand` | a hash of seed, tensor name and i | SHiRA-Rand |

`block` sums such scores over runs of `block` neighbours (a cache line) and takes whole runs;
`struct` takes evenly spread rows or columns and the diagonal; `custom` takes given indices.
Band k of a scored mask is the k-th slice of the order: bands are disjoint.
"""

import fnmatch
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo.adapters.beside import PackedWeight, refuse_adapted
from zoo.adapters.recipe import MaskOptions
from zoo.errors import MismatchError
from zoo.quantization.packed import PackedLinear

Weight = nn.Parameter | PackedWeight
Indices = dict[str, Tensor]


def targets(model: nn.Module, options: MaskOptions) -> dict[str, Weight]:
    """Return the weight tensors that a mask covers, by checkpoint name, in the model's order.

    A tensor that two modules share appears once, under its first name. Without `include`,
    embeddings that are tied to an output layer are left out: a change to one changes both.
    Packed layers have their weights here too; 8-bit embeddings and heads have not.

    Raises:
        MismatchError: no tensor is left.

    """
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    uses: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    weights: dict[str, Weight] = {}
    everything = weights_of(model)
    for name, weight in everything.items():
        tied = id(weight) in embeddings and uses[id(weight)] > 1
        wanted = (
            any(fnmatch.fnmatchcase(name, pattern) for pattern in options.include)
            if options.include
            else weight.dim() >= 2 and not tied
        )
        if wanted and not any(fnmatch.fnmatchcase(name, p) for p in options.exclude):
            weights[name] = weight
    if not weights:
        names = [name for name, p in everything.items() if p.dim() >= 2]
        raise MismatchError(
            f"no weight matches include {list(options.include)} and exclude "
            f"{list(options.exclude)}; there are, for example: {', '.join(names[:3])}"
        )
    for name, weight in weights.items():
        if not weight.is_floating_point() or weight.is_meta:
            raise MismatchError(
                f"{name} is {weight.dtype} on {weight.device}; expected a loaded "
                "floating-point weight"
            )
        if isinstance(weight, PackedWeight):
            refuse_adapted(weight.layer)
    return weights


def weights_of(model: nn.Module) -> dict[str, Weight]:
    """Return what an adapter can change: parameters, and the weights of packed layers.

    By the model's own names, in its order; what two modules share, once.
    """
    found: dict[str, Weight] = {}
    seen: set[int] = set()
    for path, module in model.named_modules():
        own: list[tuple[str, Weight]] = list(module.named_parameters(recurse=False))
        if isinstance(module, PackedLinear):
            own.insert(0, ("weight", PackedWeight(module)))
        for name, weight in own:
            if id(weight) not in seen:
                seen.add(id(weight))
                found[f"{path}.{name}" if path else name] = weight
    return found


def count(numel: int, density: float) -> int:
    """Return how many of `numel` entries a density amounts to: rounded half up, at least one."""
    return min(numel, max(1, int(density * numel + 0.5)))


def choose(
    model: nn.Module,
    options: MaskOptions,
    *,
    backward: Callable[[], None] | None = None,
    custom: Mapping[str, Tensor] | None = None,
    avoid: Mapping[str, Tensor] | None = None,
    counts: Mapping[str, int] | None = None,
) -> Indices:
    """Return the mask of a model.

    Args:
        model: its weights are read and left as they were.
        options: see `MaskOptions`.
        backward: runs the loss of one calibration batch and its backward pass; needed by
            gradient scores. Called `options.batches` times; the gradients add up. With one batch,
            no more than one tensor's gradient is alive at a time; with more, all are.
        custom: the indices of a "custom" mask, by tensor name.
        avoid: indices, by tensor name, that must not be chosen: other adapters' masks.
        counts: entries per tensor, instead of the density's share (PEFT's r (m + n)).

    Raises:
        MismatchError: what the kind needs is missing, the band lies beyond the end, custom
            indices do not fit, or scores are not finite.

    """
    chosen = targets(model, options)
    sizes = {n: count(p.numel(), options.share(n)) for n, p in chosen.items()} | dict(counts or {})
    if options.kind == "custom":
        return _checked(chosen, custom)
    if options.kind == "struct":
        if avoid:
            raise MismatchError("a struct mask cannot avoid indices; use wm, rand, grad or snip")
        return {n: _struct(p.shape, sizes[n], options) for n, p in chosen.items()}
    score = options.score if options.kind == "block" else options.kind
    pick = _Picker(options, sizes, avoid or {})
    if score in ("grad", "snip"):
        if backward is None:
            raise MismatchError(f"a {score} mask needs calibration data; give --data")
        _stream(model, chosen, score, backward, options.batches, pick)
    else:
        for name, parameter in chosen.items():
            weight = parameter.detach()
            pick(name, _hashed(weight, name, options.seed) if score == "rand" else weight.abs())
    picked = pick.result()
    return {name: picked[name] for name in chosen}  # gradients arrived in backward order


class _Picker:
    """Takes the scores of one tensor at a time; keeps no more of them than the scope needs."""

    def __init__(
        self, options: MaskOptions, sizes: Mapping[str, int], avoid: Mapping[str, Tensor]
    ) -> None:
        self.options, self.sizes, self.avoid = options, sizes, avoid
        self.found: Indices = {}
        self.kept: dict[str, Tensor] = {}
        self.numel: dict[str, int] = {}

    def __call__(self, name: str, scores: Tensor) -> None:
        scores = scores.reshape(-1)  # row-major, also of a channels_last convolution
        if scores.is_floating_point() and scores.dtype != torch.float64:
            scores = scores.float()
        self.numel[name] = scores.numel()
        if not bool(torch.isfinite(scores).all()):
            raise MismatchError(f"the scores of {name} are not finite; check weights and data")
        if name in self.avoid:
            scores = scores.clone()
            scores[self.avoid[name].to(scores.device)] = -1
        width = self.options.block if self.options.kind == "block" else 1
        if width > 1:
            scores = _block_sums(scores, width)
        if self.options.scope == "global":
            self.kept[name] = scores
            return
        blocks = max(1, round(self.sizes[name] / width))
        self.found[name] = self._spread(
            band(scores, blocks, self.options.band, name), width, self.numel[name]
        )

    def result(self) -> Indices:
        if self.options.scope == "layer":
            return self.found
        width = self.options.block if self.options.kind == "block" else 1
        names = sorted(self.kept)  # the same order, whatever order the gradients came in
        joined = torch.cat([self.kept[name] for name in names])
        total = max(1, round(sum(self.sizes.values()) / width))
        picked = band(joined, total, self.options.band, "the model")
        first = 0
        for name in names:
            last = first + self.kept[name].numel()
            inside = picked[(picked >= first) & (picked < last)] - first
            self.found[name] = self._spread(inside, width, self.numel[name])
            first = last
        return self.found

    @staticmethod
    def _spread(blocks: Tensor, width: int, numel: int) -> Tensor:
        """Return the entries of blocks; the last block of a tensor may be short."""
        if width == 1:
            return blocks
        entries = (blocks[:, None] * width + torch.arange(width, device=blocks.device)).flatten()
        return entries[entries < numel]


def first(scores: Tensor, number: int) -> Tensor:
    """Return, sorted, the indices of the first `number` entries: score descending, index ascending.

    The threshold is one value whatever algorithm finds it, so the result is the same on every
    device.
    """
    if number <= 0:
        return torch.empty(0, dtype=torch.int64, device=scores.device)
    if number >= scores.numel():
        return torch.arange(scores.numel(), device=scores.device)
    threshold = torch.kthvalue(scores, scores.numel() - number + 1).values
    above = (scores > threshold).nonzero().flatten()
    ties = (scores == threshold).nonzero().flatten()[: number - above.numel()]
    return torch.cat([above, ties]).sort().values


def band(scores: Tensor, number: int, which: int, name: str) -> Tensor:
    """Return, sorted, the indices of ranks [which * number, (which + 1) * number).

    Raises:
        MismatchError: fewer entries are available.

    """
    allowed = int((scores >= 0).sum())
    if (which + 1) * number > allowed:
        raise MismatchError(
            f"band {which} of {number:,} entries goes beyond the {allowed:,} of {name} that may "
            "be chosen; take a smaller density or band"
        )
    upper = first(scores, (which + 1) * number)
    if which == 0:
        return upper
    keep = torch.ones(upper.numel(), dtype=torch.bool, device=upper.device)
    keep[torch.searchsorted(upper, first(scores, which * number))] = False
    return upper[keep]


def _block_sums(scores: Tensor, width: int) -> Tensor:
    """Return the score of each run of `width` entries, added up in a fixed order.

    A block with an entry to avoid is avoided.
    """
    short = -scores.numel() % width
    table = torch.nn.functional.pad(scores, (0, short)).reshape(-1, width)
    total = torch.zeros(len(table), dtype=torch.float64, device=scores.device)
    for column in range(width):  # elementwise sums round the same everywhere; a reduction need not
        total += table[:, column].double()
    return torch.where((table < 0).any(1), -1.0, total)


def _hashed(weight: Tensor, name: str, seed: int) -> Tensor:
    """Return a pseudo-random score per entry: SplitMix64 of a key of (seed, name), plus i.

    Integers, so that no device and no library version can change a mask.
    """
    key = hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8]
    x = np.arange(weight.numel(), dtype=np.uint64) + np.uint64(1)
    x *= np.uint64(0x9E3779B97F4A7C15)
    x += np.uint64(int.from_bytes(key, "little"))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x ^= x >> np.uint64(shift)
        x *= np.uint64(factor)
    x ^= x >> np.uint64(31)
    return torch.from_numpy((x >> np.uint64(33)).astype(np.int32)).to(weight.device)


def _struct(shape: torch.Size, number: int, options: MaskOptions) -> Tensor:
    """Return evenly spread rows or columns and the diagonal of `(shape[0], rest)`.

    Takes as many whole lines as the budget holds besides the diagonal, at least one: the structure
    sets the count, near the density. `band` shifts the lines.
    """
    rows = shape[0]
    columns = max(1, int(np.prod(shape[1:])))
    lines, length = (rows, columns) if options.axis == "rows" else (columns, rows)
    diagonal = torch.arange(min(rows, columns)) * (columns + 1)
    wanted = min(lines, max(1, round((number - len(diagonal)) / length)))
    picked = (torch.arange(wanted) * lines // wanted + options.band) % lines
    if options.axis == "rows":
        grid = picked[:, None] * columns + torch.arange(columns)
    else:
        grid = torch.arange(rows)[:, None] * columns + picked
    return torch.cat([grid.flatten(), diagonal]).unique(sorted=True)


def _checked(
    chosen: Mapping[str, Weight], custom: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """Return the given indices, sorted and checked against the model."""
    if not custom:
        raise MismatchError("a custom mask needs its indices: an adapter to take them from")
    masks = {}
    for name, mask in custom.items():
        if name not in chosen:
            raise MismatchError(f"the custom mask names {name!r}, not a target of the model")
        indices = mask.to(torch.int64).flatten().sort().values
        inside = indices.numel() and indices[0] >= 0 and indices[-1] < chosen[name].numel()
        if not inside or bool((indices[1:] == indices[:-1]).any()):
            raise MismatchError(
                f"the custom mask of {name} is empty, repeats an index, or leaves 0 to "
                f"{chosen[name].numel() - 1}"
            )
        masks[name] = indices
    return masks


def _stream(
    model: nn.Module,
    chosen: Mapping[str, Weight],
    score: str,
    backward: Callable[[], None],
    batches: int,
    pick: _Picker,
) -> None:
    """Score by gradients, dropping each tensor's gradient as soon as it has been scored."""
    names = {id(weight): name for name, weight in chosen.items()}
    parameters = dict(model.named_parameters())
    needed = {name: parameter.requires_grad for name, parameter in parameters.items()}

    def take(weight: Weight) -> None:
        assert weight.grad is not None
        gradient = weight.grad.detach()
        weight.grad = None
        if score == "snip":
            gradient = gradient * weight.detach()
        pick(names[id(weight)], gradient.abs())

    handles: list[Any] = []
    try:
        for weight in (*parameters.values(), *chosen.values()):
            weight.requires_grad_(id(weight) in names)
            weight.grad = None
        for number in range(batches):
            if number == batches - 1:
                handles = [w.register_post_accumulate_grad_hook(take) for w in chosen.values()]
            backward()
    finally:
        for handle in handles:
            handle.remove()
        for weight in chosen.values():
            weight.requires_grad_(False)
        for name, parameter in parameters.items():
            parameter.requires_grad_(needed[name])
            parameter.grad = None
    missing = [name for name in chosen if name not in pick.numel]
    if missing:
        raise MismatchError(
            f"{missing[0]} got no gradient from the calibration data; leave it out: mask.exclude"
        )


def digest(indices: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of a mask: names in order, each with its indices as little-endian i64."""
    state = hashlib.sha256()
    for name in sorted(indices):
        state.update(f"{name}\0{indices[name].numel()}\0".encode())
        state.update(indices[name].cpu().numpy().astype("<i8").tobytes())
    return state.hexdigest()
