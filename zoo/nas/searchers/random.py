"""Random search: every value is as likely; the opponent of every other (arXiv 1902.07638)."""

from dataclasses import dataclass

from zoo.nas.searchers.contract import Proposal, Question, drawn

SUMMARY = "every value of every decision is as likely"
FILLS = True


@dataclass(frozen=True, kw_only=True)
class Options:
    """Nothing to set."""


def ask(question: Question, options: Options) -> Proposal:
    """Return a random choice."""
    return Proposal(choice=drawn(question.decisions, question.dice()))
