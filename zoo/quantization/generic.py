"""Any network with linear layers, in memory: vision transformers, the zoo's own, mixtures."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import MismatchError
from zoo.quantization.language import blocks
from zoo.quantization.layers import quantize_layers
from zoo.quantization.options import LayerOptions
from zoo.quantization.packed import PackedLinear
from zoo.quantization.passes import Passes
from zoo.quantization.plan import Plan
from zoo.quantization.team import Team

Batch = Tensor | tuple[Any, ...] | Mapping[str, Any]


@torch.no_grad()
def quantize_model(
    model: nn.Module, batches: Iterable[Batch], plan: Plan | LayerOptions
) -> dict[str, dict[str, Any]]:
    """Replace the linear layers of `model` by packed ones; return what is known of each.

    Layers are quantized in the order in which they are called, each for the inputs that its
    quantized predecessors give it; layers given the same tensor share their statistics. Layers
    that the batches reach with few tokens are quantized without.

    Args:
        model: in eval mode; changed in place. Its state dict loads into a model treated alike.
        batches: samples it is called with: a tensor, a tuple of arguments, or a mapping of them.
        plan: how, and what to skip: `Plan(options=..., skip=("head",))`; of its calibration
            settings only `least_tokens` and `row_parts` count here.

    Raises:
        MismatchError: no linear layers, no batches for a method that needs them, or values that
            are not finite; the layer is named.

    """
    if isinstance(plan, LayerOptions):
        plan = Plan(options=plan)
    layers = blocks.linears(model)
    if not layers:
        raise MismatchError(f"{type(model).__name__} has no nn.Linear: nothing to quantize")
    runs = [partial(_call, model, batch) for batch in batches] if plan.calibrates else []
    if plan.calibrates and not runs:
        raise MismatchError(f"{plan.options.method} needs batches to calibrate on; none were given")
    first = next(model.parameters())
    found = quantize_layers(model, "", Passes(model, runs), plan, Team(str(first.device)))
    report = {}
    for name, matrix in found.items():
        model.set_submodule(name, PackedLinear.of(matrix, layers[name].bias))
        assert matrix.report is not None
        report[name] = {
            "relative_error": matrix.report.relative_error,
            "damp": matrix.report.damp,
            "notes": list(matrix.report.fallbacks),
            "bits_per_weight": matrix.bits / (matrix.shape[0] * matrix.shape[1]),
        }
    return report


def _call(model: Callable[..., object], batch: Batch) -> object:
    if isinstance(batch, Tensor):
        return model(batch)
    return model(**batch) if isinstance(batch, Mapping) else model(*batch)
