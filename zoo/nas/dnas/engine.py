"""The differentiable search: weights of a supernet and wishes for its options, trained together.

What to combine is a `Way`; published searches are entries of `zoo.nas.dnas.ways.WAYS`. Training is
the zoo's one loop: the supernet is a `Trainee`, what a search adds is a `Hook`.
"""

import dataclasses
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.cost import Target
from zoo.errors import MismatchError
from zoo.files import read_json, write_json
from zoo.nas.dnas import regularisers, selection
from zoo.nas.dnas.costs import COSTS, Costs
from zoo.nas.dnas.latency import Latency
from zoo.nas.dnas.samplers import SAMPLERS
from zoo.nas.dnas.splits import Splits
from zoo.nas.dnas.supernet import Networks, Supernet, by_name
from zoo.nas.dnas.ways import WAYS, Way
from zoo.nas.spaces.contract import Value
from zoo.training.accelerator import accelerator_for
from zoo.training.contract import Candidate, Hook, Setup
from zoo.training.loop import Run
from zoo.training.network import WholeNetwork
from zoo.training.progress import Progress

RESULT, LATENCY = "found.json", "latency"
_STRENGTH = 2.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chosen:
    """What a search found.

    Attributes:
        choice: of the whole space.
        spent: training work: MACs of all samples' forward passes.
        wishes: probabilities of the options, by decision.

    """

    choice: Mapping[str, Value]
    spent: float
    wishes: dict[str, list[float]]


def search(
    question: Networks,
    out: Path,
    *,
    data: str,
    limits: Mapping[str, float],
    way: Way = WAYS["zoo"],
    steps: int = 0,
    seed: int = 0,
    device: str | None = None,
    target: Target | None = None,
) -> Chosen:
    """Train the supernet of a space and return the choice it ends with, before repair.

    Args:
        question: what is searched.
        out: a folder for the run, which goes on with what is in it.
        data: what the largest network's recipe is trained on.
        limits: by the name of a cost of `zoo.nas.dnas.costs.COSTS`, or "latency", in ms.
        way: what is combined.
        steps: of the training; 0 takes the recipe's.
        seed: of weights, batches and draws.
        device: "cpu" to leave an accelerator unused.
        target: of the latency.

    Raises:
        MismatchError: an unknown cost is limited, the target's latency was not learned, or the
            space has nothing that can be learned.

    """
    known = {**COSTS, **({} if target is None else {LATENCY: None})}
    if unknown := sorted(set(limits) - set(known)):
        raise MismatchError(f"limit on {unknown[0]!r}; a supernet knows {', '.join(known)}")
    latency = Latency(question, target) if target is not None and LATENCY in limits else None
    recipe = question.recipe()
    steps = steps or recipe.train.steps
    train = dataclasses.replace(
        recipe.train, steps=steps, seed=seed, ema_decay=0.0, eval_every=steps, patience=0,
        optimizer="adamw", compile=False, teacher=None, init=None,
        options={**recipe.train.options, "search": {**dataclasses.asdict(way), **limits}},
    )  # fmt: skip
    trainee = Searching(dataclasses.replace(recipe, make=train), question, way)
    part = Choosing(Costs(question), limits, way, steps, seed, latency)
    accelerator = accelerator_for("supernet", train, out, None, device)
    run = Run(trainee, out, accelerator, data, "unstated", hooks=[part])
    if way.split:
        run.task = Splits(run.task, run.data, lambda step: way.half(step, steps))
    run.execute(resume=out.is_dir())
    found = read_json(out / RESULT)
    samples = steps * train.batch_size * train.accumulation_steps * accelerator.num_processes
    spent = samples * float(part.costs.graph.macs)
    return Chosen(choice=found["choice"], spent=spent, wishes=found["wishes"])


