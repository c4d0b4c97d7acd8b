"""Tables of the guide about networks: what there is, what it costs, which operators there are."""

import functools
import json
from collections.abc import Iterable, Iterator, Mapping
from string import ascii_uppercase
from typing import Any, cast

import zoo
from benchmarks.common import RESULTS
from zoo import registry
from zoo.artifacts.networks import Network
from zoo.artifacts.resolution import resolve
from zoo.cards.parts import TARGETS
from zoo.cost import target, target_names
from zoo.cost.estimators.contract import Subject
from zoo.cost.pricing import estimator
from zoo.cost.result import Cost, readable
from zoo.cost.stored import of_network
from zoo.cost.target import Target
from zoo.cost.work import WORK
from zoo.deploy.formats import NPU, ONNX, TFLITE
from zoo.deploy.refusals import REFUSALS
from zoo.graph.kinds import KINDS
from zoo.graph.operators.contract import Column
from zoo.quantization.int8.rules import RULES
from zoo.registry.checkpoint import Checkpoint
from zoo.registry.recipe import Recipe
from zoo.runtime.kernels import FLOAT, INTEGER
from zoo.tasks import task_of

COLUMNS: Mapping[str, Column[Any]] = {
    "float": FLOAT,
    "integer": INTEGER,
    "quantized": RULES,
    "TFLite": TFLITE,
    "ONNX": ONNX,
    "Ethos-U": NPU,
    "cost": WORK,
}


@functools.cache
def cost(name: str) -> Cost:
    """Return the counts of a recipe; of a target that encodes no weights, which takes longer."""
    return zoo.estimate(name, TARGETS[1])


def networks() -> list[Recipe]:
    """Return the recipes that build a network by themselves; the others pack a language model."""
    found = [registry.find(name) for name in registry.names()]
    return [recipe for recipe in found if not recipe.of_transformers]


def recipes() -> str:
    """Return one row per set of shipped weights, and one per recipe that has none."""
    lines = [
        "| weights | parameters | MACs | weight file | measured | licence |",
        "|---|---:|---:|---:|---|---|",
    ]
    licences: dict[str, str] = {}
    for recipe in networks():
        counted = registry.counts()[recipe.name]
        counts = f"{counted['parameters']:,} | {_count(counted['macs'])}"
        tags = registry.shipped_tags(recipe.name)
        for tag in sorted(tags, key=lambda tag: tag != recipe.default_tag):
            cells = _weights(zoo.checkpoint(f"{recipe.name}.{tag}"), licences)
            lines.append(f"| `{recipe.name}.{tag}` | {counts} | {cells} |")
        if not tags:
            lines.append(f"| `{recipe.name}`, none yet | {counts} | | | |")
    legend = [f"- **{letter}**: {text}" for text, letter in licences.items()]
    return "\n".join([*lines, "", "Licences of the weights:", "", *legend])


def _weights(checkpoint: Checkpoint, licences: dict[str, str]) -> str:
    """Return the cells about one set of weights: bytes, the first metric, the licence's letter."""
    facts = task_of(checkpoint.recipe).FACTS
    data, values = next(iter(checkpoint.metrics["evaluations"].items()))
    metric = next(metric for metric in facts.metrics if metric.key in values)
    value = values[metric.key]
    number = f"{value:.2f} {metric.unit}" if metric.unit else f"{value:.4f}"
    size = (checkpoint.path / "model.safetensors").stat().st_size
    text = checkpoint.license.partition(" (benchmarks/")[0]
    letter = licences.setdefault(text, ascii_uppercase[len(licences)])
    return f"{size:,} B | {metric.name} {number} on {data} | {letter} |".rstrip(" |")


def _count(number: int) -> str:
    return f"{number / 1e9:.3f} G" if number >= 1e9 else f"{number / 1e6:.1f} M"


def costs_by_target(chosen: Iterable[Recipe] | None = None) -> str:
    """Return one table per target: what every network costs there, or what the chosen ones do."""
    subjects = {
        recipe.name: of_network(cast("Network", resolve(recipe.name, weights=False)))
        for recipe in (networks() if chosen is None else chosen)
    }
    devices = [target(name) for name in target_names()]
    # What is measured differs from machine to machine.
    return "\n".join(
        "\n".join(["", f"## {device.name}", "", *_costs(device, subjects)])
        for device in devices
        if device.method == "roofline"
    )


