"""Where denoising blocks go, greedily under a budget, and how regression starts them.

A block's worth is the loss that noise costs at its layer, to second order the noise's power times
the squared gradient there, times the share of that noise which the block's regression takes away.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import MismatchError
from zoo.models.blocks.noise import Chip, Noise, limits, listening, sites
from zoo.models.denoised import BLOCKS, BottleneckBlock, ChannelBlock, Denoised, DepthwiseBlock

_CHIPS = 2
_RIDGE = 1e-6
_PLACES = 20_000  # pixels from which a channel's filter is found


def chosen(
    network: nn.Module,
    inputs: Tensor,
    noises: Sequence[Noise],
    found: Mapping[str, float],
    budget: int,
    block: str,
    seed: int = 0,
) -> dict[str, str]:
    """Return the kind of block after each convolution that gets one, in the layers' order.

    Each step takes the block, or the larger block in a smaller one's place, that is worth most for
    each parameter, until none fits.

    Args:
        network: the clean network.
        inputs: `(N, ...)` of the training data.
        noises: what the arrays add.
        found: the largest output of each layer.
        budget: the most parameters.
        block: "auto", or the only kind.
        seed: of the noise.

    Raises:
        MismatchError: not even the smallest block fits, or there is no convolution.

    """
    layers = {n: s for n, s in sites(network).items() if type(s) is nn.Conv2d}
    if not layers:
        raise MismatchError("blocks go after convolutions of pictures, and this network has none")
    kinds = ["channel", "depthwise"] if block == "auto" else [block]
    worth, price = {}, {}
    for name, layer in layers.items():
        for kind in kinds:
            price[name, kind] = parameters(kind, layer.out_channels)
    for (name, kind), value in _worth(network, inputs, noises, found, list(layers), kinds, seed):
        worth[name, kind] = value
    taken: dict[str, str] = {}
    left = budget
    while True:
        best, most = None, 0.0
        for (name, kind), value in worth.items():
            old = taken.get(name)
            more = price[name, kind] - (price[name, old] if old else 0)
            gain = value - (worth[name, old] if old else 0)
            if 0 < more <= left and gain / more > most:
                best, most = (name, kind, more), gain / more
        if best is None:
            break
        taken[best[0]], left = best[1], left - best[2]
    if not taken:
        least = min(price.values())
        raise MismatchError(
            f"max_params allows {budget} parameters, and the smallest block has {least}; raise it"
        )
    return {name: taken[name] for name in layers if name in taken}


def parameters(kind: str, channels: int) -> int:
    """Return how many parameters a block has."""
    made = BLOCKS[kind](channels)
    return sum(value.numel() for value in made.parameters())


def _worth(
    network: nn.Module,
    inputs: Tensor,
    noises: Sequence[Noise],
    found: Mapping[str, float],
    names: Sequence[str],
    kinds: Sequence[str],
    seed: int,
) -> Any:
    """Yield ((layer, kind), worth)."""
    chip = Chip(noises, dict(found), torch.Generator().manual_seed(seed))
    with torch.no_grad():
        truth = torch.cat([network(part) for part in inputs.split(64)]).argmax(1)
    slopes = _slopes(network, inputs, truth, chip, names)
    layers = sites(network)
    for name in names:
        clean, noisy = _pairs(network, network, inputs[:64], chip, name)
        power = float((noisy - clean).square().mean())
        for kind in kinds:
            if kind == "bottleneck":
                removed = 1.0  # not known before it is trained: the gradient alone decides
            else:
                made = BLOCKS[kind](layers[name].out_channels)
                solved(made, noisy, clean)
                with torch.no_grad():
                    rest = float((made(noisy) - clean).square().mean())
                removed = max(0.0, 1 - rest / power) if power else 0.0
            yield (name, kind), removed * power * slopes[name]


def _slopes(
    network: nn.Module, inputs: Tensor, truth: Tensor, chip: Chip, names: Sequence[str]
) -> dict[str, float]:
    """Return the mean over inputs of the squared gradient at each layer's outputs, under noise."""
    totals = dict.fromkeys(names, 0.0)
    kept: dict[str, Tensor] = {}

    def keep(name: str, layer: nn.Module, given: Any, y: Tensor) -> Tensor:
        kept[name] = chip.perturbed(name, layer, y)
        return kept[name]

    for x, labels in zip(inputs.split(64), truth.split(64), strict=True):
        chip.renew()
        hooks = [listening(s, partial(keep, name)) for name, s in sites(network).items()]
        try:
            with torch.enable_grad():
                loss = F.cross_entropy(network(x), labels, reduction="sum")
                slopes = torch.autograd.grad(loss, [kept[name] for name in names])
        finally:
            for hook in hooks:
                hook.remove()
        for name, slope in zip(names, slopes, strict=True):
            totals[name] += float(slope.square().sum()) / len(inputs)
    return totals


