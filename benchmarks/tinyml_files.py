"""MicroNets and MLPerf Tiny's networks as int8 files: equal integers, arena, flash, Vela.

Every recipe, with random weights (neither sizes nor the question whether integers are equal depend
on training), is quantized and written. Random inputs are run by TFLite Micro and by LiteRT's
reference kernels and compared with the integers computed here; TFLite Micro says what its arena
takes, the file how many bytes of flash; Vela compiles it for an Ethos-U55-128. Run:

    python -m benchmarks.tinyml_files
"""

import argparse
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from benchmarks.common import report
from benchmarks.tinyml_linear import NPU, integers
from tests.runtimes import TFLITE, tflite_micro_arena
from zoo import registry
from zoo.cost.memory import plan
from zoo.deploy.tflite_write import serialize_tflite
from zoo.deploy.vela import compile_graph
from zoo.graph.rewrite import on_npu
from zoo.registry.checkpoint import build
from zoo.runtime.integer import IntegerNetwork

PATTERNS = ("micronet-*", "mlperf-tiny-*")
INPUTS = 16


def names() -> list[str]:
    """Return the names of both families."""
    return [name for pattern in PATTERNS for name in registry.names(pattern)]


def measured(name: str) -> dict[str, Any]:
    """Return what is measured of a recipe's file."""
    torch.manual_seed(0)
    recipe = registry.find(name)
    graph = integers(build(recipe), recipe.input_shape)
    content = serialize_tflite(graph)
    inner = graph.input_shape[1:]
    x = torch.randint(-128, 128, (INPUTS, *inner), generator=torch.Generator().manual_seed(1))
    given = x.to(torch.int8)
    ours = IntegerNetwork(graph)(given)
    assert isinstance(ours, torch.Tensor)
    apart = {}
    for runtime in ("tflite-micro", "litert-reference"):
        (theirs,) = TFLITE[runtime](content)(given)
        steps = np.abs(theirs.astype(int) - ours.numpy().astype(int))
        apart[runtime] = {"values": int((steps > 0).sum()), "steps": int(steps.max())}
    npu = on_npu(graph)
    compiled = compile_graph(npu, NPU)
    return {
        "macs": graph.macs,
        "values": ours.numel(),
        "apart": apart,
        "arena": tflite_micro_arena(content),
        "planned_bytes": plan(graph, "int8", in_place=False).arena_bytes,
        "file_bytes": len(content),
        "npu": {
            "encoded_bytes": compiled.encoded_bytes,
            "sram_bytes": compiled.peak_bytes.get("Sram", 0),
            "cycles": compiled.cycles,
            "cpu_ops": len(compiled.cpu_ops),
        },
    }


def wrong(found: Mapping[str, Any]) -> str:
    """Return what is not as it has to be, or nothing."""
    if found["apart"]["tflite-micro"]["values"]:
        return "not the integers of TFLite Micro"
    if found["apart"]["litert-reference"]["steps"] > 1:
        return "more than a step beside LiteRT"
    if found["arena"]["head"] != found["planned_bytes"]:
        return f"planned {found['planned_bytes']} bytes, and TFLite Micro takes {found['arena']}"
    return "an operator is left to the CPU" if found["npu"]["cpu_ops"] else ""


def main() -> None:
    """Measure, store, and fail where something is not equal."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_num_threads(1)
    results = {name: measured(name) for name in names()}
    rows = [["recipe", "TFLite Micro", "LiteRT", "arena", "of it activations", "file", "NPU flash"]]
    for name, found in results.items():
        apart = [f"{a['values']} of {found['values']} apart" for a in found["apart"].values()]
        sizes = [*found["arena"].values()][:2]
        flash = [found["file_bytes"], found["npu"]["encoded_bytes"]]
        rows.append([name, *apart, *(f"{size:,} B" for size in (*sizes, *flash))])
    report("tinyml_files", 1, {"inputs": INPUTS, "npu": NPU, "files": results}, rows)
    if faults := [f"{name}: {text}" for name, found in results.items() if (text := wrong(found))]:
        raise SystemExit("\n".join(faults))


if __name__ == "__main__":
    main()