def _costs(device: Target, subjects: Mapping[str, Subject]) -> Iterator[str]:
    method = estimator(device.method)
    costs = {
        name: method.estimate(subject, device, method.Options())
        for name, subject in subjects.items()
    }
    (known,) = {cost.obtained["latency_ms"] for cost in costs.values()}
    yield f"{device.summary}. {device.dtype}; times are {known}."
    yield ""
    yield "| network | input | time | activations | how it runs |"
    yield "|---|---|---:|---:|---|"
    for name, cost in costs.items():
        shape, time = "x".join(map(str, cost.input_shape)), duration(cost.latency_ms)
        peak = readable(cost.peak_activation_bytes)
        yield f"| `{name}` | {shape} | {time} | {peak} | {how_it_runs(cost)} |"


def how_it_runs(cost: Cost) -> str:
    """Return whether an input runs whole, in tiles, or not at all."""
    if (tiles := cost.tiled) and cost.runs_tiled:
        each = readable(tiles.peak_activation_bytes)
        return f"{tiles.count:,} tiles of {tiles.width}x{tiles.height}, {each} each"
    return "whole" if cost.fits else "does not fit"


def duration(milliseconds: float) -> str:
    """Return a time for people, with three digits at least: "0.26 ms", "43.3 s"."""
    if milliseconds >= 1000:
        seconds = milliseconds / 1000
        return f"{seconds:,.{0 if seconds >= 100 else 1}f} s"
    return f"{milliseconds:.{0 if milliseconds >= 100 else 2}f} ms"


def operators() -> str:
    """Return which kinds of operators each room has, and why one is missing."""
    titles = ["operator", "read from (ATen)", *COLUMNS, "what is missing, and why"]
    lines = [f"| {' | '.join(titles)} |", "|---|---|" + ":---:|" * len(COLUMNS) + "---|"]
    for name, row in KINDS.items():
        aten = ", ".join(f"`{operator}`" for operator in row.aten or ())
        cells = [_cell(name, column) for column in COLUMNS.values()]
        reasons = [*row.absent.values()]
        reasons += [column.absent[name] for column in COLUMNS.values() if name in column.absent]
        if NPU.get(name):
            reasons.append(f"where an Ethos-U leaves it to the host: {NPU[name]}")
        longer = [a for a in reasons if not any(a != b and b.startswith(a) for b in reasons)]
        why = "; ".join(dict.fromkeys(longer))
        lines.append(f"| `{name}` | {aten} | {' | '.join(cells)} | {why} |")
    return "\n".join(lines)


def refused() -> str:
    """Return what is not read of `.tflite` files, in which words it is refused, and why."""
    lines = ["| a file with | is refused with | why, and what to do |", "|---|---|---|"]
    lines += [f"| {row.what} | `{row.says.strip(' :;')}` | {row.why} |" for row in REFUSALS]
    return "\n".join(lines)


def exported() -> str:
    """Return what became of networks in the patterns of others, from the benchmark's results."""
    found = json.loads((RESULTS / "export_networks.json").read_text())["networks"]
    lines = [
        "| network | operators | `.tflite` | ONNX | Ethos-U55-128, cycles | on the host |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for name, row in found.items():
        onnx = "refused" if row["onnx_snr_db"] is None else f"{row['onnx_snr_db']:.0f} dB"
        host = ", ".join(f"`{kind}`" for kind in row["on_host"])
        lines.append(
            f"| {name} | {row['operators']} | {row['snr_db']:.0f} dB | {onnx} | "
            f"{row['cycles']:,.0f} | {host} |"
        )
    return "\n".join(lines)


def _cell(kind: str, column: Column[Any]) -> str:
    if kind not in column:
        return "-"
    if column is TFLITE:
        return ", ".join(f"`{name}`" for name in TFLITE[kind].names)
    if column is NPU and NPU[kind]:
        return "some forms"
    return "yes"
