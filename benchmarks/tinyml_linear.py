"""What MicroNets observed (arXiv 2010.11267, section 3), measured again: operations and latency.

"Latency is linear in operations within a family of networks, and not across families." Families are
MicroNets and MLPerf Tiny's networks at many widths, in int8, with random weights: time depends on
shapes alone, and so does how well such weights are encoded. Measured of each: cycles of an
Ethos-U55-128 by Vela, milliseconds of LiteRT's XNNPACK kernels on this CPU with one thread (the
fastest of many runs in turn: the machine is shared), milliseconds that a Cortex-M7's roofline
estimates, and the bytes of weights as Vela's encoder makes them, beside those of the weights that
ship or were published (`--shared`). Run:

    python -m benchmarks.tinyml_linear [--shared DATA]
"""

import argparse
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn

import zoo
from benchmarks.common import PICTURES, report
from zoo import registry
from zoo.cost import estimate, target
from zoo.cost.chart import Series, chart
from zoo.deploy.tflite_read import read_tflite
from zoo.deploy.tflite_write import serialize_tflite
from zoo.deploy.vela import compile_graph
from zoo.graph.ir import Graph
from zoo.graph.rewrite import on_npu
from zoo.models.blocks import Classifier, Convolution, DsCnn
from zoo.models.micronets import HEAD, ROWS, STEM, Bottleneck, Row
from zoo.models.mlperf_tiny import AutoEncoder
from zoo.quantization.int8.post_training import quantize
from zoo.registry.checkpoint import build

NPU, BOARD = "ethos-u55-128", "stm32f746-216mhz-cmsisnn"
ROUNDS = 25
LEAST_R2 = 0.95  # within a family, as the paper has it
METRICS = {
    "npu_cycles": "Ethos-U55-128, cycles by Vela",
    "cpu_ms": "this CPU, LiteRT, measured",
    "board_ms": "Cortex-M7, roofline",
}
Shape = tuple[int, ...]
Made = tuple[str, nn.Module, Shape]


class Pyramid(Classifier):
    """MicroNet-VWW-4 at another width: MobileNetV2 blocks, as `zoo.models.micronets` has them."""

    def __init__(self, width: float) -> None:
        stem, head = wide(STEM, width), wide(HEAD, width)
        super().__init__(head, 2)
        layers: list[nn.Module] = [Convolution(1, stem, 3, 2, act="relu6")]
        for row in ROWS:
            scaled = Row(wide(row.inner, width), row.stride, wide(row.outputs, width), row.add)
            block = Bottleneck(stem, scaled, norm=False)
            layers.append(block)
            stem = block.outputs
        self.layers = nn.Sequential(*layers, Convolution(stem, head, 1, act="relu6"))
        self.complete()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `(N, 1, H, W)` to `(N, 2)`."""
        return self.logits(self.layers(x))


class Stacks(Classifier):
    """ResNet-8 of MLPerf Tiny at another width."""

    def __init__(self, width: int) -> None:
        super().__init__(4 * width, 10)
        widths = (width, width, 2 * width, 4 * width)
        self.stem = Convolution(3, width, 3)
        pairs = list(zip(widths, widths[1:], (1, 2, 2), strict=False))
        self.first = nn.ModuleList(Convolution(a, b, 3, s) for a, b, s in pairs)
        self.second = nn.ModuleList(Convolution(b, b, 3, act="") for _, b, _ in pairs)
        self.shortcut = nn.ModuleList(
            nn.Identity() if a == b else Convolution(a, b, 1, s, act="") for a, b, s in pairs
        )
        self.complete()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `(N, 3, 32, 32)` to `(N, 10)`."""
        x = self.stem(x)
        for first, second, shortcut in zip(self.first, self.second, self.shortcut, strict=True):
            x = torch.relu(second(first(x)) + shortcut(x))
        return self.logits(x)


class Pairs(Classifier):
    """MobileNetV1 of MLPerf Tiny at another width."""

    def __init__(self, width: int) -> None:
        super().__init__(32 * width, 2)
        widths = [width * n for n in (1, 2, 4, 4, 8, 8, *(16,) * 6, 32, 32)]
        strides = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
        layers: list[nn.Module] = [Convolution(3, width, 3, 2)]
        for inputs, outputs, stride in zip(widths, widths[1:], strides, strict=False):
            layers.append(Convolution(inputs, inputs, 3, stride, depthwise=True))
            layers.append(Convolution(inputs, outputs, 1))
        self.layers = nn.Sequential(*layers)
        self.complete()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `(N, 3, 96, 96)` to `(N, 2)`."""
        return self.logits(self.layers(x))


def wide(channels: int, width: float) -> int:
    """Return a scaled number of channels, a multiple of 4 unless it is the recipe's own."""
    return channels if width == 1 else max(4, round(channels * width / 4) * 4)


