"""The method "learned": the cycle model of each pass times a factor learned from Arm's compiler.

It needs no compiler, and prices thousands of networks a second (`zoo.cost.learned`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.cost import memory
from zoo.cost.estimators import roofline
from zoo.cost.estimators.contract import Subject, counts, energy_mj, obtained
from zoo.cost.estimators.vela import integer_graph
from zoo.cost.ethos_u.costs import constant_bytes
from zoo.cost.ethos_u.passes import TABLE_BYTES
from zoo.cost.result import Cost, Fit, OpCost, exceeds
from zoo.cost.target import Target
from zoo.cost.tiled import in_tiles
from zoo.errors import MismatchError
from zoo.graph.ir import Graph

if TYPE_CHECKING:
    from zoo.cost.learned.features import SeenPasses
    from zoo.cost.learned.model import Facts, Predictor

SUMMARY = "the cycle model of an Ethos-U, corrected by what Arm's compiler says of random networks"
_BUSY = {"compute": "compute cycles", "sram": "fast cycles", "slow": "slow cycles"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which weights predict.

    Attributes:
        weights: a file that `zoo cost train` or `zoo cost adapt` wrote; "" for the shipped one.

    """

    weights: str = ""


def refusal(target: Target) -> str | None:
    """Return why a target's costs cannot be learned, or None where they can."""
    if target.array is None:
        return f"target {target.name!r} is not an Ethos-U; method learned prices those"
    return None


def estimate(subject: Subject, target: Target, options: Options) -> Cost:
    """Return the predicted cost of the int8 network, what is outside the learned range named."""
    from zoo.cost.learned.features import passes_of

    predictor, facts = _loaded(_file(target, options))
    if facts.target != target.name:
        raise MismatchError(
            f"the weights predict {facts.target}, not {target.name}; adapt them: zoo cost adapt"
        )
    graph = integer_graph(subject, parts=True)
    passes = passes_of(graph, target)
    cycles, encoded, sram = predicted(predictor, passes)
    clock = target.get("clock_hz") or 1.0
    limit, stored = target.sram_bytes, encoded + _beside(graph, passes)
    fits = Fit(
        sram=target.spills or limit is None or sram <= limit,
        flash=target.flash_bytes is None or stored <= target.flash_bytes,
        reasons=_reasons(target, sram, stored),
    )

    def price(part: Graph) -> tuple[float, int]:
        one, _, peak = predicted(predictor, passes_of(part, target))
        return 1e3 * float(sum(one)) / clock, peak

    tiled, fits = in_tiles(subject, target, fits, price)
    latency = tiled.latency_ms if tiled else 1e3 * float(sum(cycles)) / clock
    how = f"estimated (learned from {facts.source})"
    words = obtained(how, target) | {"peak_activation_bytes": how, "weight_bytes": how}
    numbers = counts(graph, memory.plan(graph, "int8"), target)
    numbers |= {"peak_activation_bytes": sram, "weight_bytes": encoded}
    if subject.module is not None:
        numbers["input_shape"] = subject.first_shape
    ops = _ops(graph, passes, cycles, target)
    host = _host(graph, passes)
    low, high = facts.interval
    return Cost(
        **numbers,
        method="learned",
        latency_ms=latency,
        energy_mj=energy_mj(latency, target),
        bound=roofline.bound(ops),
        fits=fits,
        tiled=tiled,
        obtained=words,
        host=host,
        notes=(*host, *target.notes, *_outside(predictor, passes)),
        ops=ops,
        interval_ms=(low * latency, high * latency),
        flash_bytes=stored,
    )


def _beside(graph: Graph, passes: "SeenPasses") -> int:
    """Return the bytes that lie with the encoded weights: scales, tables and constants."""
    from zoo.cost.learned.features import NAMES

    own = passes.encoded > 0  # counted once
    scales = float((passes.buffer - passes.encoded)[own].sum())
    tables = float(passes.features[:, NAMES.index("table")].sum())
    return round(scales + TABLE_BYTES * tables) + constant_bytes(graph)


