"""What the integers of activations mean: their scales and zero points, from their ranges.

int8 activations are asymmetric with one scale and zero point, int16 ones are symmetric.
"""

import math
from collections.abc import Mapping

import numpy as np

from zoo.errors import MismatchError
from zoo.graph.ir import LIMITS, Graph, Op, Quantization
from zoo.graph.kinds import SHARED
from zoo.quantization.int8.calibration import Range
from zoo.quantization.int8.rules import RULES


def groups(graph: Graph) -> dict[str, str]:
    """Return, for each activation, the first one (in the graph's order) with which it shares its
    quantization.

    Operators that move or choose integers leave them as they are, so that everything they read and
    write has one scale and zero point.
    """
    owner = {name: name for name, tensor in graph.tensors.items() if not tensor.is_parameter}

    def find(name: str) -> str:
        while owner[name] != name:
            name = owner[name]
        return name

    for op in graph.ops:
        if op.kind in SHARED:
            for name in op.inputs:
                if name in owner:
                    owner[find(name)] = find(op.outputs[0])
    first: dict[str, str] = {}
    order = [*graph.inputs, *(name for op in graph.ops for name in op.outputs)]
    return {name: first.setdefault(find(name), name) for name in order}


def quantizations(
    graph: Graph, ranges: Mapping[str, Range], dtype: str = "int8"
) -> dict[str, Quantization]:
    """Return the quantization of each activation; those of a group (see `groups`) share one."""
    owner = groups(graph)
    wide: dict[str, Range] = {}
    for name in owner:
        if name not in ranges:
            raise MismatchError(f"no range of {name!r} was observed; calibrate the same module")
        low, high = ranges[name]
        old = wide.get(owner[name], (0.0, 0.0))  # every range holds 0, which padding needs
        wide[owner[name]] = min(old[0], low), max(old[1], high)
    for op in graph.ops:
        if op.attributes.get("activation") == "clamp":
            group = owner[op.outputs[0]]
            wide[group] = _clamped(op, wide[group])
        if (parts := RULES.of(op).finest(graph, op)) is not None:
            low, high = wide[owner[op.inputs[0]]]
            least, most = wide[owner[op.outputs[0]]]
            # Means of what is normed already are next to 0; finer steps would hold nothing.
            wide[owner[op.outputs[0]]] = least, max(most, least + (high - low) / parts)
    if dtype == "int16":
        return _symmetric_activations(graph, {name: wide[owner[name]] for name in owner}, owner)
    meanings = {name: _affine(*wide[group]) for name, group in owner.items()}
    _fix(graph, meanings, owner, dtype)
    for op in graph.ops:
        rule = RULES.of(op)
        if rule.sign and op.inputs[-1] in graph.values:
            _align(graph, op, meanings, owner, dtype)
    return meanings


def _symmetric_activations(
    graph: Graph, wide: Mapping[str, Range], owner: Mapping[str, str]
) -> dict[str, Quantization]:
    """Return the int16 quantizations of activations with these ranges.

    LiteRT computes the factor of a MUL in float32, TFLite Micro in float64; in a fully connected
    layer TFLite Micro keeps 15 bits of the factor, LiteRT all. The factors are the same, and
    exact, when the scales of inputs have 8 bits, those of weights 7, and the output's is a power
    of two; that costs less than one of the 16 bits of range.
    """
    products = {owner[op.outputs[0]] for op in graph.ops if RULES.of(op).exact}
    meanings = {
        name: symmetric(max(-low, high), 1 if owner[name] in products else 8)
        for name, (low, high) in wide.items()
    }
    _fix(graph, meanings, owner, "int16")
    return meanings


def _fix(
    graph: Graph, meanings: dict[str, Quantization], owner: Mapping[str, str], dtype: str
) -> None:
    """Give what an operator makes in a fixed quantization that one, and all that only moves it.

    Where others share its quantization (scores beside probabilities) theirs stays: the operator is
    rescaled to it, see `zoo.quantization.int8.post_training`.
    """
    for op in graph.ops:
        fixed, group = RULES.of(op).fixed.get(dtype), owner[op.outputs[0]]
        if fixed is None:
            continue
        members = [name for name in owner if owner[name] == group]
        for name in members if _alone(graph, op, members, fixed, dtype) else ():
            meanings[name] = fixed


def _alone(
    graph: Graph,
    op: Op,
    members: list[str],
    fixed: Quantization | None = None,
    dtype: str = "int8",
) -> bool:
    """Whether all of a group is made by an op, by others as `fixed` as it, or of these by moves."""
    makers = [graph.producers.get(name) for name in members]
    others = [maker for maker in makers if maker is not op]
    return all(
        maker is not None
        and (
            maker.kind in SHARED
            or (fixed is not None and RULES.of(maker).fixed.get(dtype) == fixed)
        )
        for maker in others
    )


def symmetric(largest: float, bits: int) -> Quantization:
    """Return the int16 quantization whose scale has this many bits."""
    scale = short((max(largest, 1e-6) if largest else 1.0) / LIMITS["int16"][1], bits)
    return Quantization(scales=(scale,), zero_points=(0,))


def short(scale: float, bits: int) -> float:
    """Return a scale rounded up to this many significant bits."""
    fraction, exponent = math.frexp(scale)
    return math.ldexp(math.ceil(fraction * 2**bits), exponent - bits)


def _clamped(op: Op, seen: Range) -> Range:
    """Return the range that makes saturation do the work of a clamp."""
    low, high = op.attributes["activation_limits"]
    low, high = seen[0] if low is None else low, seen[1] if high is None else high
    if not low <= 0 <= high or low == high:
        raise MismatchError(f"{op.label}: a clamp to ({low}, {high}) does not hold 0")
    return float(low), float(high)


def _affine(low: float, high: float) -> Quantization:
    # An activation that is always 0 (a dead layer) may have any scale.
    scale = float(np.float32(max(high - low, 1e-8) / 255 if high > low else 1 / 255))
    zero = int(np.clip(round(-128 - low / scale), -128, 127))
    return Quantization(scales=(scale,), zero_points=(zero,))


def _align(
    graph: Graph,
    op: Op,
    meanings: dict[str, Quantization],
    owner: Mapping[str, str],
    dtype: str,
) -> None:
    """Make `x + scalar` exact: the scalar a whole number of steps, the output shifted by it.

    SESR begins with y - 0.5: with y in 254 steps instead of 255, 0.5 is 127 of them.
    """
    constant = graph.values[op.inputs[-1]]
    source = meanings[op.inputs[0]]
    if constant.size != 1 or op.inputs[0] in graph.values or "activation" in op.attributes:
        return
    sources, results = (
        [name for name in owner if owner[name] == owner[end]]
        for end in (op.inputs[0], op.outputs[0])
    )
    makers = [graph.producers.get(name) for name in (*sources, *results)]
    if any(maker is not None and RULES.of(maker).fixed.get(dtype) for maker in makers):
        return
    if not _alone(graph, op, results):
        return
    added = float(constant.flat[0]) * RULES.of(op).sign
    steps = math.floor(abs(added) / source.scale + 1e-6)
    if not steps:
        return
    scale = float(np.float32(abs(added) / steps))
    zero = source.zero_point - int(math.copysign(steps, added))
    if not -128 <= zero <= 127:
        return
    for name in sources:
        meanings[name] = Quantization(scales=(scale,), zero_points=(source.zero_point,))
    for name in results:
        meanings[name] = Quantization(scales=(scale,), zero_points=(zero,))
