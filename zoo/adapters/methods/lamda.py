"""LaMDA and LaMDA++ (arXiv 2406.12832): a small trained core between factors that are frozen.

A layer computes y = W x + B D A x. A (r, n) and B (m, r) come from the largest singular values of
W = U S V^T: A = sqrt(S) V^T and B = U sqrt(S). The core D (r, r) begins at zero, so the base keeps
its output to the bit. The paper's core is I + D, with B A taken off W; here W stays as it is, and
packed weights do too. D is trained, and so are B's columns at first: column j is frozen, the
largest singular value first, when step t_i (j + 1) / r begins, with t_i = `freeze` of all steps.
A frozen column leaves the optimizer: neither momentum nor decay moves it any more.

LaMDA++ (`allocation=energy`) gives layers ranks of their own: as many directions as hold the same
share of each layer's energy, the sum of squared singular values, for all layers alike, while the
cores together have no more numbers than with one rank.

The result is a LoRA, B D and A, in files that stock PEFT loads.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.adapters.masks import Indices
from zoo.adapters.methods import contract
from zoo.adapters.methods._lender import Lender
from zoo.adapters.methods._peft import linear_targets
from zoo.adapters.methods.contract import Attachment, Values
from zoo.adapters.peft_bridge import write_lora
from zoo.adapters.sparse import fingerprint
from zoo.errors import MismatchError
from zoo.quantization.packed import PackedLinear

_RANKLESS = 1e-9  # of the largest singular value: below, there is no direction


@dataclass(frozen=True, kw_only=True)
class Options(contract.Options):
    """What a recipe says to LaMDA.

    Attributes:
        freeze: share of the steps after which all columns of B are frozen; 0 trains none.
        init: "svd" takes singular vectors of the weights, "random" others of the same lengths.
        allocation: "energy" gives each layer its own rank (LaMDA++), "uniform" the same to all.

    """

    freeze: float = 0.3
    init: Literal["svd", "random"] = "svd"
    allocation: Literal["uniform", "energy"] = "uniform"

    def __post_init__(self) -> None:
        if not 0 <= self.freeze <= 1:
            raise MismatchError(f"options.freeze is {self.freeze}; expected a share, 0 to 1")


class Factors(NamedTuple):
    """Where the cores of a layer lie: A (r, n) and B (m, r), in fp32."""

    a: Tensor
    b: Tensor


def budget(model: nn.Module, options: contract.Options) -> dict[str, int]:
    """Return {}: nothing is masked; the mask's names only say which layers are adapted."""
    return {}


def attach(model: nn.Module, indices: Indices, options: contract.Options) -> Attachment:
    """Attach a core to each linear layer that the mask covers.

    Raises:
        MismatchError: a target is not a linear layer, or is smaller than the rank.

    """
    chosen = options if isinstance(options, Options) else Options(**vars(options))
    names = linear_targets(model, chosen.mask, nn.Linear | PackedLinear)
    return Lamda(model, names, chosen)


