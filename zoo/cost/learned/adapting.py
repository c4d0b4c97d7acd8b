"""Another target from a few measurements: factors for the units of an accelerator.

Every unit (convolutions, depthwise ones, pools, ...) gets one factor on its cycles: one that all
share, times its own. How far both may leave 1 is chosen by leaving each measurement out in turn,
and the better the left out ones become, the more of the factors is taken; where leaving out shows
no gain, they stay at 1. What the predictor learned of the old target is taken back to the cycle
model of the new one where that alone is nearer. So a device that differs in other ways than its
units is not made worse.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from zoo.cost.learned.features import BUSY, NAMES, SeenPasses
from zoo.cost.learned.layers import UNITS
from zoo.cost.learned.model import Facts, Predictor, batch
from zoo.errors import MismatchError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

FEWEST = 3
# What a factor's logarithm costs beside the mean square of those of ratios: the shared one's, each
# unit's own. Infinity keeps it at 0.
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, math.inf)
TRUSTS = (1.0, 0.5, 0.0)  # of what was learned on the old target
SURE = 2.0  # standard errors of a gain that count as none
STEPS = 4  # the shares of the units change with the factors


def adapted(
    predictor: Predictor, facts: Facts, given: Sequence[tuple[SeenPasses, float]], target: str
) -> tuple[Predictor, Facts]:
    """Return a predictor for another target, from a few networks' cycles on it.

    Args:
        predictor: of the most similar target.
        facts: of it.
        given: what is seen of each network on the new target, and its measured cycles.
        target: name of the new one.

    Raises:
        MismatchError: there are fewer than three measurements.

    """
    if len(given) < FEWEST:
        raise MismatchError(f"{len(given)} measurements; a target is learned from {FEWEST} or more")
    truth = np.array([cycles for _, cycles in given], np.float64)
    found, spent = _trusted(predictor, [passes for passes, _ in given], truth)
    factors, rest = _chosen(spent, truth)
    places = torch.tensor([NAMES.index(f"unit {name}") for name in UNITS])
    more = torch.tensor(factors, dtype=torch.float32)[:, None]
    found.scale.index_copy_(0, places, found.scale[places] + more)
    width = max(math.log(facts.interval[1] / facts.interval[0]) / 2, float(np.abs(rest).max()))
    bounds = (math.exp(-width), math.exp(width))
    source = f"{facts.source}; adapted with {len(given)} measurements on {target}"
    return found.eval(), replace(
        facts, target=target, networks=len(given), interval=bounds, source=source, errors={}
    )


def _trusted(
    predictor: Predictor, networks: Sequence[SeenPasses], truth: "Floats"
) -> "tuple[Predictor, Floats]":
    """Return as much of a predictor as helps, and the cycles of each unit that it predicts."""
    found, least = None, np.zeros(0)
    for trust in TRUSTS:
        part = Predictor(hidden=predictor.head.in_features)
        part.load_state_dict(predictor.state_dict())
        part.requires_grad_(False)
        for values in (part.head.weight, part.head.bias):
            values[: len(BUSY)] *= trust
        spent = _by_unit(part, networks)
        off = np.abs(np.log(truth / spent.sum(1)))
        if found is None or _gain(least - off) > 0:
            found, least = (part, spent), off
    assert found is not None
    return found


def _gain(gains: "Floats") -> float:
    """Return the share of a gain that is beyond doubt: none below two standard errors of it."""
    doubt = SURE * gains.std(ddof=1) / math.sqrt(len(gains))
    return float(1 - (doubt / gains.mean()) ** 2) if gains.mean() > doubt else 0.0


def _by_unit(predictor: Predictor, networks: Sequence[SeenPasses]) -> "Floats":
    """Return the predicted cycles of each unit, (networks, units)."""
    whole = batch(networks)
    with torch.inference_mode():
        cycles = predictor(whole).passes
    units = whole.features[:, [NAMES.index(f"unit {name}") for name in UNITS]]
    found = torch.zeros(len(networks), len(UNITS)).index_add(
        0, whole.network, units * cycles[:, None]
    )
    return found.double().numpy()


def _chosen(spent: "Floats", truth: "Floats") -> "tuple[Floats, Floats]":
    """Return the logarithms of the units' factors, and those of truth over what they predict."""
    none = np.log(truth / spent.sum(1))
    best, off = (math.inf, math.inf), none
    for pair in itertools.product(RIDGES, RIDGES):
        left = np.array([_left_out(spent, truth, pair, place) for place in range(len(truth))])
        if np.abs(left).mean() < np.abs(off).mean():
            best, off = pair, left
    share = _gain(np.abs(none) - np.abs(off))
    factors = share * _fitted(spent, truth, best)
    return factors, (1 - share) * none + share * off


def _left_out(spent: "Floats", truth: "Floats", ridges: tuple[float, float], place: int) -> float:
    """Return the logarithm of truth over prediction of a network that the factors did not see."""
    rest = np.arange(len(truth)) != place
    factors = _fitted(spent[rest], truth[rest], ridges)
    return math.log(truth[place] / float((spent[place] * np.exp(factors)).sum()))


def _fitted(spent: "Floats", truth: "Floats", ridges: tuple[float, float]) -> "Floats":
    """Return the logarithms of the units' factors: least squares with a ridge (Gauss-Newton)."""
    count, units = spent.shape
    # The factor of all is the first column; one that may not move is left out.
    weights = np.array([ridges[0], *([ridges[1]] * units)])
    kept = np.flatnonzero(np.isfinite(weights))
    spread = np.concatenate([np.ones((units, 1)), np.eye(units)], axis=1)[:, kept]
    costs = count * weights[kept]
    x = np.zeros(len(kept))
    for _ in range(STEPS if len(kept) else 0):
        parts = spent * np.exp(spread @ x)
        total = parts.sum(1)
        slopes = (parts / total[:, None]) @ spread
        wanted = np.log(truth / total) + slopes @ x
        x = np.linalg.solve(slopes.T @ slopes + np.diag(costs), slopes.T @ wanted)
    return spread @ x
