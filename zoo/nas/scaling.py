"""Scaling a ConvNeXt-like network without training one: RAN-implicit (arXiv 2208.08562).

Depths are multiplied by one factor, widths by another. For each depth the widest network within a
budget of MACs is built on paper; of these the one with the greatest NN-Mass is chosen. See
`zoo.nas.expressivity` for the equations, and for why the range of depths decides.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from zoo.errors import MismatchError
from zoo.nas.expressivity import EXPANSION, KERNEL, Topology

_DEPTH_STEP = 0.05
_WIDTH_STEPS = 10_000  # a width's factor is a multiple of 1/10000
_FOREIGN = 0.001  # share of MACs outside blocks, stem and downsampling that is none of our business
Range = tuple[float, float]


@dataclass(frozen=True)
class Scaled:
    """A network made from a base, and what its shape predicts.

    Attributes:
        topology: its shape: `topology.macs`, `topology.nn_mass`, `topology.nonlinear_units`, and
            `topology.network()` builds it.
        base: the shape it was made from.
        depth: the factor of the depths.
        width: the factor of the widths.

    """

    topology: Topology
    base: Topology
    depth: float
    width: float

    def to_json(self) -> dict[str, Any]:
        """Return the factors and both shapes as JSON types."""
        own, base = self.topology.to_json(), self.base.to_json()
        return {"depth": self.depth, "width": self.width, **own, "base": base}


def scale(
    base: nn.Module | Topology,
    macs: float,
    *,
    depth: Range = (1.0, 2.3),
    width: Range = (0.25, 1.0),
    multiple: int = 1,
    size: tuple[int, int] = (224, 224),
) -> Scaled:
    """Return the network of the greatest NN-Mass within a budget.

    Args:
        base: a ConvNeXt-like network, see `read`, or its shape.
        macs: the budget, for one picture.
        depth: least and greatest factor of the depths, tried in steps of 0.05. RAN's networks have
            1.65 and 2.3.
        width: least and greatest factor of the widths.
        multiple: of which every width is one: kernels of CPUs and NPUs like 8 or 16.
        size: rows and columns of a picture, for a module.

    Raises:
        MismatchError: the base is not ConvNeXt-like, the ranges are none, or the budget is below
            the smallest network of these ranges.

    ```python
    import zoo
    from zoo.nas.scaling import scale

    base = zoo.load("convnext-t", pretrained=False)
    found = scale(base, macs=3.3e9, depth=(1, 1.65))
    print(found.topology.depths, found.topology.dims, found.topology.nn_mass)
    network = found.topology.network()  # with random weights
    ```

    """
    _check(macs, depth, width, multiple)
    shape = base if isinstance(base, Topology) else read(base, size)
    found = [one for one in candidates(shape, macs, depth, width, multiple) if one is not None]
    if not found:
        least = _scaled(shape, depth[0], width[0], multiple).topology
        raise MismatchError(
            f"{macs:,.0f} MACs are below the smallest network of these ranges, depths "
            f"{list(least.depths)} and widths {list(least.dims)} with {least.macs:,} MACs; give a "
            "larger budget, or lower the least depth or width"
        )
    return max(found, key=lambda one: (one.topology.nn_mass, -one.topology.macs))


def candidates(
    base: Topology, macs: float, depth: Range, width: Range, multiple: int = 1
) -> Iterator[Scaled | None]:
    """Yield the widest network within the budget at each depth; None where none is within it."""
    steps = round((depth[1] - depth[0]) / _DEPTH_STEP)
    for step in range(steps + 1):
        factor = min(depth[0] + step * _DEPTH_STEP, depth[1]) if step < steps else depth[1]
        low, high = math.ceil(width[0] * _WIDTH_STEPS), math.floor(width[1] * _WIDTH_STEPS)

        def at(number: int, factor: float = factor) -> Scaled:
            return _scaled(base, factor, number / _WIDTH_STEPS, multiple)

        if at(low).topology.macs > macs:
            yield None
            continue
        while low < high:  # MACs only rise with the width
            middle = (low + high + 1) // 2
            low, high = (middle, high) if at(middle).topology.macs <= macs else (low, middle - 1)
        yield at(low)


def _scaled(base: Topology, depth: float, width: float, multiple: int) -> Scaled:
    depths = tuple(max(1, math.floor(count * depth + 0.5)) for count in base.depths)
    dims = tuple(
        max(1, math.floor(count * width / multiple + 0.5)) * multiple for count in base.dims
    )
    return Scaled(replace(base, depths=depths, dims=dims), base, round(depth, 4), width)


def _check(macs: float, depth: Range, width: Range, multiple: int) -> None:
    if not _is_positive(macs):
        raise MismatchError(f"a budget of {macs!r} MACs; expected a positive number, e.g. 1e9")
    for name, factors in (("depth", depth), ("width", width)):
        pair = factors if isinstance(factors, tuple | list) and len(factors) == 2 else (0, 0)
        if not all(map(_is_positive, pair)) or pair[0] > pair[1]:
            raise MismatchError(
                f"{name} is {factors!r}; expected two positive factors, the lesser first, e.g. "
                "(0.5, 1)"
            )
    if not isinstance(multiple, Integral) or multiple < 1:
        raise MismatchError(
            f"widths in multiples of {multiple!r}; expected a whole number, 1 or more"
        )


def _is_positive(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 < float(value) < math.inf


def read(network: nn.Module, size: tuple[int, int] = (224, 224)) -> Topology:
    """Return the shape of a ConvNeXt-like network: the zoo's, transformers' or timm's.

    A block is known by its layers, a 7x7 depthwise convolution and two linear layers (or 1x1
    convolutions) to four times the width and back; a stage by the size of its maps.

    Args:
        network: the module; nothing is computed with its weights.
        size: rows and columns of a picture.

    Raises:
        MismatchError: it has no such blocks, or much else beside them.

    """
    name = type(network).__name__
    if not isinstance(network, nn.Module):
        raise MismatchError(
            f'the base is {network!r:.80}; expected a network, e.g. zoo.load("convnext-t", '
            "pretrained=False)"
        )
    blocks = [module for module in network.modules() if _width(module)]
    stem = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
    if not blocks or stem is None or stem.kernel_size != stem.stride:
        raise MismatchError(
            f"{name} is not ConvNeXt-like; expected blocks of a {KERNEL}x{KERNEL} depthwise "
            f"convolution and linear layers to {EXPANSION} times the width and back, after a "
            "convolution of patches that do not overlap"
        )
    maps, macs = _watched(network, blocks, (1, stem.in_channels, *size))
    stages: dict[tuple[int, ...], int] = {}
    for width, places in maps:
        stages[width, places] = stages.get((width, places), 0) + 1
    last = [m for m in network.modules() if isinstance(m, nn.Linear)][-1]
    classes = 0 if _inside(last, blocks) else last.out_features
    shape = Topology(
        depths=tuple(stages.values()),
        dims=tuple(width for width, _ in stages),
        patch=stem.kernel_size[0],
        in_chans=stem.in_channels,
        num_classes=classes,
        size=size,
    )
    if abs(macs - shape.macs) > _FOREIGN * macs:
        raise MismatchError(
            f"{name} is not ConvNeXt-like: it has {macs:,} MACs, where stages of "
            f"{list(shape.depths)} blocks, {list(shape.dims)} wide, after patches of {shape.patch} "
            f"pixels have {shape.macs:,}"
        )
    return shape


def _width(module: nn.Module) -> int | None:
    """Return the width of a block; None for other modules, a stage of one block among them."""
    layers = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    if len(layers) != 3 or not isinstance(layers[0], nn.Conv2d):
        return None
    if any(_width(part) for part in module.modules() if part is not module):
        return None
    depthwise, width = layers[0], layers[0].in_channels
    if depthwise.groups != width or depthwise.kernel_size != (KERNEL, KERNEL):
        return None
    shapes = [tuple(layer.weight.shape[:2]) for layer in layers[1:]]
    inner = EXPANSION * width
    return width if shapes == [(inner, width), (width, inner)] else None


def _inside(layer: nn.Module, blocks: list[nn.Module]) -> bool:
    return any(layer is part for block in blocks for part in block.modules())


def _watched(
    network: nn.Module, blocks: list[nn.Module], shape: tuple[int, ...]
) -> tuple[list[tuple[int, int]], int]:
    """Return width and places of each block in the order they run, and all MACs, unweighted."""
    maps: list[tuple[int, int]] = []

    def seen(block: nn.Module, given: tuple[Tensor, ...]) -> None:
        # Maps are (N, C, H, W) with these blocks, (N, H, W, C) with some of timm's.
        width, elements = _width(block) or 1, given[0].numel()
        maps.append((width, elements // width))

    hooks = [block.register_forward_pre_hook(seen) for block in blocks]
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    unweighted = {name: value.to("meta") for name, value in tensors.items()}
    x = torch.zeros(shape, device="meta", dtype=next(network.parameters()).dtype)
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            torch.func.functional_call(network, unweighted, (x,))
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())
        raise MismatchError(
            f"{type(network).__name__} cannot be followed with pictures {shape}: {reason}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return maps, counter.get_total_flops() // 2