class Searching(WholeNetwork):
    """A supernet as what a run trains; its result is a choice."""

    result = RESULT

    def __init__(self, recipe: Any, question: Networks, way: Way) -> None:
        super().__init__(recipe)
        self.question, self.way = question, way

    def build(self, setup: Setup) -> nn.Module:
        """Return the supernet."""
        self.setup = setup
        way = self.way
        self.net = self.module = Supernet(
            self.question, SAMPLERS[way.sampler],
            partial=way.partial, edges=way.edges, twin=way.relaxed > 0,
        )  # fmt: skip
        return self.module

    @contextmanager
    def candidate(self, averaged: nn.Module | None) -> Iterator[Candidate]:
        """Lend the supernet with the options that are chosen."""
        net, before = self.net, self.net.fixed
        training = net.training
        net.eval()
        net.fixed = options = self.selected()
        chosen = {"options": torch.tensor(options)}
        yield Candidate(net, chosen | {str(n): x.detach() for n, x in enumerate(net.logits())})
        net.fixed = before
        net.train(training)

    def selected(self) -> list[int]:
        """Return the options that the search ends with."""
        net = self.net
        if self.way.select == "argmax":
            return [int(x.argmax()) for x in net.logits()]

        def merit(weights: Sequence[Tensor]) -> float:
            net.fixed = weights
            scores = self.setup.task.validate(net, self.setup.data, self.recipe)
            return self.setup.task.FACTS.merit(scores)

        return selection.by_perturbation([x.detach() for x in net.logits()], merit)

    def write(self, progress: Progress, metrics: dict[str, Any]) -> None:
        """Write the choice."""
        options = progress.best["options"].tolist()
        names = [decision.name for decision in self.net.decisions]
        shares = [progress.best[str(n)].softmax(-1).tolist() for n in range(len(names))]
        found = {
            "choice": self.net.choice(options),
            "wishes": dict(zip(names, shares, strict=True)),
            "metrics": metrics,
        }
        write_json(self.setup.out / RESULT, found)

    def is_complete(self) -> bool:
        """Say whether the run reached its end."""
        file = self.setup.out / RESULT
        return file.is_file() and read_json(file)["metrics"]["training"]["complete"] is True


class Choosing(Hook):
    """The part of a run that trains wishes: what is drawn, what costs, who is trained.

    Args:
        costs: of the space.
        limits: by the name of a cost.
        way: what is combined.
        steps: of the run.
        seed: of the sandwich's random networks.
        latency: where that is limited.

    """

    def __init__(
        self,
        costs: Costs,
        limits: Mapping[str, float],
        way: Way,
        steps: int,
        seed: int,
        latency: Latency | None = None,
    ) -> None:
        self.latency = latency
        self.costs, self.limits, self.way = costs, dict(limits), way
        self.steps, self.seed, self.step = steps, seed, 0

    def begin(self, setup: Setup, trained: nn.Module) -> None:
        """Know the supernet."""
        assert isinstance(trained, Supernet)
        self.net = trained

    @property
    def progress(self) -> float:
        """Of the search, below 0 while weights settle."""
        return self.way.progress(self.step, self.steps)

    def starting(self, step: int) -> None:
        """Say which network the step trains."""
        self.step, way, net = step, self.way, self.net
        dice = random.Random(f"{self.seed} {step}")
        turn = step % way.sandwich if way.sandwich else -1
        if self.progress < 0:
            net.fixed = net.widest() if step % 2 else net.any(dice)
        else:
            net.fixed = {0: net.widest(), 1: net.any(dice)}.get(turn)
        net.temperature = way.warm * (way.cool / way.warm) ** max(0.0, self.progress)
        if way.wishes_every and self.progress >= 0:
            wishes = way.of_wishes(step)
            for parameter in net.network.parameters():
                parameter.requires_grad_(not wishes)
            for wish in (*net.wishes, *net.edge_wishes):
                wish.requires_grad_(wishes)

    def loss(self, loss: Tensor) -> Tensor:
        """Add what costs and indecision cost, as shares of the loss, and the twins' distance."""
        if self.way.relaxed:
            loss = loss + self.way.relaxed / 2 * self.net.apart()
        if self.net.fixed is not None or self.progress < 0:
            return loss
        way, logits, unit = self.way, self.net.logits(), loss.detach().abs()
        sharp = self.progress if way.sharpen else 0.0
        shares = [regularisers.sharpened(x, sharp) for x in logits]
        weights = by_name(self.net.decisions, shares)
        found = self.costs(weights)
        away = loss.new_zeros(())
        measured = {name: COSTS[name](found) for name in self.limits if name != LATENCY}
        if self.latency is not None:
            measured[LATENCY] = self.latency(weights).to(loss)
        if measured:
            ratios = torch.stack([torch.log(measured[n] / self.limits[n]) for n in measured])
            # The tightest limit decides: a network below all of them may grow.
            away = ratios.max().abs() if way.two_sided else ratios.clamp_min(0).sum()
        undecided = torch.stack([regularisers.indecision(x) for x in logits]).mean()
        return loss + unit * (_STRENGTH * away + way.decide * self.progress * undecided)
