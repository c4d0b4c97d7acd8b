"""Backward passes of linear layers that compute only the masked entries of a weight's gradient.

The gradient of W in y = x W^T is dY^T X, which takes a third of all the work of dense training.
Of that product a sparse adapter needs nnz entries, each a dot product over tokens: a *sampled*
matrix product (SDDMM). No dense gradient is ever made. Above some density the dense product is
faster, since it reuses what it reads; there, and for all other layers, the gathering hook of
`zoo.adapters.compact` stays.
"""

import functools
import warnings
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_DENSITY = 0.05  # measured: benchmarks/adapters_training.py


class _SampledLinear(torch.autograd.Function):
    """y = x W^T + b, whose backward pass hands the masked entries of dW to a function."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, give: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.give = give
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None, None]:
        x, weight = ctx.saved_tensors
        dy = gradients[0]
        ctx.give(dy.reshape(-1, dy.shape[-1]), x.reshape(-1, x.shape[-1]))
        dx = (dy @ weight.to(dy.dtype)).to(x.dtype) if ctx.needs_input_grad[0] else None
        return dx, None, None, None


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
    """Return the linear layer that alone uses the weight `name`, if its mask is sparse enough."""
    owner, _, last = name.rpartition(".")
    layer = model.get_submodule(owner)
    if type(layer) is not nn.Linear or last != "weight" or "forward" in vars(layer):
        return None
    users = [n for n, p in model.named_parameters(remove_duplicate=False) if p is layer.weight]
    few = indices.numel() <= MAX_DENSITY * layer.weight.numel()
    trained = layer.bias is not None and layer.bias.requires_grad
    if not few or len(users) != 1 or trained or not _works(layer.weight.device):
        return None
    return layer


class Sampled:
    """A linear layer that trains by sampled products until `remove`; it stays the same module."""

    def __init__(self, layer: nn.Linear, indices: Tensor, add: Callable[[Tensor], None]) -> None:
        self.layer = layer
        give = sampler(indices, layer.weight.shape, add)

        def forward(layer: nn.Linear, x: Tensor) -> Tensor:
            if not torch.is_grad_enabled():
                return F.linear(x, layer.weight, layer.bias)
            run: Any = _SampledLinear.apply
            y: Tensor = run(x, layer.weight, layer.bias, give)
            return y

        vars(layer)["forward"] = MethodType(forward, layer)

    def remove(self) -> None:
        """Give the layer its own forward pass back."""
        vars(self.layer).pop("forward", None)