def named(pattern: str) -> Iterator[Made]:
    """Give the recipes of a pattern, with random weights."""
    for name in registry.names(pattern):
        recipe = registry.find(name)
        yield name, build(recipe), recipe.input_shape


def words() -> Iterator[Made]:
    """Give DS-CNNs of features of words: the recipes, and as many blocks of one width."""
    yield from named("micronet-kws-*")
    yield from named("mlperf-tiny-kws")
    for width, blocks in itertools.product((48, 96, 144, 192, 240), (4, 7)):
        rows = [[width, 2], *[[width, 1]] * (blocks - 1)]
        yield f"{blocks} x {width}", DsCnn((10, 4), width, 1, rows, 12, act="relu6"), (1, 1, 49, 10)


def machines() -> Iterator[Made]:
    """Give DS-CNNs of spectrograms: the recipes, and at other widths."""
    yield from named("micronet-ad-*")
    for width in (48, 96, 144, 192, 240):
        rows = [[width, 2], [width, 1], [width, 1], [width, 2], [width, 2]]
        yield f"5 x {width}", DsCnn((3, 3), width, 1, rows, 4, act="relu6"), (1, 1, 32, 32)


def pyramids() -> Iterator[Made]:
    """Give MobileNetV2s of grey pictures."""
    yield from named("micronet-vww-4")
    for width in (0.35, 0.5, 0.75, 1.25, 1.5, 2.0):
        yield f"x{width}", Pyramid(width), (1, 1, 128, 128)


def others(
    recipe: str, make: Callable[[int], nn.Module], widths: Sequence[int]
) -> Callable[[], Iterator[Made]]:
    """Return what gives a recipe and the same network at other widths."""

    def family() -> Iterator[Made]:
        yield from named(recipe)
        shape = registry.find(recipe).input_shape
        for width in widths:
            yield f"width {width}", make(width), shape

    return family


FAMILIES: Mapping[str, Callable[[], Iterator[Made]]] = {
    "DS-CNN, words": words,
    "DS-CNN, machines": machines,
    "MobileNetV2": pyramids,
    "MobileNetV1": others("mlperf-tiny-vww", Pairs, (4, 12, 16, 20, 24)),
    "ResNet": others("mlperf-tiny-ic", Stacks, (8, 24, 32, 40, 48)),
    "autoencoder": others("mlperf-tiny-ad", lambda n: AutoEncoder(640, n), (32, 64, 192, 256, 384)),
}


def integers(module: nn.Module, shape: Shape) -> Graph:
    """Return a module's int8 graph, its ranges learned from noise."""
    x = torch.rand((4, *shape[1:]), generator=torch.Generator().manual_seed(0))
    return quantize(module.eval(), [x], shape)


def runner(content: bytes) -> Callable[[], float]:
    """Return a function that runs a file on LiteRT's fastest kernels once, and gives its ms."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    (details,) = interpreter.get_input_details()
    noise = np.random.default_rng(0).integers(-128, 128, details["shape"], np.int8)
    interpreter.set_tensor(details["index"], noise)

    def run() -> float:
        start = perf_counter()
        interpreter.invoke()
        return (perf_counter() - start) * 1e3

    return run


def sizes(graph: Graph) -> dict[str, int]:
    """Return parameters and the bytes of weights and biases as Vela's encoder makes them."""
    found = compile_graph(on_npu(graph), NPU)
    return {
        "parameters": sum(graph.parameters.values()), "encoded_bytes": found.encoded_bytes,
        "npu_cycles": found.cycles, "cpu_ops": len(found.cpu_ops),
    }  # fmt: skip


def measured() -> list[dict[str, Any]]:
    """Return what each network of each family takes."""
    rows, runners = [], []
    for family, members in FAMILIES.items():
        for name, module, shape in members():
            graph = integers(module, shape)
            runners.append(runner(serialize_tflite(graph)))
            board = estimate(module, target(BOARD), input_shape=shape).latency_ms
            facts = {"mops": 2 * graph.macs / 1e6, "board_ms": board, **sizes(graph)}
            rows.append({"family": family, "name": name, **facts})
    times = [[run() for run in runners] for _ in range(ROUNDS)]
    for row, found in zip(rows, np.min(times, 0), strict=True):
        row["cpu_ms"] = float(found)
    return rows


