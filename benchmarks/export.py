"""Goals: our integers 20x faster than TFLite Micro's reference kernels, an int8 export in 3 s.

Speed: same files, same inputs, same integers, one thread each, in turn. Exports: networks with 100
calibration inputs to an int8 file, compiled by Vela for an Ethos-U55-128; the same networks by
executorch and by litert-torch, each in its own environment (see benchmarks/peers), if their Pythons
are named. Run:

    python -m benchmarks.export [FOLDER of .tflite files] [--executorch PYTHON] [--litert PYTHON]
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import zoo
from benchmarks.common import RESULTS, alternate, ratio, report
from zoo import registry
from zoo.deploy.tflite_read import read_tflite
from zoo.deploy.tflite_write import serialize_tflite
from zoo.deploy.vela import compile_file, compile_graph
from zoo.graph.rewrite import on_npu
from zoo.quantization.int8.post_training import quantize
from zoo.registry.checkpoint import build
from zoo.runtime.integer import IntegerNetwork

LEAST, MOST_SECONDS = 20, 3
FILES = ("mlperf_kws_int8", "micronet_kws_m_int8", "mlperf_ic_resnet8_int8", "mlperf_vww_96_int8")
NPU = "ethos-u55-128"
PEERS = Path(__file__).parent / "peers"


def speed(path: Path, runs: int, batch: int) -> dict[str, float]:
    """Return how many times faster we are than TFLite Micro on one batch; the integers agree."""
    from tflite_micro.python.tflite_micro import runtime

    network = IntegerNetwork(read_tflite(path))
    x = torch.randint(-128, 128, (batch, *network.graph.input_shape[1:]), dtype=torch.int8)
    interpreter = runtime.Interpreter.from_file(str(path))

    def theirs() -> np.ndarray[Any, Any]:
        outputs = []
        for sample in x.numpy():
            interpreter.set_input(sample[None], 0)
            interpreter.invoke()
            outputs.append(interpreter.get_output(0))
        return np.concatenate(outputs)

    if not np.array_equal(theirs(), network(x).numpy()):
        raise SystemExit(f"{path.name}: the integers differ")
    times = alternate({"tflite-micro": theirs, "ours": lambda: network(x)}, runs)
    each = {name: 1e3 * statistics.median(values) / batch for name, values in times.items()}
    return {**ratio(times, "tflite-micro", "ours"), **{f"{k}_ms": v for k, v in each.items()}}


def ds_cnn() -> nn.Module:
    """Return MLPerf Tiny's keyword network, with batch norms."""

    def layer(*sizes: Any, **options: Any) -> list[nn.Module]:
        return [nn.Conv2d(*sizes, bias=False, **options), nn.BatchNorm2d(sizes[1]), nn.ReLU()]

    layers = layer(1, 64, (10, 4), stride=2, padding=(5, 1))
    for _ in range(4):
        layers += layer(64, 64, 3, padding=1, groups=64) + layer(64, 64, 1)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 12)).eval()


