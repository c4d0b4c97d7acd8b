"""A network and several sparse adapters of it as trained values, fused anew for every pass."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from zoo.adapters import masks
from zoo.errors import MismatchError


class Together(nn.Module):
    """A base and the deltas of its adapters: all of it is trained.

    Attributes:
        base: the network, whose every parameter is trained.
        deltas: one vector `(nnz,)` for each adapter, by a key without dots.

    Args:
        base: the network.
        indices: of each adapter, by its name: sorted flat indices by tensor name.

    """

    def __init__(self, base: nn.Module, indices: Mapping[str, masks.Indices]) -> None:
        super().__init__()
        self.base = base
        self.indices = {name: dict(mask) for name, mask in indices.items()}
        self.deltas = nn.ParameterDict(
            {
                name: nn.Parameter(torch.zeros(sum(map(len, mask.values()))))
                for name, mask in indices.items()
            }
        )

    def split(self, name: str, values: Tensor | None = None) -> dict[str, Tensor]:
        """Return an adapter's deltas by tensor name."""
        flat = self.deltas[name] if values is None else values
        mask = self.indices[name]
        return dict(zip(mask, flat.split([len(part) for part in mask.values()]), strict=True))

    def fused(self, strengths: Mapping[str, float]) -> dict[str, Tensor]:
        """Return the base's parameters W + sum of strength S, in the order of the adapters."""
        weights: dict[str, Tensor] = dict(self.base.named_parameters())
        for name in self.deltas:
            strength = strengths.get(name, 0.0)
            if not strength:
                continue
            for tensor, part in self.split(name).items():
                where = self.indices[name][tensor].to(part.device)
                flat = weights[tensor].reshape(-1).index_add(0, where, strength * part)
                weights[tensor] = flat.reshape(weights[tensor].shape)
        return weights

    def forward(self, inputs: Tensor, strengths: Mapping[str, float]) -> Tensor:
        """Return the outputs of the base with adapters of these strengths.

        Raises:
            MismatchError: there is no such adapter.

        """
        if unknown := set(strengths) - set(self.deltas):
            raise MismatchError(f"no adapter {sorted(unknown)[0]!r}; has {', '.join(self.deltas)}")
        outputs: Tensor = functional_call(self.base, self.fused(strengths), (inputs,))
        return outputs


class Mixed(nn.Module):
    """A `Together` with fixed strengths: a network like its base, to be judged.

    Args:
        together: base and adapters.
        strengths: by adapter.

    """

    def __init__(self, together: Together, strengths: Mapping[str, float]) -> None:
        super().__init__()
        self.together, self.strengths = together, dict(strengths)

    @property
    def halo(self) -> int:
        """The base's."""
        return int(self.together.base.halo)  # type: ignore[arg-type]

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs with these strengths."""
        outputs: Tensor = self.together(inputs, self.strengths)
        return outputs