def real(shared: Path | None) -> list[dict[str, Any]]:
    """Return how the weights that ship, and those of published files, are encoded."""
    graphs = {}
    for pattern in ("micronet-*", "mlperf-tiny-*"):
        for name in registry.names(pattern):
            for tag in registry.shipped_tags(name):
                recipe = registry.find(name)
                module = zoo.load(f"{name}.{tag}")
                graph = getattr(module, "graph", None)
                whole = graph(recipe.input_shape) if graph else integers(module, recipe.input_shape)
                graphs[f"{name}.{tag}"] = whole
    for file in sorted((shared / "tflite").glob("*[nN][tT]8.tflite")) if shared else []:
        graphs[file.stem] = read_tflite(file)
    if shared:
        graphs["str_ww_ref_model"] = read_tflite(shared / "sww/str_ww_ref_model.tflite")
    return [{"name": name, **sizes(graph)} for name, graph in graphs.items()]


def fit(rows: Sequence[Mapping[str, Any]], x: str, y: str) -> dict[str, float]:
    """Return the line of least squares y = slope x + start, and its R2."""
    a, b = (np.array([row[key] for row in rows], float) for key in (x, y))
    slope, start = np.polyfit(a, b, 1)
    rest = b - slope * a - start
    return {"slope": slope, "start": start, "r2": 1 - float(rest.var() / b.var()), "n": len(rows)}


def fits(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the fits of each metric, within families and across all of them."""
    groups = {f: [row for row in rows if row["family"] == f] for f in FAMILIES}
    found: dict[str, Any] = {}
    for metric in METRICS:
        within = {family: fit(members, "mops", metric) for family, members in groups.items()}
        found[metric] = {"within": within, "across": fit(rows, "mops", metric)}
    flash = {
        family: fit(members, "parameters", "encoded_bytes") for family, members in groups.items()
    }
    found["encoded_bytes"] = {"within": flash, "across": fit(rows, "parameters", "encoded_bytes")}
    return found


def draw(rows: Sequence[Mapping[str, Any]], weights: Sequence[Mapping[str, Any]]) -> None:
    """Draw operations against time, and parameters against encoded bytes."""

    def series(x: str, y: str) -> list[Series]:
        return [
            Series(f, [(r[x], r[y]) for r in rows if r["family"] == f], line=False)
            for f in FAMILIES
        ]

    logarithmic = {"log_x": True, "log_y": True}
    for metric, title in METRICS.items():
        unit = "cycles" if metric == "npu_cycles" else "milliseconds"
        chart(
            PICTURES / f"tinyml_{metric}.png", series("mops", metric), title=title,
            x="million operations (1 MAC = 2)", y=unit, **logarithmic,
        )  # fmt: skip
    shown = [
        Series("random weights", [(r["parameters"], r["encoded_bytes"]) for r in rows], line=False)
    ]
    points = [(r["parameters"], r["encoded_bytes"]) for r in weights]
    shown.append(Series("trained and published weights", points, line=False))
    chart(
        PICTURES / "tinyml_flash.png", shown, title="What Vela's encoder makes of int8 weights",
        x="parameters", y="bytes, encoded", **logarithmic,
    )  # fmt: skip


def main() -> None:
    """Measure, fit, draw, store; fail where the observation does not hold within a family."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, help="where published files lie")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows, weights = measured(), real(args.shared)
    found = fits(rows)
    table = [["fit", *FAMILIES, "across"]]
    for metric, both in found.items():
        r2 = [f"{line['r2']:.3f}" for line in (*both["within"].values(), both["across"])]
        slopes = [f"{line['slope']:.4g}" for line in (*both["within"].values(), both["across"])]
        table += [[f"{metric}, R2", *r2], [f"{metric}, slope", *slopes]]
    draw(rows, weights)
    report(
        "tinyml_linear",
        1,
        {"rounds": ROUNDS, "networks": rows, "real": weights, "fits": found},
        table,
    )
    for row in weights:
        print(f"{row['name']}: {row['encoded_bytes'] / row['parameters']:.2f} bytes a parameter")
    for metric in METRICS:
        within = [line["r2"] for line in found[metric]["within"].values()]
        if min(within) < LEAST_R2 or found[metric]["across"]["r2"] >= min(within):
            raise SystemExit(f"{metric}: R2 {min(within):.3f} within families, goal {LEAST_R2}")
    if left := [row["name"] for row in (*rows, *weights) if row["cpu_ops"]]:
        raise SystemExit(f"not all on the NPU: {', '.join(left)}")


if __name__ == "__main__":
    main()
