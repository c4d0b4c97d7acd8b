"""Any network with linear layers, in memory: vision transformers, the zoo's own, mixtures."""

import copy
import itertools
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import MismatchError
from zoo.quantization import coverage, exposed, verify
from zoo.quantization.core import QuantizedMatrix
from zoo.quantization.language import blocks
from zoo.quantization.layers import quantize_layers
from zoo.quantization.options import LayerOptions
from zoo.quantization.packed import PackedLinear, digest
from zoo.quantization.passes import CalibrationRuns
from zoo.quantization.plan import QuantizationPlan
from zoo.quantization.settings import settings
from zoo.quantization.team import Team

SAVE = "save_pretrained"
Batch = Tensor | tuple[Any, ...] | Mapping[str, Any]


class Packing(dict[str, dict[str, Any]]):
    """What is known about each packed layer, by name.

    Attributes:
        share: share of the model's weights that are packed, counting embeddings and everything
            else.
        distance: relative distance of the outputs for the first batch from those before packing.

    """

    def __init__(self, layers: Mapping[str, dict[str, Any]], share: float, distance: float) -> None:
        super().__init__(layers)
        self.share, self.distance = share, distance


@torch.no_grad()
def _others(model: nn.Module, plan: QuantizationPlan) -> list[str]:
    """Return the wanted modules that hold linear layers in a form of their own."""
    others = [
        name for name in exposed.find(model) if plan.of(name) is not None and plan.of(f"{name}.0")
    ]
    if not blocks.linears(model) and not others:
        raise MismatchError(f"{type(model).__name__} has no nn.Linear: nothing to quantize")
    return others


def quantize_model(
    model: nn.Module, batches: Iterable[Batch], plan: QuantizationPlan | LayerOptions
) -> Packing:
    """Replace the linear layers of `model` with packed ones; return what is known about each.

    Layers are quantized in the order in which they are called, each for the inputs that its
    quantized predecessors produce; layers with the same input tensor share their statistics. Layers
    that see only a few tokens are quantized without statistics. A weight that several modules
    share, such as a head tied to its embedding, stays in floats, and so does one that is only read.
    Finally the model is run on the first batch and compared with its earlier outputs.

    Args:
        model: in eval mode; changed in place. Its state dict loads into a model packed the same
            way.
        batches: inputs to call it with: a tensor, a tuple of arguments, or a mapping of them; plain
            rounding needs one.
        plan: how to quantize, and what to skip: `QuantizationPlan(options=..., skip=("head",))`; of
            its calibration settings only `least_tokens` and `row_parts` are used here.

    Raises:
        MismatchError: there are no linear layers, too much is in layers of other classes, batches
            are missing, values are not finite, or the packed model does something else; the layer
            is named. The model is left as it was.

    """
    if isinstance(plan, LayerOptions):
        plan = QuantizationPlan(options=plan)
    others = _others(model, plan)
    coverage.check(model, plan)
    plan = coverage.without_shared(model, plan)
    wanted = itertools.islice(batches, None if plan.learns else 1)
    runs = [partial(_call, model, batch) for batch in wanted]
    if not runs:
        raise MismatchError(f"{plan.options.method} needs batches; none were given")
    total = sum(value.numel() for value in model.parameters())
    before = [value.clone() for value in verify.answers(runs[0]())]
    raw = exposed.expose(model, others)
    layers = blocks.linears(model)
    usual = {name: layer.weight.data for name, layer in layers.items()}
    places = _places(model, layers)
    first = next(model.parameters())
    passes = CalibrationRuns(model, runs if plan.learns else [])
    try:
        matrices = quantize_layers(model, "", passes, plan, Team(str(first.device)))
        for name, matrix in matrices.items():
            packed = PackedLinear.of(matrix, layers[name].bias)
            for place in places[name]:
                model.set_submodule(place, packed)
        report = {name: _facts(matrix) for name, matrix in matrices.items()}
        distance = verify.compare(model, runs[0], before, _worst(report))
    except BaseException:  # a half-packed model is of no use, so an interruption undoes it too
        for name, layer in layers.items():
            layer.weight.data = usual[name]
            for place in places[name]:
                model.set_submodule(place, layer)
        exposed.put_back(model, raw)
        raise
    count = sum(matrix.shape[0] * matrix.shape[1] for matrix in matrices.values())
    facts = settings(
        {name: matrix.options for name, matrix in matrices.items()},
        left=[place for name in layers if name not in matrices for place in places[name]],
        bits_per_weight=sum(matrix.bits for matrix in matrices.values()) / count,
        exposed=others,
        digests={
            name: digest(dict(module.named_buffers()))
            for name, module in model.named_modules()
            if isinstance(module, PackedLinear)
        },
    )
    _announce(model, facts)
    return Packing(report, count / total, distance)


def _announce(model: nn.Module, facts: dict[str, Any]) -> None:
    """Let `save_pretrained` say that the model is packed, or refuse where it could not."""
    if not hasattr(model, SAVE):
        return
    transformers: Any = sys.modules.get("transformers")
    if transformers is None or not isinstance(model, transformers.PreTrainedModel):
        vars(model)[SAVE] = partial(_save, model)
        return
    from transformers.quantizers import AutoHfQuantizer

    quantizer: Any = AutoHfQuantizer.from_config(facts, pre_quantized=True)
    holder: Any = model
    holder.config = copy.copy(holder.config)  # other models may share it
    holder.config.quantization_config = quantizer.quantization_config
    holder.hf_quantizer, holder.is_quantized = quantizer, True


def _save(model: nn.Module, *args: Any, **options: Any) -> Any:
    """Save as the model's library does, unless it would write codes that it cannot read again.

    Raises:
        MismatchError: layers are packed.

    """
    if any(isinstance(module, PackedLinear) for module in model.modules()):
        raise MismatchError(
            f"{type(model).__name__} is packed, and its library's from_pretrained would not open "
            "it again: keep model.state_dict(), which loads into a model packed the same way, or "
            "call zoo.integrations.bridge.unpack(model) first"
        )
    return getattr(type(model), SAVE)(model, *args, **options)


def _places(model: nn.Module, layers: Mapping[str, nn.Linear]) -> dict[str, list[str]]:
    """Return every name of each layer: a module may occur in several places."""
    names = {id(layer): name for name, layer in layers.items()}
    places: dict[str, list[str]] = {name: [] for name in layers}
    for place, module in model.named_modules(remove_duplicate=False):
        if id(module) in names:
            places[names[id(module)]].append(place)
    return places


def _facts(matrix: QuantizedMatrix) -> dict[str, Any]:
    assert matrix.report is not None
    return {
        "relative_error": matrix.report.relative_error,
        "damp": matrix.report.damp,
        "notes": list(matrix.report.fallbacks),
        "bits_per_weight": matrix.bits / (matrix.shape[0] * matrix.shape[1]),
    }


def _worst(report: Mapping[str, dict[str, Any]]) -> str:
    if not report:
        raise MismatchError("every layer is skipped: there is nothing to quantize")
    name = max(report, key=lambda key: report[key]["relative_error"])
    return f"The layer with the largest error, {report[name]['relative_error']:.3g}, is {name}"


def _call(model: Callable[..., object], batch: Batch) -> object:
    if isinstance(batch, Tensor):
        return model(batch)
    return model(**batch) if isinstance(batch, Mapping) else model(*batch)
