"""F-1: how fast a drone may fly that must see, decide and brake (Krishnan et al.).

"The Sky Is Not the Limit", IEEE CAL 19 (2020) 38-42, and arXiv 2204.10898. A drone that sees `d`
ahead, acts once in T = 1/f and brakes with `a` stops in time up to

    v = a (sqrt(T^2 + 2 d / a) - T),   from   v^2 / (2 a) + v T = d.

However fast it acts, it flies below sqrt(2 d a), its roof. Stages overlap: f is the least of the
rates of sensor, computer and control. The knee is the rate that reaches a fraction of the roof:
computers beyond it are waste. Their power is paid in the weight of a heat sink, which lowers `a`.

The papers' model of `a` could not be read here. Ours is elementary: at constant height, rotors that
pull F on a mass m brake with a = sqrt((F/m)^2 - g^2). So is that of the power: that of hovering
grows with the weight to the power of 3/2 (momentum theory). Neither knows drag.
"""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.cost.target import Number, number
from zoo.errors import MismatchError, UnknownNameError, ZooError

SYSTEMS = Path(__file__).parent / "systems"
GRAVITY = 9.80665  # m/s2
KNEE = 0.95  # of the roof

# Skyline's names (sites.google.com/view/skyline-tool/parameters) with units; what missions need.
NEEDED = {"sensor_fps_hz", "sensor_range_m", "rotor_pull_n", "drone_weight_g", "payload_weight_g"}
NEEDED |= {"control_hz", "battery_wh", "hover_w", "heatsink_g_per_w"}
OPTIONAL = {"compute_wattage_w", "compute_runtime_s"}


@dataclass(frozen=True, kw_only=True)
class Drone:
    """A drone; every number says where it comes from.

    Attributes:
        name: of its file.
        summary: one line for people.
        numbers: `sensor_fps_hz`; `sensor_range_m`; `rotor_pull_n`, of all rotors; `drone_weight_g`,
            with rotors and battery; `payload_weight_g`, of sensors and computer without a heat
            sink; `control_hz`; `battery_wh`; `hover_w`, at `drone_weight_g`; `heatsink_g_per_w`;
            and of the computer that it flies with, if any, `compute_wattage_w` and
            `compute_runtime_s`.

    """

    name: str
    summary: str
    numbers: Mapping[str, Number]

    def __getitem__(self, name: str) -> float:
        """Return a number's value."""
        return self.numbers[name].value

    @property
    def assumed(self) -> list[str]:
        """Names of the numbers that nobody measured."""
        return [name for name, item in self.numbers.items() if item.confidence == "assumed"]


def drone_names() -> list[str]:
    """Return the names of all drones that ship."""
    return sorted(file.stem for file in SYSTEMS.glob("*.toml"))


