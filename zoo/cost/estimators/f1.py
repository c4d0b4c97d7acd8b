"""The method "f1": how fast a drone may fly whose policy network runs on the target."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from zoo.cost.drones import Drone, Flight, drone, fly
from zoo.cost.estimators.contract import Subject
from zoo.cost.pricing import estimator
from zoo.cost.result import Cost
from zoo.cost.target import Target

AGAIN = True  # the latency is that of another method, so "all" leaves this one out
SUMMARY = "the F-1 roofline of a drone: its safe speed with this network, and what bounds it"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which drone flies, and how far.

    Attributes:
        drone: a name of `zoo.cost.drones.drone_names()`, or the path of a TOML file.
        mission_m: length of a mission in metres.

    """

    drone: str = "crazyflie-2-1"
    mission_m: float = 100.0


@dataclass(frozen=True, kw_only=True)
class FlightCost(Cost):
    """What a network costs on a target, and what a drone can do with it.

    Attributes:
        flight: speed, what bounds it, missions.

    """

    flight: Flight

    @property
    def details(self) -> tuple[str, ...]:
        """What belongs under the one line."""
        return (str(self.flight), *super().details)


def refusal(target: Target) -> str | None:
    """Return why a drone's computer cannot be this target, or None if it can."""
    if target.method == "f1":
        return f"target {target.name!r} is f1, which needs another method for the latency"
    if "power_w" not in target.numbers:
        return (
            f"target {target.name!r} has no power_w, and a drone carries a heat sink for each "
            "watt; add numbers.power_w to a target file of yours"
        )
    return None


def estimate(subject: Subject, target: Target, options: Options) -> Cost:
    """Return the cost by the target's own method, and the flight that follows from it.

    Raises:
        MismatchError: the drone cannot lift the computer.

    """
    craft = drone(options.drone)
    chosen = estimator(target.method)
    cost = chosen.estimate(subject, target, chosen.Options())
    fields: dict[str, Any] = {f.name: getattr(cost, f.name) for f in dataclasses.fields(Cost)}
    power = target.numbers["power_w"].value
    flight = fly(craft, cost.latency_ms / 1e3, power, mission_m=options.mission_m)
    fields["method"] = "f1"
    fields["obtained"] = {**cost.obtained, "flight": f"estimated (F-1 roofline, {craft.summary})"}
    fields["notes"] = (*cost.notes, *_notes(craft))
    return FlightCost(**fields, flight=flight)


def _notes(craft: Drone) -> tuple[str, ...]:
    words = "braking at constant height and hovering by momentum theory, without drag"
    return (words, f"of {craft.name} assumed, not measured here: {', '.join(craft.assumed)}")
