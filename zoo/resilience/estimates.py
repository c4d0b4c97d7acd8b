"""Estimates of what single faults do: sampled in stages, or of every fault there is."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo.errors import MismatchError
from zoo.files import write_json
from zoo.registry.options import check_seed
from zoo.resilience.faults import Integers
from zoo.resilience.plan import Drawn, FaultPlan
from zoo.resilience.results import Estimate
from zoo.resilience.statistics import Tally, mean

MOST_FAULTS = 10**8
_FIRST = 2000  # faults before precision is looked at for the first time
_AT_ONCE = 2**13  # faults between two records of a state
_EVERY = 2**22  # faults that are tried exhaustively at most


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How many faults are tried.

    Attributes:
        precision: stop when the half-widths of flip rate and resiliency are no more, in points; it
            is looked at whenever the number of faults has doubled.
        faults: try so many instead; None: as many as `precision` needs.
        seed: of the draws.
        state: a file that keeps the counts, so that a killed run goes on; None: none.

    """

    precision: float = 0.1
    faults: int | None = None
    seed: int = 0
    state: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Draws:
    """How faults are drawn; what analyses of faults have in common.

    Attributes:
        precision: half-width of the intervals at which to stop, in points of accuracy; 0.1 if
            neither this nor `faults` is given.
        faults: try about so many instead of as many as the precision needs; each layer, class and
            group of bits gets at least eight.
        seed: of the draws.
        state: a file NAME.json that keeps the counts, so that a killed run goes on where it was.

    """

    precision: float | None = None
    faults: int | None = None
    seed: int = 0
    state: str = ""

    def __post_init__(self) -> None:
        if self.precision is not None and not 0 < self.precision < 100:
            raise MismatchError(
                f"--precision {self.precision:g}; expected points of accuracy, above 0 and below "
                "100, e.g. 0.1"
            )
        if self.faults is not None and not 100 <= self.faults <= MOST_FAULTS:
            raise MismatchError(
                f"--faults {self.faults}; expected 100 or more, and at most {MOST_FAULTS:,}"
            )
        if self.faults is not None and self.precision is not None:
            raise MismatchError(
                "--faults takes the place of --precision, which says how many are needed; give one"
            )
        check_seed(self.seed)
        if self.state and Path(self.state).suffix.lower() != ".json":
            raise MismatchError(f"--state {self.state}: counts are kept in a file NAME.json")

    @property
    def sampling(self) -> Sampling:
        """How many faults are tried."""
        path = Path(self.state).expanduser() if self.state else None
        precision = Sampling.precision if self.precision is None else self.precision
        return Sampling(precision=precision, faults=self.faults, seed=self.seed, state=path)


@dataclass(frozen=True, eq=False)
class Counted:
    """What trials of a plan showed.

    Attributes:
        plan: which sites there are.
        tally: of each cell.
        exact: whether every fault was tried.

    """

    plan: FaultPlan
    tally: Tally
    exact: bool = False

    @property
    def faults(self) -> int:
        """How many faults were tried."""
        return int(self.tally.trials.sum())

    def rate(self, cells: Any = slice(None), *, signed: bool = False) -> Estimate:
        """Return the flip rate in %, or with `signed` the accuracy lost in points, of some cells.

        Args:
            cells: which; their shares are scaled to sum to 1.
            signed: right answers that became wrong, less wrong ones that became right.

        """
        known = Tally(*(column[cells] for column in self.tally.columns))
        share = np.array([cell.share for cell in self.plan.cells])[cells]
        group = self.plan.stratum[cells]
        number = np.unique(group, return_inverse=True)[1]
        groups = int(number.max()) + 1
        merged, part = known.merged(number, groups), np.bincount(number, share, groups)
        found = mean(merged, part / part.sum(), signed=signed)
        facts: dict[str, Any] = {
            "unit": "points" if signed else "%",
            "faults": int(known.trials.sum()),
            "runs": int(known.runs.sum()),
        }
        if self.exact:
            same = 100 * found.value
            facts["method"] = "every live site of every input"
            return Estimate(value=same, low=same, high=same, known="exact", **facts)
        facts["method"] = "stratified, importance-sampled, 95 %"
        low, high = 100 * found.low, 100 * found.high
        return Estimate(value=100 * found.value, low=low, high=high, known="estimated", **facts)

    def caught(self, cells: Any) -> float | None:
        """Return the share of harmful flips of cells that a range check notices; None if none."""
        share = np.array([cell.share for cell in self.plan.cells])[cells]
        trials = np.maximum(self.tally.trials[cells], 1)
        harmful = float((share * self.tally.total[cells] / trials).sum())
        noticed = float((share * self.tally.caught[cells] / trials).sum())
        return noticed / harmful if harmful else None


def sampled(
    plan: FaultPlan, sampling: Sampling, key: str = "", tell: Callable[[str], None] | None = None
) -> Counted:
    """Return what sampled faults do.

    The same plan and seed give the same counts, for any batch size, and after a kill.

    Args:
        plan: which sites there are.
        sampling: how many are tried.
        key: what else tells this run from others, for the file of the state.
        tell: is told how far it is, after every stage.

    Raises:
        MismatchError: the state is another run's, or more than 10^8 faults are needed.

    """
    digest = hashlib.sha256(f"{key} {sampling.seed} {sampling.faults}".encode())
    digest.update(json.dumps([vars(cell) for cell in plan.cells]).encode())
    digest.update(plan.engine.logits.tobytes() + plan.labels.tobytes())
    run = _Run(plan, sampling, digest.hexdigest())
    run.read()
    while (counts := run.next()) is not None:
        run.stage(counts)
        if tell is not None:
            tell(f"{int(run.tally.trials.sum()):,} faults: flip rate {run.counted.rate().text}")
    return run.counted


