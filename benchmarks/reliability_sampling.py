"""How good the estimates of `zoo reliability` are: variance, coverage, and whose faults they are.

    python -m benchmarks.reliability_sampling REF=DATA ... [--faults 20000]

Of each network:

- variance of the resiliency by so many faults: unpaired (the share of right answers), paired (what
  a fault turned, on the same input), and by the sampler. The sampler's draws are shared out by one
  run's pilot; the variances in its strata are those of another run;
- flip rate and accuracy lost by output-stationary and weight-stationary arrays of 16 x 16, by the
  blocks of ethos-u55-128, and by software's view, with the interval of their difference from it;
- the share of harmful flips of accumulators that a check of their range notices.

Of three small networks, and of the last layer of the first network on 40 inputs: how often of 200
runs the interval holds the truth, which is that of every fault.
"""

import argparse
import dataclasses
import functools
import math
from typing import Any

import numpy as np
import torch

from benchmarks.common import report
from tests.small_nets import NAMES, small_net
from zoo.cost.target import target
from zoo.resilience.dataflow import OutputStationary
from zoo.resilience.engine import Engine, FlipOutcome
from zoo.resilience.estimates import Counted, Sampling, chosen, sampled
from zoo.resilience.faults import BITS, Integers
from zoo.resilience.plan import Drawn, FaultPlan
from zoo.resilience.residency import arranged
from zoo.resilience.results import Estimate
from zoo.resilience.statistics import Reals
from zoo.verbs.reliability import specimen

FLOWS = ("output-stationary", "weight-stationary", "block", "uniform")
DEVICE, RUNS = "ethos-u55-128", 200


def plans(ref: str, data: str) -> tuple[Engine, Integers, dict[str, FaultPlan]]:
    """Return a network, its labels, and the plan of faults by each dataflow."""
    found = specimen(ref, None, data)
    engine, labels = Engine(found.graph, found.samples), found.labels.numpy()
    device = target(DEVICE)
    made = {
        name: arranged(engine, device, name, "16x16", "").plan(engine, labels) for name in FLOWS
    }
    return engine, labels, made


def variances(plan: FaultPlan, first: Counted, second: Counted, faults: int) -> dict[str, float]:
    """Return the variances of one fault by three ways, as ratios."""
    shared = plan.allocated(first.tally, faults).astype(float)
    own = second.tally.merged(plan.stratum, len(plan.shares))
    n = own.trials
    spread = np.maximum(own.square / n - (own.signed / n) ** 2, 0)
    sampler = shared.sum() * float((plan.shares**2 * spread / shared).sum())
    flips, lost = second.rate().value / 100, second.rate(signed=True).value / 100
    right = float(plan.right.mean()) - lost
    paired = flips - lost**2
    return {
        "unpaired_over_paired": right * (1 - right) / paired,
        "paired_over_sampler": paired / sampler,
        "unpaired": right * (1 - right), "paired": paired, "sampler": sampler,
    }  # fmt: skip


def difference(one: Estimate, other: Estimate) -> dict[str, float]:
    """Return one less other, with the interval that follows from both (Zou and Donner)."""
    value = one.value - other.value
    down = math.hypot(one.value - one.low, other.high - other.value)
    up = math.hypot(one.high - one.value, other.value - other.low)
    return {"value": value, "low": value - down, "high": value + up}


