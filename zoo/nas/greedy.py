"""Greedy selection: from a network that is too slow, give up as little as possible for the time.

Each single change is priced once. Those that save time are made one after another, the one that
saves most per capacity it costs first, each priced together with those before it, until the bound
is met; then what is not needed after all is undone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from zoo.errors import MismatchError
from zoo.nas.spaces.contract import Choice, Space, Value, start


@dataclass(frozen=True)
class Step:
    """One change that was made.

    Attributes:
        decision: what was decided.
        value: how.
        latency_ms: of the network with this change and those before it.

    """

    decision: str
    value: Value
    latency_ms: float


@dataclass(frozen=True)
class Selection:
    """What a search found.

    Attributes:
        choice: the chosen value of every decision.
        start_ms: latency of the network that the search started at.
        latency_ms: latency of the one that it found.
        capacity: of that, as a share of the first one's.
        steps: the changes, in order.
        priced: how many networks were priced.

    """

    choice: Choice
    start_ms: float
    latency_ms: float
    capacity: float
    steps: tuple[Step, ...]
    priced: int


def select(
    space: Space, options: Any, price: Callable[[Choice], float], max_latency_ms: float
) -> Selection:
    """Return a choice within a latency.

    Args:
        space: what may be chosen.
        options: of the space.
        price: gives the latency of a choice, in ms.
        max_latency_ms: the bound.

    Raises:
        MismatchError: the bound is below the fastest network that was found; says its latency. Or
            the space does not say what a choice can express.

    """
    capacity = getattr(space, "capacity", None)
    if capacity is None:
        raise MismatchError(
            "this space does not say what a network can express untrained, which a greedy search "
            "goes by; give --data DIR, and a folder as --out, to search by training"
        )
    search = _Search(space, options, price, capacity)
    first = start(space.decisions(options))
    begun = now = search.price(first)
    made: dict[str, Value] = {}
    for name, value in search.ranked(first) if now > max_latency_ms else ():
        if (found := search.price({**first, **made, name: value})) < now:
            made[name], now = value, found
        if now <= max_latency_ms:
            break
    if now > max_latency_ms:
        raise MismatchError(
            f"a bound of {max_latency_ms:g} ms is below the smallest network: the fastest found "
            f"takes {now:.4g} ms, the first {begun:.4g}; raise --max-latency, or take another "
            "target"
        )
    for name in list(made)[:-1]:  # without the last one the bound was not met
        fewer = {other: value for other, value in made.items() if other != name}
        if search.price({**first, **fewer}) <= max_latency_ms:
            made = fewer
    choice, steps = dict(first), list[Step]()
    for name, value in made.items():
        choice[name] = value
        steps.append(Step(name, value, search.price(choice)))
    share = capacity(options, choice) / capacity(options, first)
    return Selection(choice, begun, search.price(choice), share, tuple(steps), len(search.known))


class _Search:
    """The networks that were priced."""

    def __init__(
        self,
        space: Space,
        options: Any,
        price: Callable[[Choice], float],
        capacity: Callable[[Any, Choice], float],
    ) -> None:
        self.space, self.options, self._price, self.capacity = space, options, price, capacity
        self.known: dict[tuple[tuple[str, Value], ...], float] = {}

    def price(self, choice: Choice) -> float:
        """Return the latency of a choice, in ms; of each once."""
        key = tuple(sorted(choice.items()))
        if key not in self.known:
            self.known[key] = self._price(choice)
        return self.known[key]

    def ranked(self, first: Choice) -> list[tuple[str, Value]]:
        """Return every single change that saves time, what saves most per capacity lost first."""
        before, whole = self.price(first), self.capacity(self.options, first)
        worth: dict[tuple[str, Value], float] = {}
        for decision in self.space.decisions(self.options):
            for value in decision.values[1:]:
                trial = {**first, decision.name: value}
                saved = before - self.price(trial)
                lost = whole - self.capacity(self.options, trial)
                if saved > 0:
                    worth[decision.name, value] = saved / lost if lost > 0 else float("inf")
        return sorted(worth, key=lambda change: -worth[change])
