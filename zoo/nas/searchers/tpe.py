"""TPE (Bergstra et al., NeurIPS 2011), optuna's: values are drawn where good networks had them.

The trials of a search are told to optuna anew each time, so that nothing is lost in a kill. With
`storage`, the address of an optuna storage such as `sqlite:///study.db` or one of PostgreSQL, they
are kept there, and searches on many machines learn from each other's trials.
"""

import hashlib
import importlib
from dataclasses import dataclass
from typing import Any

from zoo.errors import MismatchError, MissingExtraError
from zoo.nas.searchers.contract import Proposal, Question
from zoo.nas.spaces.contract import Decision

SUMMARY = "TPE, of optuna: values where good networks had them"
FILLS = True


@dataclass(frozen=True, kw_only=True)
class Options:
    """How optuna draws.

    Attributes:
        random: trials before the first that is not drawn at random.
        storage: address of an optuna storage that several machines share; "" for none.

    """

    random: int = 10
    storage: str = ""


def ask(question: Question, options: Options) -> Proposal:
    """Return what the sampler draws after all trials.

    Raises:
        MissingExtraError: optuna is not installed.
        MismatchError: the storage cannot be opened.

    """
    try:
        optuna = importlib.import_module("optuna")
    except ImportError as error:
        raise MissingExtraError.of("optuna", "search") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(
        seed=question.dice().randrange(2**31),
        multivariate=True,
        n_startup_trials=options.random,
    )
    study = _study(optuna, question, options.storage, sampler)
    axes = {d.name: _axis(optuna, d) for d in question.decisions}
    _told(optuna, study, question, axes)
    trial = study.ask(axes)
    # What is tried is repaired first, so it is told when it is done, as what it became.
    study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return Proposal(choice={d.name: d.values[trial.params[d.name]] for d in question.decisions})


def _axis(optuna: Any, decision: Decision) -> Any:
    """Return an axis of places, so that numbers that are close are close for optuna."""
    if decision.ordered:
        return optuna.distributions.IntDistribution(0, len(decision.values) - 1)
    return optuna.distributions.CategoricalDistribution(list(range(len(decision.values))))


def _study(optuna: Any, question: Question, storage: str, sampler: Any) -> Any:
    """Return the study: a shared one bears a name that only the same search has."""
    if not storage:
        return optuna.create_study(sampler=sampler, direction="maximize")
    same = repr((question.decisions, question.limits, question.steps, question.against))
    name = f"zoo-{hashlib.sha256(same.encode()).hexdigest()[:16]}"
    try:
        return optuna.create_study(
            sampler=sampler, direction="maximize", storage=storage, study_name=name,
            load_if_exists=True,
        )  # fmt: skip
    except Exception as error:  # of SQLAlchemy and of drivers, by the address
        reason = " ".join(str(error).split())[:200]
        raise MismatchError(
            f"the storage {storage!r} cannot be opened: {reason}; expected e.g. sqlite:///study.db"
        ) from error


def _told(optuna: Any, study: Any, question: Question, axes: Any) -> None:
    """Add the trials that the study does not have yet."""
    known = {trial.user_attrs.get("of") for trial in study.get_trials(deepcopy=False)}
    for trial in question.trials:
        mark = f"{question.search} {trial.number}"
        if mark in known:
            continue
        places = {d.name: d.values.index(trial.choice[d.name]) for d in question.decisions}
        study.add_trial(
            optuna.trial.create_trial(
                params=places, distributions=axes, value=trial.merit, user_attrs={"of": mark}
            )
        )
