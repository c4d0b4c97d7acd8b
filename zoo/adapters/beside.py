"""What lies beside a packed weight: a sparse S that is added to what the codes decode to.

An adapter of SHiRA (arXiv 2406.13175) adds S to a few entries of W. Codes cannot hold W + S, so S
stays what it is, and a packed layer computes y = W x + S x; taking it off leaves the codes as they
were. The same S can be trained there, as QLoRA trains low ranks.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zoo.adapters import sampled
from zoo.errors import MismatchError
from zoo.quantization.packed import PackedLinear

_ENTRIES = 1 << 22  # numbers in memory at once


class Delta:
    """S of one layer: `values` (nnz,) in float32 at flat positions of (rows, columns)."""

    anchor: Tensor | None = None

    def __init__(self, indices: Tensor, values: Tensor, shape: tuple[int, int]) -> None:
        self.indices, self.values, self.shape = indices, values.to(torch.float32), shape

    def __call__(self, x: Tensor) -> Tensor:
        """Return x S^T (..., rows) for x (..., columns), summed in float32."""
        rows, columns = self.shape
        indices, values = self.indices.to(x.device), self.values.to(x.device)
        owner, place = indices // columns, indices % columns
        flat = x.reshape(-1, columns).to(torch.float32)
        parts = [
            part.new_zeros(len(part), rows).index_add(1, owner, part[:, place] * values)
            for part in flat.split(max(1, _ENTRIES // max(len(values), 1)))
        ]
        return torch.cat(parts).view(*x.shape[:-1], rows)

    def add_to(self, weight: Tensor) -> Tensor:
        """Return W + S for W (rows, columns), which may be overwritten."""
        flat = weight.reshape(-1)
        flat.index_add_(0, self.indices.to(flat.device), self.values.to(flat))
        return flat.view(self.shape)

    def learn(self, dy: Tensor, x: Tensor) -> None:
        """Do nothing: these values are not trained."""


class Learned(Delta):
    """S while its values are trained.

    Args:
        layer: it lies beside this layer from now on, until `remove`.
        indices: sorted flat positions.
        add: takes the gradient of the values, (nnz,), of each use of the layer.

    """

    def __init__(self, layer: PackedLinear, indices: Tensor, add: Callable[[Tensor], None]) -> None:
        shape = (layer.out_features, layer.in_features)
        super().__init__(indices, torch.zeros(len(indices), device=indices.device), shape)
        self.layer = layer
        self.anchor = torch.zeros((), device=indices.device, requires_grad=True)
        self.add, self._give = add, sampled.sampler_for(indices, torch.Size(shape), add)
        self.put(self.values)

    def put(self, values: Tensor) -> None:
        """Let the layer compute with these values."""
        self.values = values.detach().to(torch.float32)
        self.layer.sidecar = self

    def learn(self, dy: Tensor, x: Tensor) -> None:
        """Take the entries of dY^T X for dY (tokens, rows) and X (tokens, columns)."""
        if self._give is not None:
            self._give(dy, x)
        else:
            self.add((dy.float().t() @ x.float()).view(-1)[self.indices])

    def remove(self) -> None:
        """Leave the layer with its codes alone."""
        self.layer.sidecar = None


class PackedWeight:
    """The weight of a packed layer where a parameter is expected: decoded when it is read.

    While it `requires_grad`, it lies beside its own layer and collects the gradient of the whole
    weight, as a parameter does.
    """

    dtype = torch.float32
    requires_grad = False
    anchor: Tensor | None
    grad: Tensor | None

    def __init__(self, layer: PackedLinear) -> None:
        self.layer, self.grad = layer, None
        self.shape = torch.Size((layer.out_features, layer.in_features))
        self.device = layer.get_buffer("codes").device
        self.is_meta = self.device.type == "meta"
        self._leaf = torch.zeros((), device=self.device, requires_grad=True)
        self.anchor = self._leaf

    def numel(self) -> int:
        """Return rows times columns."""
        return self.shape.numel()

    def dim(self) -> int:
        """Return 2."""
        return 2

    def is_floating_point(self) -> bool:
        """Return True: codes stand for floats."""
        return True

    def detach(self) -> Tensor:
        """Return W (rows, columns), decoded, without what lies beside it."""
        return self.layer.dequantize(self.dtype)

    def requires_grad_(self, wanted: bool = True) -> "PackedWeight":
        """Collect the gradient from now on, or stop."""
        if wanted != self.requires_grad:
            self.layer.sidecar = self if wanted else None
        self.requires_grad = wanted
        return self

    def register_post_accumulate_grad_hook(self, hook: Callable[["PackedWeight"], None]) -> Any:
        """Call `hook` in a backward pass, when the gradient is complete."""
        return self._leaf.register_post_accumulate_grad_hook(lambda _: hook(self))

    def learn(self, dy: Tensor, x: Tensor) -> None:
        """Add dY^T X for dY (tokens, rows) and X (tokens, columns) to the gradient."""
        gradient = dy.float().t() @ x.float()
        self.grad = gradient if self.grad is None else self.grad + gradient

    def __call__(self, x: Tensor) -> Tensor:
        """Return zeros (..., rows): nothing is added."""
        return x.new_zeros(*x.shape[:-1], self.shape[0])

    def add_to(self, weight: Tensor) -> Tensor:
        """Return W as it is."""
        return weight


def refuse_adapted(layer: PackedLinear) -> None:
    """Refuse a layer that has an adapter on.

    Raises:
        MismatchError: it has one.

    """
    if layer.sidecar is not None:
        raise MismatchError(
            "an adapter is already on; take it off with zoo.adapters.sidecar.detach(model), or "
            "deactivate() of the Switcher that put it there"
        )
