"""FSRCNN: published counts, and the two forms of its last layer."""

import tomllib
from pathlib import Path

import pytest
import torch

import zoo
from zoo.graph.lower import lower
from zoo.graph.trace import trace
from zoo.models.fsrcnn import FSRCNN, WINDOW
from zoo.registry.checkpoint import build
from zoo.runtime.floating import FloatNetwork

GOLDEN = tomllib.loads((Path(__file__).parents[1] / "golden/fsrcnn.toml").read_text())


def small(scale: int) -> FSRCNN:
    torch.manual_seed(scale)
    return FSRCNN(scale, channels=6, shrunk=3, mappings=1).eval()


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_it_has_the_papers_weights_and_macs(name: str) -> None:
    recipe, golden = zoo.find(name), GOLDEN[name]
    with torch.device("meta"):
        network = build(recipe)
    graph = trace(network, recipe.input_shape)
    assert graph.parameters["weights"] == golden["weights"]
    assert graph.parameters["biases"] == 56 + 5 * 12 + 56 + 1
    assert graph.parameters["slopes"] == 56 + 5 * 12 + 56
    assert graph.macs / 1e9 == pytest.approx(golden["gmacs"], abs=0.00501)
    pixels = recipe.input_shape[2] * recipe.input_shape[3]
    last = 56 * WINDOW**2
    theirs = (golden["weights"] - last) * pixels + last * pixels * recipe.args["scale"] ** 2
    assert theirs / 1e9 == pytest.approx(golden["gmacs_at_output"], abs=0.00501)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_all_three_forms_are_the_same_function(scale: int) -> None:
    network, y = small(scale), torch.rand(2, 1, 9, 13)
    with torch.no_grad():
        expected = network(y)
        assert expected.shape == (2, 1, 9 * scale, 13 * scale)
        assert expected.std() > 0.01
        sub_pixel = network.sub_pixel()
        torch.testing.assert_close(sub_pixel(y), expected)
        torch.testing.assert_close(network.trainable()(y).clamp(0, 1), expected)
    assert sub_pixel.sub_pixel() is sub_pixel
    assert sub_pixel.halo == network.halo


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_its_halo_is_how_far_it_sees(scale: int) -> None:
    network = small(scale).double()
    with torch.no_grad():
        for act in network.act:
            act.weight.fill_(1)  # type: ignore[union-attr, operator]
    y = torch.full((1, 1, 31, 31), 0.5, dtype=torch.float64, requires_grad=True)
    middle = network(y)[0, 0, 15 * scale : 16 * scale, 15 * scale : 16 * scale].sum()
    (slope,) = torch.autograd.grad(middle, y)
    seen = slope[0, 0].abs().amax(0).nonzero().flatten()
    assert max(15 - int(seen.min()), int(seen.max()) - 15) == network.halo


def test_training_goes_on_from_a_deployed_network() -> None:
    network, y = small(2), torch.rand(1, 1, 8, 8)
    form = FSRCNN(2, channels=6, shrunk=3, mappings=1).trainable()
    form.load_deployed(network)
    with torch.no_grad():
        torch.testing.assert_close(form.deployed()(y), network(y))
    with pytest.raises(ValueError, match="widths"):
        form.load_deployed(FSRCNN(2))
    with pytest.raises(ValueError, match="transposed form"):
        network.sub_pixel().trainable()
    with pytest.raises(ValueError, match="sub-pixel"):
        FSRCNN(2, upsampling="bicubic")  # type: ignore[arg-type]


@pytest.mark.parametrize("sub_pixel", [False, True])
def test_both_forms_lower_to_what_a_device_runs(sub_pixel: bool) -> None:
    network = small(2)
    network = network.sub_pixel() if sub_pixel else network
    graph = lower(network, (1, 1, 12, 10))
    kinds = {op.kind for op in graph.ops}
    assert ("depth_to_space" if sub_pixel else "transpose_conv2d") in kinds
    y = torch.rand(1, 1, 12, 10)
    with torch.no_grad():
        expected = network(y)
    made = FloatNetwork(graph)(y.permute(0, 2, 3, 1))
    assert isinstance(made, torch.Tensor)
    torch.testing.assert_close(made.permute(0, 3, 1, 2), expected, atol=1e-5, rtol=1e-5)
