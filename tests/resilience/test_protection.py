"""The front of protections against all combinations, and verdicts from intervals."""

import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.cost.registers import Registers, registers
from zoo.cost.target import target, target_names
from zoo.errors import MismatchError
from zoo.resilience.analyses.protect import NpuBlock, front_of, measures, spfm, verdict
from zoo.resilience.protection import Measure, cheapest, front, goal
from zoo.resilience.results import Estimate

NUMBERS = st.integers(0, 40).map(lambda n: n / 40)
MEASURES = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=4).map(
    lambda pairs: [Measure(name=str(i), area=a, left=b) for i, (a, b) in enumerate(pairs)]
)
BLOCKS = st.lists(st.tuples(NUMBERS, MEASURES), min_size=1, max_size=6)


def everything(blocks):
    """(area, unsafe) of all combinations."""
    for chosen in itertools.product(*(m for _, m in blocks)):
        area = sum(m.area for m in chosen)
        yield area, sum(w * m.left for (w, _), m in zip(blocks, chosen, strict=True))


@settings(max_examples=60, deadline=None)
@given(BLOCKS, NUMBERS)
def test_the_optimum_is_that_of_all_combinations(blocks, most):
    fitting = [area for area, unsafe in everything(blocks) if unsafe <= most + 1e-12]
    if not fitting:
        with pytest.raises(MismatchError, match="the best leaves"):
            cheapest(front(blocks), most, "X")
        return
    assert cheapest(front(blocks), most + 1e-12, "X").area == pytest.approx(min(fitting))


@pytest.mark.slow
@settings(max_examples=5, deadline=None)
@given(st.lists(st.tuples(NUMBERS, MEASURES), min_size=8, max_size=8), NUMBERS)
def test_so_it_is_for_eight_blocks(blocks, most):
    fitting = [area for area, unsafe in everything(blocks) if unsafe <= most + 1e-12]
    if fitting:
        assert cheapest(front(blocks), most + 1e-12, "X").area == pytest.approx(min(fitting))


@settings(max_examples=60, deadline=None)
@given(BLOCKS)
def test_more_area_is_never_less_safe_and_the_goal_is_monotone(blocks):
    found = front(blocks)
    assert [one.area for one in found] == sorted(one.area for one in found)
    assert [one.unsafe for one in found] == sorted((o.unsafe for o in found), reverse=True)
    limits = sorted(one.unsafe for one in found)
    areas = [cheapest(found, most, "X").area for most in limits]
    assert areas == sorted(areas, reverse=True)


def part(unsafe=(0.01, 0.005, 0.02), kind="flop", **changes):
    fields = {"kind": kind, "bits": 1000, "fit_per_mbit": 20.0, "area": 0.1}
    fields |= {"flop_area_share": 0.5, "confidence": "assumed", "source": "a test"}
    if kind == "control":
        fields["unsafe"] = (0.05, 0.5)
    block = Registers(**{**fields, **changes})
    return NpuBlock(name=kind, registers=block, unsafe=unsafe, measures=tuple(measures(block)))


def test_twenty_blocks_take_less_than_a_second():
    blocks = [part((u, u / 2, 2 * u), bits=1000 + 37 * i) for i in range(20) for u in [0.001 * i]]
    start = time.process_time()
    found = front_of(blocks)
    assert time.process_time() - start < 1
    assert len(found) > 20


def test_the_metric_is_one_less_the_share_of_unsafe_rates():
    blocks = [part((0.02, 0.01, 0.04), bits=3000), part((0.1, 0.05, 0.5), "control")]
    metric = spfm(blocks)
    assert metric.value == pytest.approx(100 * (1 - (3 * 0.02 + 0.1) / 4))
    assert metric.low == pytest.approx(100 * (1 - (3 * 0.04 + 0.5) / 4))
    assert metric.high == pytest.approx(100 * (1 - (3 * 0.01 + 0.05) / 4))
    assert spfm(blocks, ["duplicated", "duplicated"]).low == pytest.approx(100)
    assert blocks[0].registers.fit == pytest.approx(0.06)


@pytest.mark.parametrize(
    ("low", "high", "word"), [(99.1, 99.5, "meets"), (98, 98.9, "fails"), (98, 99.5, "undecided")]
)
def test_a_bracket_that_straddles_the_goal_decides_nothing(low, high, word):
    metric = Estimate(value=(low + high) / 2, low=low, high=high, known="estimated")
    assert verdict(metric, 0.99) == word


def test_goals_are_those_of_the_standard():
    assert goal("asil-d") == ("ASIL-D", 0.99)
    assert goal("ASIL-B") == ("ASIL-B", 0.90)
    assert goal("0.97")[1] == 0.97
    for wrong in ("asil-e", "1.5", "0", "nan"):
        with pytest.raises(MismatchError, match="asil-b, asil-c, asil-d"):
            goal(wrong)


@pytest.mark.parametrize("name", [n for n in target_names() if target(n).reliability])
def test_registers_of_a_target_follow_from_its_array(name):
    device = target(name)
    rows, columns, channels = device.array.microblock
    assert device.reliability["activation"].bits == rows * columns * 8 * 8
    assert device.reliability["weight"].bits == channels * 8 * 8
    block = device.reliability["accumulator"].block
    assert device.reliability["accumulator"].bits == block[0] * block[1] * 32
    assert sum(part.area for part in device.reliability.values()) <= 1
    macs = rows * columns * channels * 8
    assert name.endswith(f"-{macs}")


GOOD = {"kind": "flop", "bits": 9, "fit_per_mbit": 20.0, "area": 0.1, "flop_area_share": 0.5,
        "confidence": "assumed", "source": "here"}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": " "}, "no source"),
        ({"area": -0.1}, "area is -0.1"),
        ({"area": float("nan")}, "area is nan"),
        ({"flop_area_share": 1.2}, "flop_area_share is 1.2"),
        ({"bits": 0}, "bits is 0"),
        ({"kind": "flip"}, "kind is 'flip'"),
        ({"confidence": "sure"}, "confidence is 'sure'"),
        ({"unsafe": [0.1, 0.2]}, "unsafe is what control"),
        ({"colour": 1}, "colour is missing or unknown"),
        ({"bits": "many"}, "reliability.a"),
    ],
)
def test_a_table_that_says_too_little_is_refused(change, message):
    with pytest.raises(MismatchError, match=message):
        registers({"a": {**GOOD, **change}})


def test_areas_are_shares_of_one_device():
    with pytest.raises(MismatchError, match=r"areas of reliability sum to 1.2"):
        registers({"a": {**GOOD, "area": 0.6}, "b": {**GOOD, "area": 0.6}})
    with pytest.raises(MismatchError, match=r"source is missing"):
        registers({"a": {key: value for key, value in GOOD.items() if key != "source"}})
