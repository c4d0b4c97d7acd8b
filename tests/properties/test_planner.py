"""The smallest placements and the best orders, against brute force and against another solver."""

import dataclasses
from collections.abc import Iterator
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.properties.test_memory import graphs
from zoo.cost import memory, ordering, planner
from zoo.cost.memory import Buffer, arena_bytes, first_fit, greedy, live_bytes
from zoo.graph.ir import Graph

SIZES = st.integers(1, 12).map(lambda n: 16 * n)


@st.composite
def buffers(draw: st.DrawFn, most: int = 7, steps: int = 6) -> list[Buffer]:
    """Draw buffers with lives among a few steps."""
    lives = st.tuples(st.integers(0, steps - 1), st.integers(0, steps - 1)).map(sorted)
    found = draw(st.lists(st.tuples(SIZES, lives), min_size=1, max_size=most))
    return [Buffer(name=f"b{i}", size=s, first=f, last=e) for i, (s, (f, e)) in enumerate(found)]


def sound(packed: list[Buffer], offsets: dict[str, int]) -> bool:
    """Whether no two buffers that exist together share a byte."""
    return all(
        a.last < b.first
        or b.last < a.first
        or offsets[a.name] + a.size <= offsets[b.name]
        or offsets[b.name] + b.size <= offsets[a.name]
        for i, a in enumerate(packed)
        for b in packed[:i]
    )


@given(buffers(most=6))
def test_no_order_of_first_fit_is_smaller(packed: list[Buffer]) -> None:
    found = planner.smallest(packed)
    # Every placement can be let fall until it is the first fit of its buffers by offset.
    best = min(arena_bytes(packed, first_fit(order)) for order in permutations(packed))
    assert found.proved
    assert found.arena_bytes == best == arena_bytes(packed, found.offsets)
    assert sound(packed, dict(found.offsets))


@given(buffers(most=40, steps=25))
def test_it_is_sound_aligned_and_never_above_greedy(packed: list[Buffer]) -> None:
    found = planner.smallest(packed, most_steps=2000)
    assert sound(packed, dict(found.offsets))
    assert all(offset % 16 == 0 for offset in found.offsets.values())
    assert live_bytes(packed) <= found.arena_bytes <= arena_bytes(packed, greedy(packed))


