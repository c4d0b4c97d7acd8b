"""Which share of each layer's filters stays real in a hybrid MobileNet, under one budget of bytes.

The paper (arXiv 1911.01028) has one share for all layers. Here layers compete: what it costs to
make a filter ternary is estimated as half of the sum of F (w - w')^2 over its weights, with w' as
`zoo.models.blocks.digits.rounded` has it and F the mean square of the gradient of the
log-likelihood of a label that the network itself draws (the diagonal of the Fisher information).
"""

import dataclasses
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from zoo.errors import MismatchError
from zoo.models.blocks import Convolution
from zoo.models.blocks.digits import product, rounded
from zoo.models.blocks.ternary import stored_bytes
from zoo.models.ternary import Hybrid, HybridMobileNetV1
from zoo.quantization.budget import Choice, allocate
from zoo.registry.checkpoint import build
from zoo.registry.recipe import Recipe

ALPHAS = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)


def allocated(
    recipe: Recipe,
    network: nn.Module,
    batches: Iterable[Tensor],
    alpha: float = 0.5,
    *,
    most: int = 64,
    seed: int = 0,
) -> Recipe:
    """Return the recipe of a hybrid network that is as large as one of a uniform share.

    Args:
        recipe: of the hybrid network, e.g. `zoo.find("mobilenet-v1-025-hybrid")`.
        network: the trained network of real filters, with the same widths.
        batches: inputs `(N, C, H, W)` from which the loss is estimated.
        alpha: the uniform share, whose bytes are the budget.
        most: inputs that are taken; each costs a backward pass.
        seed: of the labels that are drawn.

    Returns:
        The recipe with a share for each of the 1x1 convolutions.

    Raises:
        MismatchError: the recipe's network has no such banks, the other is not such a MobileNet, a
            share is not from 0 to 1, or there are no inputs.

    """
    with torch.device("meta"):
        banks = build(recipe)
    if not isinstance(banks, HybridMobileNetV1):
        raise MismatchError(
            f"{recipe.name} has no hybrid filter banks; mobilenet-v1-025-hybrid has"
        )
    if not isinstance(network, HybridMobileNetV1) or network.ternary_layers():
        raise MismatchError(
            "shares are allocated from a MobileNet whose filters are all real, such as "
            f"mobilenet-v1-025; this is a {type(network).__name__}"
        )
    if not 0 <= alpha <= 1:
        raise MismatchError(f"alpha is {alpha:g}; expected 0 to 1")
    if network.arguments["width"] != banks.arguments["width"]:
        raise MismatchError(
            f"{recipe.name} is MobileNetV1 x{banks.arguments['width']:g}, and the trained network "
            f"x{network.arguments['width']:g}; expected the same width"
        )
    bank = float(recipe.args.get("bank", 1.0))
    losses = filter_losses(network, batches, most=most, seed=seed)
    layers = _pointwise(network)
    choices = {
        name: [_choice(layers[name], share, bank, row) for share in {*ALPHAS, alpha}]
        for name, row in losses.items()
    }
    budget = sum(8 * _bytes(layer, alpha, bank) for layer in layers.values())
    chosen = allocate(choices, budget)
    shares = [chosen[name].options for name in layers]
    return dataclasses.replace(recipe, args={**recipe.args, "alpha": shares})


@dataclasses.dataclass(frozen=True)
class LayerShare:
    """How one 1x1 convolution is stored: filters, how many of them are real, and bytes."""

    name: str
    filters: int
    real: int
    bytes: int


def layer_shares(recipe: Recipe) -> list[LayerShare]:
    """Return what the shares of a recipe make of its layers, five ternary weights a byte."""
    with torch.device("meta"):
        network = build(recipe)
    return [
        LayerShare(name, part.outputs, part.dense, stored_bytes(part))
        for name, part in network.named_modules()
        if isinstance(part, Hybrid)
    ]


def filter_losses(
    network: nn.Module, batches: Iterable[Tensor], *, most: int = 64, seed: int = 0
) -> dict[str, Tensor]:
    """Return by 1x1 convolution what it costs to make each of its filters ternary, `(filters,)`.

    Raises:
        MismatchError: there are no inputs.

    """
    layers = _pointwise(network)
    squares = {name: torch.zeros_like(layer.weight) for name, layer in layers.items()}
    weights = [layer.weight for layer in layers.values()]
    dice, count = torch.Generator().manual_seed(seed), 0
    for x in (row for batch in batches for row in batch.split(1)):
        if count == most:
            break
        likely = network(x).log_softmax(1)
        drawn = torch.multinomial(likely.detach().exp(), 1, generator=dice)
        gradients = torch.autograd.grad(likely.gather(1, drawn).sum(), weights)
        for square, gradient in zip(squares.values(), gradients, strict=True):
            square.add_(gradient.square())
        count += 1
    if not count:
        raise MismatchError("shares are allocated by what inputs show, and there are none")
    found: dict[str, Tensor] = {}
    for name, layer in layers.items():
        weight = layer.weight.detach()
        missed = (weight - product(*rounded(weight))).square() * squares[name] / count
        found[name] = missed.flatten(1).sum(1) / 2
    return found


def _pointwise(network: nn.Module) -> Mapping[str, nn.Conv2d]:
    """Return the convolutions of the layers that can be hybrid, in their order."""
    found: dict[str, nn.Conv2d] = {}
    for name, part in network.named_modules():
        if isinstance(part, Hybrid):
            (filters,) = part.parts
            assert isinstance(filters, Convolution)
            found[name] = filters.layer
    return found


def _bytes(layer: nn.Conv2d, alpha: float, bank: float) -> int:
    with torch.device("meta"):
        return stored_bytes(Hybrid(layer.in_channels, layer.out_channels, alpha, bank))


def _choice(layer: nn.Conv2d, alpha: float, bank: float, row: Tensor) -> Choice[float]:
    """Return a share with its bits, and the loss if the filters that bear it best are ternary."""
    ternary = len(row) - round(alpha * len(row))
    loss = float(row.sort().values[:ternary].sum())
    return Choice(alpha, 8 * _bytes(layer, alpha, bank), loss)