def _host(graph: Graph, passes: "SeenPasses") -> tuple[str, ...]:
    return tuple(
        f"{graph.ops[place].label} runs on the host CPU ({why}); not counted"
        for place, why in passes.host.items()
    )


def predicted(predictor: "Predictor", passes: "SeenPasses") -> tuple[Sequence[float], int, int]:
    """Return the cycles of each pass, encoded bytes and the peak of SRAM of one network."""
    import torch

    from zoo.cost.learned.model import batch

    with torch.inference_mode():
        found = predictor(batch([passes]))
    return found.passes.tolist(), round(float(found.encoded_bytes)), round(float(found.sram_bytes))


def _file(target: Target, options: Options) -> Path:
    from zoo.cost.learned.model import WEIGHTS, shipped

    if options.weights:
        return Path(options.weights).expanduser()
    path = shipped(target.name)
    if path is None:
        known = ", ".join(sorted(file.stem for file in WEIGHTS.glob("*.safetensors")))
        raise MismatchError(
            f"no learned weights for {target.name}; there are: {known}. Make some: zoo cost train, "
            "or zoo cost adapt from ten measurements"
        )
    return path


@lru_cache(maxsize=8)
def _read(path: Path, changed: int) -> "tuple[Predictor, Facts]":
    from zoo.cost.learned.model import load

    return load(path)


def _loaded(path: Path) -> "tuple[Predictor, Facts]":
    try:
        changed = path.stat().st_mtime_ns
    except OSError as error:
        raise MismatchError(f"{path} cannot be read: {error.strerror}") from error
    return _read(path, changed)


def _reasons(target: Target, sram: int, stored: int) -> tuple[str, ...]:
    over = []
    if target.sram_bytes is not None and sram > target.sram_bytes and not target.spills:
        over.append(exceeds("activations", sram, target.sram_bytes, "SRAM"))
    if target.flash_bytes is not None and stored > target.flash_bytes:
        over.append(exceeds("weights", stored, target.flash_bytes, "flash"))
    return tuple(over)


def _outside(predictor: "Predictor", passes: "SeenPasses") -> tuple[str, ...]:
    found = predictor.outside(passes)
    if not found:
        return ()
    more = f" and {len(found) - 4} more" if len(found) > 4 else ""
    return (
        f"outside what it was taught on: {', '.join(found[:4])}{more}; the interval does not hold",
    )


def _ops(
    graph: Graph, passes: "SeenPasses", cycles: Sequence[float], target: Target
) -> tuple[OpCost, ...]:
    from zoo.cost.learned.features import NAMES

    slow = "dram" if target.spills else "flash"
    columns = [NAMES.index(name) for name in _BUSY.values()]
    waits = passes.features[:, columns].argmax(1)
    names = ("compute", "sram", slow)
    per_ms = 1e3 / (target.get("clock_hz") or 1.0)
    times: dict[int, dict[str, float]] = {}
    encoded: dict[int, int] = {}
    for place, time, wait, size in zip(
        passes.operators, cycles, waits, passes.encoded, strict=True
    ):
        own = times.setdefault(int(place), {})
        own[names[wait]] = own.get(names[wait], 0.0) + time * per_ms
        encoded[int(place)] = encoded.get(int(place), 0) + int(size)
    return tuple(_op(graph, place, times, encoded) for place in sorted({*times, *passes.host}))


def _op(graph: Graph, place: int, times: Any, encoded: dict[int, int]) -> OpCost:
    op, own = graph.ops[place], times.get(place, {})
    return OpCost(
        module=op.module,
        kind=op.kind,
        macs=op.macs,
        latency_ms=sum(own.values()),
        bound=max(own, key=lambda name: own[name], default="host"),
        encoded_bytes=encoded.get(place, 0),
    )
