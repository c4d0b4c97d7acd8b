"""Layers with fewer filters than their network was built with: what pruning whole filters leaves.

```json
{"version": 2, "forms": {}, "narrowed": {"body.0": [12, 16], "act.0": [12]}}
```
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from zoo.errors import MismatchError

Sizes = Mapping[str, Sequence[int]]


def sizes_of(structure: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the sizes of each narrowed layer: its outputs, and its inputs if it mixes them.

    Raises:
        MismatchError: they are not whole numbers of 1 or more.

    """
    found = structure.get("narrowed", {})
    if not isinstance(found, Mapping):
        raise MismatchError(f"structure.narrowed is {found!r:.80}; expected sizes by layers' names")
    for name, sizes in found.items():
        numbers = isinstance(sizes, list | tuple) and all(type(n) is int and n > 0 for n in sizes)
        if not numbers or len(sizes) not in (1, 2):
            raise MismatchError(
                f"structure.narrowed.{name} is {sizes!r:.80}; expected [outputs, inputs], or "
                "[channels]"
            )
    return {str(name): tuple(sizes) for name, sizes in found.items()}


def narrow(network: nn.Module, sizes: Sizes, shapes: Mapping[str, Any] | None = None) -> None:
    """Give layers of a freshly built network fewer channels, in place; their values are zeros.

    Args:
        network: see above.
        sizes: see `sizes_of`.
        shapes: of the tensors that will be loaded, by name, if they are known.

    Raises:
        MismatchError: a layer is not there, is of another kind, would grow, or does not agree with
            the tensors.

    """
    modules = dict(network.named_modules())
    for name, wanted in sizes.items():
        layer = modules.get(name)
        if layer is None or len(wanted) != (1 if _alone(layer) else 2):
            what = "is not there" if layer is None else f"is a {type(layer).__name__}"
            raise MismatchError(
                f"structure gives {name!r} {list(wanted)} channels, which {what}; expected a "
                "linear layer, a convolution or a PReLU of the network"
            )
        now = layer.get_parameter("weight").shape
        small = torch.Size((*wanted, *now[len(wanted) :]))
        if any(a > b for a, b in zip(small, now, strict=True)):
            raise MismatchError(
                f"structure gives {name!r} {list(wanted)} channels; it has {list(now)[:2]} at most"
            )
        if shapes is not None and shapes.get(f"{name}.weight") != tuple(small):
            raise MismatchError(
                f"structure and tensors disagree: {name}.weight is "
                f"{shapes.get(f'{name}.weight')}; its channels need {tuple(small)}"
            )
    for name, wanted in sizes.items():
        _cut(modules[name], wanted)
    network.narrowed = bool(sizes)  # type: ignore[assignment]  # its training form is another


def is_narrowed(network: nn.Module) -> bool:
    """Whether layers of a network have fewer filters than its arguments say."""
    return bool(getattr(network, "narrowed", False))


def _alone(layer: nn.Module) -> bool:
    """Whether each channel of a layer is by itself: a depthwise convolution, or a PReLU."""
    if isinstance(layer, nn.Conv2d):
        return layer.groups > 1
    return isinstance(layer, nn.PReLU) or not isinstance(layer, nn.Linear)


def _cut(layer: Any, wanted: Sequence[int]) -> None:
    """Set the sizes that a layer states of itself, and its parameters."""
    if isinstance(layer, nn.Conv2d):
        layer.out_channels = wanted[0]
        layer.in_channels = wanted[-1]
        if layer.groups > 1:
            layer.groups = wanted[0]
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = wanted
    else:
        layer.num_parameters = wanted[0]
    shape = (*wanted, *layer.weight.shape[len(wanted) :])
    layer.weight = nn.Parameter(layer.weight.new_zeros(shape))
    if getattr(layer, "bias", None) is not None:
        layer.bias = nn.Parameter(layer.bias.new_zeros(wanted[0]))
