"""Which array a device is, which of its registers are hit, and how long its layers take."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from zoo.cost.registers import Registers
from zoo.cost.target import TARGETS, Target, target, target_names
from zoo.errors import MismatchError, UnknownNameError
from zoo.resilience.cycles import ESTIMATOR, cycles
from zoo.resilience.dataflow import NAMES, Dataflow, MicroBlocks, OutputStationary, dataflow
from zoo.resilience.engine import Engine
from zoo.resilience.faults import BITS, Integers
from zoo.resilience.plan import STORED, FaultPlan, stretches

_STATIONARY = ("output-stationary", "weight-stationary")
_LANES = 8  # places of a sum that an Ethos-U55 takes in a cycle


@dataclass(frozen=True, kw_only=True)
class Arranged:
    """Where the integers of a network lie.

    Attributes:
        flow: the array; None is software's view.
        registers: classes that are hit.
        stretch: by layer, see `FaultPlan`.
        text: the array, for people.
        cycles_by: who says how long layers take.
        total: cycles of an inference; None where nobody knows.
        assumed: assumed numbers, a line each.

    """

    flow: Dataflow | None
    registers: tuple[str, ...]
    stretch: Sequence[float]
    text: str
    cycles_by: str
    total: float | None = None
    assumed: tuple[str, ...] = field(default=())

    def plan(self, engine: Engine, labels: Integers) -> FaultPlan:
        """Return the plan of faults in these registers."""
        return FaultPlan(engine, self.flow, self.registers, self.stretch, labels)

    def live_share(self, plan: FaultPlan) -> float | None:
        """Return the share of all pairs of a bit and a cycle that are live; None if unknown."""
        if self.flow is None or self.total is None:
            return None
        live = sum(plan.live_bits(name) for name in self.registers)
        held = sum(self.flow.registers[name] * BITS[name] for name in self.registers)
        return min(1.0, live / (held * self.total))


def arranged(
    engine: Engine, device: Target | None, name: str, array: str, registers: str
) -> Arranged:
    """Return where a network's integers lie.

    Args:
        engine: the network.
        device: the target; None if a dataflow is named that needs none.
        name: the dataflow, or "auto".
        array: rows and columns of a stationary one, "16x16"; "" for the 16 x 16.
        registers: classes or kinds, separated by commas; "" for all.

    Raises:
        MismatchError: the device has no such array or registers, or a size is given to an array
            that has its own.
        UnknownNameError: there is no such dataflow or class.

    """
    if name not in (*NAMES, "auto"):
        raise UnknownNameError.near("dataflow", name, NAMES, f"known: auto, {', '.join(NAMES)}")
    if array and name not in _STATIONARY:
        raise MismatchError(
            f"--array {array} goes with --dataflow {' or '.join(_STATIONARY)}; "
            f"{'software has no array' if name == 'uniform' else 'a device has its own array'}"
        )
    if name == "uniform":
        wanted = _wanted(registers, {"weight": "flop", STORED: "flop"})
        whole = [1.0] * len(engine.layers)
        return Arranged(
            flow=None, registers=wanted, stretch=whole, text="every stored byte is as likely",
            cycles_by="",
        )  # fmt: skip
    if name in _STATIONARY:
        flow = dataflow(name, *_sizes(array or "16x16"))
        wanted = _wanted(registers, dict.fromkeys(flow.registers, "flop"))
        whole = [1.0] * len(engine.layers)
        products = [layer.shape for layer in engine.layers]
        total = float(sum(flow.cycles(shape) * shape.products for shape in products))
        return Arranged(
            flow=flow, registers=wanted, stretch=whole, text=flow.text, total=total,
            cycles_by="the array's own, without waiting for memories",
        )  # fmt: skip
    return _of_device(engine, _with_registers(device), registers)


def _of_device(engine: Engine, device: Target, registers: str) -> Arranged:
    classes = {name: part for name, part in device.reliability.items() if part.kind != "control"}
    flow = block(device)
    spent = cycles(engine.graph, device)
    return Arranged(
        flow=flow,
        registers=_wanted(registers, {name: part.kind for name, part in classes.items()}),
        stretch=stretches(engine, flow, spent),
        text=flow.text,
        cycles_by=f"estimated ({ESTIMATOR}, {device.name})",
        total=sum(spent.values()),
        assumed=tuple(assumption(name, part) for name, part in classes.items()),
    )


def assumption(name: str, part: Registers) -> str:
    """Return a line about a class of registers, with where its numbers come from."""
    return f"{name}: {part.bits:,} bits, {part.kind} ({part.confidence}: {part.source})"


def flow_of(device: Target | None) -> Dataflow:
    """Return the array of a device; without one, an output-stationary array of 16 x 16.

    Raises:
        MismatchError: the device says nothing of its registers.

    """
    return OutputStationary() if device is None else block(_with_registers(device))


def block(device: Target) -> MicroBlocks:
    """Return the array of an Ethos-U.

    Raises:
        MismatchError: the device has none, or no accumulators.

    """
    sums = device.reliability.get("accumulator")
    if device.array is None or sums is None or sums.block is None:
        raise MismatchError(f"target {device.name!r} does not say how its sums are held")
    rows, columns, channels = device.array.microblock
    positions = rows * columns
    down, across = max(1, sums.block[0] // positions), max(1, sums.block[1] // channels)
    return MicroBlocks(positions, channels, down, across, _LANES)


def _with_registers(device: Target | None) -> Target:
    """Return the target if it says what its registers are."""
    known = ", ".join(name for name in target_names() if _has_registers(name))
    if device is None:
        raise MismatchError(
            f"which device? give --target, one of {known}; or --dataflow output-stationary, "
            "weight-stationary or uniform, which need none"
        )
    if not device.reliability:
        reason = "has no array of multipliers" if device.array is None else "has none"
        raise MismatchError(
            f"a target needs tables [reliability.*] of its registers, and {device.name} {reason}; "
            f"take one of {known}"
        )
    return device


def _has_registers(name: str) -> bool:
    return "[reliability." in (TARGETS / f"{name}.toml").read_text(encoding="utf-8") and bool(
        target(name).reliability
    )


def _sizes(array: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,9})x(\d{1,9})", array)
    if found is None:
        raise MismatchError(f"--array {array!r}; expected rows and columns, e.g. 16x16")
    return int(found[1]), int(found[2])


def _wanted(registers: str, kinds: Mapping[str, str]) -> tuple[str, ...]:
    """Return the classes that a list of classes and kinds means, in the device's order."""
    if not registers:
        return tuple(kinds)
    words = [word.strip() for word in registers.split(",")]
    known = sorted({*kinds, *kinds.values()})
    if not all(words):
        raise MismatchError(
            f"--registers {registers!r} has an empty name; expected names with commas between "
            f"them, of {', '.join(known)}"
        )
    for word in words:
        if word not in known:
            raise UnknownNameError.near("register", word, known, f"known: {', '.join(known)}")
    return tuple(name for name, kind in kinds.items() if name in words or kind in words)
