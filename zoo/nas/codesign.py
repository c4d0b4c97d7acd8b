"""Which network, accelerator and drone go together: AutoPilot's question, by Bayesian optimisation.

AutoPilot (Krishnan et al., arXiv 2102.02988) searches a policy network, an accelerator and a drone
at once, since a better network is slower, a faster accelerator is hotter, and what cools it is
weight. Here the latency is the roofline of the network on the accelerator, the flight is F-1
(`zoo.cost.drones`), and the search is optuna's.

What is not known here is assumed, and says so: there is no simulator, so how often a network gets
its drone to the goal is `success`, a curve that rises with its size and levels off. So are the
watts of an accelerator. Compare designs by them; believe no number of them.
"""

import functools
import importlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from types import ModuleType

import torch

from zoo.cost import Target, estimate
from zoo.cost.drones import Flight, drone, drone_names, fly
from zoo.cost.target import Number
from zoo.errors import MismatchError, MissingExtraError
from zoo.graph.ir import Graph
from zoo.graph.trace import trace
from zoo.nas.policies import SIDE, ResidualPolicy

ASSUMED = "the success rate is an assumption, not a measurement; so are the accelerator's watts"

PJ_PER_MAC = 20.0  # of a whole chip; MLPerf Tiny v1.0: 3 to 28 of GAP9 with its NE16
IDLE_W, SRAM_W_PER_MIB = 0.01, 0.02  # assumed
HEAVIEST_G = 1e4  # heavier than any drone here
DRAM_BYTES_PER_S = 4e8  # assumed: HyperRAM of 8 bits at 200 MHz, both edges


@dataclass(frozen=True, kw_only=True, order=True)
class Design:
    """A network, an accelerator and a drone.

    Attributes:
        blocks: of the policy network, see `zoo.nas.policies`.
        width: likewise, channels of its first layer.
        multipliers: of the accelerator, MACs a cycle.
        clock_mhz: of the accelerator.
        sram_kib: of the accelerator; what does not fit goes to DRAM.
        drone: a name of `zoo.cost.drones.drone_names()`.

    """

    blocks: int
    width: int
    multipliers: int
    clock_mhz: int
    sram_kib: int
    drone: str

    @property
    def power_w(self) -> float:
        """Watts of the accelerator at work; an assumption."""
        arithmetic = self.multipliers * self.clock_mhz * 1e6 * PJ_PER_MAC * 1e-12
        return IDLE_W + SRAM_W_PER_MIB * self.sram_kib / 1024 + arithmetic

    @property
    def target(self) -> Target:
        """The accelerator, as the roofline takes it."""
        source = "a design, not a product"
        numbers = {
            "clock_hz": self.clock_mhz * 1e6,
            "sram_bytes": self.sram_kib * 1024.0,
            "sram_bytes_per_s": 8.0 * self.clock_mhz * 1e6,
            "dram_bytes_per_s": DRAM_BYTES_PER_S,
            "power_w": self.power_w,
        }
        rates = {"conv2d": self.multipliers, "default": max(self.multipliers / 8, 1)}
        return Target(
            name=f"design-{self.multipliers}-{self.clock_mhz}mhz-{self.sram_kib}kib",
            summary=f"{self.multipliers} multipliers at {self.clock_mhz} MHz",
            method="roofline",
            dtype="int8",
            fuses=frozenset({"relu"}),
            numbers={
                n: Number(value=v, confidence="assumed", source=source) for n, v in numbers.items()
            },
            rates={
                n: Number(value=v, confidence="assumed", source=source) for n, v in rates.items()
            },
        )


@dataclass(frozen=True, kw_only=True)
class Designs:
    """The designs to choose from: every combination. The defaults are 5000."""

    blocks: tuple[int, ...] = (1, 2, 3, 4, 5)
    width: tuple[int, ...] = (8, 16, 24, 32)
    multipliers: tuple[int, ...] = (2, 8, 32, 128, 512)
    clock_mhz: tuple[int, ...] = (50, 100, 200, 400, 800)
    sram_kib: tuple[int, ...] = (128, 512)
    drone: tuple[str, ...] = tuple(drone_names())

    def __len__(self) -> int:
        """Return the number of designs."""
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[Design]:
        """Give every design."""
        for values in itertools.product(*astuple(self)):
            yield self.design(values)

    @staticmethod
    def design(values: Sequence[int | str]) -> Design:
        """Return the design with these values, in the order of the fields."""
        return Design(**dict(zip(Designs.__dataclass_fields__, values, strict=True)))  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class JudgedDesign:
    """What a design does.

    Attributes:
        design: which one.
        latency_ms: of its network on its accelerator, by roofline.
        success: the share of missions that reach their goal; an assumption.
        flight: None if the drone cannot lift its computer.

    """

    design: Design
    latency_ms: float
    success: float
    flight: Flight | None

    @property
    def missions(self) -> float:
        """Missions on one charge; 0 if it cannot fly."""
        return 0.0 if self.flight is None else self.flight.missions

    @property
    def score(self) -> float:
        """Missions on one charge that reach their goal."""
        return self.success * self.missions

    @property
    def weight_g(self) -> float:
        """Grams that take off; endless if it cannot fly."""
        return math.inf if self.flight is None else self.flight.weight_g


