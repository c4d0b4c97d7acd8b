"""One budget for many parts of a model, each of which can be stored in several ways.

What a way is, the caller says: bits of a weight, the rank of a matrix, a number format, a share of
filters. All of them share this one knapsack.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from zoo.errors import MismatchError

T = TypeVar("T")


@dataclass(frozen=True)
class Choice(Generic[T]):
    """One way to store a part: what it is, the bits it takes, and its expected loss (any unit)."""

    options: T
    bits: int
    loss: float


def allocate(choices: Mapping[str, Sequence[Choice[T]]], budget: int) -> dict[str, Choice[T]]:
    """Return one choice per part, with the least total loss within `budget` bits in total.

    Starting from the cheapest choices, the step that saves the most loss per bit is taken
    repeatedly along each part's lower convex hull (the exact optimum for every budget where a
    step ends), and the remainder is spent on whatever single steps still fit.

    Raises:
        MismatchError: even the cheapest choices take more than the budget.

    """
    chosen = {name: min(some, key=lambda c: (c.bits, c.loss)) for name, some in choices.items()}
    spent = sum(choice.bits for choice in chosen.values())
    if spent > budget:
        raise MismatchError(
            f"the budget is {budget} bits; even the cheapest choices take {spent}: raise the "
            "target, or offer fewer bits"
        )
    hulls = {name: _hull(some) for name, some in choices.items()}
    # A hull's next step is its best, and the cheapest: where it no longer fits, none does.
    steps = [
        (-_gain(hull[0], hull[1]), order, name, 1)
        for order, (name, hull) in enumerate(hulls.items())
        if len(hull) > 1
    ]
    heapq.heapify(steps)
    while steps:
        _, order, name, place = heapq.heappop(steps)
        hull = hulls[name]
        extra = hull[place].bits - chosen[name].bits
        if spent + extra > budget:
            continue
        spent += extra
        chosen[name] = hull[place]
        if place + 1 < len(hull):
            gain = _gain(hull[place], hull[place + 1])
            heapq.heappush(steps, (-gain, order, name, place + 1))
    return chosen


def _gain(now: Choice[T], after: Choice[T]) -> float:
    return (now.loss - after.loss) / (after.bits - now.bits)


def _hull(choices: Sequence[Choice[T]]) -> list[Choice[T]]:
    """Return the choices on the lower convex hull of loss over bits, in order of rising bits."""
    hull: list[Choice[T]] = []
    for choice in sorted(choices, key=lambda c: (c.bits, c.loss)):
        if hull and choice.loss >= hull[-1].loss:
            continue
        while len(hull) > 1 and _above(hull[-2], hull[-1], choice):
            hull.pop()
        hull.append(choice)
    return hull


def _above(left: Choice[T], middle: Choice[T], right: Choice[T]) -> bool:
    slope = (left.loss - right.loss) / (right.bits - left.bits)
    return middle.loss >= left.loss - slope * (middle.bits - left.bits)
