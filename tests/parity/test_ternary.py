"""Ternary networks: the papers' counts, the tree against a loop over its nodes, int8 files."""

import copy
import itertools
import math
import tomllib
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.runtimes import litert
from zoo.deploy.tflite_write import serialize_tflite
from zoo.errors import MismatchError
from zoo.graph.lower import lower
from zoo.models.blocks.ternary import TernaryConv2d, TernaryConvolution, stored_bytes
from zoo.models.ternary import HybridMobileNetV1, StTree, Tree
from zoo.quantization.int8.calibration import Options
from zoo.quantization.int8.network import QuantizedNetwork, by_label
from zoo.quantization.int8.post_training import calibrate, quantize
from zoo.registry import find
from zoo.registry.checkpoint import build
from zoo.runtime.integer import IntegerNetwork
from zoo.runtime.values import channels_last, quantized

GOLDEN = tomllib.loads((Path(__file__).parents[1] / "golden/ternary.toml").read_text())
WORDS = (1, 1, 49, 10)
MAPS = 2 * 125 * 64  # bytes of the two largest maps


def deployed(network: StTree | HybridMobileNetV1, shape: tuple[int, ...]) -> nn.Module:
    """The deployed form, with norms that have seen something, and routing that depends on it."""
    torch.manual_seed(0)
    form = network.trainable().train()
    form.advance(0.9)
    with torch.no_grad():
        for _ in range(30):
            form(torch.randn(16, *shape[1:]))
    return form.deployed()


@pytest.fixture(scope="module")
def tree() -> StTree:
    network = build(find("st-tree-kws"))
    assert isinstance(network, StTree)
    made = deployed(network, WORDS)
    assert isinstance(made, StTree)
    return made


# --- counts ---------------------------------------------------------------------------------------


def test_ds_cnn_s_has_the_published_size_and_footprint():
    golden, network = GOLDEN["ds-cnn-s"], build(find("ds-cnn-s"))
    numbers = sum(value.numel() for value in network.parameters())
    assert numbers == golden["numbers"]
    assert round(numbers / 1024, 2) == golden["kilobytes"]
    assert round((numbers + MAPS) / 1024, 2) == golden["footprint"]
    assert lower(network, WORDS).macs == golden["macs"]


def test_the_papers_claims_on_its_tree_follow_from_its_counts():
    golden, base = GOLDEN["st-tree-kws"], GOLDEN["ds-cnn-s"]
    assert round(golden["kilobytes"] + MAPS / 1024, 2) == pytest.approx(golden["footprint"], 0.001)
    less = 1 - golden["footprint"] / base["footprint"]
    assert round(100 * less, 1) == golden["footprint_smaller"]
    smaller = 1 - golden["kilobytes"] / base["kilobytes"]
    assert round(100 * smaller, 1) == golden["smaller"]
    fewer = 1 - golden["operations"] / 2.70  # M, as the paper has its DS-CNN
    assert round(100 * fewer, 1) == golden["operations_fewer"]


def test_the_tree_has_the_recounted_operations_and_is_no_larger(tree: StTree):
    golden = GOLDEN["st-tree-kws"]
    head = sum(value.numel() for value in tree.tree.parameters())
    assert head == golden["tree"]
    layers = [layer for layer in tree.layers.modules() if isinstance(layer, TernaryConv2d)]
    additions = sum(125 * layer.weight.numel() for layer in layers)
    assert additions / 1e6 == pytest.approx(golden["additions"], rel=0.01)
    scaled = [bank.first.layer for bank in tree.layers[::2]]  # type: ignore[union-attr]
    scaled += [part.layer for part in tree.layers if isinstance(part, TernaryConvolution)]
    assert sum(125 * len(layer.weight) for layer in scaled) / 1e6 == golden["multiplications"]  # type: ignore[arg-type]
    assert stored_bytes(tree) < stored_bytes(tree, per_byte=4) < golden["kilobytes"] * 1024


def test_mobilenet_has_the_recounted_size_and_work():
    golden, network = GOLDEN["mobilenet-v1-050"], build(find("mobilenet-v1-050"))
    numbers = sum(value.numel() for value in network.parameters())
    assert numbers == golden["numbers"]
    assert round(2 * numbers / 1024, 2) == golden["kilobytes"]
    assert lower(network, (1, 3, 224, 224)).macs == golden["macs"]


def formula(widths: list[int], classes: int, alpha: float, bank: float, per_byte: int) -> int:
    """The bytes of a hybrid MobileNet, layer by layer."""
    halves, total = 27 * widths[0] + widths[0], 0
    for inputs, outputs in itertools.pairwise(widths):
        dense = round(alpha * outputs)
        rest, products = outputs - dense, round(bank * outputs)
        halves += 9 * inputs + inputs + dense * inputs + dense
        halves += products + 2 * rest
        total += math.ceil(products * inputs / per_byte) + math.ceil(rest * products / per_byte)
    total += math.ceil(classes * widths[-1] / per_byte)
    return total + 2 * (halves + 2 * classes)


HALF = [16, 32, 64, 64, 128, 128, 256, 256, 256, 256, 256, 256, 512, 512]


