"""Every way to choose bits for layers, beside each other: what a search has to be compared with."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from zoo.errors import MismatchError, UnknownNameError
from zoo.nas.bits.problem import BitProblem
from zoo.nas.limits import Limits
from zoo.nas.searchers import contract
from zoo.nas.searchers.clustered import Options as Clustered
from zoo.nas.searchers.contract import Attempt, Proposal, Question
from zoo.nas.spaces.contract import Choice
from zoo.nas.study import Study
from zoo.quantization.language import allocate
from zoo.quantization.options import LayerOptions
from zoo.registry.codec import to_json

Prices = Mapping[str, Sequence[allocate.Choice[LayerOptions]]]
# By name: the searcher, and what is set. Plain TPE is the same sampler with TPE's one threshold.
SEARCHED: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "random": ("random", {}),
    "tpe": ("clustered", {"split": "quantile"}),
    "nsga2": ("nsga2", {}),
    "clustered": ("clustered", {}),
}
WAYS = ("allocate", "uniform", *SEARCHED)
_AGAIN = 12  # proposals more, where what is proposed was tried already


@dataclass(frozen=True)
class BitRow:
    """What a way found.

    Attributes:
        way: its name.
        choice: bits by layer.
        bits_per_weight: stored, scales included.
        loss: on the inputs that it chose by.
        held_out: on the others.
        evaluations: how often the network was judged before; with prices given, never.

    """

    way: str
    choice: Choice
    bits_per_weight: float
    loss: float
    held_out: float
    evaluations: int

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON types."""
        return {**vars(self), "choice": dict(self.choice)}


def compared(
    problem: BitProblem,
    *,
    trials: int,
    seed: int = 0,
    prices: Prices | None = None,
    folder: Path | None = None,
    resume: bool = False,
) -> list[BitRow]:
    """Return what every way finds, in the order of `WAYS`.

    Args:
        problem: what is chosen.
        trials: of each search.
        seed: of the searches.
        prices: what each layer loses with each number of bits; None has each judged alone.
        folder: where searches keep their trials, so that they go on after a kill; None: nowhere.
        resume: go on with what is in `folder`.

    Raises:
        MismatchError: `folder` holds something else, or there are no trials.

    """
    if trials < 1:
        raise MismatchError(f"trials is {trials}; expected 1 or more")
    rows = []
    for way in WAYS:
        spent = trials
        if way == "allocate":
            choice: Choice = problem.allocated(problem.alone() if prices is None else prices)
            spent = len(problem.weights) * len(problem.bits) if prices is None else 0
        elif way == "uniform":
            choice, spent = problem.uniform(), 0
        else:
            place = None if folder is None else folder / way
            tried = searched(problem, way, trials=trials, seed=seed, folder=place, resume=resume)
            choice = max(tried, key=lambda t: (t.merit, -t.number)).choice
        rows.append(_row(problem, way, choice, spent))
    return rows


def _row(problem: BitProblem, way: str, choice: Choice, spent: int) -> BitRow:
    stored = problem.stored(choice) / problem.count
    seen, unseen = (problem.loss(choice, held_out=held_out) for held_out in (False, True))
    return BitRow(way, choice, stored, seen, unseen, spent)


def searched(
    problem: BitProblem,
    way: str,
    *,
    trials: int,
    seed: int,
    folder: Path | None = None,
    resume: bool = False,
) -> list[Attempt]:
    """Return the trials of a search: proposals, brought within the budget and judged.

    Raises:
        UnknownNameError: there is no such search.

    """
    if way not in SEARCHED:
        raise UnknownNameError.near("search", way, SEARCHED, f"known: {', '.join(SEARCHED)}")
    name, settings = SEARCHED[way]
    searcher = contract.find(name)
    options = searcher.Options(**settings)
    study = None
    if folder is not None:
        study = Study(folder)
        study.open(_identity(problem, way, seed), resume)
    done = [] if study is None else study.trials()
    for number in range(len(done), trials):
        choice = _proposed(problem, searcher, options, done, number, seed)
        loss, use = problem.loss(choice), problem.use(choice)
        load = problem.stored(choice) / problem.budget
        failed = "" if loss < float("inf") else "the outputs are not finite"
        merit = 0.0 if failed else -loss
        attempt = Attempt(
            number=number, choice=choice, use=use, load=load, merit=merit, scores={"loss": -merit},
            failed=failed,
        )  # fmt: skip
        done.append(attempt)
        if study is not None:
            study.add(attempt)
    good = [attempt for attempt in done[:trials] if not attempt.failed]
    if not good:
        raise MismatchError(f"none of {trials} choices gives finite outputs: offer more bits")
    return good


def _identity(problem: BitProblem, way: str, seed: int) -> dict[str, Any]:
    batches = [list(batch.shape) for batch in problem.inputs.searched]
    return {
        "space": "bits",
        "by": way,
        "seed": seed,
        "budget": problem.budget,
        "decisions": {d.name: list(d.values) for d in problem.decisions},
        "inputs": batches,
        "settings": to_json(Clustered(**SEARCHED[way][1])) if SEARCHED[way][1] else {},
    }


def _proposed(
    problem: BitProblem,
    searcher: contract.Searcher,
    options: Any,
    done: Sequence[Attempt],
    number: int,
    seed: int,
) -> Choice:
    """Return what is tried next: the first proposal that was not tried, made to fit."""
    tried = [attempt.choice for attempt in done]
    choice: Choice = {}
    for draw in range(_AGAIN):
        question = Question(
            space=SimpleNamespace(),  # no searcher here builds networks
            settings=None,
            decisions=problem.decisions,
            trials=[attempt for attempt in done if not attempt.failed],
            number=number,
            seed=seed,
            draw=draw,
            limits=Limits(flash_bytes=max(1, problem.budget // 8)),
            measure=problem.use,
            against="flash_bytes",
        )
        proposal: Proposal = searcher.ask(question, options)
        dice = random.Random(f"{seed} {number} {draw} fit")
        choice = problem.fitted(proposal.choice, dice, fill=searcher.FILLS)
        if choice not in tried:
            break
    return choice
