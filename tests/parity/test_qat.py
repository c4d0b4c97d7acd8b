"""Quantization-aware training against the device: what is trained is what is deployed."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from zoo.deploy.tflite_write import serialize_tflite
from zoo.errors import MismatchError
from zoo.graph.ir import Quantization
from zoo.graph.lower import lower
from zoo.graph.rewrite import on_npu
from zoo.models.sesr import SESR
from zoo.quantization.int8.fake import double_rounding, fake_quantize
from zoo.quantization.int8.network import QuantizedNetwork, by_tensor, read_quantization
from zoo.quantization.int8.qat import QatNetwork, training_form
from zoo.quantization.int8.scales import groups
from zoo.runtime.values import quantized

Judges = dict[str, Any]  # see conftest.py


class Branches(nn.Module):
    """Strides, an odd padding, a shortcut, pools, a joint, a scaled copy, a flattened image."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.shortcut = nn.Conv2d(8, 8, 1, stride=2)
        self.pool, self.mean = nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2)
        self.last = nn.Linear(8 * 2 * 2 * 2, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = self.pool(torch.relu(self.second(x) + self.shortcut(x)))
        return self.last(self.mean(torch.cat([x, x * 0.5], 1)).flatten(1))  # type: ignore[no-any-return]


def batch_norms() -> nn.Module:
    """Depthwise and full convolutions, with and without a bias, and a pool: each with its norm."""
    layers: list[nn.Module] = []
    for inputs, outputs, group, bias in ((1, 6, 1, True), (6, 6, 6, False), (6, 10, 1, False)):
        layers.append(nn.Conv2d(inputs, outputs, 3, padding=1, groups=group, bias=bias))
        layers += [nn.BatchNorm2d(outputs), nn.ReLU6()]
    layers += [nn.AvgPool2d(2), nn.BatchNorm2d(10), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 4))


def make(name: str) -> tuple[nn.Module, Tensor]:
    """Return a network in eval mode, with parameters that matter, and a batch for it."""
    torch.manual_seed(0)
    if name.startswith("sesr"):
        module: nn.Module = SESR(16, 2, 2, name.removeprefix("sesr-"))
        x = torch.rand(6, 1, 12, 16)
    elif name == "branches":
        module, x = Branches(), torch.rand(6, 3, 16, 16)
    else:
        module, x = batch_norms(), torch.randn(6, 1, 10, 12)
    for parameter in module.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.1, 0.5)
    for _ in range(3):  # statistics for the batch norms
        module(x)
    return module.eval(), x


NETWORKS = ("sesr-prelu", "sesr-relu", "branches", "batch-norms")


@pytest.fixture(scope="module")
def trained() -> Callable[[str, str], tuple[QatNetwork, Tensor]]:
    """A form after a few steps that move its weights and its ranges."""
    known: dict[tuple[str, str], tuple[QatNetwork, Tensor]] = {}

    def get(name: str, scheme: str) -> tuple[QatNetwork, Tensor]:
        if (name, scheme) not in known:
            module, x = make(name)
            form = training_form(module, [x[:3], x[3:]], scheme)
            optimizer = torch.optim.AdamW(form.parameters(), lr=2e-3)
            target = torch.rand_like(form(x)) if x.shape[2] == 12 else torch.randn_like(form(x))
            for _ in range(4):
                (form(x) - target).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
            known[name, scheme] = form, x
        return known[name, scheme]

    return get


# Bits of weights and kinds of networks do not meet: each kind with one scheme, and with both in
# `make test-slow`.
PAIRS = [(name, scheme) for name in NETWORKS for scheme in ("int8", "int8-w4")]
QUICK_PAIRS = (
    ("sesr-prelu", "int8"),
    ("sesr-relu", "int8-w4"),
    ("branches", "int8"),
    ("batch-norms", "int8-w4"),
)


