"""What tuning moves: a model whose weights are decoded, and the tensors they are decoded from."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from zoo.errors import MismatchError
from zoo.quantization.core import QuantizedMatrix
from zoo.quantization.grids.contract import Parameters


def weight_of(model: nn.Module, name: str) -> nn.Parameter:
    """Return the weight of the module `name`.

    Raises:
        MismatchError: the model has no such weight.

    """
    weight = model.get_parameter(f"{name}.weight") if _has(model, name) else None
    if weight is None:
        raise MismatchError(f"the model has no weight {name}.weight: this is another base model")
    return weight


def _has(model: nn.Module, name: str) -> bool:
    return any(key == f"{name}.weight" for key, _ in model.named_parameters())


class Student:
    """A model whose linear weights are decoded from `matrices`, and its tunable tensors.

    With `weights`, each matrix has latent floats as well (quantization-aware training): codes are
    those of the allowed values nearest to them, and they follow the gradient of the rounded
    weights, straight through the rounding. They start where the codes are what they were: at the
    float weight if it rounds to its code, and at the value of the code elsewhere.
    """

    def __init__(
        self,
        model: nn.Module,
        matrices: Mapping[str, QuantizedMatrix],
        *,
        norms: bool,
        weights: bool = False,
    ) -> None:
        self.model, self.matrices = model, dict(matrices)
        self.weights = {name: weight_of(model, name) for name in matrices}
        self.tuned: dict[str, Parameters] = {}
        self.used: dict[str, Tensor] = {}  # codes in the model at present, of those tuned
        for name, matrix in self.matrices.items():
            probe = matrix.grid.adjoint(
                matrix.parameters,
                matrix.codes.long(),
                torch.zeros(matrix.grid.rows, matrix.grid.padded),
            )
            self.tuned[name] = {key: matrix.parameters[key].clone() for key in probe}
        self.latent = (
            {name: self._start(name, matrix) for name, matrix in self.matrices.items()}
            if weights
            else {}
        )
        self.others = {
            name: parameter.detach().to(torch.float32)
            for name, parameter in model.named_parameters()
            if norms and parameter.ndim == 1
        }
        self.parameters = dict(model.named_parameters())

    def leaves(self) -> list[Tensor]:
        """Return all tunable tensors, in a fixed order."""
        return [*(t for group in self.tuned.values() for t in group.values()),
                *self.latent.values(), *self.others.values()]  # fmt: skip

    def is_weight(self, leaf: Tensor) -> bool:
        """Say whether a leaf is the latent floats of a matrix."""
        return any(leaf is latent for latent in self.latent.values())

    def _start(self, name: str, matrix: QuantizedMatrix) -> Tensor:
        """Return the latent floats (rows, padded) of a matrix, in its order of columns."""
        grid, floats = matrix.grid, self.weights[name].detach().to(torch.float32)
        if matrix.order is not None:
            floats = floats[:, matrix.order]
        floats, codes = grid.pad(floats), matrix.codes.long()
        same = (grid.nearest(matrix.parameters, floats) == codes).repeat_interleave(grid.dim, 1)
        return torch.where(same, floats, grid.decode(matrix.parameters, codes))

    def codes(self, name: str, parameters: Parameters) -> Tensor:
        """Return the codes of a matrix with these parameters: as given, or those of its latent."""
        matrix = self.matrices[name]
        if name not in self.latent:
            return matrix.codes.long()
        return matrix.grid.nearest(parameters, self.latent[name])

    def rounded(self) -> dict[str, QuantizedMatrix]:
        """Return the matrices, rounded as for storage."""
        made = {}
        for name, matrix in self.matrices.items():
            exact = matrix.with_parameters({**matrix.parameters, **self.tuned[name]})
            codes = self.codes(name, exact.parameters).to(matrix.grid.code_type)
            made[name] = replace(exact, codes=codes)
        return made

    @torch.no_grad()
    def load(self, matrices: Mapping[str, QuantizedMatrix] | None = None) -> None:
        """Write weights and norms into the model: those of `matrices`, or the tuned ones."""
        for name, weight in self.weights.items():
            if matrices is not None:
                weight.copy_(matrices[name].dequantize(weight.dtype))
                continue
            matrix = self.matrices[name]
            codes = self.codes(name, {**matrix.parameters, **self.tuned[name]})
            self.used[name] = codes.to(matrix.grid.code_type)
            small = {key: value.to(weight.dtype) for key, value in self.tuned[name].items()}
            values = matrix.grid.decode({**matrix.parameters, **small}, codes)
            values = values[:, : matrix.grid.columns].to(weight.dtype)
            if matrix.order is None:
                weight.copy_(values)
            else:
                weight.index_copy_(1, matrix.order, values)
        for name, value in self.others.items():
            self.parameters[name].copy_(value)

    def gradients(self, loss_gradient: Callable[[], None]) -> list[Tensor]:
        """Return the gradients of `leaves` once `loss_gradient` has run the backward pass."""
        for parameter in (*self.weights.values(), *(self.parameters[n] for n in self.others)):
            parameter.requires_grad_(True)
            parameter.grad = None
        loss_gradient()
        gradients, latent = [], []
        for name, matrix in self.matrices.items():
            gradient = self.weights[name].grad
            assert gradient is not None
            if matrix.order is not None:
                gradient = gradient[:, matrix.order]
            padded = matrix.grid.pad(gradient.to(torch.float32))
            parts = matrix.grid.adjoint(matrix.parameters, self.used[name].long(), padded)
            if name in self.latent:
                latent.append(padded)
            gradients += [parts[key] for key in self.tuned[name]]
            self.weights[name].grad = None
        gradients += latent
        for name in self.others:
            gradient = self.parameters[name].grad
            gradients.append(
                torch.zeros_like(self.others[name]) if gradient is None else gradient.float()
            )
        return gradients
