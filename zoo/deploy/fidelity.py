"""Whether a file computes what its module computes: the one check of every format.

Each export compares the outputs of what it is about to write with those of the module, on the first
calibration batch, or on random inputs if there is none, warns of integer files below `GOOD_DB` and
writes nothing below `MINIMUM_DB` of

    SNR = 10 log10( variance of the module's outputs / mean square of the difference )

The limits tell wrong files from inaccurate ones. Float files differ by the order of sums. Measured
on 111 random networks of tests/properties/test_exported_networks.py, calibrated on what they are
compared on: float at least 110 dB; int8 from 20 to 52, half of them below 39; int16 (whose weights
are int8 too) from 19, where a layer's terms cancel, to 91; the zoo's recipes and networks of 50
layers from 40. Files that compute something else (another kernel, sampling or bias) have -11 to 8.

Outputs that hardly vary have a low SNR through their last rounding alone: a softmax over a
thousand equally probable classes is 0 in int8. So an error of one step of the output (root mean
square) is rounding, whatever the SNR; for a float file a step is 1e-6 of its largest output.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from zoo.errors import MismatchError
from zoo.graph.inputs import (
    Inputs,
    Shapes,
    arguments,
    calls,
    made,
    of_batch,
    tensors,
    words,
)
from zoo.graph.ir import Graph
from zoo.graph.kinds import is_batched
from zoo.graph.program import check_module, in_float32, reason, refuse_meta, refuse_swapped
from zoo.runtime.floating import FloatNetwork
from zoo.runtime.values import channels_first, channels_last, computed

MINIMUM_DB = {"float32": 80.0, "int8": 10.0, "int16": 10.0}
GOOD_DB = 20.0  # below it a warning names the layer that loses most
_LOG = logging.getLogger("zoo")
_FLOAT_STEP = 1e-6
_BEST_DB = {"int8": 45.0, "int16": 60.0}  # what rounding leaves: falling to this is not a loss
_SIDE = 48


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How closely a file agrees with its module.

    Attributes:
        max_abs_error: largest difference from the module.
        snr_db: the lowest signal-to-noise ratio of an output; infinite for an exact copy.

    """

    max_abs_error: float
    snr_db: float


def deployable(module: nn.Module) -> nn.Module:
    """Return a module as files compute it: itself, or a float32 copy if it has another precision.

    Raises:
        MismatchError: it is not a module in eval mode, or not on the CPU.

    """
    check_module(module)
    refuse_swapped(module)
    refuse_meta(module)
    name = type(module).__name__
    tensors = [*module.parameters(), *module.buffers()]
    if any(tensor.device.type != "cpu" for tensor in tensors):
        raise MismatchError(f"{name} is not on the CPU; call .cpu() before exporting it")
    return in_float32(module)


@torch.no_grad()
def reference(module: nn.Module, x: Inputs) -> list[Tensor]:
    """Return the tensors that a module returns, in the order in which files return them.

    Raises:
        MismatchError: the module's own code fails on such an input, or returns no tensor.

    """
    try:
        clones = _pytree.tree_map(torch.clone, arguments(x))  # some write into their input
        leaves = _pytree.tree_leaves(module(*clones[0], **clones[1]))
    except Exception as error:  # the module's own code: anything may be raised
        raise MismatchError(
            f"{type(module).__name__} fails on {words(of_batch(x))}: {reason(error)}"
        ) from error
    outputs = [y for y in leaves if isinstance(y, Tensor)]
    if not outputs:
        raise MismatchError(f"{type(module).__name__} returns no tensor: a file needs an output")
    return outputs


def of_samples(module: nn.Module, x: Inputs, graph: Graph) -> list[Tensor]:
    """Return what a file with this graph gives, called for each sample and joined.

    That is the module's result for the batch, unless it mixes samples, or an output has its
    samples elsewhere than first, as the states of recurrent layers have. See `reference`.
    """
    parts = calls(x, graph.firsts)
    if len(parts) == 1 or is_batched(graph):
        wanted = reference(module, x)
        if len(parts) == 1 or all(y.ndim and len(y) == len(parts) for y in wanted):
            return wanted
    each = [reference(module, part) for part in parts]
    return [torch.cat(column) for column in zip(*each, strict=True)]