def exported(module: nn.Module, x: torch.Tensor) -> dict[str, Any]:
    """Return seconds (median of three), bytes and Vela's cycles of an export."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        graph = on_npu(quantize(module, x.split(10), (1, *x.shape[1:])))
        content = serialize_tflite(graph)
        seconds.append(time.perf_counter() - start)
    compiled = compile_graph(graph, NPU)
    return {
        "seconds": statistics.median(seconds),
        "first_seconds": seconds[0],
        "bytes": len(content),
        "values_bytes": sum(value.nbytes for value in graph.values.values()),
        "u55_128_cycles": compiled.cycles,
        "cpu_ops": len(compiled.cpu_ops),
    }


def peer(route: str, python: Path | None, module: nn.Module, x: torch.Tensor) -> dict[str, Any]:
    """Return the same of another route, or why there is nothing to return."""
    if python is None:
        return {"skipped": f"no --{route}; benchmarks/peers/{route}.py says what to install"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.export.save(torch.export.export(module, (x[:1],)), folder / "net.pt2")
        np.save(folder / "inputs.npy", x.numpy())
        out = folder / "net.out"
        command = [str(python), str(PEERS / f"{route}.py"), "net.pt2", "inputs.npy", str(out)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            why = (done.stderr.strip().splitlines() or ["no reason"])[-1]
            return {"skipped": f"{route} failed: {why}"}
        facts: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        if route == "litert":
            compiled = compile_file(out.read_bytes(), NPU)
            facts |= {"u55_128_cycles": compiled.cycles, "cpu_ops": len(compiled.cpu_ops)}
    return facts


def networks() -> dict[str, tuple[nn.Module, torch.Tensor]]:
    """Return what is exported, with inputs."""
    x = torch.rand(100, 1, 90, 160)
    return {
        "DS-CNN 49x10": (ds_cnn(), torch.rand(100, 1, 49, 10)),
        "sesr-m5-x2 90x160": (zoo.load("sesr-m5-x2"), x),
        "sesr-m5-relu-x2 90x160": (build(registry.find("sesr-m5-relu-x2")).eval(), x),
    }


def table(speeds: dict[str, Any], exports: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Return what is printed."""
    rows = [["", "TFLite Micro", "ours", "faster", "least-greatest", ""]]
    for name, s in speeds.items():
        times = [f"{s['tflite-micro_ms']:.2f} ms", f"{s['ours_ms']:.3f} ms", f"{s['median']:.1f}x"]
        rows.append([name, *times, f"{s['min']:.1f}-{s['max']:.1f}", ""])
    rows.append(["", "route", "export", "file", "U55-128 cycles", "operators on the CPU"])
    for name, routes in exports.items():
        for route, e in routes.items():
            if "skipped" in e:
                rows.append([name, route, e["skipped"], "", "", ""])
                continue
            cycles = f"in {e['npu_parts']} parts" if e["u55_128_cycles"] is None else ""
            cycles = cycles or f"{e['u55_128_cycles']:,}"
            sizes = [f"{e['bytes']:,} B", cycles, str(e["cpu_ops"])]
            rows.append([name, route, f"{e['seconds']:.2f} s", *sizes])
    return rows


def markdown() -> str:
    """Return the README's tables, from the stored results."""
    stored = json.loads((RESULTS / "export.json").read_text())
    lines = [
        f"| {stored['batch']} inputs, one thread | TFLite Micro | ours | faster |",
        "|---|---:|---:|---:|",
    ]
    for name, s in stored["speed"].items():
        spread = f"{s['median']:.1f}x ({s['min']:.1f}-{s['max']:.1f})"
        note = "" if s["median"] >= LEAST else f"; goal {LEAST}x, missed"
        times = f"{s['tflite-micro_ms']:.2f} ms | {s['ours_ms']:.3f} ms"
        lines.append(f"| `{name}` | {times} | {spread}{note} |")
    lines += [
        "",
        "| network, route | export | file | U55-128 cycles | operators on the CPU |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in table({}, stored["export"])[2:]:
        name, route, *rest = row
        lines.append(f"| `{name}`, {route} | {' | '.join(cell or '-' for cell in rest[:4])} |")
    return "\n".join(lines)


def main() -> None:
    """Time both runtimes, then export by every route."""
    parser = argparse.ArgumentParser(description=__doc__)
    shared = Path(__file__).resolve().parents[2] / "shared" / "data" / "tflite"
    parser.add_argument("folder", type=Path, nargs="?", default=shared)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--batch", type=int, default=112)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--executorch", type=Path, help="the Python of its environment")
    parser.add_argument("--litert", type=Path, help="the Python of its environment")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    speeds = {f: speed(args.folder / f"{f}.tflite", args.runs, args.batch) for f in FILES}
    made = networks()
    exports: dict[str, dict[str, Any]] = {
        name: {"zoo": exported(net, x)} for name, (net, x) in made.items()
    }
    for name, (net, x) in made.items():
        for route, python in (("litert", args.litert), ("executorch", args.executorch)):
            print(f"{name} by {route}", file=sys.stderr)
            exports[name][route] = peer(route, python, net, x)
    result = {"speed": speeds, "export": exports, "batch": args.batch}
    report("export", args.threads, result, table(speeds, exports))
    slow = [f"{LEAST}x: {name}" for name, s in speeds.items() if s["median"] < LEAST]
    late = [f"3 s: {n}" for n, e in exports.items() if e["zoo"]["first_seconds"] > MOST_SECONDS]
    if slow or late:
        raise SystemExit(f"goals not met: {', '.join(slow + late)}")


if __name__ == "__main__":
    main()
