"""`Supernet`: the largest network of a space, in which every choice of smaller ones is a weight.

A width is a mask on the channels of its layers (FBNetV2, arXiv 2004.05565), a depth a share of each
layer's input that goes past it, an operator or a kernel a weighted sum of what all candidates make
(DARTS, arXiv 1806.09055). With weights of 0 and 1 it computes what the chosen network does.
"""

import copy
import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import MismatchError
from zoo.models.forms import training_form
from zoo.nas.dnas.samplers import Sampler
from zoo.nas.spaces.contract import Choice, Decision, Space, Value
from zoo.registry.checkpoint import build
from zoo.registry.recipe import Recipe

WISH_RATE = 60  # Adam's steps are as long as the learning rate, too short for logits


@dataclasses.dataclass(frozen=True)
class Networks:
    """What is searched.

    Attributes:
        space: which networks there are.
        settings: options of the space.
        decisions: all of the space's.
        fitted: gives a recipe of the space what else it needs: labels, settings of the training.

    """

    space: Space
    settings: Any
    decisions: tuple[Decision, ...]
    fitted: Callable[[Recipe], Recipe] = lambda recipe: recipe

    def __deepcopy__(self, memo: Any) -> "Networks":
        """Return itself: nothing in it changes, and a module cannot be copied."""
        return self

    @property
    def open(self) -> tuple[Decision, ...]:
        """The decisions that a supernet can make: they say where they act, and have options."""
        return tuple(d for d in self.decisions if d.layers and len(d.values) > 1)

    @property
    def largest(self) -> dict[str, Value]:
        """The choice of the greatest numbers, and of the first words."""
        return {d.name: d.values[-1] if d.ordered else d.values[0] for d in self.decisions}

    def recipe(self, **other: Value) -> Recipe:
        """Return the recipe of the largest network, with other values of some decisions."""
        made = self.space.recipe(self.settings, {**self.largest, **other}, "supernet")
        return self.fitted(made)