class _Run:
    """A run in stages; `next` says what to try, from the counts so far and nothing else."""

    def __init__(self, plan: FaultPlan, sampling: Sampling, key: str) -> None:
        self.plan, self.sampling, self.key = plan, sampling, key
        self.tally = Tally.empty(len(plan.cells))
        self.number, self.done = 0, 0  # stages that are complete; faults of the one at work
        self.counts: list[int] | None = None
        self._pace = 0.0  # seconds for a fault in the last stage; 0 where none was tried here

    @property
    def counted(self) -> Counted:
        return Counted(self.plan, self.tally)

    def read(self) -> None:
        """Take up what a killed run left."""
        path = self.sampling.state
        if path is None or not path.exists():
            return
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            same = kept["key"] == self.key
            if same:
                self._take(kept)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise MismatchError(
                f"{path} does not hold the counts of a run; name another"
            ) from error
        if not same:
            raise MismatchError(
                f"{path} is of another network, data, device or options; name another file"
            )

    def _take(self, kept: Any) -> None:
        """Take the counts of a file; raise a ValueError, KeyError or TypeError if it has none."""
        self.tally = Tally(*(np.array(column, float) for column in kept["tally"]))
        whole = [kept["number"], kept["done"], *(kept["counts"] or ())]
        strata = 0 if kept["counts"] is None else len(self.plan.shares)
        if (
            any(column.shape != (len(self.plan.cells),) for column in self.tally.columns)
            or not all(np.isfinite(column).all() for column in self.tally.columns)
            or not all(type(value) is int and value >= 0 for value in whole)
            or len(whole) != 2 + strata
        ):
            raise ValueError("no counts of this plan")
        self.number, self.done, self.counts = kept["number"], kept["done"], kept["counts"]

    def _keep(self) -> None:
        if self.sampling.state is not None:
            columns = [column.tolist() for column in self.tally.columns]
            kept = {"key": self.key, "number": self.number, "done": self.done}
            write_json(self.sampling.state, {**kept, "counts": self.counts, "tally": columns})

    def next(self) -> Integers | None:
        """Return how many faults of each stratum to try next; None if it is enough."""
        if self.counts is not None:
            return np.array(self.counts)
        tried, wanted = int(self.tally.trials.sum()), self.sampling.faults
        if wanted is not None:
            if not self.number:
                return self.plan.pilot(max(1, wanted // 10))
            return None if self.number > 1 else self._allocated(max(0, wanted - tried))
        if not self.number:
            return self.plan.pilot(_FIRST)
        if self._precise():
            return None
        self._check_reachable(tried)
        return self._allocated(tried)

    def _allocated(self, faults: int) -> Integers:
        return self.plan.allocated(self.tally, faults)

    def _precise(self) -> bool:
        rates = (self.counted.rate(signed=signed) for signed in (False, True))
        return all(rate.half_width <= self.sampling.precision for rate in rates)

    def _check_reachable(self, tried: int) -> None:
        width = self.counted.rate(signed=True).half_width
        needed = tried * (width / self.sampling.precision) ** 2
        if needed > MOST_FAULTS:
            hours = needed * self._pace / 3600
            spent = f" and {hours:.1g} hours" if hours else ""
            raise MismatchError(
                f"a precision of {self.sampling.precision:g} points needs about {needed:.1g} "
                f"faults{spent}, more than {MOST_FAULTS:.0g}; ask for {width:.2g} or give --faults"
            )

    def stage(self, counts: Integers) -> None:
        """Try a stage's faults, and record the counts now and then."""
        self.counts = counts.tolist()
        drawn = self.plan.drawn(counts, (self.sampling.seed, self.number))
        started, left = time.perf_counter(), len(drawn) - self.done
        for start in range(self.done, len(drawn), _AT_ONCE):
            part = drawn[start : start + _AT_ONCE]
            _count(self.plan, self.tally, part)
            self.done = min(start + _AT_ONCE, len(drawn))
            if self.done < len(drawn):
                self._keep()
        self._pace = (time.perf_counter() - started) / max(1, left)
        self.number, self.done, self.counts = self.number + 1, 0, None
        self._keep()


def _count(plan: FaultPlan, tally: Tally, drawn: Drawn, weight: float | None = None) -> None:
    outcome, weights, lost = plan.tried(drawn)
    if weight is not None:
        weights = np.full(len(drawn), weight)
    caught, ran = outcome.caught.astype(float), (~outcome.masked).astype(float)
    tally.add(drawn.cell, weights, lost, caught, ran)


def exhaustive(plan: FaultPlan) -> Counted:
    """Return what every fault does, of every input.

    Raises:
        MismatchError: there are more than four million.

    """
    inputs = len(plan.labels)
    sites = [plan.sites(cell) for cell in plan.cells]
    if sum(sites) * inputs > _EVERY:
        raise MismatchError(
            f"there are {sum(sites) * inputs:.2g} faults, too many to try each; give a precision"
        )
    tally = Tally.empty(len(plan.cells))
    for number, live in enumerate(sites):
        sample, site = np.divmod(np.arange(live * inputs), live)
        for start in range(0, len(site), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            cell = np.full(len(site[part]), number)
            _count(plan, tally, Drawn(cell=cell, sample=sample[part], site=site[part]), 1.0)
    return Counted(plan, tally, exact=True)


def chosen(plan: FaultPlan, **keys: Any) -> Sequence[int]:
    """Return the numbers of the cells with these attributes, e.g. `register="weight"`."""
    return [
        number
        for number, cell in enumerate(plan.cells)
        if all(getattr(cell, key) == value for key, value in keys.items())
    ]
