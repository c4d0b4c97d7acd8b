"""What a supernet's network is expected to cost, with a gradient for the weights of its options.

Every tensor of the largest network has a share of its channels that is expected to live: a width
sets that of what its layer makes, a depthwise layer or an addition passes it on. Then

    MACs     sum of a layer's own times the shares of its inputs and outputs
    flash    likewise of its parameters, in bytes of int8; or as a device's weight code has them
    SRAM     the most that live activations take while any one layer runs

With weights of 0 and 1 these are the chosen network's own numbers; in between they are exact where
choices are independent, which a sampler's are.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.cost.ethos_u.encoding import UNSEEN_BITS
from zoo.graph.ir import Graph, Op
from zoo.graph.lower import lower
from zoo.nas.dnas.supernet import Networks
from zoo.nas.spaces.contract import Decision
from zoo.registry.checkpoint import build

DENSE = frozenset(("conv2d", "fully_connected", "transpose_conv2d"))
JOINING = frozenset(("add", "pad"))
Weights = Mapping[str, Tensor]  # of a decision's options, by its name


@dataclass(frozen=True)
class Expected:
    """What is expected.

    Attributes:
        macs: multiply-accumulates.
        flash_bytes: of all parameters in int8, biases in 32 bits.
        sram_bytes: of live activations in int8, at the busiest moment.
        encoded_bytes: of the parameters in Ethos-U's weight code, whatever they are.

    """

    macs: Tensor
    flash_bytes: Tensor
    sram_bytes: Tensor
    encoded_bytes: Tensor


COSTS: dict[str, Callable[[Expected], Tensor]] = {
    "macs": lambda found: found.macs,
    "flash": lambda found: found.flash_bytes,
    "sram": lambda found: found.sram_bytes,
    "encoded": lambda found: found.encoded_bytes,
}


class Costs:
    """The costs of a space's networks.

    Args:
        question: what is searched.

    """

    def __init__(self, question: Networks) -> None:
        self.decisions = question.open
        recipe = question.recipe()
        self.graph = lower(build(recipe).eval(), (1, *recipe.input_shape[1:]))
        # The operators of each candidate, where a decision changes one.
        self.others: dict[str, list[Graph]] = {}
        for decision in self.decisions:
            if decision.kind not in ("width", "depth"):
                recipes = [question.recipe(**{decision.name: value}) for value in decision.values]
                self.others[decision.name] = [
                    lower(build(other).eval(), (1, *other.input_shape[1:])) for other in recipes
                ]

    def __call__(self, weights: Weights) -> Expected:
        """Return what is expected with these weights."""
        graph, one = self.graph, next(iter(weights.values())).new_ones(())
        shares = dict.fromkeys(graph.inputs, one)
        macs, flash, encoded = [], [], []
        for op in graph.ops:
            sources = [name for name in op.inputs if name in shares]
            into = self._together(op, shares) if sources else one
            out = self._outputs(op, into, weights)
            kept = self._kept(op, weights)
            if not kept.requires_grad and float(kept) == 0:  # left out: nothing changes
                out = into
            shares |= dict.fromkeys(op.outputs, kept * out + (1 - kept) * into)
            own = self._sizes(op, weights)
            dense = into if op.kind in DENSE else one
            macs.append(own[0] * dense * out * kept)
            flash.append((own[1] * dense * out + own[2] * out) * kept)
            encoded.append((own[1] * dense * out * UNSEEN_BITS / 8 + own[2] * out) * kept)
        return Expected(
            torch.stack(macs).sum(),
            torch.stack(flash).sum(),
            self._sram(shares, weights),
            torch.stack(encoded).sum(),
        )

    def _together(self, op: Op, shares: Mapping[str, Tensor]) -> Tensor:
        """Return the share of channels that live in what an operator reads."""
        names = [name for name in op.inputs if name in shares]
        if op.kind not in JOINING:
            return torch.stack([shares[name] for name in names]).max()
        # Of different widths, and padded to the greatest.
        width = self._width(op.outputs[0])
        return torch.stack([shares[n] * min(1.0, self._width(n) / width) for n in names]).max()

    def _width(self, name: str) -> int:
        shape = self.graph.tensors[name].shape
        return shape[1 if self.graph.layout == "torch" and len(shape) == 4 else -1]

    def _outputs(self, op: Op, into: Tensor, weights: Weights) -> Tensor:
        """Return the share of channels that an operator makes."""
        if op.kind not in DENSE:
            return into
        for decision in self.decisions:
            if decision.kind == "width" and _within(op, decision) is not None:
                values = torch.tensor([float(v) for v in decision.values]).to(into)
                found: Tensor = (weights[decision.name] * values).sum() / values[-1]
                return found
        return torch.ones_like(into)

    def _kept(self, op: Op, weights: Weights) -> Tensor:
        kept = next(iter(weights.values())).new_ones(())
        for decision in self.decisions:
            order = _within(op, decision) if decision.kind == "depth" else None
            if order is not None:
                unit = order * max(map(int, decision.values)) // len(decision.layers)
                live = torch.tensor([float(int(value) > unit) for value in decision.values])
                kept = kept * (weights[decision.name] * live.to(kept)).sum()
        return kept

    def _sizes(self, op: Op, weights: Weights) -> tuple[Tensor, Tensor, Tensor]:
        """Return MACs, bytes of weights and bytes of biases and slopes of the largest form."""
        one = next(iter(weights.values())).new_ones(())
        for name, graphs in self.others.items():
            decision = next(d for d in self.decisions if d.name == name)
            order = _within(op, decision)
            if order is None:
                continue
            mine = [o for o in self.graph.ops if _within(o, decision) == order]
            if op is not mine[0]:  # all of a module's operators are counted with its first
                return 0 * one, 0 * one, 0 * one
            rows = [
                [_own(g, o) for o in g.ops if _within(o, decision) == order] or [(0.0, 0.0, 0.0)]
                for g in graphs
            ]
            sizes = torch.stack([torch.tensor(row, dtype=torch.float64).sum(0) for row in rows])
            total = weights[name] @ sizes.to(one)
            return total[0], total[1], total[2]
        macs, weight, others = _own(self.graph, op)
        return macs * one, weight * one, others * one

    def _sram(self, shares: Mapping[str, Tensor], weights: Weights) -> Tensor:
        graph, live = self.graph, self.graph.lifetimes
        moments = []
        for moment, op in enumerate(graph.ops):
            kept = self._kept(op, weights)
            names = [n for n, (first, last) in live.items() if first <= moment <= last]
            sizes = [graph.tensors[n].bytes("int8") * shares[n] for n in names if n in shares]
            inside = self._inside(op, weights)
            moments.append(kept * torch.stack(sizes).sum() if inside is None else inside)
        return torch.stack(moments).max()

    def _inside(self, op: Op, weights: Weights) -> Tensor | None:
        """Return the most that lives while a layer with candidates runs; None of another."""
        for name, graphs in self.others.items():
            decision = next(d for d in self.decisions if d.name == name)
            if (order := _within(op, decision)) is None:
                continue
            most = [
                max(_live(g, k) for k, o in enumerate(g.ops) if _within(o, decision) == order)
                for g in graphs
            ]
            return (weights[name] * torch.tensor(most).to(weights[name])).sum()
        return None


def _live(graph: Graph, moment: int) -> float:
    spans = graph.lifetimes.items()
    names = [n for n, (first, last) in spans if first <= moment <= last]
    return float(sum(graph.tensors[n].bytes("int8") for n in names))


def _own(graph: Graph, op: Op) -> tuple[float, float, float]:
    tensors = [graph.tensors[name] for name in op.inputs if graph.tensors[name].is_parameter]
    weight = sum(t.bytes("int8") for t in tensors if t.kind == "weight")
    return float(op.macs), float(weight), float(sum(t.bytes("int8") for t in tensors)) - weight


def _within(op: Op, decision: Decision) -> int | None:
    """Return which of a decision's layers an operator belongs to."""
    for order, path in enumerate(decision.layers):
        if op.module == path or op.module.startswith(f"{path}."):
            return order
    return None
