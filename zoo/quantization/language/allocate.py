"""Mixed precision: what an error in a matrix costs the whole model; `budget` then shares the bits.

The cost is estimated from one backward pass per window: KL(float || quantized) per token is about
1/2 sum_o E[g_o^2] (E H' E^T)_oo, where g_o is the gradient of the log-likelihood of a drawn token
with respect to output o of the matrix, and H' = E[x x^T] (the Fisher information of the outputs,
its correlations left out).
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from zoo.quantization.budget import Choice, allocate
from zoo.quantization.core import QuantizedMatrix
from zoo.quantization.gradients import drawn_gradient, squared_gradients
from zoo.quantization.language.finetune import Forward, logits_of
from zoo.quantization.language.student import weight_of
from zoo.quantization.solvers.contract import weighted

__all__ = ["Choice", "allocate", "expected_loss", "sensitivities"]


def sensitivities(
    model: nn.Module,
    names: Sequence[str],
    windows: Tensor,
    *,
    seed: int = 0,
    forward: Forward = logits_of,
) -> dict[str, Tensor]:
    """Return, for each linear module, E[g_o^2] per token of its outputs o, (rows,)."""
    weights = {name: weight_of(model, name) for name in names}
    generator = torch.Generator().manual_seed(seed)
    tokens = 0

    def run(window: Tensor) -> None:
        nonlocal tokens
        logits = forward(model, window[None]).flatten(0, -2)
        logits.backward(drawn_gradient(logits, generator))
        tokens += len(logits)

    squares = squared_gradients(model, weights, (partial(run, window) for window in windows))
    return {name: total / max(tokens, 1) for name, total in squares.items()}


def expected_loss(
    weight: Tensor, hessian: Tensor, matrix: QuantizedMatrix, sensitivity: Tensor
) -> float:
    """Return the divergence, in nats per token, to expect of `matrix` in place of `weight`.

    `hessian` is H = 2 E[x x^T], as `Hessian.finish` returns it.
    """
    error = weight.detach().float() - matrix.dequantize()
    return float((weighted(error, hessian.float()) * sensitivity).sum()) / 4
