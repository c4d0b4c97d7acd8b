"""The method "vela": Arm's compiler estimates the int8 file that `zoo export` would write."""

import importlib.metadata
from dataclasses import dataclass
from typing import Any

from zoo.cost import memory
from zoo.cost.estimators import roofline
from zoo.cost.estimators.contract import Subject, counts, drawn, energy_mj, obtained
from zoo.cost.result import Cost, Fit, OpCost, exceeds
from zoo.cost.target import Target
from zoo.cost.tiled import in_tiles
from zoo.deploy import vela
from zoo.deploy.tflite_outline import Outline, outline
from zoo.deploy.vela_process import TIME_LIMIT_S
from zoo.errors import MismatchError
from zoo.graph.ir import LIMITS, Graph

SUMMARY = "Arm's compiler for Ethos-U, on the int8 file that zoo export writes"
INTERVAL = (0.94, 1.32)
INTERVAL_NOTE = (
    "Vela's cycles are 1 to 6 % above those of Arm's fixed virtual platforms on three networks, "
    "and 24 % below a board's on one: the interval spans both"
)
_NAMES = {"Sram": "sram", "OffChipFlash": "flash", "OnChipFlash": "flash", "Dram": "dram"}
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
        graph = integer_graph(subject)
        report = vela.compile_graph(graph, target.name, time_limit_s=options.time_limit_s)
        numbers = counts(graph, memory.plan(graph, "int8"), target)
        numbers["input_shape"] = subject.first_shape  # as it was given, not channels last
    numbers["peak_activation_bytes"] = report.peak_bytes.get("Sram", 0)
    numbers["weight_bytes"] = report.encoded_bytes
    fits = Fit(**fit(report, target))

    def price(graph: Graph) -> tuple[float, int]:
        part = vela.compile_graph(graph, target.name, time_limit_s=options.time_limit_s)
        return part.latency_ms, part.peak_bytes.get("Sram", 0)

    tiled, fits = in_tiles(subject, target, fits, price)
    latency = tiled.latency_ms if tiled else report.latency_ms
    own, host = subject.content is None, tuple(str(op) for op in report.cpu_ops)
    words = obtained(f"estimated ({route(report, own=own)})", target)
    for number in ("peak_activation_bytes", "weight_bytes", *(() if own else ("macs",))):
        words[number] = words["latency_ms"]
    return Cost(
        **numbers,
        method="vela",
        latency_ms=latency,
        energy_mj=energy_mj(latency, target),
        bound=_bound(report),
        fits=fits,
        tiled=tiled,
        obtained=words,
        host=host,
        notes=(*host, *drawn(subject), *target.notes, INTERVAL_NOTE),
        ops=_ops(report),
        interval_ms=(INTERVAL[0] * latency, INTERVAL[1] * latency),
        flash_bytes=report.peak_bytes.get(_MEMORIES["flash"]),
        moved_bytes={_NAMES.get(name, name): size for name, size in report.moved_bytes.items()},
    )


def _ops(report: vela.VelaReport) -> tuple[OpCost, ...]:
    per_cycle = report.latency_ms / report.cycles if report.cycles else 0.0
    return tuple(
        OpCost(
            module=op.module, kind=op.kind, macs=0, latency_ms=op.cycles * per_cycle, bound=op.bound
        )
        for op in report.ops
    )


def _bound(report: vela.VelaReport) -> str | None:
    return roofline.bound(_ops(report)) if report.ops else None


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


def integer_graph(subject: Subject, *, parts: bool = False) -> Graph:
    """Return the int8 graph of a subject; `parts` as in `Subject.integer`.

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
    return subject.integer(subject.shape, parts=parts)


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
