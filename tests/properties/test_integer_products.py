"""Exact integer products: every small shape, stride and alignment against a plain loop."""

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from zoo.graph.ir import Graph, Op, Quantization
from zoo.graph.ir import Tensor as Node
from zoo.runtime import fixedpoint
from zoo.runtime.integer import IntegerNetwork
from zoo.runtime.integer_products import int8_product, int8_products_are_exact

SIZES = range(1, 10)
MEMORY = torch.randint(-128, 128, (2**12,), generator=torch.Generator().manual_seed(0)).to(
    torch.int8
)


def views(rows: int, columns: int, shift: int) -> Iterator[Tensor]:
    """Matrices of one shape that lie differently in memory full of other numbers."""
    strides = {
        (columns, 1),
        (1, rows),  # transposed
        (1, 1) if 1 in (rows, columns) else (columns, 1),  # accepted by `contiguous`
        (columns + 3, 1),  # a slice of a wider one
        (2 * columns, 2),
        (0, 1),  # a row that is repeated
    }
    for place, stride in enumerate(sorted(strides)):
        yield MEMORY.as_strided((rows, columns), stride, shift + place)


def loop(a: Tensor, b: Tensor) -> NDArray[np.int64]:
    """NumPy multiplies integers in a plain loop."""
    result: NDArray[np.int64] = a.numpy().astype(np.int64) @ b.numpy().astype(np.int64)
    return result


@pytest.mark.skipif(not int8_products_are_exact(), reason="this processor saturates or is slow")
@pytest.mark.parametrize("rows", SIZES)
def test_products_of_all_small_shapes(rows: int) -> None:
    for depth, columns in itertools.product(SIZES, SIZES):
        lefts = views(rows, depth, rows + columns)
        for a, b in itertools.product(lefts, views(depth, columns, 100 + depth)):
            product = int8_product(a, b)
            assert product.dtype is torch.int32
            where = f"{tuple(a.shape)} {a.stride()} times {tuple(b.shape)} {b.stride()}"
            assert np.array_equal(product.numpy(), loop(a, b)), where