def faithful(
    name: str,
    wanted: Sequence[Tensor],
    given: Sequence[Tensor],
    graph: Graph | None = None,
    *,
    what: str,
    explain: Callable[[], str] | None = None,
) -> Fidelity:
    """Return how close `given`, a file's outputs, are to those of its module.

    Args:
        name: name of the module.
        wanted: its outputs, see `reference`.
        given: as many outputs of the file, real, in the module's order of dimensions.
        graph: the graph of an integer file; None for float.
        what: what runs the file, for the message, e.g. "ONNX Runtime".
        explain: called on a failure; returns the end of the message.

    Raises:
        MismatchError: the SNR is below `MINIMUM_DB`, or the outputs have other shapes or are not
            finite.

    """
    shapes = [[tuple(y.shape) for y in side] for side in (given, wanted)]
    if shapes[0] != shapes[1]:
        raise MismatchError(
            f"{what} gives outputs of the shapes {shapes[0]} where {name} gives {shapes[1]}"
        )
    kind = graph.tensors[graph.inputs[0]].dtype if graph else "float32"
    worst, coarse = Fidelity(max_abs_error=0.0, snr_db=math.inf), False
    for place, (y, right) in enumerate(zip(given, wanted, strict=True)):
        if not bool(torch.isfinite(right).all()):
            raise MismatchError(f"{name} gives numbers that are not finite on the inputs compared")
        step = _FLOAT_STEP * float(right.abs().max())
        if graph and (meaning := graph.tensors[graph.outputs[place]].quantization):
            step = meaning.scale
        error = (y - right).double()
        snr = snr_db(right, error)
        rounding = float(error.square().mean()) <= step**2
        coarse |= snr < GOOD_DB and not rounding
        if not snr >= MINIMUM_DB[kind] and not rounding:
            which = f" (output {place})" if len(wanted) > 1 else ""
            raise MismatchError(
                f"{what} differs from {name}{which}: SNR {snr:.1f} dB, and {kind} files have at "
                f"least {MINIMUM_DB[kind]:g}; {explain() if explain else _FAULT}"
            )
        worst = Fidelity(
            max_abs_error=max(worst.max_abs_error, float(error.abs().max())),
            snr_db=min(worst.snr_db, snr),
        )
    if coarse:
        why = f"; {explain()}" if explain else ""
        _LOG.warning("%s has an SNR of %.1f dB against %s%s", what, worst.snr_db, name, why)
    return worst


_FAULT = (
    "it is a fault of the export, not of rounding: please report it with the module, or split the "
    "module to find the part"
)


def snr_db(wanted: Tensor, error: Tensor) -> float:
    """Return the signal-to-noise ratio in dB of outputs that differ by `error`."""
    noise = float(error.double().square().mean())
    signal = float(wanted.double().var(correction=0))
    if not noise:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def same_as_module(
    module: nn.Module, graph: Graph, x: Inputs, floating: Callable[[], Graph]
) -> Fidelity:
    """Return how close the graph of a `.tflite` file is to its module; see `faithful`.

    Args:
        module: in eval mode, on the CPU.
        graph: channels last, float or integer.
        x: inputs of that graph's sizes, `(N, C, H, W)`.
        floating: returns the float graph from which an integer one was made.

    """
    outputs = [channels_first(y) for y in computed(graph, x)]
    integer = graph.tensors[graph.inputs[0]].quantization is not None

    def explain() -> str:
        return weakest(module, graph, floating(), x)

    return faithful(
        type(module).__name__,
        of_samples(module, x, graph),
        outputs,
        graph if integer else None,
        what="the file",
        explain=explain if integer else None,
    )


def weakest(module: nn.Module, graph: Graph, floating: Graph, x: Inputs) -> str:
    """Say what makes an integer graph inaccurate: the layer that loses most, and what may help."""
    wanted: dict[str, Tensor] = {}
    network = FloatNetwork(floating)
    x = x if network.batched else calls(x, floating.firsts)[0]  # one sample will do
    outputs = network(*map(channels_last, tensors(x)), observe=wanted.__setitem__)
    first = outputs[0] if isinstance(outputs, tuple) else outputs
    right = channels_last(reference(module, x)[0])
    if snr_db(right, first - right) < MINIMUM_DB["float32"]:
        return _FAULT
    names = tuple(name for op in graph.ops for name in op.outputs if name in wanted)
    every = replace(graph, outputs=names)
    best = _BEST_DB[graph.tensors[graph.inputs[0]].dtype]
    known: dict[str, float] = {}
    for name, y in zip(names, computed(every, x), strict=True):
        known[name] = min(best, snr_db(wanted[name], y - wanted[name]))
    worst, before, after = "", 0.0, 0.0
    for op in graph.ops:
        if op.outputs[0] in known:
            start = min((known.get(name, best) for name in op.inputs), default=best)
            if not worst or start - known[op.outputs[0]] > before - after:
                worst, before, after = op.label, start, known[op.outputs[0]]
    return (
        f"{worst} loses most: {before:.0f} dB before it, {after:.0f} after; calibrate with more, "
        "real inputs, cut outliers (Options(observer='percentile')), or take int16"
    )


def small(input_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape, with sides of at most 48 pixels, that suffices for a comparison."""
    return (*input_shape[:2], *(min(size, _SIDE) for size in input_shape[2:]))


def random_input(shape: tuple[int, ...]) -> Tensor:
    """Return an input in [0, 1), the same each time."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def random_inputs(given: Shapes) -> Inputs:
    """Return such inputs of one shape or of several."""
    return made(given, random_input)
