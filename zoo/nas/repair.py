"""Exact repair: the nearest network that takes 95 to 100 % of the tightest limit, as measured.

A search that guesses sizes, or relaxes them, ends beside its limits; this is what puts a network
inside, and close to them. Widths are scaled together, so that the network keeps its shape, then
moved one by one; other decisions move only where widths alone do not get there.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from zoo.errors import MismatchError
from zoo.nas.limits import FLAGS, Limits, Use, readable
from zoo.nas.spaces.contract import Choice, Decision, Value, start

FULL = 0.95  # of the tightest limit, from which on a network is not grown
Measure = Callable[[Choice], Use]
_HALVINGS = 8  # of the scale: finer than the steps of most spaces
_STRIDES = (4, 2, 1)  # values that a step is long
_SWAPS = 40  # pairs of steps, one up and one down, that are tried in the end


@dataclass(frozen=True)
class Repaired:
    """A choice within limits.

    Attributes:
        choice: which.
        use: what it takes.
        load: the largest share of a limit that it takes, up to 1.

    """

    choice: Choice
    use: Use
    load: float


class Repair:
    """Brings choices of a space within limits.

    Args:
        decisions: of the space.
        limits: what a network may take.
        measure: says what a choice takes; of one beyond the limits it may know less than all.
        whole: says it all, for the message if nothing is within the limits; None takes `measure`.

    Raises:
        MismatchError: no choice is within the limits; says what the smallest takes.

    """

    def __init__(
        self,
        decisions: Sequence[Decision],
        limits: Limits,
        measure: Measure,
        whole: Measure | None = None,
    ) -> None:
        self.decisions, self.limits, self.measure = tuple(decisions), limits, measure
        self._whole = whole or measure
        self.least = self._smallest()

    def load(self, choice: Choice) -> float:
        """Return the largest share of a limit that a choice takes."""
        return self.limits.load(self.measure(choice))

    def __call__(
        self,
        choice: Choice,
        dice: random.Random,
        *,
        fill: bool = True,
        first: Sequence[str] = (),
    ) -> Repaired:
        """Return the choice near a given one that is within the limits.

        Args:
            choice: where to start.
            dice: decides between steps that are as good.
            fill: whether a network that takes less than `FULL` of the tightest limit is grown.
            first: names of the decisions that grow before others, the most wanted first.

        """
        if not self.limits.given and self.load(choice) == 0:
            return self._made(choice)
        found = self._within(dict(choice), fill)
        if fill and self.limits.given:
            found = self._filled(found, dice, first)
        return self._made(found)

    def _made(self, choice: Choice) -> Repaired:
        use = self.measure(choice)
        return Repaired(choice, use, self.limits.load(use))

    # --- into the limits ----------------------------------------------------------------------

    def _within(self, choice: dict[str, Value], fill: bool) -> dict[str, Value]:
        """Scale widths into the limits; where none will do, approach the smallest in the rest."""
        if not fill and self.load(choice) <= 1:
            return choice
        while (found := self._scaled(choice, fill)) is None:
            narrow = self._at(choice, 0.0)
            moves = [
                {**narrow, d.name: self._towards(d, choice[d.name])}
                for d in self.decisions
                if d.kind != "width" and choice[d.name] != self.least[d.name]
            ]
            better = min(moves, key=self.load, default=self.least)
            widths = {d.name: choice[d.name] for d in self.decisions if d.kind == "width"}
            choice = {**better, **widths}
        return found

    def _towards(self, decision: Decision, value: Value) -> Value:
        """Return the next value on the way to the smallest network's; of words, that itself."""
        goal = self.least[decision.name]
        if not decision.ordered:
            return goal
        place, end = decision.values.index(value), decision.values.index(goal)
        return decision.values[place + (1 if end > place else -1)]

    def _scaled(self, choice: Choice, grow: bool) -> dict[str, Value] | None:
        """Return the choice with the widths at the largest common scale that is within limits."""
        if self.load(choice) <= 1:
            if not grow:
                return dict(choice)
            low, high = 1.0, self._widest(choice)
        else:
            low, high = 0.0, 1.0
            if self.load(self._at(choice, low)) > 1:
                return None
        if self.load(self._at(choice, high)) <= 1:
            return self._at(choice, high)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            if self._at(choice, middle) == self._at(choice, low):
                break
            inside = self.load(self._at(choice, middle)) <= 1
            low, high = (middle, high) if inside else (low, middle)
        return self._at(choice, low)

    def _widest(self, choice: Choice) -> float:
        """Return the scale from which on every width is its largest."""
        widths = [d for d in self.decisions if d.kind == "width"]
        scales = (float(d.values[-1]) / float(choice[d.name]) for d in widths if choice[d.name])
        return max(scales, default=1.0)

    def _at(self, choice: Choice, scale: float) -> dict[str, Value]:
        """Return a choice with every width scaled, to the nearest value below."""
        found = dict(choice)
        for decision in self.decisions:
            if decision.kind == "width":
                wanted = float(choice[decision.name]) * scale
                below = [value for value in decision.values if float(value) <= wanted + 1e-9]
                found[decision.name] = below[-1] if below else decision.values[0]
        return found

    # --- up to the limits ---------------------------------------------------------------------

    def _filled(
        self, choice: dict[str, Value], dice: random.Random, first: Sequence[str]
    ) -> dict[str, Value]:
        """Grow within the limits until the tightest is `FULL`.

        Where no step is left, steps up together with one down are tried, and then steps up again.
        """
        ordered = [d for d in self.decisions if d.ordered and d.kind not in ("input", "bits")]
        pairs = [(up, down) for up in ordered for down in ordered if up is not down]
        dice.shuffle(pairs)
        choice = self._grown(choice, ordered, dice, first)
        for up, down in pairs[:_SWAPS]:
            if self.load(choice) >= FULL:
                break
            lower = self._stepped(choice, down, -1)
            step = None if lower is None else self._stepped(lower, up, 1)
            if step is not None and self.load(choice) < self.load(step) <= 1:
                choice = self._grown(step, ordered, dice, first)
        return choice

    def _grown(
        self,
        choice: dict[str, Value],
        ordered: list[Decision],
        dice: random.Random,
        first: Sequence[str],
    ) -> dict[str, Value]:
        """Take steps up, first long ones, widths before others, as long as they fit and count."""
        for stride in _STRIDES:
            moved = True
            while moved:
                moved = False
                dice.shuffle(ordered)
                ordered.sort(key=lambda d: first.index(d.name) if d.name in first else len(first))
                ordered.sort(key=lambda d: d.kind != "width")
                for decision in ordered:
                    if self.load(choice) >= FULL:
                        return choice
                    step = self._stepped(choice, decision, stride)
                    if step is not None and self._is_more(step, choice):
                        choice, moved = step, True
        return choice

    def _is_more(self, step: Choice, choice: Choice) -> bool:
        """Say whether a step fits, and takes more of some limit and not less of the tightest."""
        before, after = (self.limits.shares(self.measure(one)) for one in (choice, step))
        most = max(after.values())
        return max(before.values()) <= most <= 1 and sum(after.values()) > sum(before.values())

    @staticmethod
    def _stepped(choice: Choice, decision: Decision, by: int) -> dict[str, Value] | None:
        """Return a choice with one decision so many values further; None beyond the end."""
        place = decision.values.index(choice[decision.name]) + by
        if not 0 <= place < len(decision.values):
            return None
        return {**choice, decision.name: decision.values[place]}

    # --- whether anything is within the limits ------------------------------------------------

    def _smallest(self) -> dict[str, Value]:
        """Return the choice that takes the smallest share of the limits.

        Numbers are at their least, or at their greatest where that takes less; of words, every one
        is tried.
        """
        best = start(self.decisions)
        load = self.load(best)
        for decision in self.decisions:
            if decision.kind in ("width", "depth"):
                continue
            ends = (decision.values[-1],) if decision.ordered else decision.values[1:]
            for value in ends:
                other = {**best, decision.name: value}
                if value != best[decision.name] and (taken := self.load(other)) < load:
                    best, load = other, taken
        if load > 1:
            raise MismatchError(self._refusal(self._whole(best)))
        return best

    def _refusal(self, use: Use) -> str:
        if use.refused:
            return f"the device runs no network of this space: {use.refused}"
        least = " ".join(f"{FLAGS[q]} {readable(q, getattr(use, q))}" for q in self.limits.given)
        return (
            f"no network of this space is within {self.limits.flags()}; the smallest feasible "
            f"values are {least}"
        )
