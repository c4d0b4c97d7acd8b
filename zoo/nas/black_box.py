"""Black-box search: propose, repair, try, and keep what was learned, until the trials are done."""

import dataclasses
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.errors import MismatchError, ZooError
from zoo.files import read_json, write_json
from zoo.nas import front, judging, measuring, turning
from zoo.nas.assignment import Assignment
from zoo.nas.measuring import Gauge
from zoo.nas.repair import Repair, Repaired
from zoo.nas.searchers.contract import FLIPS, Attempt, Proposal, Question, Searcher
from zoo.nas.spaces.contract import Choice, choices, size
from zoo.nas.study import Study
from zoo.registry.codec import to_json
from zoo.registry.recipe import Recipe

LOGGER = logging.getLogger("zoo")
PICTURE, _PROPOSED = "front.png", "proposed.json"
_AGAIN = 12  # proposals more, where what is proposed was tried already
_FEW = 4096  # choices of a space that is looked through for one that nobody tried


def _choice_in(file: Path) -> Choice | None:
    """Return the choice of a trial under way; None if it was done just now."""
    try:
        choice: Choice = read_json(file)["choice"]
    except MismatchError:
        return None
    return choice


@dataclass(frozen=True)
class Finding:
    """What a search found.

    Attributes:
        trials: all of them, by number.
        best: the one of the greatest merit within the limits.
        path: the recipe file of the best.

    """

    trials: list[Attempt]
    best: Attempt
    path: Path


def search(
    assignment: Assignment,
    searcher: Searcher,
    options: Any,
    by: str,
    folder: Path,
    *,
    trials: int,
    work: float | None = None,
    resume: bool = False,
) -> Finding:
    """Search until so many trials are done, here and in other processes of the same folder.

    Args:
        assignment: what is searched for.
        searcher: proposes candidates.
        options: of the searcher.
        by: its name.
        folder: of the search, see `zoo.nas.study`.
        trials: how many candidates are tried.
        work: training work, MACs of all samples' forward passes, after which no trial is begun.
        resume: go on with a search, or join in.

    Raises:
        MismatchError: nothing is within the limits, or the folder holds another search.

    """
    if trials < 1:
        raise MismatchError(f"trials is {trials}; expected 1 or more")
    if assignment.against == FLIPS:
        first = assignment.recipe(assignment.first, assignment.name)
        turning.checked(first, assignment.target, trials, assignment.faults)
    gauge = Gauge(
        lambda choice: assignment.recipe(choice, assignment.name),
        assignment.limits, assignment.target, assignment.method,
    )  # fmt: skip
    repair = Repair(assignment.decisions, assignment.limits, gauge, gauge.whole)
    study = Study(folder)
    material = None if assignment.data is None else judging.JudgedOn(assignment.data)
    identity = {**assignment.identity(material), "by": by, "by_options": to_json(options)}
    mark = study.open(identity, resume)
    run = _Run(assignment, searcher, options, study, repair, mark, material)
    while run.go_on(trials, work):
        pass
    return run.finished()


