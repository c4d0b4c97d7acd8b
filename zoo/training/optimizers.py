"""Optimizers by name: AdamW, RMSprop, and SOAP for networks whose layers are small matrices."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from zoo.registry.recipe import Train


class Soap(Optimizer):
    """Adam in the eigenbasis of Shampoo's preconditioner (arXiv 2409.11321, algorithm 3).

    A weight is treated as a matrix `(out, rest)`, a vector or number as a column. L and R are
    moving averages of G G^T and G^T G; Adam's second moment belongs to Q_L^T G Q_R, with Q their
    eigenvectors, which one power iteration and a QR decomposition renew every `frequency` steps.
    The first step only fills L and R. Sides of 1, and those longer than `most`, are not rotated.
    Memory: Adam's, plus two square matrices per rotated side.

    Args:
        params: the parameters to train.
        lr: learning rate; between Adam's and ten times that.
        betas: decay of Adam's two moments.
        shampoo_beta: decay of L and R.
        eps: added to the root of the second moment.
        weight_decay: decoupled weight decay.
        frequency: steps between two renewals of the eigenvectors.
        most: the longest side that is rotated.

    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 3e-3,
        betas: tuple[float, float] = (0.95, 0.95),
        *,
        shampoo_beta: float = 0.95,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        frequency: int = 10,
        most: int = 1024,
    ) -> None:
        defaults = {
            "lr": lr, "betas": betas, "shampoo_beta": shampoo_beta, "eps": eps,
            "weight_decay": weight_decay, "frequency": frequency, "most": most,
        }  # fmt: skip
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Do one step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        gradient = torch.atleast_1d(parameter.grad.float())
        gradient = gradient.reshape(len(gradient), -1)
        state = self.state[parameter]
        if not state:
            _begin(state, gradient, group)
            return
        state["step"] += 1
        first, second = group["betas"]
        left, right = state.get("left_basis"), state.get("right_basis")
        state["mean"].lerp_(gradient, 1 - first)
        state["square"].lerp_(_rotate(gradient, left, right).square(), 1 - second)
        mean = _rotate(state["mean"], left, right) / (1 - first ** state["step"])
        root = (state["square"] / (1 - second ** state["step"])).sqrt_()
        change = _back(mean / root.add_(group["eps"]), left, right)
        if group["weight_decay"]:
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.sub_((group["lr"] * change).view_as(parameter))
        for side, outer in (("left", _left), ("right", _right)):
            if side in state:
                state[side].lerp_(outer(gradient), 1 - group["shampoo_beta"])
        if state["step"] % group["frequency"] == 0:
            _renew(state)


def _begin(state: dict[str, Any], gradient: Tensor, group: dict[str, Any]) -> None:
    state["step"] = 0
    state["mean"], state["square"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
    for side, outer, length in zip(("left", "right"), (_left, _right), gradient.shape, strict=True):
        if 1 < length <= group["most"]:
            product = outer(gradient)
            # NaN would be an error here; the next step passes it to the weights, and the loss shows
            # it.
            state[f"{side}_basis"] = torch.linalg.eigh(product.nan_to_num()).eigenvectors.flip(1)
            state[side] = product * (1 - group["shampoo_beta"])


def _renew(state: dict[str, Any]) -> None:
    """Move the bases closer to the eigenvectors, sorted by eigenvalue, and the moment with them."""
    for axis, side in enumerate(("left", "right")):
        if side not in state:
            continue
        basis = state[f"{side}_basis"]
        power = state[side] @ basis
        order = (basis * power).sum(0).argsort(descending=True, stable=True)
        state["square"] = state["square"].index_select(axis, order)
        state[f"{side}_basis"] = torch.linalg.qr(power[:, order]).Q


def _left(gradient: Tensor) -> Tensor:
    return gradient @ gradient.T


def _right(gradient: Tensor) -> Tensor:
    return gradient.T @ gradient


def _rotate(matrix: Tensor, left: Tensor | None, right: Tensor | None) -> Tensor:
    """Return Q_L^T M Q_R."""
    matrix = matrix if left is None else left.T @ matrix
    return matrix if right is None else matrix @ right


def _back(matrix: Tensor, left: Tensor | None, right: Tensor | None) -> Tensor:
    """Return Q_L M Q_R^T."""
    matrix = matrix if left is None else left @ matrix
    return matrix if right is None else matrix @ right.T


def _adamw(parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> Optimizer:
    # One pass over each tensor: on CPU a third of the time.
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=True)


def _soap(parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> Optimizer:
    return Soap(parameters, lr=lr, weight_decay=weight_decay)


def _rmsprop(parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> Optimizer:
    """Return RMSprop as EfficientNet and RAN-e set it: both decays 0.9, a large epsilon."""
    return torch.optim.RMSprop(
        parameters, lr=lr, alpha=0.9, momentum=0.9, eps=1e-3, weight_decay=weight_decay
    )


_MAKERS = {"adamw": _adamw, "rmsprop": _rmsprop, "soap": _soap}


def make_optimizer(settings: Train, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """Return the optimizer that the settings name: one of `zoo.registry.recipe.OPTIMIZERS`."""
    return _MAKERS[settings.optimizer](parameters, settings.lr, settings.weight_decay)
