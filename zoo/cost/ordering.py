"""The order of operators that keeps the fewest bytes alive (Liberis and Lane, arXiv 1910.05110).

A search over the sets of operators that have run, exact where it ends in time.
"""

import dataclasses
import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass

from zoo.cost import memory
from zoo.graph.ir import Graph

MOST_STATES = 20_000  # sets of operators that have run


@dataclass(frozen=True, kw_only=True)
class Ordered:
    """A graph whose operators run in another order.

    Attributes:
        graph: that computes the same.
        live_bytes: the most bytes that exist at one time.
        proved: whether no order keeps fewer alive.

    """

    graph: Graph
    live_bytes: int
    proved: bool


def reordered(
    graph: Graph,
    dtype: str | None,
    *,
    in_place: bool = True,
    scratch: frozenset[str] = frozenset(),
    most_states: int = MOST_STATES,
) -> Ordered:
    """Return the graph in the order that keeps the fewest bytes alive at its busiest moment.

    Args:
        graph: whose given order is kept where none is better.
        dtype: as in `memory.plan`, and `in_place` and `scratch` too.
        in_place: see `memory.plan`.
        scratch: likewise.
        most_states: how many sets of operators may be looked at; beyond that the order is greedy,
            or the given one.

    """
    given = memory.plan(graph, dtype, in_place=in_place, scratch=scratch).lower_bound_bytes
    orders = _Orders(graph, dtype, in_place=in_place, scratch=scratch)
    found, proved = orders.best(most_states)
    if found.peak >= given:
        return Ordered(graph=graph, live_bytes=given, proved=proved)
    ops = tuple(graph.ops[n] for n in found.path)
    return Ordered(graph=dataclasses.replace(graph, ops=ops), live_bytes=found.peak, proved=proved)


@dataclass(frozen=True)
class _Run:
    """What has run: a set of operators as bits, their order, and the bytes."""

    done: int
    path: tuple[int, ...]
    live: int
    peak: int


class _Orders:
    """The orders of a graph's operators, and the bytes that are alive on the way."""

    def __init__(
        self, graph: Graph, dtype: str | None, *, in_place: bool, scratch: frozenset[str]
    ) -> None:
        self.graph, self.in_place, self.scratch = graph, in_place, scratch
        self.lasting = memory.kept(graph)
        self.sizes = {
            name: memory.aligned(graph.tensors[name].bytes(dtype)) for name in graph.lifetimes
        }
        makers = {name: n for n, op in enumerate(graph.ops) for name in op.outputs}
        self.readers = dict.fromkeys(self.sizes, 0)
        self.needs = [0] * len(graph.ops)
        for n, op in enumerate(graph.ops):
            for name in op.inputs:
                if name in self.readers:
                    self.readers[name] |= 1 << n
                if name in makers:
                    self.needs[n] |= 1 << makers[name]
        self.all = (1 << len(graph.ops)) - 1

    def best(self, most_states: int) -> tuple[_Run, bool]:
        """Return the order with the least peak, and whether that is certain.

        What has run is a set, whatever the order. Sets are looked at by growing peak, so the first
        that is complete has the least.
        """
        start = self._settled(self._start())
        queue, least = [_entry(start)], {start.done: start.peak}
        while queue:
            *_, run = heapq.heappop(queue)
            if run.done == self.all:
                return run, True
            for after in (self._settled(self._after(run, n)) for n in self._ready(run.done)):
                if after.peak < least.get(after.done, math.inf):
                    least[after.done] = after.peak
                    heapq.heappush(queue, _entry(after))
            if len(least) > most_states:
                break
        return self._greedy(start), False

    def _greedy(self, run: _Run) -> _Run:
        while run.done != self.all:
            choices = [self._after(run, n) for n in self._ready(run.done)]
            run = self._settled(min(choices, key=lambda after: (after.peak, after.live)))
        return run

    def _settled(self, run: _Run) -> _Run:
        """Run what costs nothing now: it leaves no more alive, so it never helps to wait with it.

        Whatever runs later finds at most as many bytes alive as it would have without.
        """
        while True:
            afters = (self._after(run, n) for n in self._ready(run.done))
            free = (a for a in afters if a.live <= run.live and a.peak == run.peak)
            if (after := next(free, None)) is None:
                return run
            run = after

    def _ready(self, done: int) -> Iterator[int]:
        for n, needs in enumerate(self.needs):
            if not done >> n & 1 and needs & ~done == 0:
                yield n

    def _start(self) -> _Run:
        states = {state.name for state in self.graph.states}
        names = {n for n in (*self.graph.inputs, *states) if self.readers[n] or n in self.lasting}
        live = sum(self.sizes[name] for name in names)
        return _Run(done=0, path=(), live=live, peak=live)

    def _after(self, run: _Run, n: int) -> _Run:
        op, done = self.graph.ops[n], run.done | 1 << n
        inputs = {name for name in op.inputs if name in self.readers} - self.lasting
        free = {name for name in inputs if self.readers[name] & ~done == 0}
        extra = self.sizes[op.outputs[0]] if op.kind in self.scratch else 0
        if self.in_place and op.kind not in self.scratch:
            source = memory.overwritten(self.graph, op, self.sizes, free)
            extra -= self.sizes[source] if source is not None else 0
        if not run.done:  # what nobody reads is there when the network begins
            unread = set(self.graph.inputs) - self.lasting
            extra += sum(self.sizes[name] for name in unread if not self.readers[name])
        made = sum(self.sizes[name] for name in op.outputs)
        stays = sum(self.sizes[m] for m in op.outputs if self.readers[m] or m in self.lasting)
        return _Run(
            done=done,
            path=(*run.path, n),
            live=run.live + stays - sum(self.sizes[name] for name in free),
            peak=max(run.peak, run.live + made + extra),
        )


def _entry(run: _Run) -> tuple[int, int, int, _Run]:
    """Return a run as the queue sorts it: by its peak, then the longest, then by what has run."""
    return run.peak, -run.done.bit_count(), run.done, run
