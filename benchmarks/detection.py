"""Detectors on blood cells (BCCD): RAN-i's backbone beside ConvNeXt's of the same MACs.

    python -m benchmarks.detection --data BCCD --work runs/detection

measures the detectors that are shipped, or trained in --work; with --train those that are neither
are trained first, ten minutes of one thread each. Precision is that of the 72 test pictures;
weights were chosen on `val`. Speed is alternated: float in torch, int8 on LiteRT, one picture of
320x240 on one thread, without reading and without NMS; it does not depend on weights.
"""

import argparse
import statistics
from collections.abc import Callable, Mapping
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
from zoo.registry.checkpoint import Checkpoint, build
from zoo.registry.recipe import Recipe
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


def checkpoint(name: str, data: Path, work: Path, *, train: bool) -> Checkpoint | None:
    """Return the weights that are shipped, or those of a run in `work`; None if there are none."""
    if registry.shipped_tags(name):
        return zoo.checkpoint(name)
    if not train and not (work / name).is_dir():
        return None
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


def judged(network: nn.Module, recipe: Recipe, data: Path, **options: Any) -> dict[str, Any]:
    """Return the figures on the test pictures."""
    found = tasks.task_of(recipe).evaluate(network, recipe, data, **options)
    return {**{key: found[key] for key in FIGURES}, "by_label": found["map_50_by_label"]}


def precisions(
    network: nn.Module, forms: Mapping[str, Any], recipe: Recipe, data: Path
) -> dict[str, dict[str, Any]]:
    """Return the figures on the test pictures, in float and in integers."""
    integers = {form: Integers(network, graph) for form, graph in forms.items()}
    return {
        "float": judged(network, recipe, data),
        "float, soft-nms": judged(network, recipe, data, suppression="soft-nms"),
        **{form: judged(module, recipe, data) for form, module in integers.items()},
    }


def measured(
    recipe: Recipe, source: Checkpoint | None, data: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the figures of a detector, and what is timed of it."""
    network = build(recipe) if source is None else source.load()
    batches = tasks.calibration(recipe, data)
    forms = {
        form: quantize(network, batches, recipe.input_shape, Options(npu=npu))
        for form, npu in (("int8", False), ("int8, for NPUs", True))
    }
    vela = {npu: compile_graph(on_npu(forms["int8, for NPUs"]), npu) for npu in NPUS}
    cost = zoo.estimate(recipe, "ethos-u55-256", method="roofline")
    figures = {
        "macs": cost.macs,
        "parameters": sum(cost.parameters.values()),
        "precision": {} if source is None else precisions(network, forms, recipe, data),
        "held_out": {} if source is None else source.metrics.get("held_out", {}),
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
    parser.add_argument("--train", action="store_true", help="train what has no weights")
    parser.add_argument("--runs", type=int, default=30)
    args = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    contestants: dict[str, Callable[[], object]] = {}
    for name in NAMES:
        source = checkpoint(name, args.data, args.work, train=args.train)
        results[name], timed = measured(registry.find(name), source, args.data)
        contestants |= {f"{name}: {form}": run for form, run in timed.items()}
    times = alternate(contestants, args.runs, warmup=3)
    rows = [["", "mAP@.5", "int8", "float FPS", "int8 FPS", *NPUS]]
    for name, found in results.items():
        found["fps"] = {
            form: 1 / statistics.median(times[f"{name}: {form}"])
            for form in ("float, torch", "int8, LiteRT")
        }
        rows.append(
            [name, *(_share(found["precision"].get(form)) for form in ("float", "int8"))]
            + [f"{value:.1f}" for value in found["fps"].values()]
            + [f"{found['vela'][npu]['latency_ms']:.1f} ms" for npu in NPUS]
        )
    first, second = NAMES
    ratios = {
        form: ratio(times, f"{second}: {form}", f"{first}: {form}")
        for form in ("float, torch", "int8, LiteRT")
    }
    report("detection", 1, {"detectors": results, "fps_ratio": ratios}, rows)


def _share(figures: Mapping[str, float] | None) -> str:
    return "-" if figures is None else f"{figures['map_50']:.3f}"


if __name__ == "__main__":
    main()
