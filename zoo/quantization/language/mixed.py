"""Mixed precision of a language model: bits for every layer, from one budget.

What an error costs the model comes from `allocate.sensitivities`; how large it is for a number of
bits, from a quick trial on part of each layer's rows. This looks at the whole model at once, so it
takes the memory of the model, unlike the pipeline that follows.
"""

import dataclasses
import fnmatch
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import MismatchError
from zoo.quantization.core import Hessian, LayerOptions, prepare, quantize_matrix, stored_bits
from zoo.quantization.language import blocks
from zoo.quantization.language.allocate import Choice, allocate, expected_loss, sensitivities
from zoo.quantization.language.announcer import Announcer
from zoo.quantization.plan import QuantizationPlan

BITS = (1.5, 2.0, 2.5, 3.0, 4.0)
WINDOWS = 4  # sensitivities are sums over rows and tokens: more windows change few choices
ROWS = 128  # rows of a layer that a trial uses
_TRIAL: dict[str, Any] = {"iterations": 5, "update_steps": 0, "rounds": 0}


def candidates(options: LayerOptions) -> list[LayerOptions]:
    """Return `options` with fewer and more bits, each with codebooks of about 1/8 bit per weight.

    Raises:
        MismatchError: `options` are not for codebooks.

    """
    if options.grid != "codebook":
        raise MismatchError(
            f"method is {options.method!r}; a budget is shared between codebooks: method='gptvq'"
        )
    return [
        dataclasses.replace(
            options,
            bits=bits,
            group_size=64 * options.dim << round(bits * options.dim),
            target_bpv=None,
        )
        for bits in BITS
        if (bits * options.dim).is_integer() and bits * options.dim <= 8
    ]


def overrides(
    folder: Path, plan: QuantizationPlan, ids: Tensor, device: str = "cpu"
) -> dict[str, Any]:
    """Return, for each layer of the model in `folder`, its share of `plan.budget`.

    Args:
        folder: the float model's folder.
        plan: with a budget: stored bits per weight, over all layers that are not skipped.
        ids: calibration windows (windows, length).
        device: a torch device.

    Raises:
        MismatchError: the budget is less than the cheapest choices take.

    """
    from zoo.quantization.language.opening import load

    offered = candidates(plan.options)  # refuses before the work
    model = load(folder, dtype=torch.float32, device=device)
    prefix, _ = blocks.find_blocks(model)
    layers = {
        name: layer
        for name, layer in blocks.linears(model).items()
        if name.startswith(f"{prefix}.")
        and plan.of(name) is not None
        and not any(fnmatch.fnmatchcase(name, pattern) for pattern in plan.overrides)
    }
    shapes = [(layer.out_features, layer.in_features) for layer in layers.values()]
    weights = sum(rows * columns for rows, columns in shapes)
    least = sum(min(stored_bits(shape, o) for o in offered) for shape in shapes)
    if least > plan.budget * weights:
        raise MismatchError(
            f"the budget is {plan.budget:g} bits per weight; even the cheapest choices take "
            f"{least / weights:.3f}: raise it"
        )
    most = sum(max(stored_bits(shape, o) for o in offered) for shape in shapes)
    if most < math.floor(plan.budget * weights):
        raise MismatchError(
            f"the budget is {plan.budget:g} bits per weight; even the dearest choices take only "
            f"{most / weights:.3f}: lower it"
        )
    some = ids[:WINDOWS].to(device)
    choices = priced(model, layers, some, offered, seed=plan.seed)
    chosen = allocate(choices, int(plan.budget * weights))
    return {
        name: {"bits": choice.options.bits, "group_size": choice.options.group_size}
        for name, choice in chosen.items()
    }


def priced(
    model: nn.Module,
    layers: dict[str, nn.Linear],
    ids: Tensor,
    offered: Sequence[LayerOptions],
    *,
    seed: int = 0,
) -> dict[str, list[Choice[LayerOptions]]]:
    """Return what each way of storing each layer takes, and what it is expected to lose.

    Args:
        model: the float model.
        layers: its linear layers, by name.
        ids: windows of tokens (windows, length), on the model's device.
        offered: ways to store a layer.
        seed: of the tokens drawn for the gradients.

    """
    hessians = _hessians(model, layers, ids)
    costs = sensitivities(model, list(layers), ids, seed=seed)
    choices: dict[str, list[Choice[LayerOptions]]] = {}
    announce = Announcer()
    for number, (name, layer) in enumerate(layers.items()):
        announce(f"budget: layer {number + 1}/{len(layers)}")
        seen = hessians.get(name) or Hessian(layer.in_features, ids.device)  # no token came there
        hessian, cost = seen.finish(), costs[name].to(ids.device)
        ready = functools.partial(prepare, hessian, len(hessian))
        choices[name] = [
            _tried(layer.weight.detach(), hessian, ready(options), options, cost)
            for options in offered
        ]
    return choices


def _tried(
    weight: Tensor, hessian: Tensor, ready: Any, options: LayerOptions, costs: Tensor
) -> Choice[LayerOptions]:
    """Return the bits that a layer takes with `options`, and the expected loss."""
    rows = torch.arange(0, len(weight), max(1, len(weight) // ROWS), device=weight.device)[:ROWS]
    trial = dataclasses.replace(options, **_TRIAL)
    matrix = quantize_matrix(weight[rows], ready, trial)
    loss = expected_loss(weight[rows], hessian, matrix, costs[rows])
    share = float(costs[rows].sum()) or 1.0
    shape = (weight.shape[0], weight.shape[1])
    return Choice(options, stored_bits(shape, options), loss * float(costs.sum()) / share)


@torch.no_grad()
def _hessians(model: nn.Module, layers: dict[str, nn.Linear], ids: Tensor) -> dict[str, Hessian]:
    """Return the Hessian of each layer; layers given the same tensor share one."""
    owners: dict[str, str] = {}
    sums: dict[str, Hessian] = {}
    last: list[tuple[str, Tensor]] = []

    def see(name: str, value: Tensor) -> None:
        if not (last and last[0][1] is value):
            last[:] = [(name, value)]
        owner = owners.setdefault(name, last[0][0])
        if owner == name:
            sums.setdefault(name, Hessian(value.shape[-1], value.device)).update(value)

    with blocks.watched(layers, see):
        for window in ids:
            last.clear()
            model(window[None], use_cache=False)
    return {name: sums[owner] for name, owner in owners.items()}
