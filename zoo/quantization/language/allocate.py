"""Mixed precision: how many bits each matrix gets, under a budget for all of them.

What an error in a matrix costs the whole model is estimated from one backward pass per window:
KL(float || quantized) per token is about 1/2 sum_o E[g_o^2] (E H' E^T)_oo, where g_o is the
gradient of the log-likelihood of a drawn token with respect to output o of the matrix, and H' = E[x
x^T] (the Fisher information of the outputs, its correlations left out).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from zoo.errors import MismatchError
from zoo.quantization.core import QuantizedMatrix
from zoo.quantization.language.finetune import Forward, logits_of
from zoo.quantization.language.student import weight_of
from zoo.quantization.solvers.contract import weighted

T = TypeVar("T")


@dataclass(frozen=True)
class Choice(Generic[T]):
    """One way to store a matrix: its stored bits, and its expected loss (in any unit)."""

    options: T
    bits: int
    loss: float


def allocate(choices: Mapping[str, Sequence[Choice[T]]], budget: int) -> dict[str, Choice[T]]:
    """Return one choice per matrix, with the least total loss within `budget` bits in total.

    Starting from the cheapest choices, the step that saves the most loss per bit is taken
    repeatedly along each matrix's lower convex hull (the exact optimum for every budget where a
    step ends), and the remainder is spent on whatever single steps still fit.

    Raises:
        MismatchError: even the cheapest choices take more than the budget.

    """
    chosen = {name: min(some, key=lambda c: (c.bits, c.loss)) for name, some in choices.items()}
    spent = sum(choice.bits for choice in chosen.values())
    if spent > budget:
        raise MismatchError(
            f"the budget is {budget} bits; even the cheapest choices take {spent}: raise the "
            "target, or offer fewer bits"
        )
    hulls = {name: _hull(some) for name, some in choices.items()}
    while True:
        best: tuple[float, str, Choice[T]] | None = None
        for name, hull in hulls.items():
            now = chosen[name]
            for choice in hull:
                extra = choice.bits - now.bits
                if extra <= 0 or choice.loss >= now.loss or spent + extra > budget:
                    continue
                gain = (now.loss - choice.loss) / extra
                if best is None or gain > best[0]:
                    best = (gain, name, choice)
        if best is None:
            return chosen
        _, name, choice = best
        spent += choice.bits - chosen[name].bits
        chosen[name] = choice


def _hull(choices: Sequence[Choice[T]]) -> list[Choice[T]]:
    """Return the choices on the lower convex hull of loss over bits, in order of rising bits."""
    hull: list[Choice[T]] = []
    for choice in sorted(choices, key=lambda c: (c.bits, c.loss)):
        if hull and choice.loss >= hull[-1].loss:
            continue
        while len(hull) > 1 and _above(hull[-2], hull[-1], choice):
            hull.pop()
        hull.append(choice)
    return hull


def _above(left: Choice[T], middle: Choice[T], right: Choice[T]) -> bool:
    slope = (left.loss - right.loss) / (right.bits - left.bits)
    return middle.loss >= left.loss - slope * (middle.bits - left.bits)


def sensitivities(
    model: nn.Module,
    names: Sequence[str],
    windows: Tensor,
    *,
    seed: int = 0,
    forward: Forward = logits_of,
) -> dict[str, Tensor]:
    """Return, for each linear module, E[g_o^2] per token of its outputs o, (rows,)."""
    squares = {name: torch.zeros(len(weight_of(model, name))) for name in names}

    def watch(name: str) -> RemovableHandle:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            def add(gradient: Tensor) -> None:
                squares[name] += gradient.float().square().flatten(0, -2).sum(0).cpu()

            output.register_hook(add)

        return model.get_submodule(name).register_forward_hook(hook)

    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    watched = [weight_of(model, name) for name in names]
    hooks = [watch(name) for name in names]
    generator = torch.Generator().manual_seed(seed)
    tokens = 0
    try:
        model.requires_grad_(False)
        for weight in watched:
            weight.requires_grad_(True)
        for window in windows:
            logits = forward(model, window[None]).flatten(0, -2)
            with torch.no_grad():
                odds = logits.float().softmax(1)
                drawn = torch.multinomial(odds.cpu(), 1, generator=generator).to(odds.device)
                gradient = odds.scatter_add_(1, drawn, -torch.ones_like(odds[:, :1]))
            logits.backward(gradient.to(logits.dtype))
            model.zero_grad()
            tokens += len(logits)
    finally:
        for hook in hooks:
            hook.remove()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(flags[name])
    return {name: total / max(tokens, 1) for name, total in squares.items()}


def expected_loss(
    weight: Tensor, hessian: Tensor, matrix: QuantizedMatrix, sensitivity: Tensor
) -> float:
    """Return the divergence, in nats per token, to expect of `matrix` in place of `weight`.

    `hessian` is H = 2 E[x x^T], as `Hessian.finish` returns it.
    """
    error = weight.detach().float() - matrix.dequantize()
    return float((weighted(error, hessian.float()) * sensitivity).sum()) / 4