def test_the_hybrid_is_as_much_smaller_as_published():
    network = build(find("mobilenet-v1-050-hybrid"))
    stored = stored_bytes(network, per_byte=4)
    assert stored == formula(HALF, 1000, 0.5, 1.0, 4)
    smaller = 100 * (1 - stored / (2 * GOLDEN["mobilenet-v1-050"]["numbers"]))
    assert smaller == pytest.approx(GOLDEN["mobilenet-v1-050-hybrid"]["smaller"], abs=0.1)


@pytest.mark.parametrize(("alpha", "bank"), [(0.5, 1.0), (0.25, 1.0), (0.375, 0.5)])
def test_the_bytes_in_a_file_are_those_of_the_formula(alpha: float, bank: float):
    network = deployed(
        HybridMobileNetV1(0.25, 10, stride=1, alpha=alpha, bank=bank), (1, 3, 32, 32)
    )
    values = network.state_dict().values()
    widths = [width // 2 for width in HALF]
    assert sum(v.numel() * v.element_size() for v in values) == formula(widths, 10, alpha, bank, 5)


# --- the tree -------------------------------------------------------------------------------------


def looped(tree: Tree, z: Tensor) -> Tensor:
    """The logits of features `(N, features)`, node by node, as the paper has them."""
    theta = tree.theta.weight.flatten(1)
    theta = theta / theta.abs().amax(1, keepdim=True)
    weight, gate = (layer.weight.flatten(1) for layer in (tree.weight, tree.gate))
    inner, classes = len(theta), tree.classes
    rows = []
    for sample in z:
        shares, logits = {0: 1.0}, torch.zeros(classes)
        for node in range(2 * inner + 1):
            part = slice(node * classes, (node + 1) * classes)
            scores = (weight[part] @ sample) * torch.tanh(gate[part] @ sample)
            logits = logits + shares[node] * scores
            if node < inner:
                margin = theta[node] @ sample
                if tree.soft:
                    turn = float(torch.tanh(tree.sharpness * margin))
                else:
                    turn = 1.0 if margin > 0 else -1.0
                shares[2 * node + 1] = shares[node] * (1 + turn) / 2
                shares[2 * node + 2] = shares[node] * (1 - turn) / 2
        rows.append(logits)
    return torch.stack(rows)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("soft", [True, False])
def test_all_nodes_at_once_are_the_loop_over_them(depth: int, soft: bool):
    torch.manual_seed(depth)
    tree, z = Tree(16, 5, depth, soft=True), torch.randn(40, 16)
    if not soft:
        tree.harden()
    with torch.no_grad():
        found, expected = tree(z[..., None, None]), looped(tree, z)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_deployed_each_sample_takes_one_path(tree: StTree):
    torch.manual_seed(0)
    z = torch.randn(200, 64, 1, 1)
    with torch.no_grad():
        turns = torch.tanh(tree.tree.theta(z))
        shares = nn.functional.conv2d(turns, tree.tree.route, tree.tree.route_bias).relu()
    shares = shares.flatten(1)[:, :: tree.tree.classes]
    assert ((shares == 0) | (shares == 1)).float().mean() > 0.99
    assert shares.sum(1).median() == 3  # a node on each level


# --- int8 -----------------------------------------------------------------------------------------


def test_an_int8_file_of_the_tree_is_what_litert_computes(tree: StTree):
    x = torch.randn(8, *WORDS[1:])
    graph = quantize(tree, [x], WORDS)
    steps = quantized(graph, channels_last(x))
    expected = litert(serialize_tflite(graph))(steps)[0]
    found = IntegerNetwork(graph)(steps)
    assert isinstance(found, Tensor)
    assert (torch.from_numpy(expected).int() - found.int()).abs().max() <= 1


def test_int8_keeps_every_digit(tree: StTree):
    graph = quantize(tree, [torch.randn(8, *WORDS[1:])], WORDS)
    weights = [v for n, v in graph.values.items() if graph.tensors[n].kind == "weight"]
    ternary = [v for v in weights if set(map(int, set(v.flatten()))) <= {-127, 0, 127}]
    assert len(ternary) >= len(tree.ternary_layers())


def test_a_filter_without_weights_is_exported_too(tree: StTree):
    network = copy.deepcopy(tree)
    with torch.no_grad():
        for layer in network.ternary_layers():
            layer.weight[0] = 0
    x = torch.randn(4, *WORDS[1:])
    graph = quantize(network, [x], WORDS)
    steps = quantized(graph, channels_last(x))
    expected = torch.from_numpy(litert(serialize_tflite(graph))(steps)[0]).int()
    found = IntegerNetwork(graph)(steps)
    assert isinstance(found, Tensor)
    assert (expected - found.int()).abs().max() <= 1


def test_ranges_of_another_bank_are_one_clear_line(tree: StTree):
    x = torch.randn(4, *WORDS[1:])
    graph = lower(tree, WORDS)
    ranges = by_label(graph, calibrate(tree, [x], Options()))
    direct = HybridMobileNetV1(0.25, 12, alpha=0.0, bank=0.0).eval()
    with pytest.raises(MismatchError, match="ranges of the activations do not fit") as error:
        QuantizedNetwork(direct, ranges, "int8").graph((1, 3, 32, 32))
    assert "\n" not in str(error.value)
