"""Backward passes of linear layers that compute only the masked entries of a weight's gradient.

The gradient of W in y = x W^T is dY^T X, which takes a third of all the work of dense training.
Of that product a sparse adapter needs nnz entries, each a dot product over tokens: a *sampled*
matrix product (SDDMM). No dense gradient is ever made. Above some density the dense product is
faster, since it reuses what it reads; there, and for all other layers, the gathering hook of
`zoo.adapters.compact` stays. Masks of whole rows or columns need a dense product of a slice, and
whole columns only these columns of X, which is all that is kept for the backward pass (PaCA, arXiv
2503.01905).
"""

import functools
import warnings
from collections.abc import Callable
from types import MethodType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_DENSITY = 0.05  # measured: benchmarks/adapters_training.py


class _SampledLinear(torch.autograd.Function):
    """y = x W^T + b, whose backward pass hands the masked entries of dW to a function."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, product: "Product"
    ) -> Tensor:
        ctx.save_for_backward(product.keep(x), weight)
        ctx.give = product.give
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None, None]:
        x, weight = ctx.saved_tensors
        dy = gradients[0]
        ctx.give(dy.reshape(-1, dy.shape[-1]), x.reshape(-1, x.shape[-1]))
        dx = (dy @ weight.to(dy.dtype)).to(x.dtype) if ctx.needs_input_grad[0] else None
        return dx, None, None, None


class Product(NamedTuple):
    """How masked entries of dW = dY^T X are had.

    Attributes:
        keep: from X (..., in) to what the backward pass needs of it, (..., kept).
        give: takes dY (tokens, out) and the kept (tokens, kept); hands on the entries.

    """

    keep: Callable[[Tensor], Tensor]
    give: Callable[[Tensor, Tensor], None]


def lines(indices: Tensor, shape: torch.Size) -> tuple[int, Tensor] | None:
    """Return (0, rows) or (1, columns) if a mask is just these, whole; None for other masks.

    Args:
        indices: sorted flat indices into `shape`.
        shape: (out, in) of the weight.

    """
    for axis, length in enumerate((shape[1], shape[0])):
        count, rest = divmod(len(indices), length)
        if rest or not 0 < count <= shape[axis]:
            continue
        at = indices[:count] if axis else indices[::length] // shape[1]
        every = torch.arange(length, device=indices.device)
        whole = every[:, None] * shape[1] + at if axis else at[:, None] * shape[1] + every
        if torch.equal(whole.view(-1), indices):
            return axis, at
    return None


def sliced(axis: int, at: Tensor, add: Callable[[Tensor], None]) -> Product:
    """Return the product for whole rows (axis 0) or columns (axis 1)."""
    first, count = int(at[0]), len(at)
    run = int(at[-1]) - first == count - 1

    def part(x: Tensor) -> Tensor:
        # A copy in both cases: a view would keep the whole.
        return x.narrow(-1, first, count).contiguous() if run else x.index_select(-1, at)

    def give(dy: Tensor, x: Tensor) -> None:
        add(((dy if axis else part(dy)).float().t() @ x.float()).view(-1))

    return Product(part if axis else lambda x: x, give)


def sampler(indices: Tensor, shape: torch.Size, add: Callable[[Tensor], None]) -> Any:
    """Return a function that computes the entries `indices` of dY^T X, `(nnz,)` in fp32.

    Args:
        indices: sorted flat indices into `shape`.
        shape: (out, in) of the weight.
        add: takes the entries and adds them up.

    """
    rows = torch.div(indices, shape[1], rounding_mode="floor")
    starts = torch.searchsorted(rows, torch.arange(shape[0] + 1, device=indices.device))
    zeros = torch.zeros(len(indices), device=indices.device)
    with warnings.catch_warnings():  # it says once per process that sparse tensors are in beta
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        where = torch.sparse_csr_tensor(
            starts, indices % shape[1], zeros, tuple(shape), check_invariants=True
        )

    def give(dy: Tensor, x: Tensor) -> None:
        # Both as (features, tokens) in memory: each entry is a dot product of two rows.
        left, right = dy.float().t().contiguous(), x.float().t().contiguous().t()
        add(torch.sparse.sampled_addmm(where, left, right, beta=0.0).values())

    return give


def sampler_for(indices: Tensor, shape: torch.Size, add: Callable[[Tensor], None]) -> Any:
    """Return `sampler`, or None where the whole product is faster or the only one there is."""
    few = indices.numel() <= MAX_DENSITY * shape.numel()
    return sampler(indices, shape, add) if few and _works(indices.device) else None


@functools.cache
def _works(device: torch.device) -> bool:
    """Say whether PyTorch has the product on a device: not every build and backend does."""
    seen: list[Tensor] = []
    try:
        index = torch.tensor([1], device=device)
        give = sampler(index, torch.Size((2, 2)), seen.append)
        give(torch.ones(3, 2, device=device), torch.ones(3, 2, device=device))
    except (RuntimeError, NotImplementedError):
        return False
    return seen[0].tolist() == [3.0]


def takes(model: nn.Module, name: str, indices: Tensor) -> nn.Linear | None:
    """Return the linear layer that alone uses the weight `name`, if its mask needs no dense dW."""
    owner, _, last = name.rpartition(".")
    layer = model.get_submodule(owner)
    if type(layer) is not nn.Linear or last != "weight" or "forward" in vars(layer):
        return None
    users = [n for n, p in model.named_parameters(remove_duplicate=False) if p is layer.weight]
    trained = layer.bias is not None and layer.bias.requires_grad
    if len(users) != 1 or trained:
        return None
    few = indices.numel() <= MAX_DENSITY * layer.weight.numel() and _works(layer.weight.device)
    return layer if few or lines(indices, layer.weight.shape) else None


class Sampled:
    """A linear layer that trains without a dense dW until `remove`; it stays the same module."""

    def __init__(self, layer: nn.Linear, indices: Tensor, add: Callable[[Tensor], None]) -> None:
        self.layer = layer
        whole = lines(indices, layer.weight.shape)
        if whole is not None:
            product = sliced(*whole, add)
        else:
            product = Product(lambda x: x, sampler(indices, layer.weight.shape, add))

        def forward(layer: nn.Linear, x: Tensor) -> Tensor:
            if not torch.is_grad_enabled():
                return F.linear(x, layer.weight, layer.bias)
            run: Any = _SampledLinear.apply
            y: Tensor = run(x, layer.weight, layer.bias, product)
            return y

        vars(layer)["forward"] = MethodType(forward, layer)

    def remove(self) -> None:
        """Give the layer its own forward pass back."""
        vars(self.layer).pop("forward", None)
