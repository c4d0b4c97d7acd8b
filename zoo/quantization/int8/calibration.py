"""Ranges of activations, observed on calibration inputs."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor as Array

from zoo.errors import MismatchError
from zoo.graph.inputs import Inputs, Shape, Shapes, calls, of_one, shapes, tensors
from zoo.graph.ir import LIMITS, Graph
from zoo.quantization.int8.masks import Shares, counting, read_as_shares
from zoo.quantization.int8.observer import Observer
from zoo.runtime.floating import FloatNetwork

Range = tuple[float, float]
_BINS_KEPT = 2**16  # values of one batch that percentiles are taken from


@dataclass(frozen=True, kw_only=True)
class Options(Observer):
    """How ranges are chosen, and what activations become.

    Attributes:
        activations: "int8", or "int16" for twice the memory and 256 times the resolution.
        npu: prefer operators that Ethos-U and TFLite Micro have over equivalent ones.

    """

    activations: Literal["int8", "int16"] = "int8"
    npu: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.activations not in LIMITS:
            raise MismatchError(f"activations are {self.activations!r}; expected int8 or int16")


def observed(
    at: Callable[[Shapes], Graph],
    calibration: Iterable[Inputs],
    options: Options,
    *,
    like: Shapes | None = None,
) -> dict[str, Range]:
    """Return the range of every activation, by tensor name.

    Args:
        at: returns the float graph for an input shape.
        calibration: batches of inputs.
        options: how ranges are chosen.
        like: the shape of one inference; batches have as many dimensions and channels.

    Raises:
        MismatchError: there is no batch, or one cannot be used; it is named.

    """
    ranges: dict[str, Range] = {}
    network: FloatNetwork | None = None
    shares: Shares = {}
    shape: Shapes | None = None
    for number, batch in enumerate(calibration):
        batch = checked_batch(batch, number, like)
        for tensor in tensors(batch):
            _check_varied(tensor, number)
        if network is None or of_one(batch, like) != shape:
            shape = of_one(batch, like)
            network = FloatNetwork(at(shape))
            shares = read_as_shares(network.graph)
        seen: dict[str, Range] = {}

        def observe(
            name: str,
            value: Array,
            seen: dict[str, Range] = seen,
            shares: Shares = shares,
        ) -> None:
            if name in shares:
                value = counting(value, *shares[name])
            low, high = _extremes(name, value, options)
            least, most = seen.get(name, (low, high))
            seen[name] = min(low, least), max(high, most)

        inputs = tuple(x.permute(0, 2, 3, 1) if x.ndim == 4 else x for x in tensors(batch))
        for part in [inputs] if network.batched else calls(inputs, network.graph.firsts):
            network(*tensors(part), observe=observe)
        for name, span in seen.items():
            ranges[name] = _merged(ranges.get(name), span, options)
    if network is None:
        raise MismatchError("there are no calibration inputs; give at least one batch")
    return ranges


def checked_batch(batch: Inputs, number: int, like: Shapes | None = None) -> Inputs:
    """Return a calibration batch in float32, as networks compute it.

    Raises:
        MismatchError: it is not made of floats, is empty or not finite, or does not fit `like`.

    """
    one = isinstance(batch, Array)
    wanted = {"": None} if like is None else shapes(like)
    given = {"": batch} if one or not isinstance(batch, tuple | list | Mapping) else _named(batch)
    if like is None and not one:
        wanted = dict.fromkeys(given)
    if list(given) != list(wanted):
        raise MismatchError(
            f"calibration batch {number} has the inputs {', '.join(given) or 'of one tensor'}; the "
            f"network takes {', '.join(wanted) or 'one tensor'}"
        )
    checked = {
        name: checked_tensor(x, f"{number}{f' ({name})' if name else ''}", wanted[name])
        for name, x in given.items()
    }
    counts = {len(x) / (wanted[name] or (1,))[0] for name, x in checked.items()}
    if len(checked) > 1 and (len(counts) > 1 or counts.pop() % 1):
        raise MismatchError(f"calibration batch {number} has inputs of different batch sizes")
    if isinstance(batch, Mapping):
        return checked
    return checked[""] if one else tuple(checked.values())


def _named(batch: Inputs) -> dict[str, Any]:
    pairs = batch.items() if isinstance(batch, Mapping) else enumerate(batch)
    return {str(name): x for name, x in pairs}


def checked_tensor(batch: Any, number: int | str, like: Shape | None) -> Array:
    """Return one tensor of a batch; see `checked_batch`."""
    if not isinstance(batch, Array) or not batch.is_floating_point() or batch.ndim < 2:
        what = f"{batch.dtype} {tuple(batch.shape)}" if isinstance(batch, Array) else type(batch)
        raise MismatchError(f"calibration batch {number} is {what}; expected floats (N, ...)")
    if like and (batch.ndim != len(like) or (batch.ndim == 4 and batch.shape[1] != like[1])):
        size = ", ".join(map(str, ["N", like[1], "H", "W"] if len(like) == 4 else ["N", *like[1:]]))
        raise MismatchError(
            f"calibration batch {number} has the shape {tuple(batch.shape)}; the network takes "
            f"({size}): give batches of its inputs"
        )
    if not batch.numel() or not bool(torch.isfinite(batch).all()):
        raise MismatchError(f"calibration batch {number} is empty or not finite")
    return batch.detach().float()


def _check_varied(batch: Array, number: int) -> None:
    if float(batch.amax()) == float(batch.amin()):
        raise MismatchError(
            f"calibration batch {number} is constant ({float(batch.amax()):g}): ranges cannot be "
            "learned from it; give real inputs"
        )


def _extremes(name: str, value: Array, options: Options) -> Range:
    low, high = (float(limit) for limit in torch.aminmax(value))
    if low == -math.inf and math.isfinite(high):  # the padding of a max pool
        value = value[torch.isfinite(value)]
        low = float(value.amin())
    if not math.isfinite(low) or not math.isfinite(high):
        raise MismatchError(f"{name} is not finite on the calibration inputs")
    if options.observer != "percentile":
        return low, high
    flat = value.flatten()
    step = max(1, flat.numel() // _BINS_KEPT)  # evenly, so that the result is the same each time
    top = options.percentile / 100
    cuts = torch.quantile(flat[::step].double(), torch.tensor([1 - top, top]).double())
    return float(cuts[0]), float(cuts[1])


def _merged(old: Range | None, new: Range, options: Options) -> Range:
    if old is None:
        return new
    if options.observer == "moving_average":
        m = options.momentum
        return m * old[0] + (1 - m) * new[0], m * old[1] + (1 - m) * new[1]
    return min(old[0], new[0]), max(old[1], new[1])
