"""How many bytes a device's weight code needs for a layer, as a function of soft counts.

The code gives each value of a weight a number of bits; with n_k weights of value k a stream takes

    bits = header + palette + min over codes c of sum_k n_k l_c(k)

(see `zoo.cost.ethos_u.encoding`, whose tables of l these are; -log2(n_k / n) would be the entropy,
which no code undercuts). The n_k are soft: a weight shares itself between the two levels that it
lies between, and fades out at the threshold below which weights are pruned. So the bits have a
gradient with respect to weights: towards values that are written in fewer bits.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.cost.ethos_u.encoding import (
    ALIGNMENT,
    HEADER_BITS,
    Coding,
    indices,
    lengths,
    padded_count,
    prevailing,
)
from zoo.graph.ir import Graph, Op

LEVELS = 127  # of a device's weights, on either side of 0
ZERO = 256  # place of a weight that is 0 among the counts
_BINS = 513
_MICRO_DEPTH = 8  # output channels that an Ethos-U makes at once
_SHARPNESS = 0.1  # of a step: how softly a weight goes from one level to the next
_FADE = 0.1  # of the threshold: how softly a weight is pruned
_UNITS = {"depthwise_conv2d": "depthwise", "fully_connected": "vector"}
_TOGETHER = 3.0  # zeros at least, that fill a step
_DIVISORS = range(4)  # of the lengths of runs


@dataclass(frozen=True)
class Layer:
    """What a layer's code depends on besides its weights.

    Attributes:
        streams: number of groups, each encoded on its own.
        zeros: that are added to fill steps of the array, in all.

    """

    streams: int
    zeros: int


def layer(graph: Graph, op: Op) -> Layer:
    """Return what the code of an operator's weights depends on."""
    outputs, inputs, elements = graph.kernel(op)
    unit = _UNITS.get(op.kind, "conv")
    streams = 1
    if op.kind == "conv2d":
        streams = graph.tensors[op.inputs[0]].shape[-1] // inputs
    coding = Coding(unit, _MICRO_DEPTH, streams)
    shape = (outputs // streams, elements, inputs)
    return Layer(streams, streams * padded_count(shape, coding) - outputs * elements * inputs)


def counts(
    steps: Tensor, levels: int, magnitude: Tensor | None = None, threshold: float = 0.0
) -> Tensor:
    """Return how many weights have each of a device's values, (513,): -256 to 256.

    Args:
        steps: weights in steps, not rounded, any shape; beyond `levels` they are cut.
        levels: on either side of 0; level k is the device's value rint(127 k / levels).
        magnitude: of the weights, by which they are pruned.
        threshold: at and below it they are pruned; 0 prunes none.

    Returns:
        Whole numbers, with the gradient of soft counts.

    """
    flat = steps.flatten().clamp(-levels, levels)
    bins = torch.round(torch.arange(-levels, levels + 1, device=flat.device) * LEVELS / levels)
    bins = bins.long() + ZERO
    if not torch.is_grad_enabled():  # the same numbers, several times as fast
        level = flat.round()
        if magnitude is not None and threshold > 0:
            level = level * (magnitude.flatten() > threshold)
        return torch.bincount(bins[level.long() + levels], minlength=_BINS).to(flat)
    low = flat.detach().floor().clamp_max(levels - 1)
    above = torch.sigmoid((flat - low - 0.5) / _SHARPNESS)
    above = above + ((flat - low) > 0.5).to(above) - above.detach()
    kept = torch.ones_like(flat)
    if magnitude is not None and threshold > 0:
        level = magnitude.flatten() / threshold - 1
        kept = torch.sigmoid(level / _FADE)
        kept = kept + (level > 0).to(kept) - kept.detach()
    places = low.long() + levels
    found = flat.new_zeros(_BINS)
    found = found.index_add(0, bins[places], kept * (1 - above))
    found = found.index_add(0, bins[places + 1], kept * above)
    pruned = torch.zeros_like(found)
    pruned[ZERO] = 1.0
    return found + pruned * (1 - kept).sum()


def encoded_bytes(found: Tensor, of: Layer) -> Tensor:
    """Return the bytes of a layer whose weights have these counts, a scalar with a gradient."""
    padding = torch.zeros_like(found)
    padding[ZERO] = float(of.zeros)
    found = (found + padding) / of.streams
    whole = found.detach().round().long().cpu().numpy()
    bits = found.new_zeros(()) + HEADER_BITS
    others = np.delete(whole, ZERO)
    coded = found
    # Of zeros alone Vela writes each, where its codec by itself would write one run.
    own = max(0.0, float(whole[ZERO]) - of.zeros / of.streams)
    # If zeros lie anywhere with the same probability; those that fill steps lie together.
    lone = own * others.sum() / max(1.0, own + others.sum()) + of.zeros / of.streams / _TOGETHER
    if others.any() and prevailing(whole, lone):
        bits = bits + _run_bits(found)
        whole[ZERO] = 0
        coded = found * torch.from_numpy((np.arange(_BINS) != ZERO) * 1.0).to(found)
    if whole.any():
        table = indices(whole)
        costs = lengths(table.index, table.plain)
        best = costs[np.argmin(costs @ np.where(whole > 0, whole, 0))]
        best = np.where(whole > 0, best, 0)
        bits = bits + table.palette_bits + (coded * torch.from_numpy(best).to(found)).sum()
    # On average half of an alignment is lost.
    return of.streams * (bits / 8 + ALIGNMENT / 2)


def _run_bits(found: Tensor) -> Tensor:
    """Return the bits of the runs of zeros, if zeros lie anywhere with the same probability."""
    others = found.sum() - found[ZERO]
    share = (found[ZERO] / found.sum()).clamp_max(1 - 1e-6)
    options = []
    for divisor in _DIVISORS:
        power = share ** (2**divisor)
        parts = torch.minimum((others + 1) * power / (1 - power), found[ZERO] / 2**divisor)
        options.append((others + 1) * (1 + divisor) + parts)
    return torch.stack(options).min()


def entropy_bits(found: Any) -> float:
    """Return the zero-order entropy of counts times their number: what no code undercuts."""
    whole = np.asarray(found, np.float64)
    whole = whole[whole > 0]
    return float(-(whole * np.log2(whole / whole.sum())).sum())