def success(parameters: int) -> float:
    """Return how many missions of a hundred reach their goal, as a fraction: an assumption.

    From 60 % of a network without parameters it rises to 92 %, half of the way at 60 000.
    """
    return 0.92 - 0.32 * 2 ** (-parameters / 60_000)


@functools.cache
def _policy(blocks: int, width: int) -> Graph:
    with torch.device("meta"):
        return trace(ResidualPolicy(blocks, width).eval(), (1, 1, SIDE, SIDE))


@functools.cache
def _latency_ms(policy: tuple[int, int], accelerator: tuple[int, int, int]) -> float:
    values = dict(zip(("multipliers", "clock_mhz", "sram_kib"), accelerator, strict=True))
    target = Design(blocks=0, width=0, drone="", **values).target
    return estimate(_policy(*policy), target, method="roofline").latency_ms


def evaluate(design: Design) -> JudgedDesign:
    """Return what a design does."""
    policy = design.blocks, design.width
    latency_ms = _latency_ms(policy, (design.multipliers, design.clock_mhz, design.sram_kib))
    graph = _policy(*policy)
    try:
        flight = fly(drone(design.drone), latency_ms / 1e3, design.power_w)
    except MismatchError:
        flight = None
    return JudgedDesign(
        design=design,
        latency_ms=latency_ms,
        success=success(sum(graph.parameters.values())),
        flight=flight,
    )


def search(
    space: Designs,
    trials: int,
    *,
    seed: int = 0,
    judge: Callable[[Design], JudgedDesign] = evaluate,
) -> Iterator[JudgedDesign]:
    """Give the outcomes that Bayesian optimisation tries for the highest score, in that order.

    Args:
        space: of designs.
        trials: how many to try.
        seed: of the sampler.
        judge: gives the outcome of a design.

    Raises:
        MissingExtraError: optuna is not installed.

    """
    yield from _asked(space, trials, seed, judge, lambda outcome: [outcome.score])


def explore(
    space: Designs,
    trials: int,
    *,
    seed: int = 0,
    judge: Callable[[Design], JudgedDesign] = evaluate,
) -> list[JudgedDesign]:
    """Return the outcomes of a search for the highest scores at every weight; see `search`."""
    return list(
        _asked(space, trials, seed, judge, lambda outcome: [outcome.score, -_size(outcome)])
    )


def _asked(
    space: Designs,
    trials: int,
    seed: int,
    judge: Callable[[Design], JudgedDesign],
    goals: Callable[[JudgedDesign], list[float]],
) -> Iterator[JudgedDesign]:
    optuna = _optuna()
    names, axes = list(Designs.__dataclass_fields__), astuple(space)
    # Two goals, or one and no other.
    directions = ["maximize"] * len(goals(judge(space.design([axis[0] for axis in axes]))))
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True), directions=directions
    )
    for _ in range(trials):
        trial = study.ask()
        values = [
            axis[trial.suggest_int(name, 0, len(axis) - 1)]
            for name, axis in zip(names, axes, strict=True)
        ]
        outcome = judge(space.design(values))
        study.tell(trial, goals(outcome))
        yield outcome


def _optuna() -> ModuleType:
    try:
        optuna = importlib.import_module("optuna")
    except ImportError as error:
        raise MissingExtraError.of("optuna", "codesign") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def front(outcomes: Sequence[JudgedDesign]) -> list[JudgedDesign]:
    """Return those that no other beats in score and weight at once, from the lightest."""
    best: list[JudgedDesign] = []
    for outcome in sorted(outcomes, key=lambda o: (o.weight_g, -o.score)):
        if outcome.score > (best[-1].score if best else 0.0):
            best.append(outcome)
    return best


def hypervolume(outcomes: Sequence[JudgedDesign]) -> float:
    """Return the area that a front covers in the plane of weight, in decades, and score.

    It reaches from each design's weight to `HEAVIEST_G`, and from its score to nothing.
    """
    best = front(outcomes)
    ends = [*(_size(outcome) for outcome in best[1:]), math.log10(HEAVIEST_G)]
    return sum(o.score * (end - _size(o)) for o, end in zip(best, ends, strict=True))


def _size(outcome: JudgedDesign) -> float:
    """Return the decades of the weight: ten times as heavy is one more."""
    return math.log10(min(outcome.weight_g, HEAVIEST_G))


def table(outcomes: Sequence[JudgedDesign]) -> list[list[str]]:
    """Return a front as rows of texts, the header first."""
    rows = [["WEIGHT", "SCORE", "SUCCESS", "DRONE", "NETWORK", "ACCELERATOR", "LATENCY", "SPEED"]]
    for o in outcomes:
        d, flight = o.design, o.flight
        rows.append(
            [
                f"{o.weight_g:,.1f} g",
                f"{o.score:.1f}",
                f"{100 * o.success:.0f} %",
                d.drone,
                f"{d.blocks} blocks, width {d.width}",
                f"{d.multipliers} at {d.clock_mhz} MHz, {d.sram_kib} KiB, {d.power_w:.2g} W",
                f"{o.latency_ms:.3g} ms",
                "-" if flight is None else f"{flight.velocity_m_s:.1f} m/s, {flight.bound}-bound",
            ]
        )
    return rows
