"""An estimator: a guess."""

from dataclasses import dataclass

from zoo.cost import memory
from zoo.cost.estimators.contract import counts, energy_mj, obtained
from zoo.cost.result import Cost, Fit

SUMMARY = "so many MACs in a second, whatever the operator"


@dataclass(frozen=True, kw_only=True)
class Options:
    """How fast the device is.

    Attributes:
        macs_per_s: multiply-accumulates in a second.

    """

    macs_per_s: float = 1e9


def refusal(target):
    return None  # any target will do


def estimate(subject, target, options):
    latency = 1e3 * subject.graph.macs / options.macs_per_s
    return Cost(
        **counts(subject.graph, memory.plan(subject.graph, target.dtype), target),
        method="acme-guess",
        latency_ms=latency,
        energy_mj=energy_mj(latency, target),
        bound="compute",
        fits=Fit(sram=True, flash=True),
        tiled=None,
        obtained=obtained("estimated (a guess)", target),
        notes=(),
        ops=(),
    )
