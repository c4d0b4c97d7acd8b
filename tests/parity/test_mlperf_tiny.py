"""The pictures' networks of MLPerf Tiny: the published counts, layers and numbers."""

import csv
import tomllib
from pathlib import Path

import pytest
import torch
from torch import nn

from zoo.cost.memory import plan
from zoo.deploy.tflite_read import read_tflite
from zoo.graph.ir import Graph
from zoo.graph.kinds import MAC_KINDS
from zoo.graph.lower import lower
from zoo.models.blocks import Convolution
from zoo.models.mlperf_tiny import MobileNetV1, ResNet8
from zoo.registry import find
from zoo.registry.checkpoint import build
from zoo.runtime.floating import FloatNetwork
from zoo.tasks import image_classification

GOLDEN = tomllib.loads((Path(__file__).parents[1] / "golden/mlperf_tiny.toml").read_text())
FILES = {"mlperf-tiny-ic": "mlperf_ic_resnet8_float", "mlperf-tiny-vww": "mlperf_vww_96_float"}


def numbers(network: nn.Module) -> int:
    """Parameters, and the statistics of batch norms."""
    kept = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    return sum(value.numel() for value in kept.values())


def stir(network: nn.Module) -> None:
    """Give every number of every batch norm a value that matters."""
    generator = torch.Generator().manual_seed(3)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.weight.data.uniform_(0.5, 1.5, generator=generator)
            layer.running_var.uniform_(0.5, 1.5, generator=generator)
            for value in (layer.bias.data, layer.running_mean):
                value.normal_(0, 0.1, generator=generator)


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_the_counts_are_the_published_ones(name: str) -> None:
    recipe, golden = find(name), GOLDEN[name]
    network = build(recipe)
    assert numbers(network) == golden["deployed"]
    assert numbers(network.trainable()) == golden["published"]  # type: ignore[operator]
    graph = lower(network, recipe.input_shape)
    assert graph.macs == golden["macs"]
    assert sum(value.size for value in graph.values.values()) == golden["deployed"]
    assert plan(graph, "int8", in_place=False).arena_bytes == golden["arena"]


def take(network: nn.Module, graph: Graph, published: Graph) -> None:
    """Give a network, whose graph this is, the weights of a file of the same layers."""
    state = network.state_dict()
    layers = ([op for op in found.ops if op.kind in MAC_KINDS] for found in (graph, published))
    for mine, other in zip(*layers, strict=True):
        for place, name in zip(mine.inputs[1:], other.inputs[1:], strict=True):
            value = torch.from_numpy(published.values[name].copy())
            if value.ndim == 4:
                order = (3, 0, 1, 2) if mine.kind == "depthwise_conv2d" else (0, 3, 1, 2)
                value = value.permute(order)
            source = graph.tensors[place].source
            assert source is not None
            state[source].copy_(value)


@pytest.mark.data
@pytest.mark.parametrize("name", sorted(FILES))
def test_operators_and_numbers_are_those_of_the_published_file(
    shared_data: Path, name: str
) -> None:
    """With its weights the network gives its outputs, and needs no operator that it lacks."""
    published = read_tflite(shared_data / "tflite" / f"{FILES[name]}.tflite")
    recipe = find(name)
    network = build(recipe)
    graph = lower(network, recipe.input_shape)
    ours, theirs = (
        [
            (op.kind, op.attributes.get("activation"), op.attributes.get("stride"))
            for op in found.ops
        ]
        for found in (graph, published)
    )
    assert theirs.pop()[0] == "softmax"
    pooled = [kind for kind, *_ in ours].index("avg_pool2d")  # whose stride says nothing
    assert ours[:pooled] == theirs[:pooled]
    assert [kind for kind, *_ in ours] == [kind for kind, *_ in theirs]
    take(network, graph, published)
    x = torch.rand(1, *recipe.input_shape[1:]) * (255 if name == "mlperf-tiny-ic" else 1)
    with torch.no_grad():
        expected = FloatNetwork(published)(x.permute(0, 2, 3, 1))
        found = network(x).softmax(1)
    torch.testing.assert_close(found, expected.view_as(found), atol=1e-5, rtol=0)


@pytest.mark.data
def test_the_published_network_has_its_published_accuracy(
    shared_data: Path, tmp_path: Path
) -> None:
    """86 % on the benchmark's own set of 1,000 pictures; here these are JPEG."""
    recipe = find("mlperf-tiny-vww")
    network = build(recipe)
    graph = lower(network, recipe.input_shape)
    take(network, graph, read_tflite(shared_data / "tflite" / "mlperf_vww_96_float.tflite"))
    labels = recipe.preprocessing["labels"]
    with (shared_data / "vww" / "labels.csv").open() as file:
        for row in csv.DictReader(file):
            folder = tmp_path / labels[int(row["person"])]
            folder.mkdir(exist_ok=True)
            (folder / row["file"]).symlink_to(shared_data / "vww" / "images" / row["file"])
    result = image_classification.evaluate(network, recipe, tmp_path)
    assert result["images"] == 1000
    assert result["accuracy"] == pytest.approx(0.855, abs=0.0025)


@pytest.mark.parametrize("kind", [ResNet8, MobileNetV1])
def test_what_is_deployed_is_what_was_trained(kind: type[ResNet8 | MobileNetV1]) -> None:
    torch.manual_seed(0)
    form = kind(3).trainable()
    stir(form)
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(form.deployed()(x), form.eval()(x), atol=1e-4, rtol=1e-4)
        assert form.state_dict().keys() > form.deployed().state_dict().keys()


@pytest.mark.parametrize("kind", [ResNet8, MobileNetV1])
def test_training_goes_on_from_a_deployed_network_where_it_was(
    kind: type[ResNet8 | MobileNetV1],
) -> None:
    torch.manual_seed(0)
    network, x = kind(3).eval(), torch.rand(2, 3, 32, 32)
    form = kind(3).trainable()
    form.load_deployed(network)
    with torch.no_grad():
        torch.testing.assert_close(form.train()(x), network(x), atol=0, rtol=0)
    with pytest.raises(RuntimeError):
        form.load_deployed(nn.Conv2d(3, 3, 3))


@pytest.mark.parametrize("size", [5, 6, 7, 8])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_a_stride_pads_as_tensorflow_does(size: int, kernel: int) -> None:
    """Its documentation: the first of ceil(n / s) windows begins at -floor(total / 2)."""
    layer = Convolution(1, 1, kernel, 2, act="")
    nn.init.ones_(layer.conv.weight)
    row = torch.arange(1.0, size + 1)
    count = -(-size // 2)
    before = max((count - 1) * 2 + kernel - size, 0) // 2
    sums = [
        sum(float(row[i]) for i in range(2 * n - before, 2 * n - before + kernel) if 0 <= i < size)
        for n in range(count)
    ]
    with torch.no_grad():
        found = layer(row.view(1, 1, 1, size).expand(1, 1, size, size))
    middle = found[0, 0, count // 2]
    rows = sum(
        0 <= i < size for i in range(count // 2 * 2 - before, count // 2 * 2 - before + kernel)
    )
    torch.testing.assert_close(middle, rows * torch.tensor(sums))


def test_too_few_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="num_classes is 1; expected at least 2"):
        ResNet8(1)
