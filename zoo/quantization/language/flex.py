"""Which layers take inputs of 8 bits, and which keep 16: those that lose most by it keep them.

With `activations="int8"` a packed layer rounds its input to 8 bits, with a scale for each token and
group of columns. In most layers that costs next to nothing, in a few (behind a gated activation,
whose inputs have outliers) nearly all. As in FlexQ the layers are told apart by measured
sensitivity; here by the divergence to expect, KL ~ 1/2 sum_o E[g_o^2] E[dy_o^2], with dy what
rounding changes in output o and g as in `zoo.quantization.language.allocate`, whose allocator
shares out what may stay at 16 bits.
"""

import fnmatch
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.errors import MismatchError
from zoo.quantization import activations
from zoo.quantization.grids import make_grid
from zoo.quantization.language import blocks
from zoo.quantization.language.allocate import Choice, allocate, sensitivities
from zoo.quantization.language.finetune import Forward, logits_of
from zoo.quantization.language.student import weight_of
from zoo.quantization.plan import QuantizationPlan

Activations = Literal["float", "int8"]
WINDOWS = 4  # sensitivities are sums over rows and tokens: more windows change few choices
_BITS: dict[Activations, int] = {"int8": 8, "float": 16}


@torch.no_grad()
def output_errors(
    model: nn.Module, spans: Mapping[str, int], windows: Tensor, *, forward: Forward = logits_of
) -> dict[str, Tensor]:
    """Return, for each linear module, E[dy_o^2] of its outputs (rows,) if its input is rounded.

    `spans` has the modules, each with the columns that share a scale.
    """
    totals = {name: torch.zeros(len(weight_of(model, name))) for name in spans}
    tokens = dict.fromkeys(spans, 0)
    layers = {name: layer for name, layer in blocks.linears(model).items() if name in spans}

    def see(name: str, x: Tensor) -> None:
        changed = (activations.rounded(x, spans[name], None) - x).flatten(0, -2) @ layers[
            name
        ].weight.T
        totals[name] += changed.float().square().sum(0).cpu()
        tokens[name] += len(changed)

    with blocks.watched(layers, see):
        for window in windows:
            forward(model, window[None])
    return {name: total / max(tokens[name], 1) for name, total in totals.items()}


def losses(
    model: nn.Module,
    spans: Mapping[str, int],
    windows: Tensor,
    *,
    seed: int = 0,
    forward: Forward = logits_of,
) -> dict[str, float]:
    """Return the divergence, in nats per token, to expect of each layer's input in 8 bits.

    Args:
        model: the float model.
        spans: name of a linear module -> columns of its input that share a scale.
        windows: token ids (windows, length).
        seed: of the tokens drawn for the gradients.
        forward: returns logits for a model and ids.

    """
    costs = sensitivities(model, [*spans], windows, seed=seed, forward=forward)
    errors = output_errors(model, spans, windows, forward=forward)
    return {name: float((costs[name] * errors[name]).sum()) / 2 for name in spans}


def choose(model: nn.Module, expected: dict[str, float], share: float) -> dict[str, Activations]:
    """Return what each layer's input becomes, so that the least divergence is to be expected.

    Args:
        model: the float model.
        expected: the divergence of each layer's input in 8 bits, as `losses` returns it.
        share: of all multiplications in these layers, how many may keep inputs of 16 bits.

    Raises:
        MismatchError: the share is none.

    """
    if not 0 <= share <= 1:
        raise MismatchError(f"the share of layers at 16 bits is {share:g}; expected 0 to 1")
    sizes = {name: weight_of(model, name).numel() for name in expected}
    kinds: tuple[Activations, ...] = ("int8", "float")
    choices = {
        name: [
            Choice(kind, _BITS[kind] * sizes[name], loss if kind == "int8" else 0.0)
            for kind in kinds
        ]
        for name, loss in expected.items()
    }
    budget = int(sum(sizes.values()) * (8 + 8 * share))
    return {name: choice.options for name, choice in allocate(choices, budget).items()}


def overrides(
    folder: Path, plan: QuantizationPlan, ids: Tensor, share: float, device: str = "cpu"
) -> dict[str, dict[str, Any]]:
    """Return the overrides of a plan by which layers take inputs of 8 bits.

    They go before the plan's own, whose settings for a layer they keep.

    Args:
        folder: the float model's folder.
        plan: layers that it skips are left out.
        ids: calibration windows (windows, length).
        share: see `choose`.
        device: a torch device.

    Raises:
        MismatchError: the share is none.

    """
    from zoo.quantization.language.opening import load

    model = load(folder, dtype=torch.float32, device=device)
    prefix, _ = blocks.find_blocks(model)
    spans = {
        name: make_grid(options, layer.out_features, layer.in_features).span
        for name, layer in blocks.linears(model).items()
        if name.startswith(f"{prefix}.") and (options := plan.of(name)) is not None
    }
    expected = losses(model, spans, ids[:WINDOWS].to(device), seed=plan.seed)
    kinds = choose(model, expected, share)
    return {name: {**_own(plan, name), "activations": kind} for name, kind in kinds.items()}


def _own(plan: QuantizationPlan, name: str) -> Mapping[str, Any]:
    """Return what the plan's first pattern that matches a layer sets for it."""
    patterns = (p for p in plan.overrides if fnmatch.fnmatchcase(name, p))
    return plan.overrides.get(next(patterns, ""), {})
