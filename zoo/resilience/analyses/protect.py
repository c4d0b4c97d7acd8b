"""Soft errors of an NPU against a safety goal, and the cheapest protection that reaches it.

After the study of Arm's Ethos-U55 (Tyagi et al., arXiv 2404.09317), whose blocks, areas and rates
could not be had: what is assumed in their place is printed with the result. The single-point fault
metric is that of ISO 26262-5: SPFM = 1 - sum of unsafe rates / sum of rates; a block's unsafe rate
is its bits times the raw rate times the share of its flips that turn the answer.
"""

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from zoo.cost.registers import Registers, registers
from zoo.errors import MismatchError, ZooError
from zoo.files import given
from zoo.resilience.analyses.faults import prepared
from zoo.resilience.estimates import Counted, Draws, chosen, sampled
from zoo.resilience.faults import BITS
from zoo.resilience.protection import NONE, Measure, Protected, cheapest, front, goal
from zoo.resilience.residency import Arranged, assumption
from zoo.resilience.results import Estimate, Reliability, Row
from zoo.resilience.specimen import Specimen

SUMMARY = "soft errors against a safety goal, and the cheapest protection"
CHOSEN_BY = "protect"
_COMPARATOR, _PARITY, _CHECK = 0.05, 0.13, 0.03  # shares of a block's area
_CELLS = {"light-hardened": (1.2, 0.25), "hardened": (2.0, 2e-4)}  # area, and errors left
_ASSUMED = (
    "hardened flip-flops: 1.2 times the area leaves 25 % of the errors, 2.0 times 0.02 % (assumed: "
    "of the order of CLEAR, DAC 2016)",
    f"a comparator takes {_COMPARATOR:.0%} of what it compares, parity {_PARITY:.0%} of a memory, "
    f"the range check {_CHECK:.0%} of the accumulators (assumed)",
)


@dataclass(frozen=True, kw_only=True)
class Options(Draws):
    """The goal, and how faults are drawn.

    Attributes:
        protect: the goal: asil-b, asil-c, asil-d, or a single-point fault metric, e.g. 0.99.
        fit_budget: failures of 10^9 hours that the whole item grants the NPU; nothing: not judged.
        areas: a TOML file of your own tables [activation], [weight], ... as in a target's file.

    """

    protect: str = "asil-d"
    fit_budget: float | None = None
    areas: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        goal(self.protect)
        if self.fit_budget is not None and not self.fit_budget > 0:
            raise MismatchError(f"--fit-budget {self.fit_budget:g}; expected more than 0")


@dataclass(frozen=True, kw_only=True)
class NpuBlock:
    """A block of the device.

    Attributes:
        name: its class of registers.
        registers: its bits and area.
        unsafe: the share of its flips that turn the answer, in any cycle: value, low, high.
        measures: that it can take.

    """

    name: str
    registers: Registers
    unsafe: tuple[float, float, float]
    measures: tuple[Measure, ...]


def analyse(specimen: Specimen, options: Options) -> Reliability:
    """Return SPFM and FIT of a device that runs a network, a verdict, and the front."""
    if specimen.target is None:
        raise MismatchError(
            "a safety goal is that of a device's registers; give --target, e.g. ethos-u55-128"
        )
    if options.areas:
        specimen = _with_areas(specimen, Path(options.areas).expanduser())
    engine, setting = prepared(specimen, options)
    plan = setting.plan(engine, specimen.labels.numpy())
    found = sampled(plan, options.sampling, setting.text)
    return _reported(specimen, options, found, setting)