@pytest.fixture(
    params=[
        pytest.param(pair, id="-".join(pair), marks=[] if pair in QUICK_PAIRS else pytest.mark.slow)
        for pair in PAIRS
    ]
)
def pair(
    request: pytest.FixtureRequest, trained: Callable[[str, str], tuple[QatNetwork, Tensor]]
) -> tuple[QatNetwork, Tensor]:
    return trained(*request.param)


def test_the_forward_pass_is_the_devices(pair: tuple[QatNetwork, Tensor]) -> None:
    form, x = pair
    deployed = form.deployed()
    with torch.no_grad():
        y, exact = form(x), deployed(x)
    (output,) = deployed.graph((1, *x.shape[1:])).outputs
    meaning = deployed.graph((1, *x.shape[1:])).tensors[output].quantization
    assert meaning is not None
    steps = (y - exact).abs() / meaning.scale
    # Where float32 carries a sum across the middle between two steps, one step follows, and the
    # layers after it may make two of it.
    assert steps.max() < 2.01
    assert (steps > 0.01).float().mean() <= 0.02


def test_the_weights_are_written_back_bit_for_bit(pair: tuple[QatNetwork, Tensor]) -> None:
    form, x = pair
    deployed = form.deployed()
    again = lower(deployed.network, (1, *x.shape[1:]))
    moved = 0
    for name, value in again.values.items():
        np.testing.assert_array_equal(value, form._value(name).detach().numpy())
        moved += name in form._places
    assert moved == len(form.weights) > 4


def test_the_exported_file_computes_the_same_on_real_runtimes(
    pair: tuple[QatNetwork, Tensor], judges: Judges
) -> None:
    form, x = pair
    deployed = form.deployed()
    graph = deployed.graph((1, *x.shape[1:]))
    given = quantized(graph, x.permute(0, 2, 3, 1))
    meaning = graph.tensors[graph.outputs[0]].quantization
    assert meaning is not None
    expected = deployed(x)
    # LiteRT multiplies the scales of a fully connected layer in float32, TFLite Micro in float64.
    last = "litert-reference" if graph.ops[-1].kind == "fully_connected" else ""
    for content in (serialize_tflite(graph), serialize_tflite(on_npu(graph))):
        for name, judge in judges.items():
            found = torch.from_numpy(judge(content)(given))
            real = (found.float() - meaning.zero_point) * meaning.scale
            real = real.permute(0, 3, 1, 2) if real.ndim == 4 else real
            steps = (real - expected).abs().max() / meaning.scale
            assert steps <= (1.01 if name == last else 0)


def test_four_bits_are_minus_seven_to_seven(
    trained: Callable[[str, str], tuple[QatNetwork, Tensor]],
) -> None:
    form, x = trained("batch-norms", "int8-w4")
    graph = form.deployed().graph((1, *x.shape[1:]))
    weights = [n for n, t in graph.tensors.items() if t.kind == "weight"]
    assert len(weights) == 5
    for name in weights:
        assert graph.values[name].dtype == np.int8
        assert np.abs(graph.values[name]).max() == 7
    biases = [graph.values[n] for n, t in graph.tensors.items() if t.kind == "bias"]
    assert max(np.abs(bias).max() for bias in biases) > 7


def test_folded_batch_norms_do_nothing_and_keep_the_function() -> None:
    module, x = make("batch-norms")
    before = copy.deepcopy(module.state_dict())
    form = training_form(module, [x], "int8")
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])  # it is left alone
    network = form.deployed().network
    with torch.no_grad():
        torch.testing.assert_close(network(x), module(x), atol=1e-5, rtol=1e-5)
    norm = network[1]
    assert torch.equal(norm.weight, torch.ones(6))
    assert torch.equal(norm.running_mean, torch.zeros(6))
    assert not any("running" in name for name, _ in form.named_parameters())


