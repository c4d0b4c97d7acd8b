"""Uniform scaling, what a person does: all widths the same share of the largest, for each depth."""

from dataclasses import dataclass

from zoo.nas.searchers.contract import Proposal, Question
from zoo.nas.spaces.contract import choices

SUMMARY = "all widths alike, as wide as the limits let them be, for each of the other choices"
FILLS = True


@dataclass(frozen=True, kw_only=True)
class Options:
    """Nothing to set."""


def ask(question: Question, options: Options) -> Proposal:
    """Return the widest network of the next combination of all else; a repair makes it fit."""
    others = tuple(d for d in question.decisions if d.kind != "width")
    listed = list(choices(others))
    widest = {d.name: d.values[-1] for d in question.decisions}
    return Proposal(choice={**widest, **listed[question.number % len(listed)]})
