"""SHiRA-WM-DoRA: a DoRA of high rank of which only masked entries are used (arXiv 2406.13175).

DoRA (arXiv 2402.09353, equation 5) writes a weight as W' = m (W + s B A) / ||W + s B A||, with a
trained magnitude m per row and the norm taken as a constant in the backward pass (its section
4.3). Of the change W' - W only the entries of the mask go into the model, in training as in use,
so the result is a sparse adapter like any other, while A, B and m are what is trained.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from zoo.adapters import masks
from zoo.adapters.masks import Indices
from zoo.adapters.methods.contract import Attachment, Options, Values
from zoo.adapters.methods.shira import HookRoute
from zoo.errors import MismatchError

SCALE = 2.0  # as lora_alpha = 2 rank


def budget(model: nn.Module, options: Options) -> None:
    """Return None: the mask's density says how many entries."""


def attach(model: nn.Module, indices: Indices, options: Options) -> Attachment:
    """Attach a DoRA to each tensor of the mask."""
    return MaskedDora(model, indices, options.rank, options.seed)


class MaskedDora(HookRoute):
    """The route whose deltas are the masked change of a DoRA.

    Args:
        model: the base.
        indices: sorted flat indices by tensor name.
        rank: the rank of B (rows, rank) and A (rank, columns); convolutions count as (out, rest).
        seed: the seed of A; B begins at zero.

    Raises:
        MismatchError: the mask has a vector, such as a bias.

    """

    def __init__(
        self, model: nn.Module, indices: Mapping[str, Tensor], rank: int, seed: int
    ) -> None:
        vectors = [name for name, p in model.named_parameters() if name in indices and p.dim() < 2]
        if vectors:
            raise MismatchError(
                f"{vectors[0]} is a vector, and DoRA takes matrices and convolutions; take the "
                f"method shira, or leave vectors out: --set 'mask.exclude={','.join(vectors)}'"
            )
        super().__init__(model, indices)
        self.factors = nn.ParameterDict()
        self._norms: list[Tensor] = []
        self._cells: list[tuple[Tensor, Tensor]] = []
        for n, (weight, part) in enumerate(self._weights()):
            rows, columns = weight.shape
            bound = 1 / math.sqrt(columns)  # Kaiming, as peft initializes A
            dice = torch.Generator().manual_seed((seed << 20) + n)
            start = torch.empty(rank, columns).uniform_(-bound, bound, generator=dice)
            self.factors[f"a{n}"] = nn.Parameter(start.to(weight.device))
            self.factors[f"b{n}"] = nn.Parameter(torch.zeros(rows, rank, device=weight.device))
            self.factors[f"m{n}"] = nn.Parameter(weight.norm(dim=1))
            flat = self.compact.flat[part]
            self._cells.append((flat // columns, flat % columns))
        self.use()

    def _weights(self) -> list[tuple[Tensor, slice]]:
        """Return each target as a matrix in fp32, and its part of the flat vectors."""
        weights = masks.weights_of(self.model)
        return [
            (weights[name].detach().flatten(1).float(), part)
            for name, part in self.compact.slices().items()
        ]

    @property
    def trained(self) -> nn.Module:
        """All trained values: A, B and m of every target."""
        return self.factors

    def _change(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return m (W + s B A) / norm - W at the masked entries, `(nnz,)`."""
        parts = self.compact.slices().values()
        changes = []
        for n, ((row, column), norm, part) in enumerate(
            zip(self._cells, self._norms, parts, strict=True)
        ):
            product = (values[f"b{n}"][row] * values[f"a{n}"].t()[column]).sum(1)
            before = self.compact.base[part]
            ratio = (values[f"m{n}"] / norm)[row]
            changes.append(ratio * (before + SCALE * product) - before)
        return torch.cat(changes)

    @torch.no_grad()
    def _measure(self, values: Mapping[str, Tensor]) -> None:
        """Take ||W + s B A|| of each row of the pristine base."""
        self.compact.restore(self.model)
        self._norms = [
            (weight + SCALE * values[f"b{n}"] @ values[f"a{n}"]).norm(dim=1)
            for n, (weight, _) in enumerate(self._weights())
        ]

    def use(self, values: Values | None = None) -> None:
        """Let the model compute with these values, or with those being trained if None."""
        chosen = dict(self.factors.items()) if values is None else values
        with torch.no_grad():
            self._measure(chosen)
            self.compact.write(self.model, self._change(chosen))

    def collect(self) -> None:
        """Pass the gradient of the masked entries on to A, B and m."""
        gradient, self.compact.values.grad = self.compact.values.grad, None
        if gradient is not None:
            self._change(dict(self.factors.items())).backward(gradient)

    def deltas(self, values: Values) -> dict[str, tuple[Tensor, Tensor]]:
        """Return (indices, deltas) by tensor name; the model has the base's values afterwards."""
        with torch.no_grad():
            self._measure(values)
            return self.compact.deltas(self._change(values))
