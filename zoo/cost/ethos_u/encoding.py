"""How many bytes Ethos-U's weight code needs for a layer, from the weights themselves.

The code (mlw, "multi-level weights") turns weights into indices, a palette of up to 32 values
sorted by how often they come, then the others by magnitude, and writes them as Golomb-Rice codes
or plainly, whichever is shorter; zeros that prevail are written as lengths of runs. Layers are
padded with zeros to whole steps of the array, which are written too.
"""

import math
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.graph.ir import Graph, Op

if TYPE_CHECKING:
    from numpy.typing import NDArray

PALETTE = 32
ALIGNMENT = 16  # bytes
HEADER_BITS = 64  # of a stream's first section: divisors, length, palette's sizes
SECTION = 64  # weights after which the estimate lets the code change
SWITCH_BITS = 40  # of such a change
SAMPLED = 1 << 16  # weights of a longer stream by which it is judged, in sections evenly apart
PREVAILING = 5  # zeros for each of the value that is next: beyond, zeros are written as runs
LONG = 1.4  # if these are longer on average
NEVER = 1 << 20  # bits of an index that a code cannot write
UNSEEN_BITS = 8.7  # a weight of a trained layer with a scale for each channel, whatever it is


@dataclass(frozen=True)
class Coding:
    """How a layer's weights are walked through.

    Attributes:
        unit: "conv", "depthwise", or "vector" of a fully connected layer.
        micro_depth: output channels that the array makes at once.
        groups: of a convolution; `group` is the one coded.
        cores: that share the layer, output by output in turn; each reads a stream of its own.

    """

    unit: str
    micro_depth: int
    groups: int = 1
    group: int = 0
    cores: int = 1


# By the identity of a layer's values, for as long as they live: targets share most codings.
_KNOWN: dict[int, dict[Coding, int]] = {}


def encoded_bytes(graph: Graph, op: Op, coding: Coding) -> int:
    """Return the encoded bytes of an operator's weights, one stream for each core.

    Where there are no values, as in the rows of `zoo.cost.networks`, the attribute `encoded_bytes`
    of the operator, one number for each count of cores from 1, stands for them. Values of some
    inputs alone stand for all.
    """
    outputs, inputs, elements = graph.kernel(op)
    values = graph.values.get(op.inputs[1])
    if values is None:
        if (known := op.attributes.get("encoded_bytes")) is not None:
            return int(known[min(coding.cores, len(known)) - 1]) // coding.groups
        count = outputs // coding.groups * inputs * elements
        return _aligned(count * UNSEEN_BITS)
    known = _KNOWN.setdefault(id(values), {})
    if not known:
        weakref.finalize(values, _KNOWN.pop, id(values), None)
    if coding not in known:
        weights = integers(graph, op, values, coding.unit)
        rows = outputs // coding.groups
        seen = weights[coding.group * rows : (coding.group + 1) * rows]
        turns = [seen[core :: coding.cores] for core in range(min(coding.cores, rows))]
        known[coding] = sum(_whole(part, inputs, coding) for part in turns)
    return known[coding]


def _whole(weights: "NDArray[np.int64]", inputs: int, coding: Coding) -> int:
    """Return the bytes of a stream of so many inputs, of which some or all are given."""
    coded = stream_bytes(weights, coding)
    if weights.shape[2] == inputs:
        return coded
    given, all_of_it = (
        padded_count((*weights.shape[:2], n), coding) for n in (weights.shape[2], inputs)
    )
    return _aligned(8 * coded * all_of_it / given)


def integers(graph: Graph, op: Op, values: "NDArray[Any]", unit: str) -> "NDArray[np.int64]":
    """Return a layer's weights as (outputs, kernel elements, inputs), of 9 bits at most."""
    if unit == "depthwise":
        outputs = values.shape[-1] if graph.layout == "channels_last" else values.shape[0]
        flat = values.reshape(-1, outputs).T if graph.layout == "channels_last" else values
        weights = flat.reshape(outputs, -1, 1)
    else:
        weights = values.reshape(values.shape[0], -1, values.shape[-1])
    if weights.dtype.kind == "f":
        largest = np.abs(weights).max(axis=(1, 2), keepdims=True)
        return np.rint(weights / np.where(largest > 0, largest, 1) * 127).astype(np.int64)
    meaning = graph.tensors[op.inputs[1]].quantization
    zero = meaning.zero_points[0] if meaning else 0  # of uint8 files
    return weights.astype(np.int64) - zero


def stream_bytes(weights: "NDArray[np.int64]", coding: Coding) -> int:
    """Return the bytes of weights (outputs, kernel elements, inputs) as one stream."""
    padded = _padded(weights, coding)
    counts = np.bincount(padded + 256, minlength=513)
    zero = padded == 0
    runs = prevailing(counts, int(zero[0]) + int((zero[1:] & ~zero[:-1]).sum()))
    bits = float(HEADER_BITS)
    if runs:
        counts[256] = 0
        bits += _run_bits(padded)
    bits += _index_bits(padded, counts)
    return _aligned(bits)


def prevailing(counts: "NDArray[Any]", runs: float) -> bool:
    """Say whether Vela writes the zeros among values of these counts, (513,), as so many runs."""
    return int(counts[256]) > max(PREVAILING * int(np.delete(counts, 256).max()), LONG * runs)