def _with_areas(specimen: Specimen, path: Path) -> Specimen:
    """Return the specimen with a user's classes in the place of its target's."""
    given(path, "file")
    assert specimen.target is not None
    try:
        own = registers(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        reason = error.strerror or error
        raise MismatchError(f"--areas {path}: {reason}; expected a TOML file") from error
    except (ZooError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MismatchError(f"{path}: {error}") from error
    if unknown := sorted(set(own) - set(specimen.target.reliability)):
        known = ", ".join(specimen.target.reliability)
        raise MismatchError(f"{path} has {unknown[0]!r}; {specimen.target.name} has {known}")
    merged = registers_of(specimen.target.reliability, own)
    target = dataclasses.replace(specimen.target, reliability=merged)
    return dataclasses.replace(specimen, target=target)


def registers_of(
    before: Mapping[str, Registers], own: Mapping[str, Registers]
) -> dict[str, Registers]:
    """Return classes with a user's in their places; areas may not exceed the device's."""
    merged = {**before, **own}
    total = sum(part.area for part in merged.values())
    if total > 1 + 1e-9:
        raise MismatchError(f"with the target's other blocks the areas sum to {total:g}, above 1")
    return merged


def parts(specimen: Specimen, found: Counted, setting: Arranged) -> list[NpuBlock]:
    """Return the blocks of a device, as unsafe as the trials showed."""
    assert specimen.target is not None
    made = []
    for name, part in specimen.target.reliability.items():
        if part.unsafe is not None:
            low, high = part.unsafe
            made.append(_part(name, part, ((low + high) / 2, low, high), None))
            continue
        cells = chosen(found.plan, register=name)
        rate, live = found.rate(cells), _live(found, setting, name)
        ends = (rate.value * live / 100, rate.low * live / 100, rate.high * live / 100)
        caught = found.caught(cells) if name == "accumulator" else None
        made.append(_part(name, part, ends, caught))
    return made


def _live(found: Counted, setting: Arranged, name: str) -> float:
    """Return the share of the pairs of a bit of a class and a cycle that are live."""
    assert setting.flow is not None
    assert setting.total is not None
    held = setting.flow.registers[name] * BITS[name] * setting.total
    return min(1.0, found.plan.live_bits(name) / held)


def _part(
    name: str, part: Registers, unsafe: tuple[float, float, float], caught: float | None
) -> NpuBlock:
    return NpuBlock(
        name=name, registers=part, unsafe=unsafe, measures=tuple(measures(part, caught))
    )


def measures(part: Registers, caught: float | None = None) -> list[Measure]:
    """Return what can protect a block.

    Args:
        part: the block.
        caught: of accumulators, the share of harmful flips that a check of their range notices.

    """
    made = [NONE]
    if part.kind == "sram":
        made.append(Measure(name="parity", area=part.area * _PARITY, left=0.0))
    else:
        made += [
            Measure(name=name, area=part.area * part.flop_area_share * (area - 1), left=left)
            for name, (area, left) in _CELLS.items()
        ]
    if caught is not None:
        made.append(Measure(name="range check", area=part.area * _CHECK, left=1 - caught))
    twice = part.area * (1 + _COMPARATOR)
    return [*made, Measure(name="duplicated", area=twice, left=0.0)]


def spfm(blocks: Sequence[NpuBlock], chosen_measures: Sequence[str] = ()) -> Estimate:
    """Return the single-point fault metric in %, between what all blocks' intervals allow.

    Args:
        blocks: of the device.
        chosen_measures: the name of each block's measure; nothing means none.

    """
    names = chosen_measures or ["none"] * len(blocks)
    total = sum(block.registers.fit for block in blocks)
    left = [
        next(m.left for m in block.measures if m.name == name)
        for block, name in zip(blocks, names, strict=True)
    ]
    value, best, worst = (
        100 * (1 - sum(b.registers.fit * b.unsafe[end] * part
                       for b, part in zip(blocks, left, strict=True)) / total)
        for end in range(3)
    )  # fmt: skip
    return Estimate(
        value=value, low=worst, high=best, known="estimated", unit="%",
        method="every block at its interval's end; control at its bracket's",
    )  # fmt: skip


def verdict(metric: Estimate, share: float) -> str:
    """Return "meets", "fails", or "undecided" where the interval straddles the goal."""
    if metric.low >= 100 * share:
        return "meets"
    return "fails" if metric.high < 100 * share else "undecided"


def front_of(blocks: Sequence[NpuBlock], end: int = 2) -> list[Protected]:
    """Return the front of area and unsafe share; by default at the upper ends of intervals."""
    total = sum(block.registers.fit for block in blocks)
    weights = [block.registers.fit * block.unsafe[end] / total for block in blocks]
    return front([(w, block.measures) for w, block in zip(weights, blocks, strict=True)])


def _said(verdicts: Mapping[str, str], area: float, budget: float | None) -> str:
    """Return the verdicts for people."""
    words = f"{verdicts['goal']} without protection: {verdicts['unprotected']}"
    if area:
        words += f"; with {area:.1f} % more area: {verdicts['protected']}"
    if budget is not None:
        words += f"; {budget:g} FIT without protection: {verdicts['fit_budget']}"
    return words


def _reported(
    specimen: Specimen, options: Options, found: Counted, setting: Arranged
) -> Reliability:
    assert specimen.target is not None
    blocks, (name, share) = parts(specimen, found, setting), goal(options.protect)
    metric, choices = spfm(blocks), front_of(blocks)
    best = cheapest(choices, 1 - share, name)
    after = spfm(blocks, best.measures)
    fit = sum(block.registers.fit for block in blocks)
    ends = sorted(fit * (1 - part / 100) for part in (metric.high, metric.value, metric.low))
    rate = Estimate(value=ends[1], low=ends[0], high=ends[2], known="estimated", unit="FIT")
    verdicts = {
        "goal": name, "unprotected": verdict(metric, share), "protected": verdict(after, share)
    }  # fmt: skip
    if options.fit_budget is not None:
        unsafe = Estimate(value=-rate.value, low=-rate.high, high=-rate.low, known="estimated")
        verdicts["fit_budget"] = verdict(unsafe, -options.fit_budget / 100)
    plan = ", ".join(
        f"{block.name} {measure}" for block, measure in zip(blocks, best.measures, strict=True)
    )
    return Reliability(
        analysis="protect",
        ref=specimen.ref,
        target=specimen.target.name,
        summary=f"{specimen.ref} on {specimen.target.name}: "
        + _said(verdicts, 100 * best.area, options.fit_budget),
        main="spfm",
        estimates={"spfm": metric, "spfm_protected": after, "failures": rate},
        tables={
            "block": [_row(b, m) for b, m in zip(blocks, best.measures, strict=True)],
            "front": [_point(one, blocks) for one in choices],
            "assumed area": _tornado(blocks, share, name),
        },
        facts={
            "data": specimen.data, "inputs": len(specimen.labels), "faults": found.faults,
            "seed": options.seed, "array": setting.text, "verdicts": verdicts, "plan": plan,
        },
        assumed=(*(assumption(b.name, b.registers) for b in blocks), *_ASSUMED),
        notes=(
            "what is detected is not corrected: duplication, parity and the range check need a "
            "retry or a safe state",
            "the study of arXiv 2404.09317 reached ASIL-D at 38 % area with areas that are not "
            "public; the areas here are assumed, and a lock-step pair takes 100 % and a comparator",
        ),
        picture=partial(_draw, choices, share, f"{specimen.ref} on {specimen.target.name}"),
    )  # fmt: skip


def _row(block: NpuBlock, measure: str) -> Row:
    value, low, high = (100 * end for end in block.unsafe)
    part = block.registers
    return {
        "block": block.name, "kind": part.kind, "bits": part.bits, "raw_fit": part.fit,
        "unsafe_%": value, "low": low, "high": high, "area_%": 100 * part.area, "measure": measure,
        "left_%": 100 * next(m.left for m in block.measures if m.name == measure),
    }  # fmt: skip


def _point(one: Protected, blocks: Sequence[NpuBlock]) -> Row:
    return {
        "area_%": 100 * one.area, "spfm_%_at_least": 100 * (1 - one.unsafe),
        **{block.name: measure for block, measure in zip(blocks, one.measures, strict=True)},
    }  # fmt: skip


def _tornado(blocks: Sequence[NpuBlock], share: float, name: str) -> list[Row]:
    """Return the plan's area if one block's is half or twice what was assumed."""
    rows: list[Row] = []
    for place, block in enumerate(blocks):
        areas = []
        for factor in (0.5, 2.0):
            scaled = tuple(dataclasses.replace(m, area=m.area * factor) for m in block.measures)
            changed = list(blocks)
            changed[place] = dataclasses.replace(block, measures=scaled)
            areas.append(100 * cheapest(front_of(changed), 1 - share, name).area)
        rows.append({"block": block.name, "area_%_if_half": areas[0], "area_%_if_twice": areas[1]})
    return rows


def _draw(choices: Sequence[Protected], share: float, title: str, path: Path) -> None:
    from zoo.cost.chart import Series, chart

    points = [(100 * one.area, 100 * (1 - one.unsafe)) for one in choices]
    most = max(100 * (1 + _COMPARATOR), *(area for area, _ in points))
    series = [
        Series("cheapest protections", points),
        Series("the goal", [(0.0, 100 * share), (most, 100 * share)]),
        Series("lock step", [(100 * (1 + _COMPARATOR), 100.0)], line=False),
    ]
    chart(path, series, title=title, x="area added, %", y="SPFM at least, %")
