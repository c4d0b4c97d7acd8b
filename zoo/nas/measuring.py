"""What a network takes, measured on the files that a device would get.

The int8 file that `zoo export` writes is made, with weights that no code makes smaller, so that
training changes nothing: what fits here fits when it is trained. An Ethos-U runs what its compiler,
Vela, makes of the file, and that is what counts there: SRAM, flash and cycles. Elsewhere it is the
arena that TFLite Micro allocates, and the file.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from zoo import cost
from zoo.cost import Target, memory
from zoo.cost.deployed import integer, seeded
from zoo.cost.pricing import chosen_method, estimator
from zoo.deploy import tflite_micro, vela
from zoo.deploy.tflite_write import serialize_tflite
from zoo.errors import MismatchError
from zoo.graph.ir import Graph
from zoo.nas.limits import Limits, Use
from zoo.nas.spaces.contract import Choice
from zoo.registry.checkpoint import build
from zoo.registry.recipe import Recipe

_SURE = 1.25  # times a limit, from which on a count over the layers is enough to refuse
_SMALL = 0.1  # of the weights, so that activations stay finite


def checked(limits: Limits, target: Target | None, method: str = "auto") -> None:
    """Refuse limits that nothing here can measure.

    Raises:
        MismatchError: a latency without a target, or a target that no method knows.

    """
    if target is None:
        if limits.latency_ms is not None:
            raise MismatchError(
                "a limit of latency is one on a device; add --target, e.g. --target ethos-u55-128"
            )
        return
    if reason := estimator(chosen_method(target, method)).refusal(target):
        raise MismatchError(f"latency cannot be known: {reason}")
    if target.dtype != "int8":
        raise MismatchError(
            f"target {target.name} computes in {target.dtype}, and what is measured is the int8 "
            "file; take a target of int8, e.g. ethos-u55-128"
        )


def measured(recipe: Recipe, limits: Limits, target: Target | None, method: str = "auto") -> Use:
    """Return what a recipe's network takes, what is counted before what is measured.

    Args:
        recipe: of the network.
        limits: beyond them nothing is measured; the counts then say by how much at least.
        target: a device, or None: any that runs TFLite Micro.
        method: the estimator of the latency, see `zoo.cost.estimate`.

    """
    try:
        rough = _outlined(recipe) if limits.given else Use()
        if limits.load(rough) > _SURE:
            return rough
        module = seeded(lambda: incompressible(build(recipe)))
        graph = integer(module, recipe.input_shape)
        counted = _counted(graph)
        if limits.load(counted) > 1:
            return counted
        return measured_graph(graph, module, recipe.input_shape, target, method)
    except MismatchError as error:
        return Use(refused=str(error))


def _outlined(recipe: Recipe) -> Use:
    """Return what the layers alone take, in a hundredth of the time that a graph takes.

    Layers that are folded into others are counted too, so it may be a little more than all.
    """
    found: dict[str, Any] = {"sram_bytes": 0, "flash_bytes": 0, "macs": 0}

    def seen(layer: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        weight: Tensor = layer.weight  # type: ignore[assignment]
        found["macs"] += output.numel() * (weight.numel() // weight.shape[0])
        found["flash_bytes"] += weight.numel()
        found["sram_bytes"] = max(found["sram_bytes"], given[0].numel() + output.numel())

    with torch.device("meta"), torch.no_grad():
        network = build(recipe)
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.register_forward_hook(seen)
        network(torch.zeros(recipe.input_shape))
    return Use(**found, how=dict.fromkeys(found, "counted over the layers"))


def incompressible(network: nn.Module) -> nn.Module:
    """Give every parameter values that differ and fill the range of their integers evenly."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.uniform_(-_SMALL, _SMALL)
            else:
                parameter.add_(torch.rand_like(parameter), alpha=_SMALL)
    return network


def _counted(graph: Graph) -> Use:
    """Return the least that a graph takes anywhere: its live bytes, and its MACs."""
    plan = memory.plan(graph, "int8")
    how = {"sram_bytes": "live activations", "flash_bytes": "nothing yet", "macs": "counted"}
    return Use(sram_bytes=plan.lower_bound_bytes, flash_bytes=0, macs=graph.macs, how=how)


def measured_graph(
    graph: Graph,
    module: nn.Module,
    shape: tuple[int, ...],
    target: Target | None,
    method: str = "auto",
) -> Use:
    """Return what an int8 graph takes; see `measured`.

    Raises:
        MismatchError: the device does not run it.

    """
    content = serialize_tflite(graph)
    if target is not None and chosen_method(target, method) == "vela":
        return _compiled(graph, content, target)
    use = _stored(graph, content)
    if target is None:
        return use
    priced = cost.estimate(module, target, method=method, input_shape=shape)
    how = {**use.how, "latency_ms": priced.obtained["latency_ms"]}
    return dataclasses.replace(use, latency_ms=priced.latency_ms, how=how)


def _stored(graph: Graph, content: bytes) -> Use:
    """Return what TFLite Micro and the file say; where that is not installed, the plan."""
    if tflite_micro.installed():
        most = 2 * memory.plan(graph, "int8", in_place=False).arena_bytes + 2**21
        sram, by = tflite_micro.measured(content, most=most).total, "TFLite Micro's arena"
    else:
        sram = memory.plan(graph, "int8", in_place=False).arena_bytes
        by = "planned as TFLite Micro does, without its structures"
    how = {"sram_bytes": by, "flash_bytes": "the .tflite file", "macs": "counted"}
    return Use(sram_bytes=sram, flash_bytes=len(content), macs=graph.macs, how=how)


def _compiled(graph: Graph, content: bytes, target: Target) -> Use:
    """Return what Vela says, and beside it the file; what is left to a host is refused."""
    report = vela.compile_graph(graph, target.name)
    how = dict.fromkeys(("sram_bytes", "flash_bytes", "latency_ms"), f"Vela for {target.name}")
    peaks = report.peak_bytes
    return Use(
        sram_bytes=peaks.get("Sram", 0),
        flash_bytes=peaks.get("OffChipFlash", report.encoded_bytes),
        macs=graph.macs,
        latency_ms=report.latency_ms,
        how={**how, "macs": "counted"},
        beside={"file_bytes": len(content), "operators_on_host": len(report.cpu_ops)},
    )


class Gauge:
    """Measures choices of a space, each network once.

    Args:
        recipe: gives that of a choice.
        limits: beyond them nothing is measured, see `measured`.
        target: likewise.
        method: likewise.

    """

    def __init__(
        self,
        recipe: Callable[[Choice], Recipe],
        limits: Limits,
        target: Target | None,
        method: str = "auto",
    ) -> None:
        self.recipe, self.limits, self.target, self.method = recipe, limits, target, method
        self._known: dict[str, Use] = {}

    def __call__(self, choice: Choice) -> Use:
        """Return what a choice takes; of one beyond the limits what is counted."""
        recipe = self.recipe(choice)
        key = identity(recipe)
        if key not in self._known:
            self._known[key] = measured(recipe, self.limits, self.target, self.method)
        return self._known[key]

    def whole(self, choice: Choice) -> Use:
        """Return what a choice takes, measured whatever the limits."""
        return measured(self.recipe(choice), Limits(), self.target, self.method)


def identity(recipe: Recipe) -> str:
    """Return a text that two recipes share if their networks and inputs are the same."""
    return repr((recipe.model, sorted(recipe.args.items()), recipe.input_shape))