def _aligned(bits: float) -> int:
    return -(-math.ceil(bits / 8) // ALIGNMENT) * ALIGNMENT


def _padded(weights: "NDArray[np.int64]", coding: Coding) -> "NDArray[np.int64]":
    """Return all weights in nearly the code's order, with the zeros that fill steps."""
    outputs, elements, inputs = weights.shape
    wide = 1 if coding.unit == "depthwise" else 8
    sides = _sides((outputs, elements, inputs), coding)
    full = np.pad(weights, [(0, side) for side in sides])
    o, k, i = full.shape
    micro = coding.micro_depth
    cut = full.reshape(o // micro, micro, k, i // wide, wide)
    return cut.transpose(0, 3, 2, 1, 4).ravel()


def _sides(shape: tuple[int, int, int], coding: Coding) -> tuple[int, int, int]:
    """Return how many outputs, kernel elements and inputs are added to fill steps."""
    outputs, elements, inputs = shape
    part = coding.unit == "depthwise" or (coding.unit == "conv" and _by_part(elements, inputs))
    step = 1 if coding.unit == "depthwise" else 8 if part else 32
    return -outputs % coding.micro_depth, -elements % 4 if part else 0, -inputs % step


def padded_count(shape: tuple[int, int, int], coding: Coding) -> int:
    """Return the weights of a stream of (outputs, kernel elements, inputs), zeros included."""
    sides = _sides(shape, coding)
    return math.prod(size + side for size, side in zip(shape, sides, strict=True))


def _by_part(elements: int, inputs: int) -> bool:
    part = inputs / (-(-inputs // 8) * 8) * elements / (-(-elements // 4) * 4)
    return inputs <= 8 or part >= inputs / (-(-inputs // 32) * 32)


def _index_bits(stream: "NDArray[np.int64]", counts: "NDArray[np.int64]") -> float:
    """Return the bits of all weights of a stream that count; the others are runs of zeros."""
    if not counts.sum():
        return 0.0
    table = indices(counts)
    kept = stream[counts[stream + 256] > 0]
    judged = _sampled(kept)
    coded = _coded_bits(table.index[judged + 256], table.plain)
    return table.palette_bits + coded * (kept.size / judged.size)


@dataclass(frozen=True)
class Indices:
    """What stands for each weight.

    Attributes:
        index: of the weights from -256 to 256.
        plain: bits of an index that is written as it is.
        palette_bits: of the palette itself.

    """

    index: "NDArray[np.int64]"
    plain: int
    palette_bits: int


def indices(counts: "NDArray[Any]") -> Indices:
    """Return the indices for weights from -256 to 256 that come this often, not all of them 0."""
    values = np.arange(-256, 257)
    symbols = 2 * np.abs(values) + (values < 0)
    order = np.argsort(-counts, kind="stable")
    order = order[counts[order] > 0]
    chosen = order[:PALETTE]
    unused = min(int(symbols[order].min()), PALETTE - 1)
    index = symbols - unused
    if counts[chosen].sum() <= counts.sum() / 2:
        return Indices(index, max(2, int(symbols[order].max()).bit_length()), 0)
    index = index + chosen.size
    index[chosen] = np.arange(chosen.size)
    entry = max(2, int(symbols[chosen].max()).bit_length())
    least = max(1, math.ceil(math.log2(max(chosen.size, 2))))
    plain = least if order.size <= PALETTE else max(entry, int(index[order].max()).bit_length())
    return Indices(index, plain, chosen.size * entry)


def lengths(index: "NDArray[np.int64]", plain: int) -> "NDArray[np.float64]":
    """Return the bits of indices under every code, (codes, indices)."""
    codes = [np.full(index.size, plain)]
    for divisor in range(6):
        quotient = index >> divisor
        codes.append(np.where(quotient > 31, NEVER, quotient + 1 + divisor))
        codes.append(np.where(quotient > 2, NEVER, np.minimum(quotient + 1, 2) + divisor))
    return np.array(codes, np.float64)


def _sampled(stream: "NDArray[np.int64]") -> "NDArray[np.int64]":
    """Return a stream, or of a long one sections that are evenly apart."""
    sections = stream.size // SECTION
    if stream.size <= SAMPLED:
        return stream
    chosen = np.linspace(0, sections - 1, SAMPLED // SECTION).round().astype(int)
    return stream[: sections * SECTION].reshape(sections, SECTION)[chosen].ravel()


def _coded_bits(index: "NDArray[np.int64]", plain: int) -> float:
    """Return the bits of indices under the best codes: each section may have its own divisor."""
    starts = np.arange(0, index.size, SECTION)
    table = np.add.reduceat(lengths(index, plain), starts, axis=1).T
    state = table[0]
    for row in table[1:]:
        state = np.minimum(state, state.min() + SWITCH_BITS) + row
    return float(state.min())


def _run_bits(stream: "NDArray[np.int64]") -> float:
    """Return the bits of the runs of zeros before, between and after the others."""
    places = np.flatnonzero(stream)
    lengths = np.diff(np.concatenate([[-1], places, [stream.size]])) - 1
    return min(float(((lengths >> divisor) + 1 + divisor).sum()) for divisor in range(4))
