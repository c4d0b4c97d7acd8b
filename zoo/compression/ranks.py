"""Which rank each matrix of a network gets, under one budget of numbers for all."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zoo.compression.fit import Spectrum, relative_error, root_of, spectrum
from zoo.compression.matrices import Matrix
from zoo.errors import MismatchError
from zoo.models.structured.forms import LowRankForm
from zoo.models.structured.network import restructure, structure_of
from zoo.quantization.budget import Choice, allocate

_FLOOR = 1e-3  # of a row's weight, as a fraction of the mean: no output is worth nothing


@dataclass(frozen=True)
class Truncated:
    """A matrix cut to a rank.

    Attributes:
        form: its form.
        factors: the tensors of the form, in float32.
        error: tr(E H E^T) / tr(W H W^T).

    """

    form: LowRankForm
    factors: Mapping[str, Tensor]
    error: float


def most(m: int, n: int) -> int:
    """Return the largest rank that stores less than a matrix (m, n); it may be 0."""
    return (m * n - 1) // (m + n)


def spectra(matrices: Mapping[str, Matrix], *, whiten: bool = True) -> dict[str, Spectrum]:
    """Return the spectrum of each matrix, its rows weighted where gradients are known.

    With `whiten`, singular values are those of the outputs for the inputs seen, else of weights.

    The expected loss of dropping some singular values is the sum of their squares, over 4: see
    `zoo.quantization.language.allocate`.
    """
    found = {}
    for name, matrix in matrices.items():
        rows = None
        if matrix.squares is not None:
            mean = matrix.squares.mean().clamp_min(torch.finfo(torch.float32).tiny)
            rows = matrix.squares.clamp_min(_FLOOR * mean).sqrt()
        hessian = matrix.hessian if whiten else None
        found[name] = spectrum(matrix.weight, root_of(hessian, matrix.weight.shape[1]), rows)
    return found


def within(found: Mapping[str, Spectrum], sizes: Mapping[str, int], keep: float) -> dict[str, int]:
    """Return the rank of each matrix that gets one; the others stay as they are.

    The ranks lose least in all, as the spectra see it. Rank 0 is one of them.

    Args:
        found: the spectra.
        sizes: how many numbers each matrix has.
        keep: share of all these numbers that may be stored.

    """
    choices: dict[str, list[Choice[int | None]]] = {}
    for name, one in found.items():
        m, n = len(one.left), one.right.shape[1]
        losses = one.losses().tolist()
        ranks = range(most(m, n) + 1)
        choices[name] = [Choice(rank, rank * (m + n), losses[rank]) for rank in ranks]
        choices[name].append(Choice(None, sizes[name], 0.0))
    chosen = allocate(choices, int(keep * sum(sizes.values())))
    return {name: c.options for name, c in chosen.items() if c.options is not None}


def uniform(matrices: Mapping[str, Matrix], keep: float) -> dict[str, int]:
    """Return ranks that keep the same share of every matrix, where that is a rank of 1 or more."""
    ranks = {}
    for name, matrix in matrices.items():
        m, n = matrix.weight.shape
        rank = int(keep * m * n / (m + n))
        if 0 < rank <= most(m, n):
            ranks[name] = rank
    return ranks


def fixed(matrices: Mapping[str, Matrix], rank: int) -> dict[str, int]:
    """Return one rank for every matrix.

    Raises:
        MismatchError: it would not make one of them smaller.

    """
    for name, matrix in matrices.items():
        m, n = matrix.weight.shape
        if rank > most(m, n):
            raise MismatchError(
                f"rank {rank} saves nothing in {name} ({m} x {n}); expected at most {most(m, n)} "
                "there: leave the layer out with --layers, or give --keep instead of --rank"
            )
    return dict.fromkeys(matrices, rank)


def cut(matrix: Matrix, found: Spectrum, rank: int) -> Truncated:
    """Return a matrix at a rank."""
    form = LowRankForm(rank)
    factors = found.cut(form)
    weight, root = matrix.weight.double(), root_of(matrix.hessian, matrix.weight.shape[1])
    error = relative_error(weight, form.weight(factors), root)
    return Truncated(form, {name: factor.float() for name, factor in factors.items()}, error)


def put(network: nn.Module, parts: Mapping[str, Truncated]) -> None:
    """Put factors in the places of a network's matrices."""
    biases = {name: getattr(network.get_submodule(name), "bias", None) for name in parts}
    restructure(network, structure_of({name: part.form for name, part in parts.items()}))
    with torch.no_grad():
        for name, part in parts.items():
            layer = network.get_submodule(name)
            for factor, value in part.factors.items():
                layer.get_parameter(factor).copy_(value)
            if (bias := biases[name]) is not None:
                layer.get_parameter("bias").copy_(bias)
