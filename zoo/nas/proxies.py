"""What an untrained network says about a trained one: scores that cost one pass, or none.

They are filters: of several proposals the best by a proxy is trained. None of them is much better
than the number of MACs, which is here too, so compare with it before you trust one.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from zoo.errors import MismatchError, UnknownNameError
from zoo.nas.limits import Use
from zoo.nas.spaces.contract import Choice, Space

BATCH = 32
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
_ACTIVATIONS = frozenset(
    (F.relu, torch.relu, F.relu6, F.hardtanh, F.hardswish, F.gelu, F.prelu, F.leaky_relu, F.silu)
)
_BOUNDED = frozenset((F.relu6, F.hardtanh, torch.clamp, Tensor.clamp))


@dataclass(frozen=True, kw_only=True)
class Untrained:
    """What a proxy may look at.

    Attributes:
        network: the deployed form, with random weights, in eval mode.
        inputs: `(N, ...)`, of the data or, without any, normal random numbers.
        use: what it takes of a device.
        space: that it is of.
        settings: of the space.
        choice: of the space.

    """

    network: nn.Module
    inputs: Tensor
    use: Use
    space: Space
    settings: Any
    choice: Choice


def synflow(network: nn.Module, shape: tuple[int, ...]) -> float:
    """Return log10 of synflow (Tanaka et al., arXiv 2006.05467): sum of |w dR/dw|, weights |w|.

    R is the sum of the outputs for an input `(1, ...)` of ones. As usual where there are norms,
    they are left out: they would make the constant maps zero. So are upper bounds of activations,
    past which there is no gradient.

    Args:
        network: left as it is.
        shape: of the input.

    """
    model = copy.deepcopy(network).double().eval()
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, _NORMS):
                setattr(parent, name, nn.Identity())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()
    with _Unbounded():
        model(torch.ones(1, *shape[1:], dtype=torch.double)).sum().backward()
    total = sum(
        float((p * p.grad).detach().abs().sum()) for p in model.parameters() if p.grad is not None
    )
    return float(np.log10(max(total, np.finfo(float).tiny)))


@torch.no_grad()
def naswot(network: nn.Module, inputs: Tensor) -> float:
    """Return NASWOT (Mellor et al., arXiv 2006.04647): log det of how alike activations are.

    K_ij counts the units that are on, or off, for both inputs i and j `(N, ...)`; a unit is on
    where what enters its activation is positive.

    Raises:
        MismatchError: the network has no activations.

    """
    watch = _Activations(len(inputs))
    with watch:
        copy.deepcopy(network).eval()(inputs)
    if not watch.seen:
        raise MismatchError(
            f"{type(network).__name__} has no activations to compare; take another proxy"
        )
    return float(np.linalg.slogdet(watch.kernel)[1])


class _Unbounded(TorchFunctionMode):
    """Leaves out functions with an upper bound: nothing that enters them is negative."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func in _BOUNDED else func(*args, **(kwargs or {}))


class _Activations(TorchFunctionMode):
    """Counts for which inputs units are alike, while a network runs."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.kernel, self.seen = np.zeros((count, count)), False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _ACTIVATIONS:
            on = (args[0] > 0).flatten(1).float()
            self.kernel += (on @ on.T + (1 - on) @ (1 - on).T).numpy()
            self.seen = True
        return func(*args, **(kwargs or {}))


def _capacity(candidate: Untrained) -> float:
    """Return what the space says of a choice: NN-Mass, or the units that are not linear."""
    capacity = getattr(candidate.space, "capacity", None)
    if capacity is None:
        raise MismatchError(
            "this space does not say what a network can express untrained; take another proxy: "
            f"{', '.join(name for name in PROXIES if name != 'capacity')}"
        )
    return float(capacity(candidate.settings, candidate.choice))


PROXIES: Mapping[str, Callable[[Untrained], float]] = {
    "capacity": _capacity,
    "macs": lambda candidate: float(candidate.use.macs),
    "naswot": lambda candidate: naswot(candidate.network, candidate.inputs),
    "synflow": lambda candidate: synflow(candidate.network, tuple(candidate.inputs.shape)),
}


def named(name: str) -> Callable[[Untrained], float]:
    """Return a proxy by name.

    Raises:
        UnknownNameError: there is none.

    """
    if name not in PROXIES:
        raise UnknownNameError.near("proxy", name, PROXIES, f"known: {', '.join(PROXIES)}")
    return PROXIES[name]