class _Run:
    """One process's part of a search."""

    def __init__(
        self,
        assignment: Assignment,
        searcher: Searcher,
        options: Any,
        study: Study,
        repair: Repair,
        mark: str,
        material: judging.JudgedOn | None,
    ) -> None:
        self.assignment, self.searcher, self.options = assignment, searcher, options
        self.study, self.repair, self.mark = study, repair, mark
        self._batch: Any = None
        self._material = material

    def go_on(self, most: int, work: float | None) -> bool:
        """Do a trial; say whether there was one to do.

        Raises:
            MismatchError: a goal proves to be noise.

        """
        if self.assignment.against == FLIPS:
            turning.agreed(self.study.trials())
        with self.study.claimed(most) as number:
            if number is None:
                return False
            under_way = (self.study.folder(number) / _PROPOSED).is_file()
            spent = sum(trial.spent for trial in self.study.trials())
            if not under_way and work is not None and spent >= work:
                return False
            proposed = self._proposed(number)
            if proposed is None:
                return False
            trial = self._tried(number, proposed)
            self.study.add(trial)
            self._tell(trial, most)
            self._keep_best()
        return True

    def _tried(self, number: int, proposed: dict[str, Any]) -> Attempt:
        folder, started = self.study.folder(number), time.perf_counter()
        choice = proposed["choice"]
        use = self.repair.measure(choice)
        load, spent = self.assignment.limits.load(use), float(proposed["spent"])
        verdict, failed = judging.Verdict(merit=0.0, scores={}), ""
        try:
            verdict = self._judged(choice, folder)
        except ZooError as error:  # a loss that became infinite ends a trial, not the search
            if isinstance(error, MismatchError):
                raise
            failed = str(error)
        return Attempt(
            number=number,
            choice=choice,
            use=use,
            load=load,
            merit=verdict.merit,
            scores=verdict.scores,
            seconds=round(proposed["seconds"] + time.perf_counter() - started, 2),
            spent=spent + verdict.spent,
            proposed=proposed["proposed"],
            failed=failed,
        )

    # --- what is tried ------------------------------------------------------------------------

    def _proposed(self, number: int) -> dict[str, Any] | None:
        """Return what a trial tries: what was proposed before a kill, or a new proposal.

        None: every network of the space that is within the limits has been tried.
        """
        file, started = self.study.folder(number) / _PROPOSED, time.perf_counter()
        if file.is_file():
            return read_json(file)
        asked, spent = self._asked_for(number)
        if not asked:
            return None
        best = asked[0]
        if len(asked) > 1:
            score = self._proxy(self.assignment.filter)
            best = max(asked, key=lambda pair: score(pair[1].choice))
        proposed, repaired = best
        facts = {
            "choice": dict(repaired.choice),
            "proposed": dict(proposed),
            "spent": spent,
            "seconds": time.perf_counter() - started,
        }
        write_json(file, facts)
        return facts

    def _asked_for(self, number: int) -> tuple[list[tuple[Choice, Repaired]], float]:
        """Return proposals that nobody tried, as they were and repaired, and the work for them."""
        wanted = self.assignment.draws if self.assignment.filter else 1
        tried = {self._key(choice) for choice in self._tried_so_far(number)}
        fresh: list[tuple[Choice, Repaired]] = []
        spent = 0.0
        for draw in range(wanted + _AGAIN):
            proposal, made = self._asked(number, draw)
            spent += proposal.spent
            if (key := self._key(made.choice)) not in tried:
                tried.add(key)
                fresh.append((proposal.choice, made))
            if len(fresh) == wanted:
                return fresh, spent
        return fresh or self._left(tried), spent

    def _left(self, tried: set[str]) -> list[tuple[Choice, Repaired]]:
        """Return a network that nobody tried; of a large space, any one that fits."""
        every = size(self.assignment.decisions) <= _FEW
        listed = choices(self.assignment.decisions) if every else iter([self.repair.least])
        for choice in listed:
            use = self.repair.measure(choice)
            load = self.assignment.limits.load(use)
            if load <= 1 and not (every and self._key(choice) in tried):
                return [(choice, Repaired(choice, use, load))]
        return []

    def _tried_so_far(self, number: int) -> list[Choice]:
        """Return what is done, and what others have under way."""
        done = [trial.choice for trial in self.study.trials()]
        files = (self.study.path / "trials").glob(f"*/{_PROPOSED}")
        others = [file for file in files if file.parent != self.study.folder(number)]
        return [*done, *(choice for file in others if (choice := _choice_in(file)))]

    def _key(self, choice: Choice) -> str:
        return measuring.identity(self.assignment.recipe(choice, self.assignment.name))

    def _asked(self, number: int, draw: int) -> tuple[Proposal, Repaired]:
        assignment = self.assignment
        question = Question(
            space=assignment.space,
            settings=assignment.settings,
            decisions=assignment.decisions,
            trials=[trial for trial in self.study.trials() if not trial.failed],
            number=number,
            seed=assignment.seed,
            draw=draw,
            limits=assignment.limits,
            measure=self.repair.measure,
            against=assignment.against,
            data=assignment.data,
            steps=assignment.steps if assignment.trains else 0,
            folder=self.study.folder(number) / "searcher",
            search=self.mark,
            target=assignment.target,
            fitted=assignment.fitted,
        )
        proposal = self.searcher.ask(question, self.options)
        dice = question.dice()
        made = self.repair(proposal.choice, dice, fill=self.searcher.FILLS, first=proposal.first)
        return proposal, made

    # --- how good it is -----------------------------------------------------------------------

    def _judged(self, choice: Choice, folder: Path) -> judging.Verdict:
        assignment = self.assignment
        if not assignment.trains:
            value = self._proxy(assignment.objective)(choice)
            return judging.Verdict(merit=value, scores={assignment.objective: value})
        assert self._material is not None
        recipe, training = assignment.recipe(choice, assignment.name), folder / "training"
        found = judging.trained(
            recipe, self.repair.measure(choice), training,
            material=self._material, steps=assignment.steps, seed=assignment.seed,
            device=assignment.device,
        )  # fmt: skip
        if assignment.against != FLIPS:
            return found
        material = self._material(judging.short(recipe, assignment.steps, assignment.seed))
        hit = turning.scores(
            training, material, assignment.target,
            faults=assignment.faults, seed=assignment.seed, before=self.study.trials(),
        )  # fmt: skip
        return dataclasses.replace(found, scores={**found.scores, **hit})

    def _proxy(self, name: str) -> Callable[[Choice], float]:
        assignment = self.assignment
        score = judging.by_proxy(name, assignment.space, assignment.settings, self._inputs)

        def of(choice: Choice) -> float:
            recipe = assignment.recipe(choice, assignment.name)
            return score(choice, recipe, self.repair.measure(choice))

        return of

    def _inputs(self, recipe: Recipe) -> Any:
        """Return a batch, kept for the next candidate with inputs of the same shape."""
        shape = (recipe.input_shape, tuple(sorted(map(str, recipe.preprocessing.items()))))
        if self._batch is None or self._batch[0] != shape:
            self._batch = shape, judging.inputs(recipe, self.assignment.data, self.assignment.seed)
        return self._batch[1]

    # --- what is told and kept ----------------------------------------------------------------

    def _tell(self, trial: Attempt, most: int) -> None:
        name = self.assignment.metric
        value = trial.failed or f"{name} {trial.scores.get(name, trial.merit):.4g}"
        line = f"trial {trial.number + 1} of {most}: {value}, {trial.use}"
        LOGGER.info(line)
        if sys.stderr.isatty():
            print(line, file=sys.stderr)

    def _keep_best(self) -> None:
        """Write the recipe of the best so far, so that a kill leaves one."""
        if (best := self.best()) is not None:
            recipe = self.assignment.recipe(best.choice, self.assignment.name)
            write_json(self.path, recipe.to_json())

    @property
    def path(self) -> Path:
        """The recipe file."""
        return self.study.path / f"{self.assignment.name}.json"

    def best(self) -> Attempt | None:
        """Return the best trial within the limits, the first of equals."""
        fit = [t for t in self.study.trials() if not t.failed and t.load <= 1]
        return max(fit, key=lambda trial: (trial.merit, -trial.number), default=None)

    def finished(self) -> Finding:
        """Draw the front, and return what was found."""
        trials, best = self.study.trials(), self.best()
        if best is None:
            raise ZooError(
                f"none of {len(trials)} trials has a result; the last says: "
                f"{trials[-1].failed if trials else 'other processes still work'}"
            )
        if self.assignment.against == FLIPS and turning.agreed(trials) is None:
            raise MismatchError(
                f"fewer than {turning.AGREEING} candidates have a resiliency by two seeds, so that "
                "nobody knows whether its ranks are noise; go on: --resume, with more --trials"
            )
        title = f"{self.assignment.space_name}: {len(trials)} trials"
        front.draw(
            trials,
            self.assignment.metric,
            self.assignment.against,
            self.study.path / PICTURE,
            title,
        )
        return Finding(trials, best, self.path)
