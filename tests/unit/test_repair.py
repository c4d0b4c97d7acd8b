"""Limits with units, and the repair: it ends within every limit, and close to the tightest."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.errors import MismatchError
from zoo.nas.limits import UNITS, Limits, Use, amount, readable
from zoo.nas.repair import FULL, Repair
from zoo.nas.spaces.contract import Choice, Decision, choices, size


@pytest.mark.parametrize(
    ("text", "quantity", "value"),
    [
        ("64KB", "sram_bytes", 64_000),
        ("64 kib", "sram_bytes", 65_536),
        ("1.5MB", "flash_bytes", 1_500_000),
        ("2MiB", "flash_bytes", 2**21),
        ("300", "flash_bytes", 300),
        ("10M", "macs", 10_000_000),
        ("2.5e6", "macs", 2_500_000),
        ("1G", "macs", 1_000_000_000),
        ("5", "latency_ms", 5),
        ("250us", "latency_ms", 0.25),
        ("1s", "latency_ms", 1000),
    ],
)
def test_amounts_are_read_with_their_units(text: str, quantity: str, value: float):
    assert amount(text, quantity) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "quantity", "told"),
    [
        ("64Kb/s", "sram_bytes", "'64Kb/s' is no amount of SRAM; expected e.g. --max-sram 64KB"),
        ("64KW", "sram_bytes", "'64KW' has the unit 'KW'; SRAM may be in B, KB, KiB, MB, MiB"),
        ("10MB", "macs", "'10MB' has the unit 'MB'; MACs may be in K, M, G"),
        ("5min", "latency_ms", "'5min' has the unit 'min'; latency may be in us, ms, s"),
        ("", "flash_bytes", "'' is no amount of flash"),
        ("-1", "flash_bytes", "'-1' is no amount of flash"),
        ("0KB", "flash_bytes", "'0KB' is no limit of flash"),
        ("1..2K", "macs", "is no amount of MACs"),
    ],
)
def test_other_units_are_told(text: str, quantity: str, told: str):
    with pytest.raises(MismatchError) as raised:
        amount(text, quantity)
    assert told in str(raised.value)


@given(st.sampled_from(sorted(UNITS)), st.floats(1e-2, 1e9))
def test_what_is_told_is_enough_and_can_be_typed(quantity: str, value: float):
    """Who types what a refusal names gets at least it, and hardly more."""
    whole = value if quantity == "latency_ms" else float(round(value) + 1)
    assert whole * (1 - 1e-9) <= amount(readable(quantity, whole), quantity) <= whole * 1.011


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_limit_is_a_positive_number(value: float):
    with pytest.raises(MismatchError, match="the limit of MACs is"):
        Limits(macs=value)


def space(widths: int, depth: int) -> tuple[Decision, ...]:
    """A chain of layers: words, a depth, and so many widths."""
    return (
        Decision(name="act", values=("slow", "fast"), kind="operator"),
        Decision(name="depth", values=tuple(range(1, depth + 1)), kind="depth"),
        *(
            Decision(name=f"width {n}", values=tuple(range(4, 65, 4)), kind="width")
            for n in range(widths)
        ),
    )


def use(choice: Choice) -> Use:
    """What such a chain takes: a plain account, in which every width counts."""
    widths = [int(value) for name, value in choice.items() if name.startswith("width")]
    depth, slow = int(choice["depth"]), 2 if choice["act"] == "slow" else 1
    pairs = list(zip([8, *widths], widths, strict=False))
    return Use(
        sram_bytes=slow * 10 * max(a + b for a, b in pairs),
        flash_bytes=sum(a * b for a, b in pairs) + 50 * depth,
        macs=100 * depth * sum(a * b for a, b in pairs),
    )


CHAIN = space(4, 5)
LARGEST = use({d.name: d.values[-1] for d in CHAIN})


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.floats(0.1, 1.2), st.floats(0.05, 1.2), st.floats(0.005, 1.2)),
    st.randoms(use_true_random=False),
)
def test_repair_ends_within_every_limit_and_close_to_the_tightest(
    shares: tuple[float, float, float], dice: random.Random
):
    limits = Limits(
        sram_bytes=shares[0] * LARGEST.sram_bytes,
        flash_bytes=shares[1] * LARGEST.flash_bytes,
        macs=shares[2] * LARGEST.macs,
    )
    repair = Repair(CHAIN, limits, use)
    start = {d.name: dice.choice(d.values) for d in CHAIN}
    found = repair(start, dice)
    assert found.use == use(found.choice)
    assert found.load == max(limits.shares(found.use).values()) <= 1
    assert all(found.choice[d.name] in d.values for d in CHAIN)
    for decision in CHAIN if found.load < FULL else ():  # then no step brings it closer
        place = decision.values.index(found.choice[decision.name])
        for value in decision.values[place + 1 : place + 2] if decision.ordered else ():
            other = limits.shares(use({**found.choice, decision.name: value}))
            less = sum(other.values()) <= sum(limits.shares(found.use).values())
            assert max(other.values()) > 1 or max(other.values()) < found.load or less


@settings(max_examples=20, deadline=None)
@given(st.floats(0.05, 1.0), st.randoms(use_true_random=False))
def test_repair_leaves_what_fits_unless_it_is_to_be_filled(share: float, dice: random.Random):
    limits = Limits(macs=share * LARGEST.macs)
    repair = Repair(CHAIN, limits, use)
    start = {d.name: dice.choice(d.values) for d in CHAIN}
    found = repair(start, dice, fill=False)
    assert found.load <= 1
    if limits.load(use(start)) <= 1:
        assert found.choice == start


def test_repair_keeps_the_shape_of_a_network():
    limits = Limits(macs=0.3 * LARGEST.macs)
    start = {"act": "slow", "depth": 5, **{f"width {n}": 16 * (n + 1) for n in range(4)}}
    found = Repair(CHAIN, limits, use)(start, random.Random(0))
    assert (found.choice["act"], found.choice["depth"]) == ("slow", 5)
    widths = [int(found.choice[f"width {n}"]) for n in range(4)]
    assert widths == sorted(widths)


@pytest.mark.parametrize("wanted", ["a", "b"])
def test_wanted_decisions_grow_first(wanted: str):
    decisions = tuple(
        Decision(name=name, values=tuple(range(10, 101, 10)), kind="width") for name in "ab"
    )

    def sum_of(choice: Choice) -> Use:
        return Use(macs=int(choice["a"]) + int(choice["b"]))

    repair = Repair(decisions, Limits(macs=92), sum_of)  # one step more than 40 and 40
    for seed in range(4):
        found = repair({"a": 40, "b": 40}, random.Random(seed), first=[wanted])
        assert (found.choice[wanted], found.use.macs) == (50, 90)


def test_words_change_where_widths_alone_do_not_fit():
    limits = Limits(sram_bytes=130)  # the narrowest takes 240 slowly, 120 fast
    start = {"act": "slow", "depth": 3, **{f"width {n}": 64 for n in range(4)}}
    found = Repair(CHAIN, limits, use)(start, random.Random(0))
    assert found.choice["act"] == "fast"


def test_nothing_within_the_limits_is_refused_with_the_smallest_values():
    with pytest.raises(MismatchError) as raised:
        Repair(CHAIN, Limits(sram_bytes=100, flash_bytes=10_000), use)
    assert str(raised.value) == (
        "no network of this space is within --max-sram 100B --max-flash 10KB; the smallest "
        "feasible values are --max-sram 120B --max-flash 130B"
    )
    limits = Limits(sram_bytes=amount("120B", "sram_bytes"), flash_bytes=130)
    assert Repair(CHAIN, limits, use)(START, random.Random(0)).load == 1


START = {d.name: d.values[0] for d in CHAIN}


def test_what_no_device_runs_is_left_or_refused():
    def refusing(choice: Choice) -> Use:
        return Use(refused="it has no kernel") if choice["act"] == "slow" else use(choice)

    found = Repair(CHAIN, Limits(), refusing)(START, random.Random(0))
    assert found.choice["act"] == "fast"
    with pytest.raises(MismatchError, match="runs no network of this space: it has no kernel"):
        Repair(CHAIN, Limits(), lambda choice: Use(refused="it has no kernel"))


def test_the_best_by_repair_is_that_of_brute_force():
    """Of one width, filled to the limit, is the greatest that fits."""
    decisions = (Decision(name="width", values=tuple(range(1, 200)), kind="width"),)
    assert size(decisions) == 199

    def square(choice: Choice) -> Use:
        return Use(macs=int(choice["width"]) ** 2)

    for limit in (1, 10, 120, 30_000):
        fitting = [c for c in choices(decisions) if square(c).macs <= limit]
        repair = Repair(decisions, Limits(macs=limit), square)
        found = repair({"width": 57}, random.Random(0))
        best = max(int(choice["width"]) for choice in fitting)
        assert found.use.macs >= FULL * limit or found.choice["width"] == best
