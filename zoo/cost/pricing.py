"""`estimate`: a module or a graph and a target give a `Cost`."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from zoo.cost import memory
from zoo.cost.estimators import roofline
from zoo.cost.target import Target
from zoo.cost.tiling import Tile, best_tile
from zoo.errors import MismatchError, UnknownNameError
from zoo.graph.ir import Graph

if TYPE_CHECKING:
    from torch import nn

METHODS = ("auto", "roofline", "vela", "measured")


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Whether one whole image fits the device's memories.

    Attributes:
        sram: activations fit; on a device with DRAM they always do, only slower.
        flash: weights fit.
        reasons: what does not fit, with the numbers and what to do.

    """

    sram: bool
    flash: bool
    reasons: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether everything fits."""
        return self.sram and self.flash


@dataclass(frozen=True, kw_only=True)
class TiledRun:
    """The whole image computed in overlapping tiles, as small devices do it.

    Attributes:
        height: of a tile's input in pixels, halo included.
        width: likewise.
        halo: input pixels on each inner side whose outputs are thrown away.
        count: tiles per image.
        macs: of all tiles, the overlap computed again included.
        peak_activation_bytes: of one tile.
        latency_ms: of all tiles.
        energy_mj: of all tiles, or None.

    """

    height: int
    width: int
    halo: int
    count: int
    macs: int
    peak_activation_bytes: int
    latency_ms: float
    energy_mj: float | None


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one inference costs on a target.

    Attributes:
        target: name of the device.
        graph: the graph that was counted: "deployed" or "training".
        method: how the latency was obtained: "roofline", "vela" or "measured".
        dtype: what weights and activations are assumed to be stored in.
        input_shape: of one inference, e.g. (N, C, H, W).
        parameters: counts by kind (weights, biases, slopes, constants).
        macs: multiply-accumulates (1 MAC = 2 FLOPs) of the whole input.
        weight_bytes: all parameters stored in `dtype`, uncompressed.
        peak_activation_bytes: tensor arena of the whole input.
        latency_ms: of the whole input the way the device runs it best: in tiles when `tiled` is
            there and faster or the only way. Hypothetical when it does not fit either way.
        energy_mj: of that run, or None where the device's power is not known.
        bound: what that run waits for: "compute", "sram", "flash", "dram" or "host"; None when
            measured.
        fits: whether the whole input fits, and if not, why.
        tiled: the run in tiles, where the network allows it and it fits or gains; else None.
        obtained: for each number the word exact, measured or estimated, and the method.
        notes: what a reader must know before trusting the numbers.
        ops: estimated cost of each op of one run (of one tile, if the best run is tiled).

    """

    target: str
    graph: Literal["deployed", "training"]
    method: str
    dtype: str
    input_shape: tuple[int, ...]
    parameters: Mapping[str, int]
    macs: int
    weight_bytes: int
    peak_activation_bytes: int
    latency_ms: float
    energy_mj: float | None
    bound: str | None
    fits: Fit
    tiled: TiledRun | None
    obtained: Mapping[str, str]
    notes: tuple[str, ...]
    ops: tuple[roofline.OpCost, ...]

    @property
    def total_parameters(self) -> int:
        """All parameters, of every kind."""
        return sum(self.parameters.values())

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON types, the total of the parameters included."""
        value = dataclasses.asdict(self)
        value["parameters"] = {**self.parameters, "total": self.total_parameters}
        value["obtained"] = dict(self.obtained)
        value["input_shape"] = list(self.input_shape)
        value["fits"]["reasons"] = list(self.fits.reasons)
        return {**value, "notes": list(self.notes), "ops": list(value["ops"])}

    def __str__(self) -> str:
        """One line: target, shape, counts, memory, latency and whether it fits."""
        shape = "x".join(str(size) for size in self.input_shape)
        word = self.obtained["latency_ms"].split(" ")[0]
        how = f", {self.bound}-bound" if self.bound else ""
        if self.tiled and self.runs_tiled:
            how += f", {self.tiled.count} tiles"
        fit = "fits" if self.fits else ("fits in tiles" if self.runs_tiled else "does not fit")
        return (
            f"{self.target}: input {shape} {self.dtype}, {self.total_parameters:,} parameters, "
            f"{self.macs / 1e6:,.1f} M MACs, weights {readable(self.weight_bytes)}, "
            f"activations {readable(self.peak_activation_bytes)}, "
            f"{self.latency_ms:,.{0 if self.latency_ms >= 100 else 2}f} ms ({word}{how}), {fit}"
        )

    @property
    def runs_tiled(self) -> bool:
        """Whether `latency_ms` is that of the tiled run."""
        return self.tiled is not None and self.tiled.latency_ms == self.latency_ms


def readable(count: float) -> str:
    """Return a number of bytes for people: "675.0 KiB" (1 KiB = 1024 bytes)."""
    unit = "B"
    for larger in ("KiB", "MiB", "GiB"):
        if count < 1024:
            break
        count, unit = count / 1024, larger
    return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"


@dataclass(frozen=True)
class _Run:
    """One shape on one target, by roofline."""

    graph: Graph
    plan: memory.Plan
    ops: tuple[roofline.OpCost, ...]

    @property
    def latency_ms(self) -> float:
        return sum(op.latency_ms for op in self.ops)


def _run(graph: Graph, target: Target) -> _Run:
    fused = roofline.deployed(graph, target)
    plan = memory.plan(fused, target.dtype, scratch=target.scratch)
    return _Run(graph=graph, plan=plan, ops=roofline.op_costs(fused, target))


def estimate(
    item: "nn.Module | Graph",
    target: Target,
    *,
    method: str = "auto",
    input_shape: tuple[int, ...] | None = None,
) -> Cost:
    """Return what one inference costs on a target.

    Args:
        item: a module in eval mode (it may be on the meta device) or its graph.
        target: the device.
        method: "roofline", "vela" (Arm's compiler, for Ethos-U), "measured" (the CPU at hand), or
            "auto": what the target says.
        input_shape: e.g. (N, C, H, W); needed for a module.

    Raises:
        UnknownNameError: no such method.
        MismatchError: the method does not go with the target or the item, or the module cannot
            be traced.

    """
    if method not in METHODS:
        raise UnknownNameError.near("method", method, METHODS, f"one of {', '.join(METHODS)}")
    method = target.method if method == "auto" else method
    if method == "vela":
        return _by_vela(item, target, input_shape)
    if method != target.method:
        raise MismatchError(f"target {target.name!r} is {target.method}, not {method}")
    if isinstance(item, Graph):
        if method == "measured":
            raise MismatchError("a graph cannot be run; to measure, give the module")
        return _by_roofline(item, target, None, 0)
    if input_shape is None:
        raise MismatchError("a module's cost depends on its input; give input_shape")
    from zoo.graph.trace import trace

    graph = trace(item, input_shape)
    if method == "measured":
        return _measured(item, graph, target)
    halo = getattr(item, "halo", None) if len(input_shape) == 4 else None
    retrace = None if halo is None else (lambda shape: trace(item, shape))
    return _by_roofline(graph, target, retrace, halo or 0)


def _by_roofline(
    graph: Graph,
    target: Target,
    retrace: Callable[[tuple[int, ...]], Graph] | None,
    halo: int,
) -> Cost:
    whole = _run(graph, target)
    tiled, tile_run = None, None
    sram = target.sram_bytes
    if retrace is not None and sram is not None and whole.plan.arena_bytes > sram:
        tiled, tile_run = _tiled(graph, whole, target, retrace, halo)
    fits = _fit(graph, whole, target, tiled)
    if tiled and fits.sram and tiled.latency_ms >= whole.latency_ms:
        tiled = None  # DRAM holds the whole image, and tiles would not be faster
    best = tile_run if tiled and tile_run else whole
    latency = tiled.latency_ms if tiled else whole.latency_ms
    return Cost(
        **_counts(graph, whole.plan, target),
        method="roofline",
        latency_ms=latency,
        energy_mj=_energy(latency, target),
        bound=roofline.bound(best.ops),
        fits=fits,
        tiled=tiled,
        obtained=_obtained("estimated (roofline)", target),
        notes=_notes(best, target),
        ops=best.ops,
    )


def _by_vela(
    item: "nn.Module | Graph", target: Target, input_shape: tuple[int, ...] | None
) -> Cost:
    from zoo.cost.estimators.vela import compiled, fit, route

    graph, report = compiled(item, target.name, input_shape)
    counts = _counts(graph, memory.plan(graph, "int8"), target)
    counts["peak_activation_bytes"] = report.peak_bytes.get("Sram", 0)
    counts["weight_bytes"] = report.encoded_bytes
    obtained = _obtained(f"estimated ({route(report)})", target)
    for number in ("peak_activation_bytes", "weight_bytes"):
        obtained[number] = obtained["latency_ms"]
    return Cost(
        **counts,
        method="vela",
        latency_ms=report.latency_ms,
        energy_mj=_energy(report.latency_ms, target),
        bound=None,
        fits=Fit(**fit(report, target)),
        tiled=None,
        obtained=obtained,
        notes=(*(str(op) for op in report.cpu_ops), *target.notes),
        ops=(),
    )


def _counts(graph: Graph, plan: memory.Plan, target: Target) -> dict[str, Any]:
    return {
        "target": target.name,
        "graph": "deployed",
        "dtype": target.dtype,
        "input_shape": graph.input_shape,
        "parameters": graph.parameters,
        "macs": graph.macs,
        "weight_bytes": graph.weight_bytes(target.dtype),
        "peak_activation_bytes": plan.arena_bytes,
    }


def _obtained(latency: str, target: Target) -> dict[str, str]:
    words = dict.fromkeys(("parameters", "macs"), "exact (counted on the exported graph)")
    words["weight_bytes"] = f"exact (every parameter in {target.dtype}, uncompressed)"
    words["peak_activation_bytes"] = "estimated (arena plan, greedy by size, in place)"
    words["latency_ms"] = latency
    if "power_w" in target.numbers:
        words["energy_mj"] = "estimated (mean power x latency)"
    return words


def _energy(latency_ms: float, target: Target) -> float | None:
    power = target.get("power_w")
    return None if power is None else power * latency_ms


def _tiled(
    graph: Graph,
    whole: _Run,
    target: Target,
    retrace: Callable[[tuple[int, ...]], Graph],
    halo: int,
) -> tuple[TiledRun | None, _Run | None]:
    batch, channels, height, width = graph.input_shape
    sram = target.sram_bytes or 0
    budget = sram * height * width // max(whole.plan.arena_bytes, 1)  # memory goes with pixels
    while tile := best_tile(height, width, halo, budget):
        run = _run(retrace((batch, channels, tile.height, tile.width)), target)
        if run.plan.arena_bytes <= sram:
            return _tiled_run(tile, run, target), run
        budget = tile.height * tile.width - 1  # alignment, or a pool that rounds up
    return None, None


def _tiled_run(tile: Tile, run: _Run, target: Target) -> TiledRun:
    latency = run.latency_ms * tile.count
    return TiledRun(
        height=tile.height,
        width=tile.width,
        halo=tile.halo,
        count=tile.count,
        macs=run.graph.macs * tile.count,
        peak_activation_bytes=run.plan.arena_bytes,
        latency_ms=latency,
        energy_mj=_energy(latency, target),
    )


def _fit(graph: Graph, whole: _Run, target: Target, tiled: TiledRun | None) -> Fit:
    reasons = []
    weights, flash = graph.weight_bytes(target.dtype), target.flash_bytes
    flash_fits = flash is None or weights <= flash
    if not flash_fits:
        reasons.append(
            f"{readable(weights)} of weights exceed {readable(flash or 0)} of flash; "
            "take a smaller network"
        )
    arena, sram = whole.plan.arena_bytes, target.sram_bytes
    sram_fits = target.spills or sram is None or arena <= sram
    if not sram_fits:
        advice = "give a smaller input"
        if tiled:
            advice = (
                f"run {tiled.count} tiles of {tiled.height}x{tiled.width} pixels "
                f"(halo {tiled.halo}), {readable(tiled.peak_activation_bytes)} each"
            )
        reasons.append(
            f"{readable(arena)} of activations exceed {readable(sram or 0)} of SRAM; {advice}"
        )
    return Fit(sram=sram_fits, flash=flash_fits, reasons=tuple(reasons))


def _notes(run: _Run, target: Target) -> tuple[str, ...]:
    notes = list(target.notes)
    for cost in run.ops:
        if cost.bound == "host":
            kind, place = cost.kind.upper(), cost.module or "the top level"
            notes.append(
                f"{kind} at {place} is no operator of this device and runs on its host CPU; "
                "counted as one read and one write of SRAM, a lower bound"
            )
    kinds = [cost.kind.partition("+")[0] for cost in run.ops if cost.bound != "host"]
    rates = {f"rates.{kind if kind in target.rates else 'default'}" for kind in kinds}
    used = [name for name in target.assumed if name in rates or not name.startswith("rates.")]
    if used:
        notes.append(f"assumed, not measured by anybody: {', '.join(used)}")
    return tuple(dict.fromkeys(notes))


def _measured(module: "nn.Module", graph: Graph, target: Target) -> Cost:
    from zoo.cost.estimators.measured import measure

    timing = measure(module, graph.input_shape)
    plan = memory.plan(graph, target.dtype)
    how = f"measured (median of {timing.runs} runs, {timing.threads} threads, {timing.machine})"
    return Cost(
        **_counts(graph, plan, target),
        method="measured",
        latency_ms=timing.latency_ms,
        energy_mj=None,
        bound=None,
        fits=Fit(sram=True, flash=True),
        tiled=None,
        obtained=_obtained(how, target),
        notes=(*target.notes, f"interquartile range of the runs: {timing.spread_ms:.3g} ms"),
        ops=(),
    )
