"""Simulated kernels: integers are the runtime's, counts repeat, their order is the clock's."""

import os
import shutil
import statistics
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo
from zoo.cost import estimate, target
from zoo.cost.estimators.contract import Subject
from zoo.cost.estimators.simulated import _integer
from zoo.cost.simulator.cachegrind import CACHES, Counts, build, counted, parse
from zoo.cost.simulator.program import Program
from zoo.deploy.tflite_read import read_tflite
from zoo.errors import MismatchError
from zoo.graph.ir import Graph
from zoo.quantization.int8.post_training import quantize
from zoo.runtime.integer import IntegerNetwork

# In CI both must be there.
REQUIRED = bool(os.environ.get("ZOO_TEST_VALGRIND"))
needs_compiler = pytest.mark.skipif(
    not (shutil.which("cc") or REQUIRED), reason="needs a C compiler"
)
needs_valgrind = pytest.mark.skipif(
    not ((shutil.which("valgrind") and shutil.which("cc")) or REQUIRED),
    reason="needs valgrind and a C compiler",
)


class Kernels(nn.Module):
    """A network of fifteen operators that differ in kind and size."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 5, 2, 2)
        self.wide = nn.Conv2d(16, 48, 1)
        self.depth = nn.Conv2d(48, 48, 3, 1, 1, groups=48)
        self.narrow = nn.Conv2d(48, 16, 1)
        self.slope = nn.PReLU(16)
        self.down = nn.Conv2d(16, 16, 3, 2, 1, groups=16)
        self.dense = nn.Conv2d(16, 32, 3, 1, 1)
        self.head = nn.Linear(8 * 12 * 12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = self.slope(x + self.narrow(torch.sigmoid(self.depth(self.wide(x)))))
        x = F.pixel_shuffle(self.dense(self.down(F.max_pool2d(x, 3, 1, 1))), 2)
        return self.head(F.avg_pool2d(x, 2).flatten(1))


@pytest.fixture(scope="module")
def graph() -> Graph:
    torch.manual_seed(0)
    return quantize(Kernels().eval(), [torch.randn(2, 3, 48, 48)], (1, 3, 48, 48))


@pytest.fixture(scope="module")
def given() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(-128, 128, (1, 48, 48, 3), generator=generator).to(torch.int8)


def timed(program: Program, folder: Path, given: Tensor, runs: int) -> list[float]:
    """Return each operator's median seconds of runs in which all take turns."""
    build(program, folder, given.numpy())
    words = ["./program", str(runs)]
    said = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True).stdout
    rows = [[float(word) for word in line.split()] for line in said.splitlines()]
    assert len(rows) == runs
    return [statistics.median(column) for column in zip(*rows, strict=True)]


def spearman(first: list[float], second: list[float]) -> float:
    """Return the correlation of ranks, equal values sharing theirs."""
    ranks = [
        [sum(y < x for y in v) + sum(y == x for y in v) / 2 for x in v] for v in (first, second)
    ]
    return float(np.corrcoef(ranks)[0, 1])


@needs_valgrind
def test_counts_repeat_and_rank_as_the_clock_does(
    graph: Graph, given: Tensor, tmp_path: Path
) -> None:
    program = Program.of(graph)
    found, output = counted(program, given.numpy())
    again, _ = counted(program, given.numpy())
    assert len(found) >= 12
    assert found == again  # to the instruction, and to the miss
    assert torch.equal(torch.from_numpy(output.copy()), IntegerNetwork(graph)(given))
    assert all(counts.instructions > 0 for counts in found)
    seconds = timed(program, tmp_path, given, runs=60)
    cycles = [float(counts.cycles) for counts in found]
    assert spearman(cycles, seconds) >= 0.8
    assert spearman(cycles, cycles[::-1]) < 0.8  # it could fail


