"""Residency and reach in closed form against the emulator, for every fault of small arrays."""

from collections import Counter

import numpy as np
import pytest

from zoo.errors import MismatchError, UnknownNameError
from zoo.resilience.dataflow import MicroBlocks, OutputStationary, WeightStationary, dataflow
from zoo.resilience.emulator import emulate, every_fault
from zoo.resilience.faults import BITS, ProductShape, faulty_product, flipped, spread, wrapped

FLOWS = {
    "output-stationary 3x4": (OutputStationary(3, 4), (5, 5, 6)),
    "output-stationary 2x2": (OutputStationary(2, 2), (3, 4, 3)),
    "weight-stationary 3x4": (WeightStationary(3, 4), (5, 5, 6)),
    "weight-stationary 2x2": (WeightStationary(2, 2), (4, 3, 3)),
    "block 2x2": (MicroBlocks(2, 2, down=2, across=2, lanes=3), (5, 5, 6)),
    "block of depthwise": (MicroBlocks(2, 1, down=2, across=1, lanes=1), (5, 4, 1)),
    "block 1x4": (MicroBlocks(1, 4, down=3, across=1, lanes=2), (4, 3, 5)),
}
ZERO = -5


def operands(size):
    positions, depth, channels = size
    dice = np.random.default_rng(positions * depth)
    a = dice.integers(-128, 128, (positions, depth))
    return a, dice.integers(-127, 128, (depth, channels)), ProductShape(
        products=1, positions=positions, depth=depth, channels=channels
    )  # fmt: skip


def bag(flow, name, bit, shape, a, w):
    """How often each faulty output comes about, by the closed form; dead sites are not in it."""
    found = Counter()
    count = flow.live(shape, name)
    reach = flow.reach(shape, name, np.arange(count))
    for site in range(count):
        found[faulty_product(a, w, ZERO, name, bit, reach[site : site + 1]).tobytes()] += 1
    return found


@pytest.mark.parametrize("name", FLOWS)
def test_the_emulator_computes_the_product(name):
    flow, size = FLOWS[name]
    a, w, _ = operands(size)
    assert np.array_equal(emulate(flow, a, w, ZERO), (a - ZERO) @ w)


LARGE = {"output-stationary 3x4", "weight-stationary 3x4", "block 2x2"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in LARGE else ()) for n in FLOWS]
)
def test_every_fault_is_as_the_closed_form_says(name):
    flow, size = FLOWS[name]
    a, w, shape = operands(size)
    clean = ((a - ZERO) @ w).tobytes()
    emulated = {}
    for fault in every_fault(flow, a, w):
        made = emulate(flow, a, w, ZERO, fault).tobytes()
        emulated.setdefault((fault.register, fault.bit), Counter())[made] += 1
    assert len(emulated) == sum(BITS.values())
    for (register, bit), found in emulated.items():
        expected = bag(flow, register, bit, shape, a, w)
        sites = flow.registers[register] * flow.cycles(shape)
        assert found.total() == sites
        expected[clean] += sites - expected.total()  # dead sites
        assert found == expected, (register, bit)


@pytest.mark.parametrize("name", FLOWS)
def test_a_live_flip_changes_the_operands_it_says(name):
    flow, size = FLOWS[name]
    shape = operands(size)[2]
    for register in BITS:
        reach = flow.reach(shape, register, np.arange(flow.live(shape, register)))
        assert (reach.m0 >= 0).all()
        assert (reach.m1 <= shape.positions).all()
        assert (reach.m0 < reach.m1).all()
        assert (reach.n1 <= shape.channels).all()
        assert (reach.n0 < reach.n1).all()
        assert (reach.k < shape.depth).all()
        assert (reach.stop <= shape.depth).all()
        assert len(spread(reach).flip) == reach.outputs.sum()


@pytest.mark.parametrize("bits", [8, 32])
def test_a_double_flip_is_none(bits):
    stored = np.random.default_rng(0).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), 200)
    for bit in range(bits):
        once = flipped(stored, np.int64(bit), bits)
        assert (once != stored).all()
        assert np.array_equal(flipped(once, np.int64(bit), bits), stored)
        assert np.array_equal(abs(once - stored), np.full(200, 2**bit))
    assert flipped(np.array([127]), np.int64(7), 8).tolist() == [-1]
    assert flipped(np.array([127]), np.int64(7), 8, signed=False).tolist() == [255]
    assert wrapped(np.array([2**31, -(2**31) - 1])).tolist() == [-(2**31), 2**31 - 1]


def test_unknown_arrays_are_refused_in_words():
    with pytest.raises(UnknownNameError, match="did you mean output-stationary"):
        dataflow("output-stationery", 16, 16)
    with pytest.raises(MismatchError, match="0 x 4"):
        dataflow("output-stationary", 0, 4)
