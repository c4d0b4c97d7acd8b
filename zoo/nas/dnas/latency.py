"""The latency that is expected of a supernet's network, as a device's predictor has learned it.

Widths may lie between their options: the predictor's latency is interpolated there, with a gradient
(`zoo.cost.learned.widths`). A depth is a sum over its values, each as likely as the search has it;
other decisions take what is likeliest, and are not moved by time.
"""

import torch
from torch import Tensor

from zoo.cost import Target
from zoo.cost.deployed import integer, seeded
from zoo.cost.learned import model
from zoo.cost.learned.widths import LatencyOfWidths, Widths
from zoo.errors import MismatchError
from zoo.graph.ir import Graph
from zoo.nas.dnas.costs import Weights
from zoo.nas.dnas.supernet import Networks
from zoo.nas.spaces.contract import Value
from zoo.registry.checkpoint import build

_STEP = 8  # channels that an Ethos-U makes at once
_RARE = 0.02  # a depth that is less likely is not asked about


class Latency:
    """A function of the weights of options: milliseconds.

    Args:
        question: what is searched.
        target: the device.

    Raises:
        MismatchError: no predictor was taught for the device.

    """

    def __init__(self, question: Networks, target: Target) -> None:
        path = model.shipped(target.name)
        if path is None:
            known = ", ".join(sorted(file.stem for file in model.WEIGHTS.glob("*.safetensors")))
            raise MismatchError(
                f"dnas follows the gradient of a learned latency, and there is none of "
                f"{target.name}; there are: {known}; or search --by another"
            )
        self.question, self.target = question, target
        self.predictor, _ = model.load(path)
        self.widths = [d for d in question.open if d.kind == "width"]
        self.depths = [d for d in question.open if d.kind == "depth"]
        self._functions: dict[tuple[Value, ...], LatencyOfWidths] = {}

    def __call__(self, weights: Weights) -> Tensor:
        """Return the latency expected with these weights."""
        expected = [
            (weights[d.name] * torch.tensor([float(v) for v in d.values]).to(weights[d.name])).sum()
            for d in self.widths
        ]
        widths = torch.stack(expected).clamp_min(_STEP)[None]
        total = widths.new_zeros(())
        for share, others in self._forms(weights):
            names = tuple(others.values())
            if names not in self._functions:
                self._functions[names] = LatencyOfWidths(
                    lambda found, others=others: self._graph(found, others),  # type: ignore[misc]
                    self.predictor,
                    self.target,
                    step=_STEP,
                )
            total = total + share * self._functions[names](widths)[0]
        return total

    def _forms(self, weights: Weights) -> list[tuple[Tensor, dict[str, Value]]]:
        """Return the values of all but the widths, with their likelihood: one for each depth."""
        one = next(iter(weights.values())).new_ones(())
        forms: list[tuple[Tensor, dict[str, Value]]] = [(one, {})]
        for decision in self.question.open:
            if decision.kind == "width":
                continue
            shares = weights[decision.name]
            if decision.kind != "depth":
                best = decision.values[int(shares.argmax())]
                forms = [(share, {**form, decision.name: best}) for share, form in forms]
                continue
            forms = [
                (share * shares[n], {**form, decision.name: value})
                for share, form in forms
                for n, value in enumerate(decision.values)
                if float(shares[n].detach()) >= _RARE
            ]
        whole = torch.stack([share for share, _ in forms]).sum()
        return [(share / whole, form) for share, form in forms]

    def _graph(self, found: Widths, others: dict[str, Value]) -> Graph:
        """Return the int8 graph of whole widths."""
        widths = {d.name: width for d, width in zip(self.widths, found, strict=True)}
        recipe = self.question.recipe(**{**others, **widths})
        return integer(seeded(lambda: build(recipe).eval()), recipe.input_shape)
