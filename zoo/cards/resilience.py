"""The section of a card on what faults, noise and attacks do, as `zoo reliability` measured it."""

from collections.abc import Mapping
from typing import Any

from zoo.errors import MismatchError
from zoo.resilience.results import Estimate

PART = "reliability"  # of a checkpoint's metrics
_KEPT = ("analysis", "target", "summary", "main", "estimates", "facts", "assumed", "notes")
_SHOWN = ("array", "data", "noise", "attack")  # facts, in this order


def kept(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint keeps of a `Reliability.to_json()`: all but its tables."""
    return {key: result[key] for key in _KEPT}


def check_free(metrics: Mapping[str, Any], name: str, analysis: str, target: str) -> None:
    """Refuse a name under which a checkpoint keeps what another analysis or device gave.

    Args:
        metrics: of the checkpoint.
        name: of the result.
        analysis: that is to be made; one that is made again replaces what it gave before.
        target: name of the device; "" without one.

    """
    before = metrics.get(PART, {}).get(name)
    if before is not None and (before["analysis"], before["target"]) != (analysis, target):
        where = f" on {before['target']}" if before["target"] else ""
        raise MismatchError(
            f"--record {name!r} is the name of a result of {before['analysis']}{where}, which "
            "would be lost; give another name"
        )


def rows(metrics: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return the rows of a card's table: set and device, what, figure with interval, how known."""
    found: list[tuple[str, str, str, str]] = []
    for name, result in metrics.get(PART, {}).items():
        where = f"{name}, {result['target']}" if result["target"] else name
        for key, facts in result["estimates"].items():
            estimate = Estimate(**facts)
            found.append((where, key.replace("_", " "), estimate.text, estimate.known))
    return found


def lines(metrics: Mapping[str, Any]) -> list[str]:
    """Return what a reader of the table must know: how it was measured, and what was assumed."""
    found = []
    for name, result in metrics.get(PART, {}).items():
        facts = result["facts"]
        told = [str(facts[key]) for key in _SHOWN if facts.get(key)]
        if facts.get("defend"):
            told.append(f"defence: {facts['defend']}")
        if facts.get("faults"):
            told.append(f"{facts['faults']:,} faults")
        found.append(f"{name}: {'; '.join(told)}.")
        if result["assumed"]:
            of = ", ".join(str(line).partition(": ")[0] for line in result["assumed"])
            found.append(f"{name}: numbers of {of} are assumed; metrics.json has their sources.")
    notes = [note for result in metrics.get(PART, {}).values() for note in result["notes"]]
    return [*found, *dict.fromkeys(_sentence(str(note)) for note in notes)]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