@needs_compiler
@pytest.mark.parametrize("seed", range(3))
def test_integers_are_the_runtimes(seed: int, tmp_path: Path) -> None:
    torch.manual_seed(seed)
    width = 4 + 3 * seed
    side = 13
    body = nn.Sequential(
        nn.Conv2d(2, width, (3, 2), (2, 1), (1, 0), dilation=(1, 2)),
        nn.ReLU6(),
        nn.Conv2d(width, 2 * width, 3, padding=1, groups=width),
        nn.Hardswish(),
        nn.MaxPool2d(2),
        nn.ZeroPad2d((1, 0, 2, 1)),
        nn.Conv2d(2 * width, 5, 1, bias=False),
        nn.Flatten(),
    )
    inputs = body(torch.zeros(1, 2, side, side)).shape[1]
    module = nn.Sequential(body, nn.Linear(inputs, 7, bias=False)).eval()
    made = quantize(module, [torch.randn(4, 2, side, side)], (1, 2, side, side))
    x = torch.randint(-128, 128, (1, side, side, 2), dtype=torch.int8)
    build(Program.of(made), tmp_path, x.numpy())
    subprocess.run(["./program", "1"], cwd=tmp_path, check=True, capture_output=True)
    output = np.fromfile(tmp_path / "output", np.int8)
    np.testing.assert_array_equal(output, IntegerNetwork(made)(x).numpy().ravel())


class Judged(nn.Module):
    """Channels that are filled up, a mean and a softmax."""

    def __init__(self, over: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.over = over
        self.first = nn.Conv2d(2, 6, 3)
        self.last = nn.Linear(9 if over == (2, 3) else {(2,): 81, (3,): 63}[over], classes)
        with torch.no_grad():
            self.last.weight.mul_(12)  # far apart, and near

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(self.first(x), (1, 1, 0, 0, 1, 2))
        return F.softmax(self.last(x.mean(self.over).flatten(1)), -1)


@needs_compiler
@pytest.mark.parametrize(("over", "classes"), [((2, 3), 300), ((2,), 2), ((3,), 12)])
def test_means_and_softmaxes_are_the_runtimes(
    over: tuple[int, ...], classes: int, tmp_path: Path
) -> None:
    torch.manual_seed(classes)
    module = Judged(over, classes).eval()
    made = quantize(module, [3 * torch.randn(4, 2, 9, 9)], (1, 2, 9, 9))
    assert {"mean", "softmax", "pad"} <= {op.kind for op in made.ops}
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randint(-128, 128, (1, 9, 9, 2), generator=generator).to(torch.int8)
        folder = tmp_path / str(seed)
        folder.mkdir()
        build(Program.of(made), folder, x.numpy())
        subprocess.run(["./program", "1"], cwd=folder, check=True, capture_output=True)
        output = np.fromfile(folder / "output", np.int8)
        np.testing.assert_array_equal(output, IntegerNetwork(made)(x).numpy().ravel())


class Normed(nn.Module):
    """Dimensions in another order, operands that are repeated, and differences."""

    def __init__(self, order: tuple[int, ...]) -> None:
        super().__init__()
        self.order = order
        self.first = nn.Conv2d(2, 6, 3)
        self.gain = nn.Parameter(torch.linspace(-1.0, 1.5, 6).view(1, 6, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x - x.mean(1, keepdim=True)
        x = x * self.gain + x.mean((2, 3), keepdim=True)
        x = (x - torch.sigmoid(x)).permute(self.order)
        return F.avg_pool2d(x, 1).flatten(1)


@needs_compiler
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1), (0, 3, 1, 2), (0, 3, 2, 1)])
def test_orders_and_repeated_operands_are_the_runtimes(
    order: tuple[int, ...], tmp_path: Path
) -> None:
    torch.manual_seed(sum(place * n for place, n in enumerate(order)))
    made = quantize(Normed(order).eval(), [3 * torch.randn(4, 2, 7, 9)], (1, 2, 7, 9))
    assert {"sub", "mul", "add", "mean"} <= {op.kind for op in made.ops}
    x = torch.randint(-128, 128, (1, 7, 9, 2)).to(torch.int8)
    build(Program.of(made), tmp_path, x.numpy())
    subprocess.run(["./program", "1"], cwd=tmp_path, check=True, capture_output=True)
    output = np.fromfile(tmp_path / "output", np.int8)
    np.testing.assert_array_equal(output, IntegerNetwork(made)(x).numpy().ravel())