class Lamda(Lender):
    """Cores at work in the linear layers of a base, through hooks.

    Args:
        model: the base.
        names: its adapted layers.
        options: see `Options`.

    """

    def __init__(self, model: nn.Module, names: list[str], options: Options) -> None:
        self.model, self.options, self.names = model, options, names
        model.requires_grad_(False)
        state = hashlib.sha256()
        for name in names:
            weight = _weight(model, name)
            state.update(fingerprint({name: weight}).encode())
            if options.rank > min(weight.shape):
                raise MismatchError(
                    f"rank {options.rank} is more than {name} of shape {tuple(weight.shape)} has; "
                    "take a smaller rank, or leave it out: --set mask.exclude=PATTERN"
                )
            if not bool(torch.isfinite(weight).all()):
                raise MismatchError(f"{name} has weights that are not finite; check the base model")
        self.facts: Mapping[str, Any] = {"base": state.hexdigest()}
        ranks = [options.rank] * len(names)
        if options.allocation == "energy":
            ranks = allocate([energy(_weight(model, name)) for name in names], options.rank)
        self.factors = [
            factors(_weight(model, name), rank, self._seed(number))
            for number, (name, rank) in enumerate(zip(names, ranks, strict=True))
        ]
        trained = nn.ParameterDict()
        for number, (a, b) in enumerate(self.factors):
            trained[f"core{number}"] = nn.Parameter(a.new_zeros(len(a), len(a)))
            for j in range(len(a) if options.freeze else 0):
                trained[f"column{number}-{j}"] = nn.Parameter(b[:, j].clone())
        super().__init__(trained)
        self.handles = [
            model.get_submodule(name).register_forward_hook(self._hook(number))
            for number, name in enumerate(names)
        ]

    def _seed(self, number: int) -> int | None:
        return (self.options.seed << 20) + number if self.options.init == "random" else None

    def _hook(self, number: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        a = self.factors[number].a

        def add(_: nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> Tensor:
            inside = F.linear(inputs[0].to(a.dtype), a)  # nothing as wide as x is kept
            core, b = self.trained.get_parameter(f"core{number}"), self._b(number)
            return y + F.linear(F.linear(inside, core), b).to(y.dtype)

        return add

    def _b(self, number: int, values: Values | None = None) -> Tensor:
        """Return B (m, r) with its trained columns."""
        a, b = self.factors[number]
        if not self.options.freeze:
            return b
        keys = [f"column{number}-{j}" for j in range(len(a))]
        named = self.trained.get_parameter if values is None else values.__getitem__
        return torch.stack([named(key) for key in keys], dim=1)

    def starting(self, step: int) -> None:
        """Freeze the columns of B whose time has come."""
        end = self.options.freeze * self.options.steps
        for number, (a, _) in enumerate(self.factors if self.options.freeze else ()):
            for j in range(len(a)):
                column = self.trained.get_parameter(f"column{number}-{j}")
                column.requires_grad_(step < end * (j + 1) / len(a))
                if not column.requires_grad:
                    column.grad = None

    def result(self, values: Values, folder: Path) -> None:
        """Write the LoRA that computes the same: B D and A."""
        pairs = {}
        for number, name in enumerate(self.names):
            core = values[f"core{number}"].to(torch.float64)
            b = self._b(number, values).to(core)
            pairs[name] = (self.factors[number].a, (b @ core).float())
        write_lora(folder, self.model, pairs)

    def close(self) -> None:
        """Take the hooks out of the base, whose weights were never touched."""
        for handle in self.handles:
            handle.remove()


def _weight(model: nn.Module, name: str) -> Tensor:
    """Return W (m, n) of a linear layer in fp32, decoded if it is packed."""
    layer = model.get_submodule(name)
    if isinstance(layer, PackedLinear):
        return layer.dequantize(torch.float32)
    return layer.get_parameter("weight").detach().float()


def _gram(weight: Tensor) -> Tensor:
    """Return the smaller of W W^T and W^T W, in double precision."""
    w = weight.double()
    return w @ w.t() if w.shape[0] < w.shape[1] else w.t() @ w


def energy(weight: Tensor) -> Tensor:
    """Return the squared singular values of W (m, n), falling, in double precision."""
    return torch.linalg.eigvalsh(_gram(weight)).flip(0).clamp_min(0)


def factors(weight: Tensor, rank: int, seed: int | None = None) -> Factors:
    """Return A and B of the largest singular values of W (m, n).

    Of each pair of vectors, whose common sign is free, the largest entry of the right one is
    positive.

    Args:
        weight: W.
        rank: how many directions.
        seed: of random directions in place of singular vectors; None for the latter.

    """
    w = weight.double()
    squares, vectors = torch.linalg.eigh(_gram(w))
    values = squares.flip(0)[:rank].clamp_min(0).sqrt()
    vectors = vectors.flip(1)[:, :rank]
    if seed is not None:
        left, right = (_directions(n, rank, seed * 2 + k).to(w) for k, n in enumerate(w.shape))
    else:
        other = w.t() @ vectors if w.shape[0] < w.shape[1] else w @ vectors
        other = other / values.clamp_min(values[0] * _RANKLESS + torch.finfo(w.dtype).tiny)
        left, right = (vectors, other) if w.shape[0] < w.shape[1] else (other, vectors)
    largest = right.gather(0, right.abs().argmax(0, keepdim=True))
    sign, scale = torch.where(largest < 0, -1.0, 1.0), values.sqrt()
    return Factors((right * sign * scale).t().float().contiguous(), (left * sign * scale).float())


def _directions(length: int, count: int, seed: int) -> Tensor:
    """Return random orthonormal columns (length, count)."""
    dice = torch.Generator().manual_seed(seed % 2**63)
    noise = torch.randn(length, count, generator=dice, dtype=torch.float64)
    return torch.linalg.qr(noise).Q


def allocate(energies: list[Tensor], rank: int) -> list[int]:
    """Return a rank for each layer, for cores of at most `rank` squared numbers on average.

    Directions come in by the share of its layer's energy that lies before them: all layers then
    hold about the same share. Each has at least one.

    Args:
        energies: squared singular values of each layer, falling.
        rank: the rank that each would have by itself.

    """
    left = len(energies) * rank**2
    ranks, open_ = [0] * len(energies), [True] * len(energies)
    order = []
    for layer, energy in enumerate(energies):
        before = energy.double().cumsum(0).sub(energy) / energy.double().sum().clamp_min(1e-300)
        order += [(share, layer) for share in before.clamp_min(0).tolist()]
    for _, layer in sorted(order):
        cost = 2 * ranks[layer] + 1
        open_[layer] = open_[layer] and cost <= left
        if open_[layer]:
            ranks[layer], left = ranks[layer] + 1, left - cost
    return ranks
