"""What is priced of a checkpoint: the weights that it holds, as the exported file has them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import zoo
from zoo.cards.parts import costs
from zoo.cost import target
from zoo.cost.deployed import integer
from zoo.cost.ethos_u.costs import priced
from zoo.cost.stored import of_recipe
from zoo.deploy import vela
from zoo.deploy.tflite_read import read_bytes
from zoo.registry.checkpoint import Checkpoint, build
from zoo.registry.recipe import Recipe

NPU = "ethos-u55-128"
NAMED = "mlperf-tiny-kws"


def written(folder: Path, recipe: Recipe, scale: float) -> Path:
    network = build(recipe)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:  # the first value sets the scale of its row
                parameter.flatten(1)[:, 1:] *= scale
    Checkpoint.write(folder, recipe, network.state_dict(), {}, tag="own", license="MIT", data={})
    return folder


@pytest.mark.parametrize("method", ["vela", "roofline"])
def test_a_checkpoint_is_priced_with_its_own_weights(tmp_path: Path, method: str) -> None:
    torch.manual_seed(0)
    recipe = zoo.find(NAMED)
    full, sparse = (
        zoo.estimate(written(tmp_path / name, recipe, scale), NPU, method=method)
        for name, scale in (("full", 1.0), ("sparse", 1e-4))
    )
    assert (full.flash_bytes or 0) > 1.5 * (sparse.flash_bytes or 0)
    assert not any("drawn at random" in note for note in (*full.notes, *sparse.notes))
    assert full.macs == sparse.macs


@pytest.mark.parametrize("method", ["vela", "roofline"])
def test_without_weights_the_estimate_says_that_they_are_drawn(method: str) -> None:
    drawn = zoo.estimate("mlperf-tiny-vww", NPU, method=method)
    assert any("drawn at random" in note for note in drawn.notes)
    elsewhere = zoo.estimate("mlperf-tiny-vww", "stm32f746-216mhz-cmsisnn")
    assert not any("drawn at random" in note for note in elsewhere.notes)  # nothing is encoded


def test_the_integers_of_an_int8_checkpoint_are_those_of_its_file(tmp_path: Path) -> None:
    ref = "mlperf-tiny-ic.cifar10-int8"
    file = zoo.export(ref, tmp_path / "a.tflite", int8=True)
    report = vela.compile_file(read_bytes(file.path), NPU)
    for item in (ref, zoo.load(ref)):
        shape = zoo.checkpoint(ref).recipe.input_shape
        found = zoo.estimate(item, NPU, method="vela", input_shape=shape)
        assert found.weight_bytes == report.encoded_bytes
        assert found.latency_ms == report.latency_ms


def test_a_card_prices_its_own_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    recipe = zoo.find(NAMED)
    sparse = Checkpoint.read(written(tmp_path / "sparse", recipe, 1e-4))
    sizes = [costs(recipe, weights)[0].flash_bytes or 0 for weights in (None, sparse)]
    assert sizes[0] > 1.5 * sizes[1]


def linear(inputs: int, outputs: int) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(inputs, outputs), torch.nn.ReLU())


# Zeros that fill up 1000 inputs are written as runs, which a part of them does not need.
@pytest.mark.parametrize(
    ("make", "shape", "within"),
    [
        (lambda: linear(1024, 520), (1, 1024), 0.01),
        (lambda: linear(64, 2000), (1, 64), 0.01),
        (lambda: linear(1000, 520), (1, 1000), 0.12),
        (lambda: torch.nn.Conv2d(1024, 1024, 7, groups=1024), (1, 1024, 9, 9), 0.01),
        (lambda: torch.nn.Conv2d(256, 256, 3, groups=4), (1, 256, 9, 9), 0.01),
        (lambda: torch.nn.ConvTranspose2d(256, 64, 2, 2), (1, 256, 9, 9), 0.01),
    ],
)
def test_a_large_layer_without_weights_is_as_long_in_code_as_if_it_were_drawn(
    make: Callable[[], torch.nn.Module], shape: tuple[int, ...], within: float
) -> None:
    with torch.device("meta"):
        outline = make().eval()
    device = target(NPU)
    part, whole = (priced(integer(outline, shape, parts=p), device) for p in (True, False))
    assert part.flash_bytes == pytest.approx(whole.flash_bytes, rel=within)
    assert len(part.ops) == len(whole.ops)
    assert sum(o.latency_ms for o in part.ops) == pytest.approx(
        sum(o.latency_ms for o in whole.ops), rel=within
    )


def test_of_a_large_network_without_weights_nothing_large_is_drawn() -> None:
    subject = of_recipe(zoo.find("convnext-b"), None)
    assert subject.drawn
    assert all(tensor.is_meta for tensor in subject.module.parameters())
    graph = subject.integer(subject.shape, parts=True)
    assert sum(values.size for values in graph.values.values()) < 8e6 < graph.weight_bytes("int8")
