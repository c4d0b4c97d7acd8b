"""The method "vela": Arm's compiler estimates the int8 file that `zoo export` would write."""

import importlib.metadata
from dataclasses import dataclass
from typing import Any

from zoo.cost import memory
from zoo.cost.deployed import integer
from zoo.cost.estimators.contract import Subject, counts, energy_mj, obtained
from zoo.cost.result import Cost, Fit, exceeds
from zoo.cost.target import Target
from zoo.deploy import vela
from zoo.deploy.tflite_outline import Outline, outline
from zoo.deploy.vela_process import TIME_LIMIT_S
from zoo.errors import MismatchError
from zoo.graph.ir import LIMITS, Graph

SUMMARY = "Arm's compiler for Ethos-U, on the int8 file that zoo export writes"
_MEMORIES = {"sram": "Sram", "flash": "OffChipFlash"}
_CONTENTS = {"sram": "activations, as Vela places them,", "flash": "weights"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """How long the compiler may take; the target names the accelerator and its memories.

    Attributes:
        time_limit_s: seconds after which it is stopped.

    """

    time_limit_s: float = TIME_LIMIT_S


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
    if subject.content is not None:
        report = vela.compile_file(subject.content, target.name, time_limit_s=options.time_limit_s)
        numbers = _of_file(outline(subject.content), report, target)
    else:
        graph = _integer(subject)
        report = vela.compile_graph(graph, target.name, time_limit_s=options.time_limit_s)
        numbers = counts(graph, memory.plan(graph, "int8"), target)
        numbers["input_shape"] = subject.first_shape  # as it was given, not channels last
    numbers["peak_activation_bytes"] = report.peak_bytes.get("Sram", 0)
    numbers["weight_bytes"] = report.encoded_bytes
    own, host = subject.content is None, tuple(str(op) for op in report.cpu_ops)
    words = obtained(f"estimated ({route(report, own=own)})", target)
    for number in ("peak_activation_bytes", "weight_bytes", *(() if own else ("macs",))):
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
        host=host,
        notes=(*host, *target.notes),
        ops=(),
    )


def _of_file(found: Outline, report: vela.VelaReport, target: Target) -> dict[str, Any]:
    """Return the counted fields of `Cost` for a file, whose operators may not be known here."""
    return {
        "target": target.name,
        "graph": "deployed",
        "dtype": found.dtype,
        "input_shape": found.input_shape,
        "parameters": {"constants": found.parameters},
        "macs": report.macs,
    }


def _integer(subject: Subject) -> Graph:
    """Return the int8 graph of a subject.

    Raises:
        MismatchError: the graph is not an int8 one.

    """
    if (graph := subject.given) is not None:
        if graph.layout != "channels_last" or graph.tensors[graph.inputs[0]].dtype not in LIMITS:
            raise MismatchError(
                "Vela takes an integer graph, channels last; make one with "
                "zoo.quantization.int8.post_training.quantize, or give the module"
            )
        return graph
    assert subject.module is not None
    return integer(subject.module, subject.shape)


def route(report: vela.VelaReport, *, own: bool) -> str:
    """Return what an estimate must name, since routes differ by 20 % and more."""
    file = "the zoo's int8 file" if own else "the file as it is"
    text = f"Vela {importlib.metadata.version('ethos-u-vela')} on {file}"
    if count := len(report.cpu_ops):
        text += f", without {count} operator{'s' * (count > 1)} on the host CPU"
    return text


def fit(report: vela.VelaReport, target: Target) -> dict[str, Any]:
    """Return whether what Vela allocates fits the target's memories, as fields of `Fit`."""
    sizes = {"sram": target.sram_bytes, "flash": target.flash_bytes}
    used = {name: report.peak_bytes.get(memory, 0) for name, memory in _MEMORIES.items()}
    over = {n: (used[n], size) for n, size in sizes.items() if size is not None and used[n] > size}
    reasons = tuple(exceeds(_CONTENTS[name], *pair, name.upper()) for name, pair in over.items())
    return {"sram": "sram" not in over, "flash": "flash" not in over, "reasons": reasons}
