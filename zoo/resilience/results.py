"""`Estimate`, a number with its interval, and `Reliability`, what an analysis found."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from zoo.errors import MismatchError
from zoo.files import write_json

Known = Literal["exact", "measured", "estimated", "paper"]
Cell = str | float | int | None
Row = Mapping[str, Cell]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number, the interval that it lies in, and how it is known.

    Attributes:
        value: the number.
        low: lower end of the interval, of 95 % unless `method` says otherwise.
        high: upper end.
        known: "exact" (everything was tried), "measured" (on data), "estimated" (sampled, or from
            assumed numbers) or "paper".
        unit: e.g. "%"; "" if it has none.
        faults: faults that were drawn, or trials of another kind.
        runs: inferences, or parts of them, that were run for it.
        method: how value and interval were found, in a few words.

    """

    value: float
    low: float
    high: float
    known: Known
    unit: str = ""
    faults: int = 0
    runs: int = 0
    method: str = ""

    def __post_init__(self) -> None:
        if not self.low <= self.value <= self.high:  # NaN, too
            raise MismatchError(
                f"an estimate of {self.value} lies outside its interval, {self.low} to {self.high}"
            )

    @property
    def half_width(self) -> float:
        """The larger distance of an end of the interval from the number."""
        return max(self.high - self.value, self.value - self.low)

    @property
    def text(self) -> str:
        """The number and its interval, e.g. "0.32 % (0.27 to 0.38)"."""
        unit = f" {self.unit}" if self.unit else ""
        digits = _digits(self.half_width, self.value)
        number = f"{self.value:.{digits}f}{unit}"
        if self.low == self.high:
            return number
        return f"{number} ({self.low:.{digits}f} to {self.high:.{digits}f})"

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON types."""
        facts = {"value": self.value, "low": self.low, "high": self.high, "known": self.known}
        more = {name: getattr(self, name) for name in ("unit", "faults", "runs", "method")}
        return facts | {name: value for name, value in more.items() if value}


def _digits(half_width: float, value: float) -> int:
    """Return how many decimals tell an interval's ends from its middle."""
    size = half_width if 0 < half_width < math.inf else abs(value) / 100
    if not 0 < size < math.inf:
        return 1
    return min(6, max(0, 1 - math.floor(math.log10(size))))


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """What an analysis found.

    Attributes:
        analysis: its name.
        ref: how the network was named.
        target: name of the device; "" if there is none.
        summary: one line for people.
        main: key of the estimate that answers the question.
        estimates: by key, e.g. "flip_rate".
        tables: rows by the name of a table, e.g. "layer"; all rows of a table have the same keys.
        facts: what was done, as JSON types: data and its size, the model of the array, faults
            drawn, runs, seed.
        assumed: numbers that nobody measured, each in one line with its source.
        notes: what a reader of any of these numbers must know.
        picture: draws the result into a .png file; None if there is nothing to draw.

    """

    analysis: str
    ref: str
    target: str
    summary: str
    main: str
    estimates: Mapping[str, Estimate]
    tables: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    picture: Callable[[Path], None] | None = field(default=None, repr=False, compare=False)

    @property
    def value(self) -> Estimate:
        """The estimate that answers the question."""
        return self.estimates[self.main]

    @property
    def text(self) -> str:
        """The summary, and each estimate in a line."""
        width = max(len(name) for name in self.estimates)
        named = {name.replace("_", " "): item for name, item in self.estimates.items()}
        lines = [f"  {name:{width}}  {item.text}  {item.known}" for name, item in named.items()]
        return "\n".join([self.summary, *lines])

    def to_json(self) -> dict[str, Any]:
        """Return everything but the picture as JSON types."""
        return {
            "analysis": self.analysis,
            "ref": self.ref,
            "target": self.target,
            "summary": self.summary,
            "main": self.main,
            "estimates": {name: item.to_json() for name, item in self.estimates.items()},
            "tables": {name: [dict(row) for row in rows] for name, rows in self.tables.items()},
            "facts": dict(self.facts),
            "assumed": list(self.assumed),
            "notes": list(self.notes),
        }

    def save(self, path: str | Path) -> Path:
        """Write the picture to NAME.png, or everything else to NAME.json; return the path.

        Raises:
            MismatchError: the name ends in something else, or there is no picture.

        """
        out = Path(path).expanduser()
        if out.suffix.lower() == ".png" and self.picture is not None:
            self.picture(out)
        elif out.suffix.lower() == ".json":
            write_json(out, self.to_json())
        else:
            known = "NAME.json" if self.picture is None else "NAME.png or NAME.json"
            raise MismatchError(f"{path}: the analysis {self.analysis!r} is saved as {known}")
        return out