def made(seed: int, count: int, steps: int) -> list[Buffer]:
    """Make buffers with lives of up to a third of all steps."""
    rng = np.random.default_rng(seed)
    firsts, lengths = rng.integers(0, steps, count), rng.integers(0, max(steps // 3, 2), count)
    lives = zip(16 * rng.integers(1, 13, count), firsts, lengths, strict=True)
    return [
        Buffer(name=f"b{i}", size=int(size), first=int(first), last=int(first + length))
        for i, (size, first, length) in enumerate(lives)
    ]


def full(seed: int, units: int, steps: int) -> list[Buffer]:
    """Make buffers that leave no byte of an arena free at any step, if they fit it at all."""
    rng = np.random.default_rng(seed)
    found: list[Buffer] = []
    for step in range(steps):
        room = units - sum(b.size // 16 for b in found if b.last >= step)
        while room:
            size = int(rng.integers(1, room + 1))
            last = min(steps - 1, step + int(rng.integers(0, 4)))
            found.append(Buffer(name=f"b{len(found)}", size=16 * size, first=step, last=last))
            room -= size
    return found


# Of 200 such arenas a few are not enough: what is alive at one time never fills them, yet no
# placement fits. There the search must see that the bound cannot be reached.
@pytest.mark.parametrize(
    ("packed", "tight"),
    [
        *((packed, True) for packed in (made(1, 11, 6), made(8, 11, 6), full(5, 8, 6))),
        *((packed, False) for packed in (full(73, 8, 6), full(181, 8, 10))),
    ],
)
def test_an_integer_program_finds_no_smaller_one(packed: list[Buffer], tight: bool) -> None:
    found = planner.smallest(packed)
    assert found.proved
    assert found.arena_bytes == of_an_integer_program(packed)
    assert (found.arena_bytes == live_bytes(packed)) == tight


def of_an_integer_program(packed: list[Buffer]) -> int:
    """Return the smallest arena by HiGHS: for each pair that meets, one lies above the other."""
    optimize = pytest.importorskip("scipy.optimize")
    pairs = [
        (i, j)
        for j, b in enumerate(packed)
        for i, a in enumerate(packed[:j])
        if a.first <= b.last and b.first <= a.last
    ]
    units = [b.size // 16 for b in packed]
    n, large = len(packed), sum(units)
    rows, limits = [], []  # offsets, one binary for each pair, the arena
    for place, (i, j) in enumerate(pairs):
        for below, above, sign in ((i, j, 1), (j, i, -1)):
            row = np.zeros(n + len(pairs) + 1)
            row[below], row[above], row[n + place] = 1, -1, sign * large
            rows.append(row)
            limits.append((large if sign == 1 else 0) - units[below])
    for i, size in enumerate(units):
        row = np.zeros(n + len(pairs) + 1)
        row[i], row[-1] = 1, -1
        rows.append(row)
        limits.append(-size)
    goal = np.zeros(n + len(pairs) + 1)
    goal[-1] = 1
    solved = optimize.milp(
        goal,
        integrality=np.ones_like(goal),
        bounds=optimize.Bounds(0, np.r_[np.full(n, large), np.ones(len(pairs)), large]),
        constraints=optimize.LinearConstraint(np.array(rows), ub=np.array(limits, float)),
    )
    assert solved.success
    return 16 * round(solved.fun)


def test_sixty_buffers_are_placed_better_than_greedily_and_that_is_proved() -> None:
    packed = made(3, 60, 30)
    found = planner.smallest(packed)
    assert found.proved
    assert found.arena_bytes == live_bytes(packed) < arena_bytes(packed, greedy(packed))


def test_a_search_that_is_cut_short_says_so() -> None:
    packed = made(0, 100, 50)
    cut = planner.smallest(packed, most_steps=5)
    assert not cut.proved
    assert cut.arena_bytes == arena_bytes(packed, cut.offsets) > live_bytes(packed)
    assert sound(packed, dict(cut.offsets))


def orders(graph: Graph) -> Iterator[Graph]:
    """Give a graph in every order in which its operators can run."""

    def extend(path: list[int], there: set[str]) -> Iterator[list[int]]:
        if len(path) == len(graph.ops):
            yield path
        for n, op in enumerate(graph.ops):
            if n not in path and there.issuperset(op.inputs):
                yield from extend([*path, n], there | set(op.outputs))

    for path in extend([], set(graph.inputs)):
        yield dataclasses.replace(graph, ops=tuple(graph.ops[n] for n in path))


@settings(max_examples=60)
@given(graphs(most_ops=6), st.booleans(), st.sampled_from([frozenset(), frozenset({"relu"})]))
def test_no_order_keeps_fewer_bytes_alive(
    graph: Graph, in_place: bool, scratch: frozenset[str]
) -> None:
    best = ordering.reordered(graph, "int8", in_place=in_place, scratch=scratch)

    def live(ordered: Graph) -> int:
        packed = memory.plan(ordered, "int8", in_place=in_place, scratch=scratch)
        return packed.lower_bound_bytes

    assert best.proved
    assert best.live_bytes == live(best.graph) == min(map(live, orders(graph)))
    if best.live_bytes == live(graph):
        assert best.graph is graph
    there = set(graph.inputs)
    for op in best.graph.ops:
        assert there.issuperset(op.inputs)
        there |= set(op.outputs)
    assert sorted(op.name for op in best.graph.ops) == sorted(op.name for op in graph.ops)


@given(graphs(most_ops=12))
def test_a_greedy_order_is_sound_and_says_that_it_is_not_proved(graph: Graph) -> None:
    given_peak = memory.plan(graph, "int8").lower_bound_bytes
    best = ordering.reordered(graph, "int8", most_states=0)
    assert best.live_bytes <= given_peak
    assert best.live_bytes == memory.plan(best.graph, "int8").lower_bound_bytes


@given(graphs(most_ops=8))
def test_packings_are_in_order_of_what_they_may_do(graph: Graph) -> None:
    found = {(p.order, p.in_place, p.placement): p for p in planner.compare(graph, "int8")}
    micro = memory.plan(graph, "int8", in_place=False)
    assert next(iter(found.values())).arena_bytes == micro.arena_bytes
    for (order, in_place, placement), arena in found.items():
        assert arena.arena_bytes >= arena.live_bytes
        assert arena.arena_bytes <= found[order, in_place, "greedy"].arena_bytes
        assert arena.live_bytes <= found["given", in_place, placement].live_bytes
        assert arena.proved or placement == "greedy"