class Supernet(nn.Module):
    """See above. A forward pass draws weights of all options, unless `fixed` says them.

    Args:
        question: what is searched.
        sampler: how wishes become weights.
        partial, edges: see `zoo.nas.dnas.ways.Way`.
        twin: whether a second network learns from the second half of every batch.

    Attributes:
        wishes: learned logits of each open decision, divided by a rate; see `logits`.
        edge_wishes: with `edges`, likewise of each unit of a depth `(units, 2)`: the layers, and
            the way past them.
        temperature: of the draws.
        fixed: the option of every open decision, or weights of all their options; None to draw.

    Raises:
        MismatchError: no decision of the space says where it acts.

    """

    def __init__(
        self,
        question: Networks,
        sampler: Sampler,
        *,
        partial: int = 0,
        edges: bool = False,
        twin: bool = False,
    ) -> None:
        super().__init__()
        self.question, self.sampler, self.partial = question, sampler, partial
        self.decisions = question.open
        if not self.decisions:
            raise MismatchError(
                "no decision of this space names the layers where it acts, so that nothing can be "
                "learned with the weights; search it with another --by"
            )
        recipe = question.recipe()
        deployed = build(recipe)
        self._deployed = [deployed]  # in a list: a plain value, not a part
        self.network = training_form(build(recipe), recipe.train.options)
        self.wishes = nn.ParameterList(torch.zeros(len(d.values)) for d in self.decisions)
        deep = [n for n, d in enumerate(self.decisions) if edges and d.kind == "depth"]
        self._edges = {place: number for number, place in enumerate(deep)}
        units = [max(map(int, self.decisions[place].values)) for place in deep]
        self.edge_wishes = nn.ParameterList(torch.zeros(count, 2) for count in units)
        self.temperature = 1.0
        self.fixed: Sequence[int | Tensor] | None = None
        self._drawn: list[Tensor] = []
        # Widths first: what leads past a layer leads past its mask too.
        for place, decision in sorted(
            enumerate(self.decisions), key=lambda item: item[1].kind == "depth"
        ):
            for order, path in enumerate(decision.layers):
                self._join(place, decision, path, order)
        # Its hooks and sums ask this supernet for weights, as the first network's do.
        self.twin = copy.deepcopy(self.network, {id(self): self}) if twin else None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "network":  # not there yet
                raise
            if name == "_deployed" or hasattr(self.network, name):
                return getattr(self.network, name)
            return getattr(self._deployed[0], name)  # what a task asks of a network

    def _join(self, place: int, decision: Decision, path: str, order: int) -> None:
        module = self.network.get_submodule(path)
        if decision.kind == "width":
            # What follows a layer that is left out has the width of what came before it.
            maker = None if order == 0 else self._skipped(decision.layers[0])
            module.register_forward_hook(_Width(self, place, decision.values, maker))
        elif decision.kind == "depth":
            skip = _Depth(self, place, decision, order)
            if not skip.always:
                module.register_forward_hook(skip)
        else:
            parent, _, last = path.rpartition(".")
            setattr(
                self.network.get_submodule(parent),
                last,
                _Mixed(self, place, decision, module, path),
            )

    def _skipped(self, path: str) -> "_Depth | None":
        """Return what may lead past a layer."""
        for place, decision in enumerate(self.decisions):
            if decision.kind == "depth" and path in decision.layers:
                return _Depth(self, place, decision, decision.layers.index(path))
        return None

    def logits(self) -> list[Tensor]:
        """Return what is wished for, by decision."""
        return [
            WISH_RATE * wish if place not in self._edges else self._of_edges(place)
            for place, wish in enumerate(self.wishes)
        ]

    def edge_shares(self, place: int) -> Tensor:
        """Return what a depth's layers, and the ways past them, weigh: `(units, 2)`."""
        return torch.softmax(WISH_RATE * self.edge_wishes[self._edges[place]], -1)

    def _of_edges(self, place: int) -> Tensor:
        """Return the logarithms of what edges make of the depths, up to a constant."""
        layers, past = self.edge_shares(place).log().unbind(-1)
        depths = [int(value) for value in self.decisions[place].values]
        return torch.stack([layers[:depth].sum() + past[depth:].sum() for depth in depths])

    def edge(self, place: int, unit: int) -> Tensor | None:
        """Return what a unit's layers weigh in this pass, if its own softmax says it."""
        drawn = self.fixed is None and place in self._edges
        return self.edge_shares(place)[unit, 0] if drawn else None

    def chosen_channels(self, count: int) -> Tensor | None:
        """Return which channels are under a choice in this pass, at random; None for all."""
        if self.fixed is not None or not self.partial:
            return None
        taken = torch.zeros(count)
        taken[torch.randperm(count)[: max(1, count // self.partial)]] = 1.0
        return taken

    def apart(self) -> Tensor:
        """Return the squared distance of the two networks' parameters."""
        assert self.twin is not None
        pairs = zip(self.network.parameters(), self.twin.parameters(), strict=True)
        return torch.stack([(a - b).square().sum() for a, b in pairs]).sum()

    def weights(self, place: int) -> Tensor:
        """Return the weights of a decision's options in this forward pass."""
        return self._drawn[place]

    def draw(self) -> None:
        """Draw weights of all options."""
        self._drawn = [self.sampler(x, self.temperature) for x in self.logits()]

    def fix(self, options: Sequence[int | Tensor]) -> None:
        """Take one option of each decision, or these weights."""
        self._drawn = [
            option if isinstance(option, Tensor) else one_hot(int(option), wish)
            for wish, option in zip(self.wishes, options, strict=True)
        ]

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs for `(N, C, H, W)`, or whatever the network takes."""
        if self.fixed is None:
            self.draw()
        else:
            self.fix(self.fixed)
        y: Tensor
        if self.twin is not None and self.training and len(x) > 1:
            middle = len(x) // 2
            y = torch.cat([self.network(x[:middle]), self.twin(x[middle:])])
        else:
            y = self.network(x)
        # Every parameter takes part, as processes that train together expect.
        return y + 0 * sum(wish.sum() for wish in (*self.wishes, *self.edge_wishes))

    def widest(self) -> list[int]:
        """Return the options of the largest network."""
        largest = self.question.largest
        return [d.values.index(largest[d.name]) for d in self.decisions]

    def any(self, dice: random.Random) -> list[int]:
        """Return options of which each is as likely."""
        return [dice.randrange(len(d.values)) for d in self.decisions]

    def choice(self, options: Sequence[int]) -> dict[str, Value]:
        """Return a choice of the whole space; decisions that are not open keep their largest."""
        found = {d.name: d.values[k] for d, k in zip(self.decisions, options, strict=True)}
        return {**self.question.largest, **found}


class _Width:
    """Makes channels beyond each width zero, as far as the width weighs."""

    def __init__(
        self, net: Supernet, place: int, values: Sequence[Value], maker: "_Depth | None"
    ) -> None:
        self.net, self.place, self.maker = net, place, maker
        self.limits = torch.tensor([int(value) for value in values])

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        dim = 1 if output.ndim in (2, 4) else output.ndim - 1
        channels = torch.arange(output.shape[dim], device=output.device)
        live = (channels < self.limits.to(output.device)[:, None]).to(output.dtype)
        shape = [1] * output.ndim
        shape[dim] = -1
        mask = self.net.weights(self.place).to(output.dtype) @ live
        if self.maker is not None:
            kept = self.maker.kept(output)
            mask = kept * mask + (1 - kept)
        if (chosen := self.net.chosen_channels(len(mask))) is not None:
            mask = torch.where(chosen.to(mask.device) > 0, mask, torch.ones_like(mask))
        return output * mask.view(shape)


class _Depth:
    """Leads a layer's input past it, as far as depths without the layer weigh."""

    def __init__(self, net: Supernet, place: int, decision: Decision, order: int) -> None:
        self.net, self.place = net, place
        self.unit = order * max(map(int, decision.values)) // len(decision.layers)
        self.live = torch.tensor([float(int(value) > self.unit) for value in decision.values])
        self.always = bool(self.live.all())

    def kept(self, like: Tensor) -> Tensor:
        """Return how much of the layer there is."""
        found = self.net.edge(self.place, self.unit)
        if found is None:
            found = (self.net.weights(self.place) * self.live.to(like.device)).sum()
        return found.to(like.dtype)

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        change = self.kept(output) * (output - inputs[0])
        chosen = self.net.chosen_channels(output.shape[1])
        return inputs[0] + (change if chosen is None else _along(chosen, change) * change)


class _Mixed(nn.Module):
    """The weighted sum of what a layer's candidates make."""

    def __init__(
        self, net: Supernet, place: int, decision: Decision, own: nn.Module, path: str
    ) -> None:
        super().__init__()
        self._net, self.place = [net], place  # in a list: a plain value, not a part
        self._keeps: bool | None = None
        self.candidates = nn.ModuleList(
            own
            if value == net.question.largest[decision.name]
            else _other(net, decision, value, path)
            for value in decision.values
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum; with partial channels sum w o(S x) + (1 - S) x, if shapes allow it."""
        net = self._net[0]
        chosen = net.chosen_channels(x.shape[1])
        if chosen is None or not self._keeps_shape(x):
            return self._sum(x)
        of = _along(chosen, x)
        return of * self._sum(of * x) + (1 - of) * x

    def _sum(self, x: Tensor) -> Tensor:
        weights = self._net[0].weights(self.place)
        parts = [w * part(x) for w, part in zip(weights, self.candidates, strict=True)]
        return torch.stack(parts).sum(0)

    def _keeps_shape(self, x: Tensor) -> bool:
        if self._keeps is None:
            training = self.training
            with torch.no_grad():
                self._keeps = self.eval().candidates[0](x[:1]).shape[1:] == x.shape[1:]
            self.train(training)
        return self._keeps


def _along(channels: Tensor, like: Tensor) -> Tensor:
    """Return values of channels, shaped to multiply `(N, C, ...)`."""
    return channels.to(like).view(1, -1, *[1] * (like.ndim - 2))


def _other(net: Supernet, decision: Decision, value: Value, path: str) -> nn.Module:
    recipe = net.question.recipe(**{decision.name: value})
    return training_form(build(recipe), recipe.train.options).get_submodule(path)


def one_hot(option: int, like: Tensor) -> Tensor:
    """Return weights of which only one option's is not 0."""
    weights = torch.zeros_like(like, requires_grad=False)
    weights[option] = 1.0
    return weights


def options_of(decisions: Sequence[Decision], choice: Choice) -> list[int]:
    """Return the numbers of a choice's options."""
    return [decision.values.index(choice[decision.name]) for decision in decisions]


def by_name(decisions: Sequence[Decision], weights: Sequence[Tensor]) -> Mapping[str, Tensor]:
    """Return the weights of options by their decision."""
    return {d.name: w for d, w in zip(decisions, weights, strict=True)}
