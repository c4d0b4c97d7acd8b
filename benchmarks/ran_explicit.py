"""RAN-explicit against EfficientNet-Lite-B0 on Ethos-U, by Vela, beside the published ratios.

The paper gives frames per second as multiples of EfficientNet-Lite-B0's: on Ethos-U55 1.06 for
RAN-e-C and 1.16 for RAN-e-GT, on Ethos-U65 1.28 and 1.49. It names neither the accelerators' sizes
nor, for the baseline, the activation (its table has ReLU6 and h-swish in one row), so all are
priced here: every size, and the baseline with both. Where a ratio is not the published one, the
cycles of each kind of operator say why. Only ranges are nominal; no weights are needed. Run:

    python -m benchmarks.ran_explicit
"""

import dataclasses
from collections import Counter
from typing import Any

import torch

from benchmarks.common import report
from zoo import cost
from zoo.cost.estimators.contract import Subject
from zoo.cost.estimators.vela import integer_graph
from zoo.deploy.vela import VelaReport, compile_graph
from zoo.graph.ir import Graph
from zoo.registry import find
from zoo.registry.checkpoint import build
from zoo.registry.recipe import Recipe

NPUS = ("ethos-u55-64", "ethos-u55-128", "ethos-u55-256", "ethos-u65-256", "ethos-u65-512")
BASELINE = "efficientnet-lite-b0"
PUBLISHED = {"ethos-u55": {"ran-e-c": 1.06, "ran-e-gt": 1.16}}
PUBLISHED["ethos-u65"] = {"ran-e-c": 1.28, "ran-e-gt": 1.49}
NAMES = ("ran-e-c", "ran-e-gt", "ran-e-ib", BASELINE, f"{BASELINE} h-swish")


def recipe_of(name: str) -> Recipe:
    """Return a recipe by its name; the baseline's also with h-swish."""
    recipe = find(name.partition(" ")[0])
    if " " not in name:
        return recipe
    return dataclasses.replace(recipe, args={**recipe.args, "act": "hswish"})


def by_kind(graph: Graph, found: VelaReport) -> dict[str, int]:
    """Return the cycles of each kind of operator; an activation counts with its layer."""
    cycles: Counter[str] = Counter()
    for told in found.ops:
        op = graph.ops[told.number]
        side = op.attributes.get("kernel", (0,))[0]
        match op.kind:
            case "conv2d":
                kind = "dense 3x3" if side == 3 else "1x1"
            case "depthwise_conv2d":
                kind = "depthwise" if side > 1 else "norms after sums"
            case _:
                kind = "sums and the rest"
        cycles[kind] += told.cycles
    return dict(cycles)


def measured(name: str) -> dict[str, Any]:
    """Return what Vela says of a network on every accelerator."""
    recipe = recipe_of(name)
    graph = integer_graph(Subject(module=build(recipe), input_shape=recipe.input_shape))
    found: dict[str, Any] = {"macs": graph.macs}
    for npu in NPUS:
        told = compile_graph(graph, npu)
        found[npu] = {
            "latency_ms": told.latency_ms,
            "fps": 1e3 / told.latency_ms,
            "cpu_ops": [str(op) for op in told.cpu_ops],
            "cycles": told.cycles,
            "op_cycles": by_kind(graph, told),
            "sram_bytes": told.peak_bytes.get("Sram", 0),
        }
    return found


def main() -> None:
    """Measure, store, and fail if something runs on the host CPU or an order is another."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    results = {name: measured(name) for name in NAMES}
    rows = [["accelerator", "network", "FPS", "x ReLU6", "x h-swish", "published"]]
    kinds = ("dense 3x3", "1x1", "depthwise", "norms after sums", "sums and the rest")
    rows[0] += [f"{kind}, Mcycles" for kind in kinds]
    for npu in NPUS:
        fps = {name: results[name][npu]["fps"] for name in NAMES}
        for name in NAMES:
            ratios = [fps[name] / fps[base] for base in NAMES[-2:]]
            results[name][npu]["ratios"] = dict(zip(NAMES[-2:], ratios, strict=True))
            told = PUBLISHED[npu.rpartition("-")[0]].get(name)
            spent = results[name][npu]["op_cycles"]
            rows.append(
                [npu, name, f"{fps[name]:.1f}", *(f"{ratio:.2f}" for ratio in ratios)]
                + ["-" if told is None else f"{told:.2f}"]
                + [f"{spent.get(kind, 0) / 1e6:.2f}" for kind in kinds]
            )
    notes = {npu: cost.target(npu).notes for npu in NPUS}
    report("ran_explicit", 1, {"published": PUBLISHED, "notes": notes, "networks": results}, rows)
    for name, found in results.items():
        if any(found[npu]["cpu_ops"] for npu in NPUS):
            raise SystemExit(f"{name}: not all on the NPU")
    for npu in NPUS:
        fps = {name: results[name][npu]["fps"] for name in NAMES}
        if not fps["ran-e-gt"] > fps["ran-e-c"] > fps["ran-e-ib"]:
            raise SystemExit(f"{npu}: another order than the published one")
        if not min(fps["ran-e-c"], fps["ran-e-gt"]) > fps[f"{BASELINE} h-swish"]:
            raise SystemExit(f"{npu}: not faster than the baseline with the same activation")


if __name__ == "__main__":
    main()