@torch.no_grad()
def _pairs(
    clean: nn.Module, noisy: nn.Module, inputs: Tensor, chip: Chip, name: str
) -> tuple[Tensor, Tensor]:
    """Return a layer's outputs in a clean network, and in one with noise, before any block.

    Both for the same inputs, several times over, each time on another chip.
    """
    kept: list[Tensor] = []

    def keep(layer: nn.Module, given: Any, y: Tensor) -> Tensor:
        kept.append(y)
        return y

    hook = listening(sites(clean)[name], keep)
    clean(inputs)
    hook.remove()
    first = kept.pop()
    for _ in range(_CHIPS):
        chip.renew()
        with chip.inside(noisy):
            hook = listening(sites(noisy)[name], keep)  # sees what the noise has made of it
            noisy(inputs)
            hook.remove()
    return first.repeat(_CHIPS, 1, 1, 1), torch.cat(kept)


@torch.no_grad()
def solved(block: nn.Module, noisy: Tensor, clean: Tensor) -> None:
    """Set a block's filters so that they bring `(N, C, H, W)` next to what is clean.

    Least squares for each channel; a bottleneck has no such solution and stays the identity.
    """
    if isinstance(block, BottleneckBlock):
        return
    assert isinstance(block, ChannelBlock | DepthwiseBlock)
    size = block.mix.kernel_size[0]
    bias = block.mix.bias
    assert bias is not None
    for channel in range(noisy.shape[1]):
        x = F.unfold(noisy[:, channel : channel + 1], size, padding=size // 2)
        columns = x.transpose(1, 2).reshape(-1, size * size)
        every = -(-len(columns) // _PLACES)
        columns = columns[::every].double()
        y = clean[:, channel].reshape(-1)[::every].double()
        columns = torch.cat([columns, torch.ones(len(columns), 1, dtype=torch.float64)], 1)
        normal = columns.T @ columns
        normal += torch.eye(len(normal), dtype=torch.float64) * _RIDGE * normal.trace()
        # A ridge towards the identity, so that a channel that is always 0 stays as it is.
        middle = torch.zeros(len(normal), dtype=torch.float64)
        middle[size * size // 2] = 1
        right = columns.T @ y + _RIDGE * normal.trace() * middle
        solution = torch.linalg.solve(normal, right)
        block.mix.weight[channel, 0] = solution[:-1].view(size, size).to(block.mix.weight)
        bias[channel] = solution[-1].to(bias)


def fitted(
    network: Denoised,
    clean: nn.Module,
    inputs: Tensor,
    noises: Sequence[Noise],
    found: Mapping[str, float],
    seed: int = 0,
    kinds: Collection[str] = ("channel", "depthwise"),
) -> None:
    """Start a network's blocks of some kinds by regression, one after the other, as layers come."""
    chip = Chip(noises, dict(found), torch.Generator().manual_seed(seed + 1))
    order = list(limits(clean, [inputs[:1]]))  # as they are called
    blocks = network.blocks
    for name in order:
        if name in blocks and network.kinds[name] in kinds:
            after, before = _pairs(clean, network.network, inputs[:128], chip, name)
            solved(blocks[name], before, after)


def share(text: str, parameters: int) -> int:
    """Return a number of parameters: a count, "1500", or a share, "2.5%", of `parameters`.

    Raises:
        MismatchError: it is neither.

    """
    number, percent = text.strip().removesuffix("%"), text.strip().endswith("%")
    try:
        value = float(number)
    except ValueError:
        value = -1
    if not 0 < value < 1e12 or (percent and value > 100) or (not percent and value % 1):
        raise MismatchError(f"max_params is {text!r}; expected e.g. 2.5% or 1500")
    return int(value / 100 * parameters) if percent else int(value)
