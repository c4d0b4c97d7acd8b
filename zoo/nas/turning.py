"""Resiliency as the second goal of a search: how often one fault turns a candidate's answer.

The trained candidate is quantized as for a device, and hit by the same faults as all others, see
`zoo.resilience.objective`. The first candidates are hit twice, by the faults of two seeds: ranks
that two seeds do not agree on are noise, and the search is refused.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.cost import Target
from zoo.cost.deployed import integer, seeded
from zoo.errors import MismatchError
from zoo.nas.searchers.contract import FLIPS, Attempt
from zoo.quantization.int8.post_training import quantize
from zoo.registry.checkpoint import Checkpoint, build
from zoo.registry.recipe import Recipe
from zoo.resilience.layers import layers
from zoo.resilience.objective import CommonFaults, check_agreement, resiliency
from zoo.resilience.residency import flow_of
from zoo.runtime.values import channels_last, quantized
from zoo.tasks import task_of

AGAIN = "flip_rate_again"  # by the faults of another seed
AGREEING = 20  # candidates that two seeds have to rank alike
_CALIBRATED = 256  # training inputs, from which ranges are found
MOST_FAULTS = 10**7  # of a candidate: they are drawn at once
_INPUTS = 300  # inputs held out that are hit


def checked(recipe: Recipe, target: Target | None, trials: int, faults: int) -> None:
    """Refuse a search against resiliency that cannot be one.

    Args:
        recipe: a candidate.
        target: whose registers are hit, see `zoo.resilience.residency.flow_of`.
        trials: how many candidates there will be.
        faults: that hit each.

    Raises:
        MismatchError: the task has no right and wrong, or two seeds could not be compared,
            the target says nothing of its registers, or those of a layer are not modelled.

    """
    if not hasattr(task_of(recipe), "unseen"):
        raise MismatchError(
            f"{recipe.name} is for {recipe.subtask}, which has no right and wrong answers that a "
            "fault could turn; take another goal, e.g. --against macs"
        )
    if trials < AGREEING:
        raise MismatchError(
            f"{trials} trials are too few for resiliency, which two seeds of faults have to rank "
            f"alike on {AGREEING} candidates first; type --trials {AGREEING} or more"
        )
    if not 1 <= faults <= MOST_FAULTS:
        raise MismatchError(
            f"faults is {faults}; expected 1 to {MOST_FAULTS:,}, e.g. --faults 20000"
        )
    flow_of(target)
    layers(integer(seeded(lambda: build(recipe)), recipe.input_shape))


def scores(
    folder: Path,
    material: Any,
    target: Target | None,
    *,
    faults: int,
    seed: int,
    before: Sequence[Attempt],
) -> dict[str, float]:
    """Return the share of faults that turn the answer of a trained candidate, in %.

    Args:
        folder: of its training.
        material: what it learned.
        target: whose registers are hit.
        faults: how many; the same for all candidates.
        seed: of the faults.
        before: earlier candidates: the first few are hit by the faults of another seed too.

    """
    checkpoint = Checkpoint.read(folder)
    recipe, task = checkpoint.recipe, task_of(checkpoint.recipe)
    rows = range(_CALIBRATED)
    seen = task.batch(material, recipe, 0, rows, len(rows))[0]
    graph = quantize(checkpoint.load().cpu().eval(), [seen], (1, *seen.shape[1:]))
    unseen = task.unseen(material, recipe, _INPUTS)  # type: ignore[attr-defined]
    samples = quantized(graph, channels_last(unseen.samples.float()))
    twice, flow = len(_twice(before)) < AGREEING, flow_of(target)
    seeds = {FLIPS: seed, **({AGAIN: seed + 1} if twice else {})}
    return {
        key: resiliency(graph, samples, CommonFaults(unseen.labels, faults, own, flow)).value
        for key, own in seeds.items()
    }


def agreed(trials: Sequence[Attempt]) -> float | None:
    """Return how well two seeds agree on the first candidates; None while there are too few.

    Raises:
        MismatchError: worse than chooses between candidates.

    """
    twice = _twice(trials)
    if len(twice) < AGREEING:
        return None
    return check_agreement(*([trial.scores[key] for trial in twice] for key in (FLIPS, AGAIN)))


def _twice(trials: Sequence[Attempt]) -> list[Attempt]:
    """Return the first candidates that two seeds have judged."""
    return [trial for trial in trials if AGAIN in trial.scores][:AGREEING]