SHARED = nn.Conv2d(3, 3, 1)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            [SHARED, nn.BatchNorm2d(3), nn.ReLU(), SHARED, nn.BatchNorm2d(3)],
            "give each use a layer",
        ),
        ([nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3, affine=False)], "needs affine=True"),
    ],
    ids=["shared", "no-scale"],
)
def test_norms_that_weights_cannot_keep_are_refused(module: list[nn.Module], message: str) -> None:
    network = nn.Sequential(*module)
    network(torch.rand(4, 3, 8, 8))
    with pytest.raises(MismatchError, match=message):
        training_form(network.eval(), [torch.rand(2, 3, 8, 8)], "int8")


def test_what_shares_a_quantization_shares_a_range() -> None:
    module, x = make("branches")
    form = training_form(module, [x], "int8")
    with torch.no_grad():
        form.gains.copy_(torch.linspace(-0.02, 0.02, form.gains.numel()).view_as(form.gains))
    deployed = form.deployed()
    graph = deployed.graph((1, *x.shape[1:]))
    owner = groups(lower(module, (1, *x.shape[1:])))
    pooled = next(op for op in graph.ops if op.kind == "max_pool2d")
    joined = next(op for op in graph.ops if op.kind == "concat")
    assert owner[pooled.inputs[0]] == owner[pooled.outputs[0]] == owner[joined.outputs[0]]
    for name, group in owner.items():
        assert graph.tensors[name].quantization == graph.tensors[group].quantization
    assert len(deployed.ranges) == len(set(owner.values())) == len(form.gains) < len(owner)
    assert len({q.scale for q in _meanings(graph)}) > 5


def _meanings(graph: Any) -> Iterator[Quantization]:
    for tensor in graph.tensors.values():
        if not tensor.is_parameter:
            assert tensor.quantization is not None
            yield tensor.quantization


@given(
    st.lists(st.floats(-3, 3), min_size=1, max_size=20),
    st.integers(-128, 127),
    st.floats(0.004, 0.02),
)
def test_range_gradient_is_the_finite_difference(
    values: list[float], zero_point: int, scale: float
) -> None:
    """Of the function whose rounding errors, in steps, are held constant."""
    low, high = (-128 - zero_point) * scale, (127 - zero_point) * scale
    x = torch.tensor(values, dtype=torch.float64)
    weights = torch.linspace(1, 2, len(values), dtype=torch.float64)
    cut = ((x - low).abs() < 0.6 * scale) | ((x - high).abs() < 0.6 * scale)
    x = torch.where(cut, x.new_tensor(low + 100.3 * scale), x)  # the edges have no derivative
    limits = torch.tensor([low, high], dtype=torch.float64, requires_grad=True)
    x = x.detach().requires_grad_()
    meaning = Quantization(scales=(scale,), zero_points=(zero_point,))
    (fake_quantize(x, limits, meaning) * weights).sum().backward()
    errors = ((x / scale).round() - x / scale).detach()

    def frozen(lower: float, upper: float) -> Tensor:
        y = (x + errors * (upper - lower) / 255).clamp(lower, upper)
        return (y * weights).sum().detach()

    delta = 1e-5
    below = (frozen(low + delta, high) - frozen(low - delta, high)) / (2 * delta)
    above = (frozen(low, high + delta) - frozen(low, high - delta)) / (2 * delta)
    assert limits.grad is not None
    torch.testing.assert_close(limits.grad, torch.stack((below, above)), atol=1e-6, rtol=1e-5)
    inside = (x.detach() > low) & (x.detach() < high)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.where(inside, weights, 0.0))


@given(st.floats(1e-6, 4), st.integers(-(2**20), 2**20))
def test_the_nudge_is_what_rounding_twice_adds(factor: float, x: int) -> None:
    from zoo.runtime import fixedpoint

    multiplier, shift = fixedpoint.quantize_multiplier(factor)
    real = x * multiplier * 2.0 ** (shift - 31)
    device = fixedpoint.multiply(np.int64(x), np.int64(multiplier), np.int64(shift))
    nudge = float(double_rounding(torch.tensor([factor], dtype=torch.float64)))
    value = abs(real) + nudge
    if abs(value % 1 - 0.5) > 1e-9:  # elsewhere, halves
        assert round(value) * (1 if x >= 0 else -1) == device


