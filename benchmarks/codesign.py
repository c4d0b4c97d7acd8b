"""Bayesian optimisation of network, accelerator and drone against random choice and all 5000.

    python -m benchmarks.codesign

Goals: the best of all designs is found in a third of the evaluations that random choice needs, by
the median of 20 seeds; the front of 300 evaluations covers 98 % of the whole one's hypervolume.
How often a network reaches its goal is an assumption; see `zoo.nas.codesign`.
"""

import dataclasses
import statistics

import numpy as np

from benchmarks.common import PICTURES, report
from zoo.cost.chart import Series, chart
from zoo.nas.codesign import ASSUMED, Designs, evaluate, explore, front, hypervolume, search, table

SEEDS, MOST, EXPLORED = 20, 2000, 300


def main() -> None:
    space = Designs()
    grid = {design: evaluate(design) for design in space}
    outcomes = list(grid.values())
    best = max(outcome.score for outcome in outcomes)
    found, drawn, covered = [], [], []
    for seed in range(SEEDS):
        tried = search(space, MOST, seed=seed, judge=grid.__getitem__)
        found.append(next(n for n, outcome in enumerate(tried, 1) if outcome.score == best))
        order = np.random.default_rng(seed).permutation(len(outcomes))
        drawn.append(next(n for n, i in enumerate(order, 1) if outcomes[i].score == best))
        explored = explore(space, EXPLORED, seed=seed, judge=grid.__getitem__)
        covered.append(hypervolume(explored) / hypervolume(outcomes))
    whole, one = front(outcomes), front(explored)
    draw(outcomes, whole, one)
    ratio = statistics.median(found) / statistics.median(drawn)
    rows = table(whole)
    report(
        "codesign",
        1,
        {
            "assumption": ASSUMED,
            "designs": len(outcomes),
            "cannot_fly": sum(outcome.flight is None for outcome in outcomes),
            "as_good_as_the_best": sum(outcome.score == best for outcome in outcomes),
            "evaluations": {"optuna": found, "random": drawn},
            "median": {"optuna": statistics.median(found), "random": statistics.median(drawn)},
            "ratio": ratio,
            "explored": EXPLORED,
            "hypervolume": {"median": statistics.median(covered), "min": min(covered)},
            "front": [
                {**dataclasses.asdict(o.design), "weight_g": o.weight_g, "score": o.score}
                for o in whole
            ],
        },
        rows,
    )
    print(
        f"the best of {len(outcomes)}: optuna {statistics.median(found):g} evaluations "
        f"({min(found)} to {max(found)}), random {statistics.median(drawn):g}: {ratio:.3f}x; "
        f"front of {EXPLORED}: {100 * min(covered):.2f} % of the hypervolume at least"
    )
    assert ratio <= 1 / 3
    assert min(covered) >= 0.98


def draw(outcomes: list, whole: list, one: list) -> None:
    """Draw the front of all designs and that of one search."""
    names = [o.design.drone for o in whole]
    # The name of a drone once, at its best design.
    last = {name: place for place, name in enumerate(names)}
    chart(
        PICTURES / "codesign.png",
        [
            Series(
                f"the front of {len(outcomes)} designs",
                [(o.weight_g, o.score) for o in whole],
                [
                    name.removeprefix("crazyflie-2-1-") if last[name] == place else ""
                    for place, name in enumerate(names)
                ],
            ),
            Series(
                f"of {EXPLORED} that optuna tried", [(o.weight_g, o.score) for o in one], line=False
            ),
        ],
        title="Missions of 100 m on a charge that reach their goal (success assumed)",
        x="take-off weight, g",
        y="missions",
        log_x=True,
        log_y=True,
    )


if __name__ == "__main__":
    main()