def network(ref: str, data: str, faults: int) -> dict[str, Any]:
    """Return everything about a shipped network."""
    _, labels, made = plans(ref, data)
    found = {n: sampled(p, Sampling(faults=faults, seed=1)) for n, p in made.items()}
    first = sampled(made[FLOWS[0]], Sampling(faults=faults // 4, seed=2))
    result: dict[str, Any] = {
        "ref": ref, "inputs": len(labels), "faults": faults,
        "accuracy_%": 100 * float(made["block"].right.mean()),
        "variance": variances(made[FLOWS[0]], first, found[FLOWS[0]], faults),
        "flows": {}, "range_check": {},
    }  # fmt: skip
    software = found["uniform"]
    for name, counted in found.items():
        rates = counted.rate(), counted.rate(signed=True)
        result["flows"][name] = {
            "flip_rate": rates[0].to_json(), "lost": rates[1].to_json(),
            "flips_over_uniform": difference(rates[0], software.rate()),
            "lost_over_uniform": difference(rates[1], software.rate(signed=True)),
        }  # fmt: skip
        cells = chosen(counted.plan, register="accumulator")
        if cells:
            result["range_check"][name] = counted.caught(cells)
    return result


class Remembered(FaultPlan):
    """A plan whose every fault was tried before: runs of it only look up."""

    @functools.cached_property
    def table(self) -> tuple[Reals, Integers]:
        """Masked, caught and lost of every fault; where each cell's begin, and its sites."""
        parts, offsets, size = [], [], 0
        for number, cell in enumerate(self.cells):
            live = self.sites(cell)
            sample, site = np.divmod(np.arange(live * len(self.labels)), live)
            drawn = Drawn(cell=np.full(len(site), number), sample=sample, site=site)
            outcome, _, lost = super().tried(drawn)
            parts.append(np.stack([outcome.masked, outcome.caught, lost]).astype(np.int8))
            offsets.append((size, live))
            size += len(site)
        return np.concatenate(parts, 1), np.array(offsets)

    def tried(self, drawn: Drawn) -> tuple[FlipOutcome, Reals, Reals]:
        """Look the faults up."""
        table, offsets = self.table
        first, live = offsets[drawn.cell].T
        masked, caught, lost = table[:, first + drawn.sample * live + drawn.site]
        outcome = FlipOutcome(answer=drawn.sample, masked=masked > 0, caught=caught > 0)
        weight = 1 / (len(self.labels) * self.chances[drawn.sample])
        return outcome, weight, lost.astype(float)

    def truth(self) -> Reals:
        """Return flip rate and accuracy lost over all faults, in %."""
        table, offsets = self.table
        sums = np.zeros(2)
        for cell, (first, live) in zip(self.cells, offsets.tolist(), strict=True):
            mine = table[2, first : first + live * len(self.labels)].astype(float)
            sums += cell.share * np.array([np.abs(mine).mean(), mine.mean()])
        return 100 * sums


def coverage(name: str, plan: Remembered, faults: int) -> dict[str, Any]:
    """Return how often intervals hold the truth."""
    truth, inside = plan.truth(), [0, 0]
    for seed in range(RUNS):
        found = sampled(plan, Sampling(faults=faults, seed=seed))
        for place in (0, 1):
            rate = found.rate(signed=bool(place))
            inside[place] += bool(rate.low <= truth[place] <= rate.high)
    return {
        "network": name, "every_fault": plan.table[0].shape[1], "runs": RUNS, "faults": faults,
        "flip_rate_%": truth[0], "lost_points": truth[1],
        "covered_flips": inside[0] / RUNS, "covered_lost": inside[1] / RUNS,
    }  # fmt: skip


def covered(ref: str, data: str) -> list[dict[str, Any]]:
    """Return the coverage on small networks, and on the last layer of a shipped one."""
    made = []
    for name in NAMES:
        graph, samples, labels = small_net(name)
        engine = Engine(graph, samples[:5])
        whole = [1.0] * len(engine.layers)
        plan = Remembered(engine, OutputStationary(4, 4), tuple(BITS), whole, labels[:5].numpy())
        made.append(coverage(name, plan, 2000))
    found = dataclasses.replace(specimen(ref, None, data, 40))
    engine = Engine(found.graph, found.samples)
    engine.layers = engine.layers[-1:]
    plan = Remembered(engine, OutputStationary(), tuple(BITS), [1.0], found.labels.numpy())
    return [*made, coverage(f"last layer of {ref}", plan, 900)]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", nargs="+", metavar="REF=DATA")
    parser.add_argument("--faults", type=int, default=20000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pairs = [pair.partition("=")[::2] for pair in args.pairs]
    networks = [network(ref, data, args.faults) for ref, data in pairs]
    runs = covered(*pairs[0])
    rows = [["", "", "", "", ""]]
    for found in networks:
        ratios = found["variance"]
        rows.append([
            found["ref"], "unpaired / paired", f"{ratios['unpaired_over_paired']:.1f}",
            "paired / sampler", f"{ratios['paired_over_sampler']:.1f}",
        ])  # fmt: skip
        for name, flow in found["flows"].items():
            more = flow["flips_over_uniform"]
            rows.append([
                "", name, f"{flow['flip_rate']['value']:.3f} % of flips turn an answer",
                "over uniform", f"{more['value']:+.3f} ({more['low']:+.3f} to {more['high']:+.3f})",
            ])  # fmt: skip
    for one in runs:
        rows.append([
            one["network"], "interval holds", f"{one['covered_flips']:.1%}", "accuracy lost",
            f"{one['covered_lost']:.1%}",
        ])  # fmt: skip
    report("reliability_sampling", 1, {"networks": networks, "coverage": runs}, rows)


if __name__ == "__main__":
    main()