def test_ranges_that_do_not_fit_are_named() -> None:
    module, x = make("sesr-relu")
    good = training_form(module, [x], "int8").deployed()
    graph = lower(module, (1, 1, 12, 16))
    facts = good.quantization()
    assert read_quantization(module, facts).ranges == good.ranges
    assert set(by_tensor(graph, good.ranges)) == {
        n for n, t in graph.tensors.items() if not t.is_parameter
    }
    missing = {k: v for k, v in good.ranges.items() if k != "body.1:conv2d"}
    with pytest.raises(MismatchError, match=r"missing 'body\.1:conv2d'"):
        QuantizedNetwork(module, missing, "int8")(x)
    with pytest.raises(MismatchError, match=r"unknown 'body\.7:conv2d'"):
        QuantizedNetwork(module, {**good.ranges, "body.7:conv2d": (0.0, 1.0)}, "int8")(x)
    wrong: tuple[tuple[Any, str], ...] = (
        ([0.1, 1.0], "low < high"),
        ([0.0, 0.0], "low < high"),
        ([0.0, float("nan")], "finite"),
        ([0.0], "low, high"),
        (["0", "1"], "low, high"),
        (None, "low, high"),
    )
    for value, message in wrong:
        bad = {"scheme": "int8", "ranges": {**facts["ranges"], "input": value}}
        with pytest.raises(MismatchError, match=message):
            read_quantization(module, bad)
    for broken in (None, [], {"scheme": "int8"}, {**facts, "more": 1}):
        with pytest.raises(MismatchError, match="scheme and ranges"):
            read_quantization(module, broken)
    with pytest.raises(MismatchError, match="scheme is 'int3'"):
        read_quantization(module, {**facts, "scheme": "int3"})


def test_a_network_without_a_lowering_is_refused_by_operator() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Mish()).eval()
    with pytest.raises(MismatchError, match=r"aten\.mish at 1 has no mapping"):
        training_form(module, [torch.rand(2, 1, 8, 8)], "int8")


@pytest.mark.parametrize("layer", [nn.Conv1d(1, 2, 3), nn.ConvTranspose1d(1, 2, 4, 2)])
def test_weights_that_are_derived_are_refused_for_what_they_are(layer: nn.Module) -> None:
    module = nn.Sequential(layer, nn.ReLU()).eval()
    with pytest.raises(MismatchError, match=r"is made of parameters before it is deployed"):
        training_form(module, [torch.rand(2, 1, 16)], "int8")


def test_an_integer_network_takes_any_size_and_keeps_the_networks_facts() -> None:
    module, x = make("sesr-prelu")
    deployed = training_form(module, [x], "int8").deployed()
    assert (deployed.scale, deployed.halo) == (2, 6)
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = deployed.nothing_like_it
    whole = deployed(torch.cat([x, x], 3))
    assert whole.shape == (6, 1, 24, 64)
    part = deployed(x)
    assert torch.equal(whole[..., :24, :20], part[..., :24, :20])  # what no border touches
    again = copy.deepcopy(deployed)
    assert torch.equal(again(x), part)


class _Normed(nn.Module):
    """A norm over channels of what a convolution without a bias makes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 1)
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        y = y - y.mean(1, keepdim=True)
        return y * torch.rsqrt((y * y).mean(1, keepdim=True) + 1e-6)


def test_a_variance_that_rounds_to_zero_has_a_gradient() -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 1, 8, 8)
    x[..., :4] = 0  # there all channels are equal
    form = training_form(_Normed().eval(), [x], "int8")
    outputs = form(x)
    outputs.square().mean().backward()
    assert outputs.isfinite().all()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in form.parameters())
    assert form.deployed()(x).isfinite().all()
