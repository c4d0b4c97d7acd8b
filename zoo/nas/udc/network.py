"""The training form of a network whose weights become few and sparse, layer by layer.

It computes what `QatNetwork` computes, but for the weights of its layers:

    settle   8 bits, all weights
    search   each step draws bits and a sparsity for each layer from its wishes
    refine   what was chosen, with the same weights pruned from then on

A step of a channel's levels is a share of the channel's largest weight, so that a layer gains
nothing from larger weights.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo.errors import MismatchError
from zoo.graph.ir import Op
from zoo.graph.kinds import MAC_KINDS
from zoo.nas.dnas.samplers import SAMPLERS
from zoo.nas.udc import size
from zoo.nas.udc.levels import (
    best_shares,
    device_scale,
    largest,
    levels_of,
    on_levels,
)
from zoo.nas.udc.options import BITS, SPARSITIES
from zoo.quantization.int8.calibration import Range
from zoo.quantization.int8.qat import QatNetwork
from zoo.quantization.int8.rules import RULES

Stage = Literal["settle", "search", "refine"]
_WISH_RATE = 60  # Adam's steps are as long as the learning rate, too short for logits
_SHARE_RATE = 10
_LEAST_SHARE = 0.05
_LEANING = 3.0  # logit of the option that a search starts at
_BITS_SAVED = 2.0  # by a weight that becomes 0
_TINY = 1e-12


@dataclass(frozen=True)
class Searched:
    """A layer that is decided.

    Attributes:
        name: of its weight in the graph.
        module: path in the network.
        axis: the dimension with a step per index; None for one step.
        code: what its code depends on besides its weights.

    """

    name: str
    module: str
    axis: int | None
    code: size.Layer


class CompressibleNetwork(QatNetwork):
    """See above; the parameters are those of `QatNetwork`.

    Attributes:
        layers: what is decided, in the graph's order.
        stage: what the next forward pass computes.
        temperature: of the draws.

    """

    chosen: Tensor
    shares: Tensor

    def __init__(
        self,
        network: nn.Module,
        input_shape: tuple[int, ...],
        ranges: Mapping[str, Range],
        scheme: str,
    ) -> None:
        super().__init__(network, input_shape, ranges, scheme)
        self.layers = self._searched()
        if not self.layers:
            raise MismatchError(f"{type(network).__name__} has no layer with weights of its own")
        self._rows_of = {layer.name: row for row, layer in enumerate(self.layers)}
        self.stage: Stage = "settle"
        self.temperature = 1.0
        self.bit_wishes = nn.Parameter(torch.zeros(len(self.layers), len(BITS)))
        self.sparsity_wishes = nn.Parameter(torch.zeros(len(self.layers), len(SPARSITIES)))
        self.register_buffer("chosen", torch.zeros(len(self.layers), 2, dtype=torch.int64))
        self.share_gains = nn.ParameterDict()
        for row, layer in enumerate(self.layers):
            weight = self._value(layer.name)
            top = largest(weight, layer.axis)
            self.share_gains[str(row)] = nn.Parameter(torch.zeros_like(top))
            self.register_buffer(f"share_{row}", torch.ones(len(BITS), *top.shape))
            self.register_buffer(f"mask_{row}", torch.ones(weight.shape, dtype=torch.bool))
            self.register_buffer(f"thresholds_{row}", torch.zeros(len(SPARSITIES)))

    def _searched(self) -> list[Searched]:
        graph, found = self._graph, dict[str, Searched]()
        for op in graph.ops:
            name = op.inputs[1] if op.kind in MAC_KINDS and len(op.inputs) > 1 else ""
            if self._names.get(name, "") in self.weights:
                axis = RULES.of(op).axis
                found[name] = Searched(name, op.module, axis, size.layer(graph, op))
        return list(found.values())

    # --- what a layer's weights are -----------------------------------------------------------

    def _parameter(self, op: Op, name: str, value: Tensor) -> tuple[Tensor, Tensor]:
        row = self._rows_of.get(name)
        if row is None or self.stage == "settle":
            return super()._parameter(op, name, value)
        if self.stage == "refine":
            bits = int(self.chosen[row, 0])
            masked, levels = value * self._mask(row), levels_of(BITS[bits])
            step = self.step(row, bits, masked)
            return on_levels(masked, step, levels), device_scale(step, levels).flatten()
        draw = SAMPLERS["straight-through"]
        bits_drawn, sparsity_drawn = (
            draw(_WISH_RATE * wishes[row], self.temperature)
            for wishes in (self.bit_wishes, self.sparsity_wishes)
        )
        kept = self._kept(row, value)
        masked = value * torch.einsum("s,s...->...", sparsity_drawn, kept.to(value))
        mixed = torch.zeros_like(value)
        scales = torch.ones(1, dtype=torch.float64)
        for index, bits in enumerate(BITS):
            step, levels = self.step(row, index, masked), levels_of(bits)
            mixed = mixed + bits_drawn[index] * on_levels(masked, step, levels)
            if index == int(bits_drawn.argmax()):
                scales = device_scale(step, levels).flatten()
        return mixed, scales

    def step(self, row: int, bits: int, weight: Tensor) -> Tensor:
        """Return the step of a layer's levels, from its weights that are not pruned."""
        layer = self.layers[row]
        share = getattr(self, f"share_{row}")[bits]
        if BITS[bits] < 8:
            gain = 1 + _SHARE_RATE * self.share_gains[str(row)]
            share = (share * gain).clamp(_LEAST_SHARE, 1.0)
        step: Tensor = share * largest(weight, layer.axis) / levels_of(BITS[bits])
        return step

    def _mask(self, row: int) -> Tensor:
        mask: Tensor = getattr(self, f"mask_{row}")
        return mask

    def _kept(self, row: int, value: Tensor) -> Tensor:
        """Return which weights every sparsity keeps, (sparsities, ...)."""
        thresholds: Tensor = getattr(self, f"thresholds_{row}")
        shape = (-1, *[1] * value.ndim)
        return value.detach().abs()[None] > thresholds.view(shape)

    def _stored(self, name: str) -> Tensor:
        row, value = self._rows_of.get(name), self._value(name)
        if row is None or self.stage == "settle":
            return value
        bits, sparsity = (int(option) for option in self.chosen[row])
        mask = self._mask(row) if self.stage == "refine" else self._kept(row, value)[sparsity]
        masked = value * mask
        return on_levels(masked, self.step(row, bits, masked), levels_of(BITS[bits]))

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs for `(N, C, H, W)`, or whatever the network takes."""
        # Every parameter takes part, as processes that train together expect.
        idle = [self.bit_wishes, self.sparsity_wishes, *self.share_gains.values()]
        result: Tensor = super().forward(x) + 0 * sum(part.sum() for part in idle)
        return result

    # --- thresholds, sizes, the decision ------------------------------------------------------

    @torch.no_grad()
    def look(self, *, shares: bool) -> None:
        """Take new thresholds for every sparsity from the weights, and new steps with `shares`."""
        for row, layer in enumerate(self.layers):
            value = self._value(layer.name)
            ordered = value.abs().flatten().sort().values
            ranks = [round(share * (ordered.numel() - 1)) for share in SPARSITIES]
            found = [float(ordered[rank]) if rank else 0.0 for rank in ranks]
            getattr(self, f"thresholds_{row}").copy_(torch.tensor(found))
            if shares:
                top = largest(value, layer.axis)
                for index, bits in enumerate(BITS):
                    best = best_shares(value, top, levels_of(bits), layer.axis)
                    getattr(self, f"share_{row}")[index].copy_(best)

    @torch.no_grad()
    def sizes(self) -> NDArray[np.float64]:
        """Return the encoded bytes of each layer with each option, (layers, bits, sparsities)."""
        table = np.zeros((len(self.layers), len(BITS), len(SPARSITIES)))
        for row in range(len(self.layers)):
            for bits in range(len(BITS)):
                for sparsity in range(len(SPARSITIES)):
                    table[row, bits, sparsity] = float(self.bytes_of(row, bits, sparsity))
        return table

    def bytes_of(self, row: int, bits: int, sparsity: int) -> Tensor:
        """Return the encoded bytes of a layer with an option, with a gradient."""
        value = self._value(self.layers[row].name)
        threshold = float(getattr(self, f"thresholds_{row}")[sparsity])
        masked = value * (value.detach().abs() > threshold)
        step, levels = self.step(row, bits, masked).detach(), levels_of(BITS[bits])
        found = size.counts(value / step, levels, value.abs(), threshold)
        return size.encoded_bytes(found, self.layers[row].code)

    def chosen_bytes(self) -> Tensor:
        """Return the encoded bytes of what was chosen, with a gradient."""
        total = self.bit_wishes.new_zeros(())
        for row, layer in enumerate(self.layers):
            bits = int(self.chosen[row, 0])
            masked = self._value(layer.name) * self._mask(row)
            step, levels = self.step(row, bits, masked).detach(), levels_of(BITS[bits])
            found = size.counts(masked / step, levels)
            total = total + size.encoded_bytes(found, layer.code)
        return total

    @torch.no_grad()
    def zeros(self, row: int) -> float:
        """Return the share of a layer's weights that are 0, as stored."""
        return float((self._stored(self.layers[row].name) == 0).float().mean())

    def wishes(self) -> tuple[Tensor, Tensor]:
        """Return the logits of bits and of sparsity, (layers, options)."""
        return _WISH_RATE * self.bit_wishes, _WISH_RATE * self.sparsity_wishes

    @torch.no_grad()
    def lean(self, bits: int, sparsity: int) -> None:
        """Let every layer wish for an option, by its numbers, before anything is learned."""
        for wishes, option in ((self.bit_wishes, bits), (self.sparsity_wishes, sparsity)):
            wishes.zero_()
            wishes[:, option] = _LEANING / _WISH_RATE

    @torch.no_grad()
    def lost(self, bits: int, sparsity: int) -> float:
        """Return what rounding all layers with an option loses: a share of their squares."""
        shares = []
        for row, layer in enumerate(self.layers):
            value = self._value(layer.name)
            masked = value * self._kept(row, value)[sparsity]
            rounded = on_levels(masked, self.step(row, bits, masked), levels_of(BITS[bits]))
            shares.append(float((rounded - value).square().sum() / value.square().sum()))
        return sum(shares) / len(shares)

    @torch.no_grad()
    def choose(self, options: Sequence[tuple[int, int]]) -> None:
        """Take options of bits and sparsity for each layer, by their numbers, for good."""
        self.chosen.copy_(torch.tensor(options))
        for row, layer in enumerate(self.layers):
            bits, sparsity = options[row]
            value = self._value(layer.name)
            mask = self._kept(row, value)[sparsity]
            getattr(self, f"mask_{row}").copy_(mask)
            top = largest(value * mask, layer.axis)
            best = best_shares(value * mask, top, levels_of(BITS[bits]), layer.axis)
            getattr(self, f"share_{row}")[bits].copy_(best)

    @torch.no_grad()
    def tighten(self, excess: float) -> None:
        """Prune the weights that matter least to their layer, until about so many bytes are saved.

        A weight matters as much as it is large beside its layer's: a level of a layer of few bits
        is more than one of a layer of many.
        """
        if excess <= 0:
            return
        left, parts = excess * 8, []
        for row, layer in enumerate(self.layers):
            masked = self._value(layer.name) * self._mask(row)
            step = self.step(row, int(self.chosen[row, 0]), masked)
            part = masked.abs() / masked.square().mean().sqrt().clamp_min(_TINY)
            parts.append(part * ((masked / step).abs() > 0.5))  # below, it is 0 as it is
        flat = torch.cat([part.flatten() for part in parts])
        small = flat[flat > 0].sort().values
        if not small.numel():
            return
        bound = small[min(int(left / _BITS_SAVED), small.numel() - 1)]
        for row, part in enumerate(parts):
            self._mask(row).logical_and_((part > bound) | (part == 0))
