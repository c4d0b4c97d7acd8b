"""The planner against TFLite Micro, on random networks and on published ones."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.runtimes import litert, tflite_micro
from zoo.cost import memory, ordering
from zoo.deploy.tflite_read import parse_tflite
from zoo.deploy.tflite_write import serialize_tflite, write_tflite
from zoo.errors import MismatchError
from zoo.graph.ir import Graph
from zoo.quantization.int8.post_training import quantize
from zoo.runtime.integer import IntegerNetwork
from zoo.verbs.planning import plan_memory, write_least_memory

Head = Callable[[bytes], int]


class Branches(nn.Module):
    """A random network, written level by level: all wide layers before the narrow ones."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        rng = np.random.default_rng(seed)
        self.layers = nn.ModuleList()
        self.plan: list[tuple[str, int, int]] = []
        widths = [3]
        for _ in range(7):
            kind = rng.choice(["conv", "conv", "conv", "add", "cat", "relu"])
            a = int(rng.integers(len(widths)))
            b = int(rng.choice([i for i, width in enumerate(widths) if width == widths[a]]))
            if kind == "conv":
                widths.append(4 * int(rng.integers(1, 7)))
                self.layers.append(nn.Conv2d(widths[a], widths[-1], 1))
            else:
                widths.append(widths[a] + widths[b] if kind == "cat" else widths[a])
            self.plan.append((kind, a, b))
        read = {0} | {i for kind, a, b in self.plan for i in (a, *([b] * (kind != "conv")))}
        self.ends = sorted(set(range(len(widths))) - read)
        self.narrow = nn.ModuleList(nn.Conv2d(widths[i], 2, 1) for i in self.ends)

    def forward(self, x: Tensor) -> Tensor:
        values, layers = [x], iter(self.layers)
        for kind, a, b in self.plan:
            if kind == "conv":
                values.append(next(layers)(values[a]))
            elif kind == "cat":
                values.append(torch.cat([values[a], values[b]], 1))
            else:
                values.append(values[a] + values[b] if kind == "add" else torch.relu(values[a]))
        ends = zip(self.narrow, self.ends, strict=True)
        return torch.cat([layer(values[i]) for layer, i in ends], 1)


def network(seed: int) -> Graph:
    module = Branches(seed).eval()
    return quantize(module, [torch.randn(4, 3, 6, 6)], (1, 3, 6, 6))


SEEDS = range(16)
SIZES = ("KWS-S", "KWS-M", "KWS-L", "AD-S", "AD-M", "AD-L")


@pytest.mark.parametrize("seed", SEEDS)
def test_greedy_is_tflite_micros_in_any_order(seed: int, arena_head: Head) -> None:
    graph = network(seed)
    best = ordering.reordered(graph, "int8", in_place=False).graph
    for order in (graph, best):
        packed = memory.plan(order, "int8", in_place=False)
        assert packed.arena_bytes == arena_head(serialize_tflite(order))


def test_another_order_needs_less_and_computes_the_same(arena_head: Head) -> None:
    ratios = []
    for seed in SEEDS:
        graph = network(seed)
        best = ordering.reordered(graph, "int8", in_place=False)
        assert best.proved
        x = torch.randint(-128, 128, (1, 6, 6, 3), dtype=torch.int8)
        before, after = IntegerNetwork(graph)(x), IntegerNetwork(best.graph)(x)
        assert isinstance(before, Tensor)
        assert isinstance(after, Tensor)
        assert torch.equal(before, after)
        heads = [arena_head(serialize_tflite(g)) for g in (best.graph, graph)]
        ratios.append(heads[0] / heads[1])
    assert max(ratios) <= 1
    assert min(ratios) < 0.8  # as TFLite Micro itself reports it
    assert sum(ratio < 1 for ratio in ratios) >= 5


def test_tflite_micro_follows_the_plan_in_a_file(tmp_path: Path, arena_head: Head) -> None:
    for seed in (1, 3, 9):
        graph = network(seed)
        path = write_tflite(graph, tmp_path / "net.tflite")
        before = path.read_bytes()
        file = write_least_memory(path, path)
        assert file.proved
        assert arena_head(path.read_bytes()) == file.arena_bytes < file.greedy_bytes
        assert arena_head(before) == file.greedy_bytes
        x = torch.randint(-128, 128, (4, 6, 6, 3), dtype=torch.int8)
        for runtime in (tflite_micro, litert):
            np.testing.assert_array_equal(runtime(before)(x)[0], runtime(path.read_bytes())(x)[0])


def test_a_plan_is_kept_apart_from_the_network(tmp_path: Path) -> None:
    graph = network(1)
    path = write_tflite(graph, tmp_path / "net.tflite")
    plain = path.read_bytes()
    write_least_memory(path, path)
    assert path.read_bytes() != plain
    assert serialize_tflite(ordering.reordered(graph, None, in_place=False).graph) != plain
    assert parse_tflite(path.read_bytes()).macs == graph.macs


# (as TFLite Micro places them by itself, at best): no order and no placement needs less.
PUBLISHED = {
    "tflite/micronet_kws_m_int8": (86_112, 86_112),
    "tflite/micronet_ad_m_int8": (245_760, 245_760),
    "tflite/micronet_vww4_128_128_INT8": (65_536, 57_344),
    "tflite/mlperf_kws_int8": (16_000, 16_000),
    "tflite/mlperf_vww_96_int8": (73_728, 55_296),
    "tflite/mlperf_ic_resnet8_int8": (49_152, 49_152),
    "tflite/mlperf_ad01_int8": (768, 768),
    "tflite-public/openmv_blazeface_front_128": (442_368, 344_064),
    "tflite-public/tflm_person_detect": (55_296, 55_296),
    "sww/str_ww_ref_model": (6_656, 6_656),
}


@pytest.mark.data
@pytest.mark.parametrize(("name", "arenas"), PUBLISHED.items())
def test_published_networks_as_tflite_micro_reports_them(
    shared_data: Path, tmp_path: Path, name: str, arenas: tuple[int, int], arena_head: Head
) -> None:
    path = shared_data / f"{name}.tflite"
    file = write_least_memory(path, tmp_path / "planned.tflite")
    assert file.proved
    assert (file.greedy_bytes, file.arena_bytes) == arenas
    assert arena_head(path.read_bytes()) == arenas[0]
    assert arena_head(file.path.read_bytes()) == arenas[1]


# Measured with TFLite Micro on networks that were rebuilt from the paper's tables.
@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "measured"),
    [(f"micronet-{size.lower()}", f"MicroNet-{size} rebuilt") for size in SIZES],
)
def test_arenas_that_were_measured(shared_data: Path, name: str, measured: str) -> None:
    with (shared_data / "cost" / "tflm_arena.csv").open(encoding="utf-8") as file:
        heads = {row["model"]: int(row["head_bytes"]) for row in csv.DictReader(file)}
    first, *_ = plan_memory(name, "stm32f746-216mhz-cmsisnn")
    assert first.arena_bytes == heads[measured]


@pytest.mark.data
def test_a_file_that_keeps_states_is_refused(tmp_path: Path, shared_data: Path) -> None:
    path = shared_data / "tflite-public" / "tflm_keyword_scrambled_8bit.tflite"
    with pytest.raises(MismatchError, match="keeps states from call to call"):
        write_least_memory(path, tmp_path / "out.tflite")
