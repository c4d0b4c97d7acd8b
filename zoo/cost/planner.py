"""The smallest arena: where activations lie best, and in which order operators run best.

Two questions, each answered exactly where a search ends in time, and then said to be proved.
`smallest` places buffers in the least arena, by branch and bound: as in MiniMalloc (Moffitt 2023,
doi 10.1145/3623278.3624752), buffers are laid down from the lowest offset to the highest, each on
what lies below it, and a branch ends where some moment has no room left for what is to come.
`zoo.cost.ordering` has the orders. `compare` puts both beside the plan of TFLite Micro.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from zoo.cost import memory
from zoo.cost.memory import ArenaPlan, Buffer, arena_bytes, first_fit, greedy, live_bytes
from zoo.cost.ordering import reordered
from zoo.graph.ir import Graph

MOST_STEPS = 50_000  # of one question whether an arena is enough: about a second


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where buffers lie.

    Attributes:
        offsets: byte offset of each, by name.
        arena_bytes: what they take together.
        proved: whether no placement takes less.

    """

    offsets: Mapping[str, int]
    arena_bytes: int
    proved: bool


def smallest(buffers: Sequence[Buffer], *, most_steps: int = MOST_STEPS) -> Placement:
    """Return the smallest placement that is found, never larger than the greedy one.

    Args:
        buffers: with their sizes and lives; aligned sizes give aligned offsets.
        most_steps: how many buffers may be laid down to find out whether one arena is enough.

    """
    offsets: dict[str, int] = {}
    floor, proved = live_bytes(buffers), True
    groups = [_placed(group, floor, most_steps) for group in _apart(buffers)]
    size = max((group.arena_bytes for group in groups), default=0)
    for group in groups:
        offsets |= group.offsets
        proved &= group.proved or group.arena_bytes < size
    return Placement(offsets=offsets, arena_bytes=size, proved=proved or size == floor)


def _apart(buffers: Sequence[Buffer]) -> Iterator[list[Buffer]]:
    """Give groups of buffers that exist at different times."""
    group: list[Buffer] = []
    for buffer in sorted(buffers, key=lambda buffer: buffer.first):
        if group and buffer.first > max(other.last for other in group):
            yield group
            group = []
        group.append(buffer)
    if group:
        yield group


def _placed(buffers: list[Buffer], floor: int, most_steps: int) -> Placement:
    """Place buffers in `floor` bytes, or else in as few as possible."""
    orders = (
        lambda b: (-(b.last - b.first), -b.size),
        lambda b: (-b.size * (b.last - b.first + 1),),
        lambda b: (b.first, -b.size),
    )
    tries = [greedy(buffers), *(first_fit(sorted(buffers, key=order)) for order in orders)]
    best = min(tries, key=lambda offsets: arena_bytes(buffers, offsets))
    unit = math.gcd(*(buffer.size for buffer in buffers)) or 1
    low, high = max(floor - floor % unit, live_bytes(buffers)), arena_bytes(buffers, best)
    middle, proved = (
        low,
        True,
    )  # mostly the bound can be reached; if not, the search halves the rest
    while low < high:
        found, decided = _Search(buffers, middle, most_steps).run()
        if found is not None:
            best, high = found, arena_bytes(buffers, found)
        else:
            proved &= decided
            low = middle + unit
        middle = (low + high) // 2 // unit * unit
    return Placement(offsets=best, arena_bytes=high, proved=proved)


class _Search:
    """Whether buffers fit an arena: they are laid down by growing offset, each on what lies below.

    Of all placements in an arena the one with the least sum of offsets can be laid down so: each
    buffer touches the ground or a buffer below it, and none would fit whole into room that is left
    below the next one. So no other is tried.
    """

    def __init__(self, buffers: list[Buffer], arena: int, most_steps: int) -> None:
        self.buffers = sorted(buffers, key=lambda b: (-b.size * (b.last - b.first + 1), b.first))
        self.arena, self.steps = arena, most_steps
        moments = _busiest(self.buffers)
        self.at = [[i for i, moment in enumerate(moments) if n in moment] for n in self.numbers]
        self.moments = [sorted(moment) for moment in moments]
        self.heights = [0] * len(moments)
        self.left = [sum(self.buffers[n].size for n in moment) for moment in moments]
        self.waiting = set(self.numbers)
        self.seen: set[tuple[frozenset[int], tuple[int, ...], int, int]] = set()

    @property
    def numbers(self) -> range:
        return range(len(self.buffers))

    def run(self) -> tuple[dict[str, int] | None, bool]:
        """Return offsets, or None, and whether that is certain."""
        stack = [self._choices(0, -1)]
        laid: list[tuple[int, int, list[int]]] = []  # number, offset, the heights before
        while stack:
            choice = next(stack[-1], None)
            if choice is None:
                stack.pop()
                if laid:
                    self._lift(*laid.pop())
                continue
            if self.steps == 0:
                return None, False
            self.steps -= 1
            offset, number = choice
            laid.append((number, offset, [self.heights[i] for i in self.at[number]]))
            self._lay(number, offset)
            if not self.waiting:
                return {self.buffers[n].name: place for n, place, _ in laid}, True
            stack.append(self._choices(offset, number))
        return None, True

    def _lay(self, number: int, offset: int) -> None:
        size = self.buffers[number].size
        self.waiting.remove(number)
        for i in self.at[number]:
            self.heights[i] = offset + size
            self.left[i] -= size

    def _lift(self, number: int, offset: int, heights: list[int]) -> None:
        self.waiting.add(number)
        for i, height in zip(self.at[number], heights, strict=True):
            self.heights[i] = height
            self.left[i] += self.buffers[number].size

    def _choices(self, offset: int, number: int) -> Iterator[tuple[int, int]]:
        """Give what may be laid next, from the lowest: none before (`offset`, `number`)."""
        state = frozenset(self.waiting), tuple(self.heights), offset, number
        if state in self.seen:
            return iter(())
        self.seen.add(state)
        rest = {n: max(self.heights[i] for i in self.at[n]) for n in self.waiting}
        lowest = {n: max(height, offset) for n, height in rest.items()}
        for i, moment in enumerate(self.moments):
            starts = [lowest[n] for n in moment if n in lowest]
            if starts and min(starts) + self.left[i] > self.arena:
                return iter(())
        room = min(lowest[n] + self.buffers[n].size for n in lowest)
        after = [(height, n) for n, height in rest.items() if (height, n) > (offset, number)]
        return iter(sorted(choice for choice in after if offset <= choice[0] < room))


