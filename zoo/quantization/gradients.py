"""How much the outputs of layers matter: squares of gradients, summed over a few passes."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


def squared_gradients(
    model: nn.Module, weights: Mapping[str, Tensor], passes: Iterable[Callable[[], None]]
) -> dict[str, Tensor]:
    """Return, for each layer, the sum of squared gradients of each of its outputs, (rows,).

    Args:
        model: whose layers they are; no gradient and no flag of it is changed.
        weights: the weight (rows, ...) of each layer, by the layer's name.
        passes: each runs the model and calls `backward` on something that it returns.

    """
    squares = {name: torch.zeros(len(weight)) for name, weight in weights.items()}

    def watch(name: str) -> RemovableHandle:
        # Features are last, but for convolutions, whose outputs are (N, rows, ...).
        features = 1 if weights[name].ndim > 2 else -1

        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            def add(gradient: Tensor) -> None:
                by_feature = gradient.float().square().movedim(features, -1)
                squares[name] += by_feature.flatten(0, -2).sum(0).cpu()

            output.register_hook(add)

        return model.get_submodule(name).register_forward_hook(hook)

    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    hooks = [watch(name) for name in weights]
    try:
        model.requires_grad_(False)
        for weight in weights.values():
            weight.requires_grad_(True)
        for run in passes:
            run()
            model.zero_grad()
    finally:
        for hook in hooks:
            hook.remove()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(flags[name])
    return squares


def drawn_gradient(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Return the gradient of -log p of a label drawn from each row of logits (N, labels).

    Its expected square is the Fisher information of the logits.
    """
    odds = logits.detach().float().softmax(1)
    drawn = torch.multinomial(odds.cpu(), 1, generator=generator).to(odds.device)
    return odds.scatter_add_(1, drawn, -torch.ones_like(odds[:, :1])).to(logits.dtype)