@needs_compiler
def test_a_network_with_layer_norms_is_computed(tmp_path: Path) -> None:
    made = _integer(
        Subject(module=zoo.load("convnext-micro", pretrained=False), input_shape=(1, 3, 32, 32))
    )
    assert "transpose" in {op.kind for op in made.ops}
    x = torch.randint(-128, 128, (1, 32, 32, 3)).to(torch.int8)
    build(Program.of(made), tmp_path, x.numpy())
    subprocess.run(["./program", "1"], cwd=tmp_path, check=True, capture_output=True)
    output = np.fromfile(tmp_path / "output", np.int8)
    np.testing.assert_array_equal(output, IntegerNetwork(made)(x).numpy().ravel())


@needs_compiler
@pytest.mark.parametrize("name", ["kws", "vww_96", "ic_resnet8", "ad01"])
@pytest.mark.data
def test_all_of_mlperf_tiny_is_computed(name: str, shared_data: Path, tmp_path: Path) -> None:
    graph = read_tflite(shared_data / "tflite" / f"mlperf_{name}_int8.tflite")
    shape = graph.tensors[graph.inputs[0]].shape
    x = torch.randint(-128, 128, shape, generator=torch.Generator().manual_seed(3)).to(torch.int8)
    build(Program.of(graph), tmp_path, x.numpy())
    subprocess.run(["./program", "1"], cwd=tmp_path, check=True, capture_output=True)
    output = np.fromfile(tmp_path / "output", np.int8)
    np.testing.assert_array_equal(output, IntegerNetwork(graph)(x).numpy().ravel())


@needs_valgrind
def test_an_estimate_is_made_of_the_counts(graph: Graph) -> None:
    cost = estimate(graph, target("cpu"), method="simulated", clock_ghz=2.0)
    ops = sum(op.latency_ms for op in cost.ops)
    assert cost.latency_ms == pytest.approx(ops)
    cycles = cost.instructions + 10 * cost.l1_misses + 100 * cost.last_misses
    assert cost.latency_ms == pytest.approx(cycles / 2e6)
    assert (cost.dtype, cost.macs) == ("int8", graph.macs)
    assert f"{cost.instructions:,} instructions" in cost.details[0]


def test_what_is_not_simulated_is_refused_by_name() -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Upsample(scale_factor=2)).eval()
    made = quantize(module, [torch.randn(1, 1, 8, 8)], (1, 1, 8, 8))
    with pytest.raises(MismatchError, match="resize_nearest at 1 has no kernel to simulate"):
        Program.of(made)
    with pytest.raises(MismatchError, match="is not the CPU at hand"):
        estimate(module, target("ethos-u55-256"), method="simulated", input_shape=(1, 1, 8, 8))
    large = nn.Conv2d(64, 64, 3, padding=1).eval()
    with pytest.raises(MismatchError, match="M MACs are too many to simulate"):
        estimate(large, target("cpu"), method="simulated", input_shape=(1, 64, 200, 200))


def test_without_valgrind_or_compiler_it_says_what_to_install(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MismatchError, match=r"there is no 'cc'; type: sudo apt-get install gcc"):
        counted(Program.of(graph))


def test_a_file_of_cachegrind_is_read_by_function() -> None:
    text = "desc: D1\nevents: Ir I1mr ILmr\nfl=???\nfn=op_1\n0 10 2 1\n0 5 0 0\nfn=main\n0 7 1 1\n"
    found = parse(text)
    assert (found["op_1"]["Ir"], found["op_1"]["I1mr"], found["main"]["ILmr"]) == (15, 2, 1)
    assert Counts(instructions=7, l1_misses=2, last_misses=1).cycles == 7 + 20 + 100
    assert all("=" in words for words in CACHES)  # given, so that no machine's own are taken
