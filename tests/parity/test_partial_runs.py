"""An integer network run in parts: recorded, from a step on, sums and their rescaling apart."""

import numpy as np
import pytest
import torch

from tests.small_nets import NAMES, small_net
from zoo.artifacts.resolution import resolve
from zoo.errors import MismatchError
from zoo.graph.ir import Graph, Op
from zoo.runtime import integer_products
from zoo.runtime.fixedpoint import quantize_multiplier
from zoo.runtime.integer import IntegerNetwork
from zoo.runtime.integer_products import requantizer, sums
from zoo.runtime.rescale import wrap

SUMMED = ("conv2d", "depthwise_conv2d", "fully_connected")
SHIPPED = (
    "mlperf-tiny-kws.fsdd-int8", "mlperf-tiny-ic.cifar10-int8", "micronet-kws-s.fsdd-int8",
    "ran-e-32.cifar10-int8", "ran-i-micro.cifar10-int8",
)  # fmt: skip


def graph_of(name: str) -> Graph:
    if name in NAMES:
        return small_net(name)[0]
    found = resolve(name)
    assert found.recipe is not None
    graph: Graph = found.load().graph((1, *found.recipe.input_shape[1:]))
    return graph


def inputs_of(graph: Graph, count: int = 3) -> torch.Tensor:
    dice = torch.Generator().manual_seed(5)
    return torch.randint(
        -128, 128, (count, *graph.input_shape[1:]), generator=dice, dtype=torch.int8
    )


@pytest.mark.parametrize("name", [*NAMES, *SHIPPED])
def test_from_every_step_on_the_outputs_are_those_of_the_whole(name: str) -> None:
    network = IntegerNetwork(graph_of(name))
    x = inputs_of(network.graph)
    whole = network(x)
    recorded = network.record(x)
    assert torch.equal(recorded[network.graph.outputs[0]], whole)
    steps = len(network.graph.ops)
    for step in range(0, steps + 1, 1 if name in NAMES else 4):
        held = {label: recorded[label] for label in network.live(step)}
        assert torch.equal(network.run_from(step, held)[0], whole)
    assert set(network.live(steps)) == set(network.graph.outputs)


@pytest.mark.parametrize("products", ["integer", "float"])
@pytest.mark.parametrize("name", [*NAMES, *SHIPPED])
def test_sums_rescaled_are_what_the_kernels_give(
    name: str, products: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if products == "float":
        monkeypatch.setattr(integer_products, "int8_products_are_exact", lambda: False)
    graph = graph_of(name)
    recorded = IntegerNetwork(graph).record(inputs_of(graph))
    for op in graph.ops:
        if op.kind not in SUMMED:
            continue
        made = sums(graph, op)(recorded[op.inputs[0]])
        expected = recorded[op.outputs[0]]
        channels = torch.arange(made.shape[-1]).expand(made.shape)
        stored = requantizer(graph, op)(made.long(), channels)
        assert torch.equal(stored.reshape(expected.shape), expected), op.label


def plain(x: int, factor: float, low: int, high: int, zero: int) -> int:
    """`MultiplyByQuantizedMultiplier` on a register of 32 bits, digit by digit in Python."""
    multiplier, shift = quantize_multiplier(factor)
    x = (x + 2**31) % 2**32 - 2**31
    x = ((x << max(shift, 0)) + 2**31) % 2**32 - 2**31
    product = x * multiplier
    nudge = 2**30 if product >= 0 else 1 - 2**30
    high_half = abs(product + nudge) // 2**31 * (1 if product + nudge >= 0 else -1)
    right = max(-shift, 0)
    result = high_half
    if right:
        result, rest = high_half >> right, high_half & ((1 << right) - 1)
        result += rest > (((1 << right) - 1) >> 1) + (high_half < 0)
    return min(max(result, low), high) + zero


@pytest.mark.parametrize("name", NAMES)
def test_any_register_is_rescaled_as_gemmlowp_does(name: str) -> None:
    graph = small_net(name)[0]
    dice = np.random.default_rng(0)
    for op in (o for o in graph.ops if o.kind in SUMMED):
        factors, low, high, zero = arithmetic(graph, op)
        values = [2**31, -(2**31), 2**31 - 1, 0, -1, 2**32 + 5, *(1 << bit for bit in range(34))]
        values += dice.integers(-(2**33), 2**33, 100).tolist()
        channels = dice.integers(0, len(factors), len(values))
        made = requantizer(graph, op)(torch.tensor(values), torch.from_numpy(channels))
        expected = [
            plain(value, factors[channel], low, high, zero)
            for value, channel in zip(values, channels.tolist(), strict=True)
        ]
        assert made.tolist() == expected


def arithmetic(graph: Graph, op: Op) -> tuple[list[float], int, int, int]:
    """Return the factor of each channel, limits without the zero point, and the zero point."""
    source, weight, output = (
        graph.tensors[name].quantization for name in (*op.inputs[:2], op.outputs[0])
    )
    assert source is not None
    assert weight is not None
    assert output is not None
    outputs = graph.tensors[op.outputs[0]].shape[-1]
    scales = list(weight.scales) * (outputs if len(weight.scales) == 1 else 1)
    zero = output.zero_point
    low = max(-128 - zero, 0) if op.attributes.get("activation") == "relu" else -128 - zero
    return [source.scale * scale / output.scale for scale in scales], low, 127 - zero, zero


def test_registers_wrap() -> None:
    assert wrap(torch.tensor([2**31, -(2**31) - 1, 2**32, 7])).tolist() == [
        -(2**31), 2**31 - 1, 0, 7,
    ]  # fmt: skip


def test_what_has_no_such_sums_is_refused_in_words() -> None:
    graph = small_net("residual")[0]
    (add,) = (op for op in graph.ops if op.kind == "add")
    with pytest.raises(MismatchError, match=r"add.*no accumulators"):
        sums(graph, add)
    with pytest.raises(MismatchError, match=r"add.*no accumulators"):
        requantizer(graph, add)
    with pytest.raises(MismatchError, match="running from step 3 needs the tensor"):
        IntegerNetwork(graph).run_from(3, {})
