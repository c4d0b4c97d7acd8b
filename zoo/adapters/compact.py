"""The trained values of a sparse adapter, apart from the model: the hook route of SHiRA.

The base needs no wrapper modules. One flat fp32 vector holds the change (*delta*) of every masked
entry; the optimizer, clipping, accumulation and the reduction over processes see only that. While a
backward pass runs, each weight's dense gradient is gathered into the vector's gradient and
dropped at once, so one layer's dense gradient is alive at a time; linear layers with few masked
entries never make one (`zoo.adapters.sampled`). After a step the masked
entries become round(base + delta) (`write`): the network that is trained is, bit for bit, the one
that is served, and a bf16 base loses no update that is smaller than its rounding. Where the base is
packed, deltas lie beside the codes instead (`zoo.adapters.beside`).
"""

import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.adapters import masks, sampled
from zoo.adapters.beside import Learned, PackedWeight
from zoo.errors import MismatchError


class CompactValues:
    """The deltas of the masked entries of a model.

    Attributes:
        trained: a module that holds nothing but `values`, `(nnz,)` in fp32: what an optimizer,
            an average of weights and a saved state need.
        base: the base's own values there, `(nnz,)` in fp32 (exact for bf16 and fp16).
        flat: their row-major indices inside their tensors, `(nnz,)`.

    Args:
        model: the base; it is read here and changed only by `write`.
        indices: sorted flat indices by tensor name.

    """

    def __init__(self, model: nn.Module, indices: Mapping[str, Tensor]) -> None:
        parameters = masks.weights_of(model)
        if missing := sorted(set(indices) - set(parameters)):
            raise MismatchError(f"the model has no weight named {missing[0]!r}")
        self.names = list(indices)
        self.sizes = [indices[name].numel() for name in self.names]
        device = parameters[self.names[0]].device
        self.flat = torch.cat([indices[name].to(device) for name in self.names])
        self.base = torch.cat(
            [
                parameters[name].detach().reshape(-1)[indices[name].to(device)].float()
                for name in self.names
            ]
        )
        self.trained = nn.ParameterDict({"deltas": nn.Parameter(torch.zeros_like(self.base))})
        self._beside: dict[str, Learned] = {}  # where the weight is packed

    @property
    def values(self) -> nn.Parameter:
        """The deltas, `(nnz,)`."""
        return self.trained["deltas"]

    def slices(self) -> dict[str, slice]:
        """Return each tensor's part of the flat vectors."""
        slices, first = {}, 0
        for name, size in zip(self.names, self.sizes, strict=True):
            slices[name] = slice(first, first + size)
            first += size
        return slices

    def attach(self, model: nn.Module) -> list[Any]:
        """Freeze all but the masked tensors, and gather their gradients; return the handles."""
        parts = self.slices()
        handles: list[Any] = []
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in parts)
            parameter.grad = None
        weights = masks.weights_of(model)
        for name, part in parts.items():
            if isinstance(packed := weights[name], PackedWeight):
                add = functools.partial(self._add, part)
                self._beside[name] = Learned(packed.layer, self.flat[part], add)
                handles.append(self._beside[name])
            elif layer := sampled.takes(model, name, self.flat[part]):
                add = functools.partial(self._add, part)
                handles.append(sampled.Sampled(layer, self.flat[part], add))
            else:
                hook = functools.partial(self._gather, part)
                parameter = model.get_parameter(name)
                handles.append(parameter.register_post_accumulate_grad_hook(hook))
        return handles

    def _add(self, part: slice, gradient: Tensor) -> None:
        if self.values.grad is None:
            self.values.grad = torch.zeros_like(self.values)
        self.values.grad[part] += gradient

    def _gather(self, part: slice, parameter: Tensor) -> None:
        assert parameter.grad is not None
        self._add(part, parameter.grad.reshape(-1)[self.flat[part]])
        parameter.grad = None

    @torch.no_grad()
    def write(self, model: nn.Module, values: Tensor | None = None) -> None:
        """Set the masked entries to round(base + delta), with `values` as deltas if given."""
        deltas = (self.values if values is None else values).to(self.base)
        self._put(model, self.base + deltas)
        parts = self.slices()
        for name, learned in self._beside.items():
            learned.put(deltas[parts[name]])

    @torch.no_grad()
    def restore(self, model: nn.Module) -> None:
        """Put the base's values back into the model, bit for bit."""
        self._put(model, self.base)
        for learned in self._beside.values():
            learned.remove()

    def _put(self, model: nn.Module, values: Tensor) -> None:
        parameters = dict(model.named_parameters())
        for name, part in self.slices().items():
            if name not in self._beside:
                put(parameters[name], self.flat[part], values[part])

    @torch.no_grad()
    def deltas(self, values: Tensor | None = None) -> dict[str, tuple[Tensor, Tensor]]:
        """Return (indices, deltas) by tensor name, on the CPU."""
        given = (self.values.detach() if values is None else values).float().cpu()
        flat = self.flat.cpu()
        return {name: (flat[p].clone(), given[p].clone()) for name, p in self.slices().items()}

    def base_digest(self) -> str:
        """Return the SHA-256 of the base's values: what a resumed run must find again."""
        return hashlib.sha256(self.base.cpu().numpy().tobytes()).hexdigest()


def put(parameter: Tensor, indices: Tensor, values: Tensor) -> None:
    """Write values at flat row-major indices, in place, whatever the memory order."""
    target = parameter.detach()
    values, indices = values.to(target), indices.to(target.device)
    if target.is_contiguous():
        target.view(-1).index_copy_(0, indices, values)
    else:  # a channels_last convolution
        target.index_put_(torch.unravel_index(indices, target.shape), values)
