"""The method "vela": Arm's compiler estimates the int8 file that `zoo export` would write."""

import dataclasses
import importlib.metadata
from dataclasses import dataclass
from typing import Any

import numpy as np

from zoo.cost import memory
from zoo.cost.estimators.contract import Subject, counts, energy_mj, obtained
from zoo.cost.result import Cost, Fit
from zoo.cost.target import Target
from zoo.deploy import vela
from zoo.errors import MismatchError
from zoo.graph.ir import LIMITS, Graph
from zoo.graph.lower import lower
from zoo.quantization.int8.post_training import quantize_graph

SUMMARY = "Arm's compiler for Ethos-U, on the int8 file that zoo export writes"
_MEMORIES = {"sram": "Sram", "flash": "OffChipFlash"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """There are no settings: the target names the accelerator and its memories."""


def refusal(target: Target) -> str | None:
    """Return why Vela does not know a target, or None if it does."""
    if target.name in vela.NPUS:
        return None
    return (
        f"target {target.name!r} is not an Ethos-U with a configuration in Vela; "
        f"there are: {', '.join(vela.NPUS)}"
    )


def estimate(subject: Subject, target: Target, options: Options) -> Cost:
    """Return the cost that the compiler reports, operators left to the host CPU named."""
    graph, report = compiled(subject, target.name)
    numbers = counts(graph, memory.plan(graph, "int8"), target)
    numbers["input_shape"] = subject.shape  # as it was given, not channels last
    numbers["peak_activation_bytes"] = report.peak_bytes.get("Sram", 0)
    numbers["weight_bytes"] = report.encoded_bytes
    words = obtained(f"estimated ({route(report)})", target)
    for number in ("peak_activation_bytes", "weight_bytes"):
        words[number] = words["latency_ms"]
    return Cost(
        **numbers,
        method="vela",
        latency_ms=report.latency_ms,
        energy_mj=energy_mj(report.latency_ms, target),
        bound=None,
        fits=Fit(**fit(report, target)),
        tiled=None,
        obtained=words,
        notes=(*(str(op) for op in report.cpu_ops), *target.notes),
        ops=(),
    )


def compiled(subject: Subject, target: str) -> tuple[Graph, vela.VelaReport]:
    """Return the int8 graph of a subject, and Vela's report on it.

    A module is quantized with nominal ranges. As after training, all of them differ, and no layer
    has one slope for all channels: Vela simplifies equal ones, up to half of a PReLU's cost.

    Raises:
        MismatchError: the graph is not an int8 one.

    """
    if (graph := subject.given) is not None:
        if graph.layout != "channels_last" or graph.tensors[graph.inputs[0]].dtype not in LIMITS:
            raise MismatchError("Vela takes an integer graph: quantize the module first")
        return graph, vela.compile_graph(graph, target)
    assert subject.module is not None
    lowered = _as_if_trained(lower(subject.module, subject.shape))
    names = [tensor.name for tensor in lowered.tensors.values() if not tensor.is_parameter]
    ranges = {name: (-1 - i / 100, 1 + i / 50) for i, name in enumerate(names)}
    int8 = quantize_graph(lowered, ranges)
    return int8, vela.compile_graph(int8, target)


def _as_if_trained(graph: Graph) -> Graph:
    """Return a graph in which slopes that are alike, as in a fresh network, differ."""
    values = dict(graph.values)
    for op in graph.ops:
        slopes = values[op.inputs[1]] if op.kind == "prelu" else np.zeros(0)
        if slopes.size > 1 and np.ptp(slopes) == 0:
            factors = np.linspace(0.5, 1, slopes.size, dtype=slopes.dtype)
            values[op.inputs[1]] = slopes * factors.reshape(slopes.shape)
    return dataclasses.replace(graph, values=values)


def route(report: vela.VelaReport) -> str:
    """Return what an estimate must name, since routes differ by 20 % and more."""
    text = f"Vela {importlib.metadata.version('ethos-u-vela')} on the zoo's int8 file"
    if count := len(report.cpu_ops):
        text += f", without {count} operator{'s' * (count > 1)} on the host CPU"
    return text


def fit(report: vela.VelaReport, target: Target) -> dict[str, Any]:
    """Return whether what Vela allocates fits the target's memories, as fields of `Fit`."""
    sizes = {"sram": target.sram_bytes, "flash": target.flash_bytes}
    used = {name: report.peak_bytes.get(memory, 0) for name, memory in _MEMORIES.items()}
    over = [name for name, size in sizes.items() if size is not None and used[name] > size]
    reasons = [f"{used[name]} bytes exceed {sizes[name]} of {name.upper()}" for name in over]
    return {"sram": "sram" not in over, "flash": "flash" not in over, "reasons": tuple(reasons)}