def drone(name: str) -> Drone:
    """Return a drone by its name, or read it from a file of yours.

    Args:
        name: of `drone_names()`; or the path of a file, which ends in ".toml".

    Raises:
        UnknownNameError: there is no such drone.
        MismatchError: the file cannot be read, or is not a drone; says why.

    """
    path = Path(name).expanduser() if name.endswith(".toml") else SYSTEMS / f"{name}.toml"
    if not name.endswith(".toml") and name not in drone_names():
        known = drone_names()
        raise UnknownNameError.near("drone", name, known, f"drones: {', '.join(known)}")
    try:
        return parse_drone(path.stem, path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise MismatchError(f"drone {name!r}: {error}; expected a TOML file") from error


def parse_drone(name: str, text: str) -> Drone:
    """Build a drone from the text of its TOML file.

    Raises:
        MismatchError: it is not valid TOML, has an unknown or missing number, or one without a
            value, a known confidence word or a source.

    """
    try:
        fields: dict[str, Any] = tomllib.loads(text)
        if set(fields) != {"summary", "numbers"} or not isinstance(fields["numbers"], dict):
            raise MismatchError(f"it has {', '.join(fields)}; expected summary and [numbers.NAME]")
        given = set(fields["numbers"])
        if missing := sorted(NEEDED - given):
            raise MismatchError(f"numbers.{missing[0]} is missing")
        if unknown := sorted(given - NEEDED - OPTIONAL):
            known = ", ".join(sorted(NEEDED | OPTIONAL))
            raise MismatchError(f"unknown number {unknown[0]!r}; known: {known}")
        numbers = {key: number(f"numbers.{key}", item) for key, item in fields["numbers"].items()}
    except (ZooError, tomllib.TOMLDecodeError) as error:
        raise MismatchError(f"drone {name!r}: {error}") from error
    return Drone(name=name, summary=str(fields["summary"]), numbers=numbers)


def roof(acceleration: float, distance: float) -> float:
    """Return the speed (m/s) below which a drone flies however fast it acts.

    Args:
        acceleration: with which it brakes, m/s2.
        distance: how far it sees, m.

    """
    return math.sqrt(2 * distance * acceleration)


def safe_velocity(acceleration: float, distance: float, rate_hz: float) -> float:
    """Return the speed (m/s) from which a drone stops in time that acts at a rate (Hz)."""
    period = 1 / rate_hz
    # a (sqrt(T^2 + 2d/a) - T) without the difference of two near numbers.
    return 2 * distance / (math.sqrt(period**2 + 2 * distance / acceleration) + period)


def rate_for(acceleration: float, distance: float, velocity: float) -> float:
    """Return the rate (Hz) at which a drone must act to fly safely at `velocity`.

    Raises:
        MismatchError: the speed is not below its roof.

    """
    slack = distance - velocity**2 / (2 * acceleration)
    if slack <= 0:
        top = roof(acceleration, distance)
        raise MismatchError(
            f"no rate is enough for {velocity:.3g} m/s: seeing {distance:g} m ahead and braking "
            f"with {acceleration:.3g} m/s2 it must stay below {top:.3g} m/s"
        )
    return velocity / slack


def knee(acceleration: float, distance: float, fraction: float = KNEE) -> float:
    """Return the rate (Hz) that reaches a fraction of the roof."""
    return fraction / (1 - fraction**2) * math.sqrt(2 * acceleration / distance)


@dataclass(frozen=True, kw_only=True)
class Flight:
    """What a drone can do with a computer.

    Attributes:
        drone: its name.
        weight_g: of all, the heat sink included.
        acceleration_m_s2: with which it brakes.
        roof_m_s: the speed that it cannot reach safely.
        rate_hz: how often it acts.
        velocity_m_s: the safe one.
        knee_hz: the rate that reaches 95 % of the roof.
        bound: what a faster one would have to improve: "sensor", "compute" or "control" below the
            knee, "physics" above it.
        hover_w: power of the rotors.
        compute_w: power of the computer.
        missions: of `mission_m` metres each, on one charge of the battery.
        mission_m: length of a mission.

    """

    drone: str
    weight_g: float
    acceleration_m_s2: float
    roof_m_s: float
    rate_hz: float
    velocity_m_s: float
    knee_hz: float
    bound: str
    hover_w: float
    compute_w: float
    missions: float
    mission_m: float

    def __str__(self) -> str:
        """One line: speed, what bounds it, missions."""
        return (
            f"{self.drone}: {self.weight_g:,.0f} g, safe at {self.velocity_m_s:.2f} of "
            f"{self.roof_m_s:.2f} m/s ({self.bound}-bound), acting at {self.rate_hz:.3g} Hz, knee "
            f"{self.knee_hz:.3g} Hz; {self.missions:.3g} missions of {self.mission_m:g} m a charge"
        )


def fly(
    craft: Drone,
    compute_runtime_s: float | None = None,
    compute_wattage_w: float | None = None,
    *,
    mission_m: float = 100.0,
) -> Flight:
    """Return what a drone can do with a computer that decides in a time and takes a power.

    Args:
        craft: the drone.
        compute_runtime_s: from a picture to a decision; None: of the computer it has.
        compute_wattage_w: while it decides; the weight of a heat sink follows. None: likewise.
        mission_m: length of a mission, flown at the safe speed.

    Raises:
        MismatchError: the rotors cannot lift it, or it has no computer and none is given.

    """
    runtime = _computer(craft, "compute_runtime_s", compute_runtime_s)
    compute_wattage_w = _computer(craft, "compute_wattage_w", compute_wattage_w)
    sink = compute_wattage_w * craft["heatsink_g_per_w"]
    weight_g = craft["drone_weight_g"] + craft["payload_weight_g"] + sink
    pull, weight = craft["rotor_pull_n"], weight_g / 1000 * GRAVITY
    if pull <= weight:
        raise MismatchError(
            f"{craft.name} cannot lift its computer: with a heat sink of {sink:.3g} g for "
            f"{compute_wattage_w:.3g} W it weighs {weight_g:,.0f} g ({weight:.3g} N), and its "
            f"rotors pull {pull:.3g} N; take a computer of less power, or a stronger drone"
        )
    acceleration, distance = GRAVITY * math.sqrt((pull / weight) ** 2 - 1), craft["sensor_range_m"]
    rates = {"sensor": craft["sensor_fps_hz"], "compute": 1 / runtime}
    rates["control"] = craft["control_hz"]
    slowest = min(rates, key=lambda stage: rates[stage])
    velocity = safe_velocity(acceleration, distance, rates[slowest])
    enough = knee(acceleration, distance)
    hover = craft["hover_w"] * (weight_g / craft["drone_weight_g"]) ** 1.5
    return Flight(
        drone=craft.name,
        weight_g=weight_g,
        acceleration_m_s2=acceleration,
        roof_m_s=roof(acceleration, distance),
        rate_hz=rates[slowest],
        velocity_m_s=velocity,
        knee_hz=enough,
        bound=slowest if rates[slowest] < enough else "physics",
        hover_w=hover,
        compute_w=compute_wattage_w,
        missions=craft["battery_wh"] * 3600 * velocity / mission_m / (hover + compute_wattage_w),
        mission_m=mission_m,
    )


def _computer(craft: Drone, name: str, given: float | None) -> float:
    if given is None and name not in craft.numbers:
        raise MismatchError(f"{craft.name} has no {name} of its own; give {name}")
    value = craft[name] if given is None else given
    if not 0 < value < math.inf:
        raise MismatchError(f"{name} is {value}; expected a positive number")
    return value
