"""S2FT (arXiv 2412.06289): whole heads and channels are trained, as dense slices of weights.

What a channel of a feed-forward layer computes depends on a row of the weights before it and on a
column of the one behind it: the two are coupled. So are the rows and columns of an attention head.
S2FT takes a few heads and channels and trains their columns behind (`sides=behind`), or their rows
before as well (`both`). The channels' order is free, and so a run of neighbours is as random as
any others: no weight is permuted, and a slice of activations is all that is kept for columns.
`rank` is the number of channels in each feed-forward layer. The result is a sparse adapter.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from zoo.adapters.masks import Indices
from zoo.adapters.methods import contract
from zoo.adapters.methods._peft import linear_targets
from zoo.adapters.methods.contract import Attachment
from zoo.adapters.methods.paca import columns, dice, on_device_of
from zoo.adapters.methods.shira import HookRoute
from zoo.errors import MismatchError
from zoo.quantization.packed import PackedLinear

# Layers behind heads, behind channels, and before heads, as models call them. Where none of these
# names is found, the last linear layer of a module is behind the others.
_BEHIND_HEADS = ("o_proj", "out_proj", "project", "wo")
_BEHIND_CHANNELS = ("down_proj", "fc2", "w2", "lin2")
_VALUES = ("v_proj", "value", "wv")


@dataclass(frozen=True, kw_only=True)
class Options(contract.Options):
    """What a recipe says to S2FT.

    Attributes:
        heads: attention heads in each layer; 0 leaves attention alone.
        sides: "behind" trains the columns behind heads and channels, "both" also the rows before.

    """

    heads: int = 1
    sides: Literal["behind", "both"] = "behind"

    def __post_init__(self) -> None:
        if self.heads < 0:
            raise MismatchError(f"options.heads is {self.heads}; expected 0 or more")


@dataclass(frozen=True)
class Couple:
    """Layers that share hidden channels.

    Attributes:
        name: of the layer behind.
        behind: the layer that reads the channels.
        before: the layers that write them, by name.
        head: channels of a head; 0 where there are no heads.

    """

    name: str
    behind: nn.Linear | PackedLinear
    before: dict[str, nn.Linear | PackedLinear]
    head: int


def budget(model: nn.Module, options: contract.Options) -> dict[str, int]:
    """Return {}: the mask's names only say which layers are adapted."""
    return {}


def attach(model: nn.Module, indices: Indices, options: contract.Options) -> Attachment:
    """Attach a delta to every entry of the slices.

    Raises:
        MismatchError: no two layers share channels, or there are fewer heads or channels.

    """
    given = options if isinstance(options, Options) else Options(**vars(options))
    allowed = set(linear_targets(model, given.mask, nn.Linear | PackedLinear))
    chosen: Indices = {}
    for couple in couples(model):
        if couple.name not in allowed:
            continue
        taken = _taken(couple, given)
        if not len(taken):
            continue
        layer = couple.behind
        chosen[f"{couple.name}.weight"] = columns(taken, layer.out_features, layer.in_features)
        for name, before in couple.before.items() if given.sides == "both" else ():
            if name in allowed:
                rows = _rows(taken, couple, before.out_features)
                every = torch.arange(before.in_features)
                chosen[f"{name}.weight"] = (rows[:, None] * before.in_features + every).view(-1)
    if not chosen:
        raise MismatchError(
            f"no layer of {type(model).__name__} that the mask covers reads the heads or channels "
            "of another; take method paca, or options.heads of 1 or more"
        )
    return HookRoute(model, on_device_of(model, chosen))


def couples(model: nn.Module) -> Iterator[Couple]:
    """Yield what is coupled: in modules with linear layers of which one reads from others."""
    for path, module in model.named_modules():
        inside = {
            name: child
            for name, child in module.named_children()
            if isinstance(child, nn.Linear | PackedLinear)
        }
        if len(inside) < 2:
            continue
        named = [name for name in (*_BEHIND_HEADS, *_BEHIND_CHANNELS) if name in inside]
        values = [name for name in _VALUES if name in inside]
        width = getattr(module, "head_dim", getattr(module, "head", 0))
        others = [] if values else [list(inside)[-1]]  # query, key and value alone are not coupled
        for last in named or others:
            behind = inside[last]
            head = width if values and isinstance(width, int) and last in _BEHIND_HEADS else 0
            before = {
                f"{path}.{name}" if path else name: layer
                for name, layer in inside.items()
                if (name in values if head else layer.out_features == behind.in_features)
                and name not in (*named, last)
            }
            if before:
                yield Couple(f"{path}.{last}" if path else last, behind, before, head)


def _taken(couple: Couple, options: Options) -> Tensor:
    """Return the channels that are trained, sorted."""
    width, random = couple.behind.in_features, dice(options.seed, couple.name)
    size, wanted = (couple.head, options.heads) if couple.head else (1, options.rank)
    count = width // size
    if wanted > count:
        what = f"{wanted} heads are more than the" if couple.head else f"rank {wanted} is more than"
        raise MismatchError(f"{what} {count} that {couple.name} reads; take fewer")
    if couple.head:
        heads = torch.randperm(count, generator=random)[:wanted].sort().values
        return (heads[:, None] * size + torch.arange(size)).view(-1)
    first = int(torch.randint(count - wanted + 1, (), generator=random))
    return torch.arange(first, first + wanted)


def _rows(taken: Tensor, couple: Couple, outputs: int) -> Tensor:
    """Return the rows before: with grouped heads several share those of one."""
    shared = couple.behind.in_features // outputs
    if not couple.head or shared == 1:
        return taken
    rows = taken // (couple.head * shared) * couple.head + taken % couple.head
    return rows.unique()