def _busiest(buffers: Sequence[Buffer]) -> list[frozenset[int]]:
    """Return the sets of buffers that exist together, without those that are part of another."""
    steps = sorted({buffer.first for buffer in buffers})
    together = [
        frozenset(n for n, b in enumerate(buffers) if b.first <= step <= b.last) for step in steps
    ]
    return [one for one in together if not any(one < other for other in together)]


def smallest_plan(
    graph: Graph,
    dtype: str | None,
    *,
    in_place: bool = True,
    scratch: frozenset[str] = frozenset(),
) -> tuple[ArenaPlan, bool]:
    """Return the smallest plan that is found of a graph's order, and whether none is smaller."""
    placements: list[Placement] = []

    def place(buffers: Sequence[Buffer]) -> Mapping[str, int]:
        placements.append(smallest(buffers))
        return placements[0].offsets

    plan = memory.plan(graph, dtype, in_place=in_place, scratch=scratch, place=place)
    return plan, placements[0].proved


@dataclass(frozen=True, kw_only=True)
class Arena:
    """One way to pack a network's activations.

    Attributes:
        order: "given" or "reordered": in which order the operators run.
        in_place: whether operators write over what they are the last to read.
        placement: "greedy" or "smallest".
        arena_bytes: of the arena.
        live_bytes: the most bytes that exist at one time: no placement takes less.
        proved: whether no placement in this order takes less.
        order_proved: whether no order keeps fewer bytes alive.

    """

    order: str
    in_place: bool
    placement: str
    arena_bytes: int
    live_bytes: int
    proved: bool
    order_proved: bool


def compare(
    graph: Graph, dtype: str | None, *, scratch: frozenset[str] = frozenset()
) -> list[Arena]:
    """Return the ways to pack a graph's activations; the first is TFLite Micro's.

    Args:
        graph: as it is deployed.
        dtype: as in `memory.plan`.
        scratch: likewise; of the arenas in place, since TFLite Micro knows none.

    ```python
    from zoo.cost import planner
    from zoo.graph.trace import trace

    import torch

    module = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU()).eval()
    for arena in planner.compare(trace(module, (1, 1, 32, 32)), "int8"):
        print(arena.placement, arena.in_place, arena.arena_bytes)
    ```

    """
    found: list[Arena] = []
    for in_place in (False, True):
        kinds = scratch if in_place else frozenset[str]()
        best = reordered(graph, dtype, in_place=in_place, scratch=kinds)
        given_is_best = best.proved and best.graph is graph
        found += _arenas("given", graph, dtype, in_place, kinds, given_is_best)
        if best.graph is not graph:
            found += _arenas("reordered", best.graph, dtype, in_place, kinds, best.proved)
    return found


def _arenas(
    order: str,
    graph: Graph,
    dtype: str | None,
    in_place: bool,
    scratch: frozenset[str],
    order_proved: bool,
) -> Iterator[Arena]:
    """Give the greedy arena and the smallest one of an order."""
    plain = memory.plan(graph, dtype, in_place=in_place, scratch=scratch)
    best, proved = smallest_plan(graph, dtype, in_place=in_place, scratch=scratch)
    for name, plan in (("greedy", plain), ("smallest", best)):
        yield Arena(
            order=order,
            in_place=in_place,
            placement=name,
            arena_bytes=plan.arena_bytes,
            live_bytes=plan.lower_bound_bytes,
            proved=proved and plan.arena_bytes == best.arena_bytes,
            order_proved=order_proved,
        )