def layer(kind: str, inputs: int, outputs: int, stride: int = 1) -> Graph:
    """A layer of its own: fully connected, or a 1x1 convolution on 5 x 4 pixels."""
    convolution = kind == "conv2d"
    shapes: dict[str, tuple[int, ...]] = {
        "x": (1, inputs),
        "w": (outputs, inputs),
        "y": (1, outputs),
    }
    if convolution:
        size = (-(-5 // stride), -(-4 // stride))
        shapes = {"x": (1, 5, 4, inputs), "w": (outputs, 1, 1, inputs), "y": (1, *size, outputs)}
    attributes = {
        "kernel": (1, 1),
        "stride": (stride, stride),
        "dilation": (1, 1),
        "padding": (0, 0, 0, 0),
        "groups": 1,
    }
    meanings = {"x": (0.02, -3), "w": (0.01, 0), "y": (0.03, 5)}
    random = np.random.default_rng(inputs * 10 + outputs)
    tensors = {
        name: Node(
            name=name,
            shape=shapes[name],
            dtype="int8",
            kind="weight" if name == "w" else "activation",
            quantization=Quantization(scales=(scale,), zero_points=(zero,)),
        )
        for name, (scale, zero) in meanings.items()
    }
    tensors["b"] = Node(name="b", shape=(outputs,), dtype="int32", kind="bias")
    op = Op(
        name="y",
        kind=kind,
        inputs=("x", "w", "b"),
        outputs=("y",),
        attributes=attributes if convolution else {},
        macs=0,
        module="y",
    )
    return Graph(
        ops=(op,),
        tensors=tensors,
        inputs=("x",),
        outputs=("y",),
        layout="channels_last",
        values={
            "w": random.integers(-127, 128, shapes["w"]).astype(np.int8),
            "b": random.integers(-999, 999, outputs).astype(np.int32),
        },
    )


def by_hand(graph: Graph, x: Tensor) -> NDArray[np.int64]:
    """What the layer gives for stored inputs (..., inputs), in int64."""
    weight = graph.values["w"].reshape(-1, x.shape[-1]).astype(np.int64)
    total = (x.numpy().astype(np.int64) + 3) @ weight.T + graph.values["b"]
    pair = fixedpoint.quantize_multiplier(0.02 * 0.01 / 0.03)
    scaled = fixedpoint.multiply(total, np.int64(pair[0]), np.int64(pair[1]))
    return np.clip(scaled + 5, -128, 127)


@pytest.mark.parametrize("inputs", SIZES)
def test_small_layers_by_hand(inputs: int) -> None:
    for outputs, batch in itertools.product(SIZES, (1, 2, 9)):
        graph = layer("fully_connected", inputs, outputs)
        network = IntegerNetwork(graph)
        for x in views(batch, inputs, 7 * batch + outputs):
            np.testing.assert_array_equal(network(x).numpy(), by_hand(graph, x))


@pytest.mark.parametrize("inputs", SIZES)
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_small_1x1_convolutions_by_hand(inputs: int, stride: int) -> None:
    for outputs, batch in itertools.product(SIZES, (1, 3)):
        graph = layer("conv2d", inputs, outputs, stride)
        shape = (batch, 5, 4, inputs)
        count = batch * 20 * inputs
        rows = MEMORY[outputs : outputs + count].view(shape)
        planes = MEMORY[3 : 3 + count].view(batch, inputs, 5, 4).permute(0, 2, 3, 1)
        for x in (rows, planes, MEMORY[: 2 * count : 2].view(shape)):
            given = IntegerNetwork(graph)(x).numpy()
            wanted = by_hand(graph, x[:, ::stride, ::stride])
            np.testing.assert_array_equal(given, wanted)


Multiply = Callable[[Tensor, Tensor], Tensor]


def _saturating(offset: int) -> Multiply:
    """As processors without dot products, which add pairs in 16 bits; x86 first adds 128 to a."""

    def multiply(a: Tensor, b: Tensor) -> Tensor:
        if len(b) > 2**7:  # small ones are enough here
            return torch.mm(a.int(), b.int())
        products = (a.int() + offset)[:, :, None] * b.int()
        pairs = F.pad(products, (0, 0, 0, a.shape[1] % 2)).unflatten(1, (-1, 2)).sum(2)
        total = pairs.clamp(-(2**15), 2**15 - 1).sum(1) - offset * b.int().sum(0)
        return total.int()

    return multiply


def _off_where(wrong: Callable[[Tensor, Tensor], bool]) -> Multiply:
    right = torch._int_mm

    def multiply(a: Tensor, b: Tensor) -> Tensor:
        return right(a, b) + int(wrong(a, b))

    return multiply


def _refuses(a: Tensor, b: Tensor) -> Tensor:
    raise RuntimeError("not on this machine")


BROKEN: dict[str, Multiply] = {
    "saturates": _saturating(0),
    "saturates on x86": _saturating(128),
    "refuses": _refuses,
    "one row": _off_where(lambda a, b: len(a) == 1 and a.shape[1] > 1),
    "one input": _off_where(lambda a, b: a.shape[1] == 1),
    "one input and output": _off_where(lambda a, b: b.shape == (1, 1)),
    "one output": _off_where(lambda a, b: b.shape[1] == 1 and len(b) > 1),
    "left not aligned": _off_where(lambda a, b: a.data_ptr() % 4 != 0),
    "right not aligned": _off_where(lambda a, b: b.data_ptr() % 4 != 0),
    "many inputs": _off_where(lambda a, b: len(b) > 2**10),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_machine_that_multiplies_wrongly_is_found_out(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "_int_mm", BROKEN[name])
    assert not int8_products_are_exact.__wrapped__()


def test_operands_reach_the_library_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of sizes of 1, too: it believes the strides it is told."""
    seen: list[tuple[int, ...]] = []
    multiply = torch._int_mm
    monkeypatch.setattr(
        torch, "_int_mm", lambda a, b: seen.append((*a.stride(), *b.stride())) or multiply(a, b)
    )
    for rows, depth, columns in itertools.product((1, 3), repeat=3):
        for a, b in itertools.product(views(rows, depth, 1), views(depth, columns, 2)):
            int8_product(a, b)
            assert seen.pop() == (depth, 1, columns, 1)
