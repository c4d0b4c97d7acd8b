"""One transient fault: how often it turns an answer, and the accuracy given that it happened.

Resiliency accuracy is that of Thales (Tyagi et al., arXiv 2212.02649), reconstructed: the body of
the paper could not be had. A site is a register, a bit and a cycle, all equally likely; RA is the
mean, over inputs and sites, of whether the answer is right with that bit flipped.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from zoo.errors import MismatchError
from zoo.files import probe_file
from zoo.resilience.engine import Engine
from zoo.resilience.estimates import Counted, Draws, chosen, sampled
from zoo.resilience.residency import Arranged, arranged
from zoo.resilience.results import Estimate, Reliability, Row
from zoo.resilience.specimen import Specimen

SUMMARY = "one transient bit flip in a register of the device"
CHOSEN_BY = ""
FEWEST_INPUTS = 50


@dataclass(frozen=True, kw_only=True)
class Options(Draws):
    """Where faults are, and how they are drawn.

    Attributes:
        dataflow: auto (of the target), block (of an Ethos-U), output-stationary, weight-stationary,
            or uniform, which is software's view: every stored byte is as likely as any other.
        array: rows and columns of the array of the two stationary ones; 16x16 if not given.
        registers: classes or kinds of registers that are hit, e.g. flop or weight,accumulator;
            nothing means all.

    """

    dataflow: str = "auto"
    array: str = ""
    registers: str = ""


def analyse(specimen: Specimen, options: Options) -> Reliability:
    """Return accuracy, flip rate and resiliency of a network, by layer, class and bit."""
    where = (options.dataflow, options.array, options.registers)
    engine, setting = prepared(specimen, options, *where)
    plan = setting.plan(engine, specimen.labels.numpy())
    found = sampled(plan, options.sampling, setting.text)
    return _reported(specimen, options, found, setting)


def prepared(
    specimen: Specimen, draws: Draws, dataflow: str = "auto", array: str = "", registers: str = ""
) -> tuple[Engine, Arranged]:
    """Return the network ready for flips, and where its integers lie, see `arranged`.

    Raises:
        MismatchError: there are too few inputs, the network has none right, or counts cannot be
            kept where they are to be.

    """
    if draws.sampling.state is not None:
        probe_file(draws.sampling.state)  # before the work, not after it
    count = len(specimen.labels)
    if count < FEWEST_INPUTS and draws.faults is None:
        raise MismatchError(
            f"there are {count} inputs, and an interval of fewer than {FEWEST_INPUTS} would not "
            "hold for others; give more data, or --faults N for these alone"
        )
    engine = Engine(specimen.graph, specimen.samples)
    setting = arranged(engine, specimen.target, dataflow, array, registers)
    if not (engine.clean == specimen.labels.numpy()).any():
        raise MismatchError(
            f"{specimen.ref} has none of the {count} inputs right, so that faults cannot break it; "
            "are labels and preprocessing those of its training?"
        )
    return engine, setting


def _reported(
    specimen: Specimen, options: Options, found: Counted, setting: Arranged
) -> Reliability:
    accuracy = 100 * float(found.plan.right.mean())
    flip, lost = found.rate(), found.rate(signed=True)
    estimates = {
        "accuracy": Estimate(
            value=accuracy, low=accuracy, high=accuracy, known="measured", unit="%",
            method="without faults",
        ),
        "resiliency": _less(accuracy, lost, 1.0),
        "flip_rate": flip,
    }  # fmt: skip
    share = setting.live_share(found.plan)
    if share is not None:
        estimates["resiliency_all_cycles"] = _less(accuracy, lost, share)
        estimates["flip_rate_all_cycles"] = _scaled(flip, share)
    tables = {
        "layer": _rows(found, "layer"),
        "register": _rows(found, "register"),
        "bits": _rows(found, "bits"),
    }
    facts = {
        "data": specimen.data,
        "inputs": len(specimen.labels),
        "array": setting.text,
        "cycles_by": setting.cycles_by,
        "faults": found.faults,
        "runs": int(found.tally.runs.sum()),
        "seed": options.seed,
    }
    if share is not None:
        facts["live_share"] = share
    device = "" if specimen.target is None else specimen.target.name
    where = f" on {device}" if device else ""
    return Reliability(
        analysis="faults",
        ref=specimen.ref,
        target=device,
        summary=f"{specimen.ref}{where}, {found.faults:,} single faults, {specimen.data}; "
        f"{setting.text}",
        main="resiliency",
        estimates=estimates,
        tables=tables,
        facts=facts,
        assumed=setting.assumed,
        notes=_NOTES if found.plan.flow is not None else _SOFTWARE,
        picture=partial(_draw, found, f"{specimen.ref}{where}"),
    )


_NOTES = (
    "of registers that hold numbers alone: control state has no software model, so that the "
    "device's accuracy under a fault is at most this",
    "resiliency is the accuracy given one fault in a live register: reconstructed from the "
    "abstract of arXiv 2212.02649, whose text was not at hand",
)
_SOFTWARE = ("software's view: no device holds its bytes so, see --dataflow",)


def _less(accuracy: float, lost: Estimate, share: float) -> Estimate:
    """Return the accuracy less what is lost in that share of faults."""
    return Estimate(
        value=accuracy - lost.value * share,
        low=max(0.0, accuracy - lost.high * share),
        high=min(100.0, accuracy - lost.low * share),
        known=lost.known, unit="%", faults=lost.faults, runs=lost.runs, method=lost.method,
    )  # fmt: skip


def _scaled(rate: Estimate, share: float) -> Estimate:
    return Estimate(
        value=rate.value * share, low=rate.low * share, high=rate.high * share,
        known=rate.known, unit=rate.unit, faults=rate.faults, runs=rate.runs, method=rate.method,
    )  # fmt: skip


def _rows(found: Counted, key: str) -> list[Row]:
    """Return what flips do by layer, by register or by bits of each register."""
    plan, rows = found.plan, list[Row]()
    groups: dict[tuple[Any, ...], list[int]] = {}
    for number, cell in enumerate(plan.cells):
        name: tuple[Any, ...] = (getattr(cell, key),) if key != "bits" else plan.group(cell)
        groups.setdefault(name, []).append(number)
    for name, numbers in groups.items():
        cells = np.array(numbers)
        flip, lost = found.rate(cells), found.rate(cells, signed=True)
        named: dict[str, Any] = {key: name[-1]}
        if key == "layer":
            named["layer"] = plan.engine.layers[name[0]].name
        elif key == "bits":
            named = {"register": name[0], "bits": name[1]}
        share = float(sum(plan.cells[i].share for i in cells))
        rows.append(
            named
            | {"share_%": 100 * share, "flips_%": flip.value, "low": flip.low, "high": flip.high}
            | {"lost_points": lost.value, "faults": flip.faults}
        )
    return rows


def _draw(found: Counted, title: str, path: Path) -> None:
    from zoo.resilience.heat import Panel, heat_map

    plan, panels = found.plan, []
    tally = found.tally
    with np.errstate(invalid="ignore"):
        rates = 100 * tally.total / tally.trials
    for register in dict.fromkeys(cell.register for cell in plan.cells):
        cells = chosen(plan, register=register)
        numbers = sorted({plan.cells[i].layer for i in cells})
        shares = [
            sum(plan.cells[i].share for i in cells if plan.cells[i].layer == n) for n in numbers
        ]
        values = np.full((len(numbers), max(plan.cells[i].bit for i in cells) + 1), np.nan)
        for i in cells:
            values[numbers.index(plan.cells[i].layer), plan.cells[i].bit] = rates[i]
        names = [plan.engine.layers[n].name for n in numbers]
        panels.append(Panel(register, names, shares, values))
    heat_map(path, panels, f"{title}: answers that a flip turns, in %")
