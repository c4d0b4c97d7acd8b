"""Differentiable search: the weights of a supernet and its choices, trained together.

What comes out is repaired like any other proposal, so that it takes what the limits allow by real
measurement. Each trial is a search with a seed of its own.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from zoo.cost.pricing import chosen_method
from zoo.errors import MismatchError
from zoo.nas.searchers.contract import Proposal, Question

if TYPE_CHECKING:
    from zoo.cost import Target
    from zoo.nas.dnas.supernet import Networks
    from zoo.nas.spaces.contract import Choice

SUMMARY = "differentiable: the choices of a supernet trained with its weights"
FILLS = True


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the supernet is trained.

    Attributes:
        way: what is combined: the zoo's own, or a published search; see `zoo.nas.dnas.ways`.
        search_steps: of the supernet's training; 0 takes as many as a network's.

    """

    way: Literal[
        "zoo", "fbnet", "proxylessnas", "darts", "darts-pt", "pc-darts", "rarts", "single-path"
    ] = "zoo"
    search_steps: int = 0

    def __post_init__(self) -> None:
        if self.search_steps < 0:
            raise MismatchError(f"search_steps is {self.search_steps}; expected 0 or more")


def ask(question: Question, options: Options) -> Proposal:
    """Return what a supernet chooses.

    Raises:
        MismatchError: nothing is trained, or no decision of the space says where it acts.

    """
    if question.data is None or question.folder is None:
        raise MismatchError("dnas trains a supernet: add --data, or search --by another")
    from zoo.cost.learned.model import shipped
    from zoo.nas.dnas import engine
    from zoo.nas.dnas.supernet import Networks
    from zoo.nas.dnas.ways import WAYS

    networks = Networks(question.space, question.settings, question.decisions, question.fitted)
    given = dict(question.limits.given)
    if question.target is None or shipped(question.target.name) is None:
        given.pop("latency_ms", None)  # no gradient leads there; what is found is repaired
    found = engine.search(
        networks,
        question.folder / f"supernet-{question.draw}",
        data=question.data,
        limits={_cost(name, question.target): value for name, value in given.items()},
        way=WAYS[options.way],
        steps=options.search_steps or question.steps,
        seed=question.dice().randrange(2**31),
        target=question.target,
    )
    first = _growing(networks, found.choice, found.wishes)
    return Proposal(choice=found.choice, spent=found.spent, first=first)


def _cost(quantity: str, target: "Target | None") -> str:
    """Return the supernet's cost of a limited quantity; an Ethos-U stores weights in its code."""
    known = {"macs": "macs", "sram_bytes": "sram", "latency_ms": "latency"}
    encoded = target is not None and chosen_method(target, "auto") == "vela"
    return known.get(quantity, "encoded" if encoded else "flash")


def _growing(
    networks: "Networks", choice: "Choice", wishes: dict[str, list[float]]
) -> tuple[str, ...]:
    """Return the decisions that wish for more than was chosen, the most urgent first."""
    above = {
        d.name: sum(wishes[d.name][d.values.index(choice[d.name]) + 1 :])
        for d in networks.open
        if d.ordered
    }
    return tuple(sorted((n for n in above if above[n] > 0), key=lambda n: -above[n]))
