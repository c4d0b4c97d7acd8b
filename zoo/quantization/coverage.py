"""Which weights of a model can be stored as codes: what is packed, and what is left in floats.

A `PackedLinear` computes what `nn.Linear` computes. A layer of another class is packed only if its
class computes the same, or if `exposed` turns it into such layers, and a weight that two modules
share stays as it is. If too much of a model would be left in floats, it is refused before anything
is changed.
"""

import fnmatch
import functools
import glob
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from zoo.errors import MismatchError
from zoo.quantization import exposed
from zoo.quantization.plan import QuantizationPlan

# The share of the requested weights that may stay in floats because their class is unknown.
# Routers of mixtures, state matrices and tables of positions stay below it.
MOST_LEFT = 0.1
LEAST_PACKED = 0.5  # if the rest are convolutions


def is_linear(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Say whether a module computes what `nn.Linear` does, from its own weight."""
    if not isinstance(module, nn.Linear) or "weight" not in module._parameters:
        return False
    if type(module) is nn.Linear:
        return True
    known = {"in_features", "out_features", "training"}
    own = {name for name in vars(module) if not name.startswith("_")} - known
    parts = set(module._parameters) - {"weight", "bias"} or module._buffers or module._modules
    kind: Any = type(module)
    return not own and not parts and _computes_linear(kind)


@functools.cache
def _computes_linear(kind: Any) -> bool:
    """Try a class on a small layer: y = x W^T + b."""
    try:  # the device is given, since the caller's context may be meta
        layer = kind(3, 2, device="cpu", dtype=torch.float32)
        values = torch.arange(14.0, dtype=torch.float32, device="cpu")
        layer.weight = nn.Parameter(values[:6].view(2, 3) - 2, requires_grad=False)
        layer.bias = nn.Parameter(values[6:8], requires_grad=False)
        x = values[8:].view(1, 2, 3)
        return torch.equal(layer(x), x @ layer.weight.T + layer.bias)
    except Exception:  # its constructor or forward pass differs: it is another kind of layer
        return False


def shared(model: nn.Module) -> set[int]:
    """Return the ids of the parameters that more than one module of a model holds."""
    counts = Counter(
        id(value)
        for module in model.modules()
        for value in module._parameters.values()
        if value is not None
    )
    return {key for key, count in counts.items() if count > 1}


def without_shared(model: nn.Module, plan: QuantizationPlan) -> QuantizationPlan:
    """Return the plan, with weights that modules share left as they are."""
    several = shared(model)
    names = [
        glob.escape(name)
        for name, module in model.named_modules()
        if is_linear(module) and id(module.weight) in several
    ]
    return replace(plan, skip=(*plan.skip, *names)) if names else plan


def check(model: nn.Module, plan: QuantizationPlan, apart: Iterable[nn.Module | None] = ()) -> None:
    """Refuse a model if a plan would leave too much of it in floats.

    Embeddings, what is tied to them, and what the plan skips do not count.

    Args:
        model: the model; its weights may be on the meta device.
        plan: what is skipped.
        apart: modules that stay as they are on purpose.

    Raises:
        MismatchError: a pattern of the plan matches nothing; or too much would be left, and the
            message names the class that holds most of it.

    """
    _check_patterns(model, plan)
    aside = [module for module in apart if module is not None]
    aside += [module for module in model.modules() if isinstance(module, nn.Embedding)]
    seen = {id(value) for module in aside for value in module.parameters(recurse=False)}
    several = shared(model)
    packed = convolutions = 0
    other = set(exposed.find(model))
    left: dict[str, list[tuple[str, int]]] = {}
    for name, module, key, value in _matrices(model):
        if id(value) in seen or _skipped(plan, name, key):
            continue
        seen.add(id(value))
        if (is_linear(module) or other & {name, f"{name}.{key}"}) and id(value) not in several:
            packed += value.numel()
        elif isinstance(module, _ConvNd):
            convolutions += value.numel()
        else:
            label = "weight that several modules share" if is_linear(module) else ""
            place = (f"{name}.{key}".lstrip("."), value.numel())
            left.setdefault(label or type(module).__name__, []).append(place)
    lost = sum(count for places in left.values() for _, count in places)
    total = packed + convolutions + lost
    if lost > MOST_LEFT * total:
        raise MismatchError(_refusal(model, left, total, some=packed > 0))
    if packed < LEAST_PACKED * total:
        raise MismatchError(
            f"{type(model).__name__} has {packed:,} of {total:,} weights in linear layers, which "
            f"is what can be packed; {convolutions:,} are in convolutions. Nothing was changed; to "
            "pack the linear layers all the same, skip the convolutions by name"
        )


def _check_patterns(model: nn.Module, plan: QuantizationPlan) -> None:
    """Refuse patterns that match nothing: a typing mistake would change the result in silence."""
    names = [name for name, _ in model.named_modules()] + [n for n, _ in model.named_parameters()]
    for name in exposed.find(model):
        owner, _, key = name.rpartition(".")
        stack: Any = getattr(model.get_submodule(owner), key)
        if not isinstance(stack, nn.Module):
            names += [f"{name}.{index}" for index in range(len(stack))]
    for flag, patterns in (("skip", plan.skip), ("override", plan.overrides)):
        for pattern in patterns:
            if not fnmatch.filter(names, pattern):
                known = next((name for name, m in model.named_modules() if is_linear(m)), names[-1])
                raise MismatchError(
                    f"--{flag} {pattern!r} matches no layer of {type(model).__name__}; names are "
                    f"like {known!r}, and * stands for anything"
                )


def _matrices(model: nn.Module) -> Iterable[tuple[str, nn.Module, str, Tensor]]:
    """Yield name, module, key and value of every parameter of two or more dimensions."""
    for name, module in model.named_modules():
        for key, value in module.named_parameters(recurse=False):
            if value.ndim > 1:
                yield name, module, key, value


def _skipped(plan: QuantizationPlan, name: str, key: str) -> bool:
    return plan.of(name) is None or plan.of(f"{name}.{key}".lstrip(".")) is None


def _refusal(
    model: nn.Module, left: dict[str, list[tuple[str, int]]], total: int, *, some: bool
) -> str:
    kind, places = max(left.items(), key=lambda item: sum(count for _, count in item[1]))
    lost = sum(count for _, count in places)
    layer = places[0][0].rpartition(".")[0].rpartition(".")[2]
    hint = f"; to pack the rest all the same, name what to skip, e.g. --skip '*{layer}*'"
    return (
        f"{type(model).__name__}: {lost / total:.0%} of the weights that count here are in "
        f"{len(places)} x {kind} ({places[0][0]}, ...), which cannot be packed: only layers that "
        f"compute what nn.Linear does can. Nothing was changed{hint if some else ''}"
    )
