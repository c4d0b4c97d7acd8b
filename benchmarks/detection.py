"""Detectors on blood cells (BCCD): RAN-i's backbone beside ConvNeXt's of the same MACs.

    python -m benchmarks.detection --data BCCD --work runs/detection

trains what is not shipped and not in --work yet, by the recipes: a third of an hour of one thread.
Precision is that of the 72 test pictures; weights were chosen on `val`. Speed is alternated: float
in torch, int8 on LiteRT, one picture of 320x240 on one thread, without reading and without NMS.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import zoo
from benchmarks.common import alternate, ratio, report
from zoo import registry, tasks
from zoo.deploy.tflite_write import serialize_tflite
from zoo.deploy.vela import compile_graph
from zoo.graph.rewrite import on_npu
from zoo.quantization.int8.calibration import Options
from zoo.quantization.int8.post_training import quantize
from zoo.registry.checkpoint import Checkpoint
from zoo.runtime.integer import IntegerNetwork
from zoo.runtime.values import channels_last, dequantized, quantized

NAMES = ("ran-i-detector", "convnext-detector")
NPUS = ("ethos-u55-128", "ethos-u55-256", "ethos-u65-512")
FIGURES = ("map_50", "map", "map_75", "mar_100")


class Integers(nn.Module):
    """An int8 graph as a network of real numbers: what `zoo.evaluate` takes."""

    def __init__(self, network: nn.Module, graph: Any) -> None:
        super().__init__()
        self.like, self.graph, self.network = network, graph, IntegerNetwork(graph)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map of pictures."""
        made = self.network(quantized(self.graph, channels_last(x)))
        assert isinstance(made, Tensor)
        return dequantized(self.graph, made).permute(0, 3, 1, 2)


def checkpoint(name: str, data: Path, work: Path) -> Checkpoint:
    """Return the weights that are shipped, or else those of a run in `work`, which is made."""
    if registry.shipped_tags(name):
        return Checkpoint.read(zoo.checkpoint(name).path)
    return zoo.train(
        name, work / name, data=data, data_license="MIT", device="cpu",
        resume=(work / name).is_dir(),
    )  # fmt: skip


def litert(content: bytes, x: np.ndarray[Any, Any]) -> Callable[[], object]:
    """Return one inference on LiteRT's fast kernels, on one thread."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    return lambda: interpreter.invoke()  # keeps the interpreter


def judged(network: nn.Module, recipe: Any, data: Path, **options: Any) -> dict[str, float]:
    """Return the figures on the test pictures."""
    found = tasks.task_of(recipe).evaluate(network, recipe, data, **options)
    return {**{key: found[key] for key in FIGURES}, "by_label": found["map_50_by_label"]}


def measured(source: Checkpoint, data: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the figures of a detector, and what is timed of it."""
    recipe, network = source.recipe, source.load()
    batches = tasks.calibration(recipe, data)
    forms = {
        form: quantize(network, batches, recipe.input_shape, Options(npu=npu))
        for form, npu in (("int8", False), ("int8, for NPUs", True))
    }
    precision = {
        "float": judged(network, recipe, data),
        "float, soft-nms": judged(network, recipe, data, suppression="soft-nms"),
    }
    precision |= {
        form: judged(Integers(network, graph), recipe, data) for form, graph in forms.items()
    }
    graph = on_npu(forms["int8, for NPUs"])
    vela = {npu: compile_graph(graph, npu) for npu in NPUS}
    cost = zoo.estimate(recipe, "ethos-u55-256", method="roofline")
    figures = {
        "macs": cost.macs,
        "parameters": sum(cost.parameters.values()),
        "precision": precision,
        "held_out": source.metrics.get("held_out", {}),
        "vela": {
            npu: {"latency_ms": r.latency_ms, "cpu_ops": len(r.cpu_ops)} for npu, r in vela.items()
        },
    }
    picture = batches[0][:1].contiguous(memory_format=torch.channels_last)
    content = serialize_tflite(forms["int8"])
    given = quantized(forms["int8"], channels_last(picture)).numpy()

    def in_torch() -> object:
        with torch.inference_mode():
            return network(picture)

    return figures, {"float, torch": in_torch, "int8, LiteRT": litert(content, given)}


def main() -> None:
    """Train what is missing, measure, store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="BCCD in COCO's layout")
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--runs", type=int, default=30)
    args = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    contestants: dict[str, Callable[[], object]] = {}
    for name in NAMES:
        source = checkpoint(name, args.data, args.work)
        results[name], timed = measured(source, args.data)
        contestants |= {f"{name}: {form}": run for form, run in timed.items()}
    times = alternate(contestants, args.runs, warmup=3)
    rows = [["", "mAP@.5", "int8", "float FPS", "int8 FPS", *NPUS]]
    for name, found in results.items():
        found["fps"] = {
            form: 1 / statistics.median(times[f"{name}: {form}"])
            for form in ("float, torch", "int8, LiteRT")
        }
        rows.append(
            [name, *(f"{found['precision'][form]['map_50']:.3f}" for form in ("float", "int8"))]
            + [f"{value:.1f}" for value in found["fps"].values()]
            + [f"{found['vela'][npu]['latency_ms']:.1f} ms" for npu in NPUS]
        )
    first, second = NAMES
    ratios = {
        form: ratio(times, f"{second}: {form}", f"{first}: {form}")
        for form in ("float, torch", "int8, LiteRT")
    }
    report("detection", 1, {"detectors": results, "fps_ratio": ratios}, rows)


if __name__ == "__main__":
    main()
