"""Teaching a predictor: on a data set of costs, or on a few measurements of another target."""

import itertools
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.cost.learned.features import SeenPasses, all_passes_of
from zoo.cost.learned.model import Facts, PassBatch, Prediction, Predictor, batch, quantiles
from zoo.cost.networks.rows import Row, graph_of
from zoo.cost.target import Target
from zoo.errors import MismatchError

_LOG = logging.getLogger("zoo")
FEWEST = 100
TOGETHER = 500  # networks that are looked at at once
PART = 20  # of the networks, one in so many is held out to choose the interval; another to judge


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a predictor is taught.

    Attributes:
        epochs: times that it sees each network.
        networks: in a step.
        rate: of learning, at its highest.
        seed: of the start and of the order.
        by_operator: weight of the error of each operator beside that of the whole.

    """

    epochs: int = 60
    networks: int = 64
    rate: float = 3e-3
    seed: int = 0
    by_operator: float = 0.3


@dataclass(frozen=True, kw_only=True)
class Example:
    """A network and what the compiler says of it.

    Attributes:
        family: it comes from.
        number: in its data set.
        passes: what a predictor sees.
        cycles: of the whole; `by_pass` (passes,) those of the operator of each pass, and `held`
            (passes,) the bytes of SRAM that the operator of each holds.
        encoded_bytes, sram_bytes: of the whole.

    """

    family: str
    number: int
    passes: SeenPasses
    cycles: float
    by_pass: "np.ndarray[Any, np.dtype[np.float32]]"
    held: "np.ndarray[Any, np.dtype[np.float32]]"
    encoded_bytes: float
    sram_bytes: float


def examples(rows: Iterable[Row], target: Target) -> list[Example]:
    """Return the rows that have the target's costs, with nothing left to a host CPU.

    Raises:
        MismatchError: there are fewer than `FEWEST`.

    """
    found: list[Example] = []
    rows = iter(rows)
    while some := list(itertools.islice(rows, TOGETHER)):
        found += _examples(some, target)
    if len(found) < FEWEST:
        raise MismatchError(
            f"{len(found)} networks have costs for {target.name}; a predictor needs {FEWEST}: "
            f"zoo cost dataset OUT --target {target.name} --graphs 10000"
        )
    return found


def _examples(rows: Sequence[Row], target: Target) -> list[Example]:
    pairs = [(row, one) for row in rows for one in row["labels"] if one["target"] == target.name]
    pairs = [(row, label) for row, label in pairs if not label["host_operators"]]
    seen = all_passes_of([graph_of(row) for row, _ in pairs], target)
    return [
        Example(
            family=row["family"],
            number=row["id"],
            passes=passes,
            cycles=label["cycles"],
            by_pass=np.array(label["operator_cycles"], np.float32)[passes.operators],
            held=np.array(label["operator_sram"], np.float32)[passes.operators],
            encoded_bytes=label["encoded_bytes"],
            sram_bytes=label["sram_bytes"],
        )
        for (row, label), passes in zip(pairs, seen, strict=True)
    ]


def split(given: Sequence[Example]) -> tuple[list[Example], list[Example], list[Example]]:
    """Return what is taught on, what the interval is chosen on, and what is judged on.

    By a network's number, so that a set that grows keeps what was held out.
    """
    parts: tuple[list[Example], list[Example], list[Example]] = ([], [], [])
    for one in given:
        # A multiplier that is no multiple of the number of families mixes them.
        place = (one.number * 7919 // 13) % PART
        parts[1 if place in (0, 1) else 2 if place in (2, 3) else 0].append(one)
    return parts


@dataclass(frozen=True)
class _Packed:
    """Examples as one batch, and where each starts."""

    whole: PassBatch
    starts: Tensor
    cycles: Tensor
    by_pass: Tensor
    held: Tensor
    first: Tensor
    encoded: Tensor
    sram: Tensor


def _packed(given: Sequence[Example]) -> _Packed:
    sizes = [len(one.by_pass) for one in given]
    groups, offset = [], 0
    for one in given:  # passes of one operator are judged together
        _, place = np.unique(one.passes.operators, return_inverse=True)
        groups.append(place + offset)
        offset += int(place.max()) + 1
    single = torch.float32
    return _Packed(
        whole=batch([one.passes for one in given]),
        starts=torch.tensor(np.concatenate([[0], np.cumsum(sizes)])),
        cycles=torch.tensor([one.cycles for one in given], dtype=single),
        by_pass=torch.from_numpy(np.concatenate([one.by_pass for one in given])),
        held=torch.from_numpy(np.concatenate([one.held for one in given])),
        first=torch.from_numpy(np.concatenate(groups)),
        encoded=torch.tensor([one.encoded_bytes for one in given], dtype=single),
        sram=torch.tensor([one.sram_bytes for one in given], dtype=single),
    )


def _some(packed: _Packed, chosen: Tensor) -> _Packed:
    """Return the examples of these numbers."""
    spans = [(int(packed.starts[i]), int(packed.starts[i + 1])) for i in chosen]
    rows = torch.cat([torch.arange(*span) for span in spans])
    sizes = packed.starts[chosen + 1] - packed.starts[chosen]
    whole = packed.whole
    _, first = torch.unique(packed.first[rows], return_inverse=True)
    return _Packed(
        whole=PassBatch(
            features=whole.features[rows],
            cycles=whole.cycles[rows],
            encoded=whole.encoded[rows],
            live=whole.live[rows],
            buffer=whole.buffer[rows],
            following=whole.following[rows],
            network=torch.repeat_interleave(torch.arange(len(chosen)), sizes),
            count=len(chosen),
        ),
        starts=packed.starts,
        cycles=packed.cycles[chosen],
        by_pass=packed.by_pass[rows],
        held=packed.held[rows],
        first=first,
        encoded=packed.encoded[chosen],
        sram=packed.sram[chosen],
    )


def _ratio(found: Tensor, truth: Tensor) -> Tensor:
    """Return the logarithms of ratios, 0 where both are 0."""
    return torch.log((found + 1) / (truth + 1))


def _loss(predictor: Predictor, part: _Packed, options: Options) -> Tensor:
    found = predictor(part.whole)
    count = int(part.first.max()) + 1
    own = found.passes.new_zeros(count).index_add(0, part.first, found.passes)
    truth = own.new_zeros(count).scatter_reduce(0, part.first, part.by_pass, "amax")
    share = truth / part.cycles.mean()
    single = (_ratio(own, truth).abs().clamp(max=2) * (share / share.mean()).sqrt()).mean()
    total = _ratio(found.cycles, part.cycles).abs().mean()
    beside = (
        _ratio(found.encoded_bytes, part.encoded).abs().mean()
        + 0.5 * _ratio(found.sram_bytes, part.sram).abs().mean()
        + _held(found, part, count)
    )
    return total + options.by_operator * single + 0.3 * beside


def _held(found: Prediction, part: _Packed, count: int) -> Tensor:
    """Return how far the SRAM that each operator holds is off, by its share of the peak."""
    own = found.held.new_zeros(count).scatter_reduce(0, part.first, found.held, "amax")
    truth = own.new_zeros(count).scatter_reduce(0, part.first, part.held, "amax")
    place = own.new_zeros(count, dtype=torch.long).scatter(0, part.first, part.whole.network)
    peak = part.sram[place]
    return ((own - truth).abs() / peak.clamp(min=1)).mean()


def teach(
    given: Sequence[Example],
    options: Options,
    *,
    report: Callable[[int, float], None] | None = None,
) -> Predictor:
    """Return a predictor taught on some examples; `report` gets each epoch and its loss."""
    torch.manual_seed(options.seed)
    packed, predictor = _packed(given), Predictor()
    predictor.fit_ranges(packed.whole.features)
    steps = math.ceil(len(given) / options.networks)
    optimizer = torch.optim.AdamW(predictor.parameters(), lr=options.rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.rate, total_steps=options.epochs * steps, pct_start=0.15
    )
    for epoch in range(options.epochs):
        total = 0.0
        for chosen in torch.randperm(len(given)).split(options.networks):
            loss = _loss(predictor, _some(packed, chosen), options)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(predictor.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        if report:
            report(epoch, total / steps)
        _LOG.info("epoch %s of %s: loss %.4f", epoch + 1, options.epochs, total / steps)
    return predictor.eval()


def ratios(
    predictor: Predictor, given: Sequence[Example]
) -> "dict[str, np.ndarray[Any, np.dtype[np.float64]]]":
    """Return truth over prediction of each example, by quantity."""
    packed = _packed(given)
    with torch.inference_mode():
        found = predictor(packed.whole)
    pairs = {
        "latency": (packed.cycles, found.cycles),
        "encoded_bytes": (packed.encoded, found.encoded_bytes),
        "sram_bytes": (packed.sram, found.sram_bytes),
    }
    return {
        name: (truth.double() / own.double().clamp(min=1)).numpy()
        for name, (truth, own) in pairs.items()
    }


def errors(found: "dict[str, np.ndarray[Any, np.dtype[np.float64]]]") -> dict[str, float]:
    """Return the mean absolute percentage errors of `ratios`."""
    return {name: float(100 * np.abs(1 / truth - 1).mean()) for name, truth in found.items()}


def trained(
    given: Sequence[Example], target: str, source: str, options: Options
) -> tuple[Predictor, Facts]:
    """Return a predictor, its interval chosen and its errors judged on what was held out."""
    taught, chosen, judged = split(given)
    predictor = teach(taught, options)
    facts = Facts(
        target=target,
        networks=len(taught),
        interval=quantiles(ratios(predictor, chosen)["latency"]),
        source=source,
        errors=errors(ratios(predictor, judged)),
    )
    return predictor, facts
