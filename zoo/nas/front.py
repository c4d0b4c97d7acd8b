"""The trials that no other beats, as a table and a picture."""

from collections.abc import Sequence
from pathlib import Path

from zoo.cost.chart import Series, chart
from zoo.nas.limits import NAMES, readable
from zoo.nas.searchers.contract import FLIPS, Attempt
from zoo.nas.searchers.nsga2 import dominates

UNITS = {"sram_bytes": ("SRAM, KB", 1e3), "flash_bytes": ("flash, KB", 1e3)}
UNITS |= {"macs": ("MACs, millions", 1e6), "latency_ms": ("latency, ms", 1.0)}
UNITS |= {FLIPS: ("faults that turn the answer, %", 1.0)}


def front(trials: Sequence[Attempt], against: str) -> list[Attempt]:
    """Return the trials that no other beats in merit and a quantity at once, the least first."""
    fit = [trial for trial in trials if not trial.failed and trial.load <= 1]
    best = [t for t in fit if not any(dominates(other, t, against) for other in fit)]
    return sorted(best, key=lambda trial: (trial.takes(against), trial.number))


def table(trials: Sequence[Attempt], metric: str) -> list[list[str]]:
    """Return trials as rows of texts, the header first."""
    timed = any(trial.use.latency_ms is not None for trial in trials)
    quantities = ["sram_bytes", "flash_bytes", "macs", *(["latency_ms"] if timed else [])]
    hit = any(FLIPS in trial.scores for trial in trials)
    named = [*(["FLIPS %"] if hit else []), *(NAMES[q] for q in quantities)]
    rows = [["TRIAL", metric.upper(), *named, "OF LIMITS", "CHOICE"]]
    for trial in trials:
        cells = [f"{trial.scores[FLIPS]:.3g}"] if hit else []
        cells += [readable(q, getattr(trial.use, q)) for q in quantities]
        choice = " ".join(f"{name} {value}," for name, value in trial.choice.items())
        rows.append(
            [
                str(trial.number),
                f"{trial.scores.get(metric, trial.merit):.4g}",
                *cells,
                f"{100 * trial.load:.0f} %" if trial.load else "-",
                choice.rstrip(","),
            ]
        )
    return rows


def draw(trials: Sequence[Attempt], metric: str, against: str, path: Path, title: str) -> None:
    """Draw all trials, and the front among them, into a PNG."""
    name, size = UNITS[against]

    def points(some: Sequence[Attempt]) -> list[tuple[float, float]]:
        return [
            (t.takes(against) / size, t.scores.get(metric, t.merit)) for t in some if not t.failed
        ]

    best = front(trials, against)
    series = [
        Series("trials", points(trials), line=False),
        Series("front", points(best), [str(trial.number) for trial in best]),
    ]
    chart(path, series, title=title, x=name, y=metric)
