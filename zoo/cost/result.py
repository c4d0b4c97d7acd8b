"""`Cost`: what one inference costs on a target, and how each number is known."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class OpCost:
    """What one op of the deployed graph takes.

    Attributes:
        module: path of the module it came from.
        kind: of the op; a fused activation follows a plus sign.
        macs: multiply-accumulates.
        latency_ms: estimated.
        bound: what limits it: "compute", "sram", "flash", "dram" or "host".
        encoded_bytes: of its weights in the device's own code; 0 where there is none.
        bytes: of its inputs, outputs and parameters, each once.

    """

    module: str
    kind: str
    macs: int
    latency_ms: float
    bound: str
    encoded_bytes: int = 0
    bytes: int = 0


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
class FrontEndCost:
    """What the features of one inference of a network that hears cost, as exported C source.

    Attributes:
        name: of the front end.
        frames: of one inference. A stream that goes on by a frame computes only the new one.
        operations: floating-point additions and multiplications of all frames.
        table_bytes: in flash.
        memory_bytes: its buffers, a frame, the features and the sound that is kept.
        latency_ms: the least and the most of all frames; None where the target has no rate.
        obtained: how each number is known, as in `Cost`.

    """

    name: str
    frames: int
    operations: int
    table_bytes: int
    memory_bytes: int
    latency_ms: tuple[float, float] | None
    obtained: Mapping[str, str]

    @property
    def time(self) -> str:
        """The latency for people."""
        if self.latency_ms is None:
            return "time not known here"
        least, most = (
            f"{ms:.{0 if ms >= 100 else 3 if ms < 0.1 else 2}f}" for ms in self.latency_ms
        )
        return f"{least} to {most} ms ({self.obtained['latency_ms'].split(' ')[0]})"

    def __str__(self) -> str:
        """One line: name, frames, counts, memory, latency."""
        return (
            f"front end {self.name}: {self.frames} frame{'s' * (self.frames != 1)}, "
            f"{self.operations / 1e6:,.2f} M operations, tables {readable(self.table_bytes)}, "
            f"memory {readable(self.memory_bytes)}, {self.time}"
        )


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
        bound: what limits that run: "compute", "sram", "flash", "dram" or "host"; None when
            measured.
        fits: whether the whole input fits, and if not, why.
        tiled: the run in tiles, where the network allows it and it fits or gains; else None.
        obtained: for each number the word exact, measured or estimated, and the method.
        host: operators that the device does not have and leaves to its host CPU, a line each:
            which one and where. They are in the notes too.
        notes: what a reader must know before trusting the numbers.
        ops: estimated cost of each op of one run (of one tile, if the best run is tiled).
        front_end: of a network that hears, what computing its features costs on top, for which
            `fits` makes room; no other number has a part of it.
        interval_ms: (low, high) that should hold the latency in nine of ten networks, or None
            where nobody compared the method with a reference.
        flash_bytes: what is stored for the network: weights as the device keeps them, encoded on
            an Ethos-U. None: `weight_bytes` are.
        moved_bytes: that each memory moves in one run, by its name, where the method knows.

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
    ops: tuple[OpCost, ...]
    host: tuple[str, ...] = ()
    front_end: FrontEndCost | None = None
    interval_ms: tuple[float, float] | None = None
    flash_bytes: int | None = None
    moved_bytes: Mapping[str, int] = field(default_factory=dict)

    @property
    def total_parameters(self) -> int:
        """All parameters, of every kind."""
        return sum(self.parameters.values())

    @property
    def stored_bytes(self) -> int:
        """What the network takes where weights lie, as the device keeps them."""
        return self.weight_bytes if self.flash_bytes is None else self.flash_bytes

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON types, the total of the parameters included."""
        value = dataclasses.asdict(self)
        value["parameters"] = {**self.parameters, "total": self.total_parameters}
        value["obtained"] = dict(self.obtained)
        value["input_shape"] = list(self.input_shape)
        value["fits"]["reasons"] = list(self.fits.reasons)
        if self.front_end is not None:
            interval = self.front_end.latency_ms
            value["front_end"]["latency_ms"] = None if interval is None else list(interval)
        value["moved_bytes"] = dict(self.moved_bytes)
        for name in ("host", "notes", "ops", "interval_ms"):
            value[name] = None if value[name] is None else list(value[name])
        return value

    @property
    def details(self) -> tuple[str, ...]:
        """What belongs under the one line: front end, what does not fit, what the host runs."""
        before = () if self.front_end is None else (str(self.front_end),)
        return (*before, *self.fits.reasons, *self.host)

    def __str__(self) -> str:
        """One line: target, shape, counts, memory, latency and whether it fits."""
        word = self.obtained["latency_ms"].split(" ")[0]
        how = f", {self.bound}-bound" if self.bound else ""
        if self.tiled and self.runs_tiled:
            how += f", {self.tiled.count} tiles"
        least = "at least " if self.host else ""
        return (
            f"{self.target}: input {_shape(self)}, {self.total_parameters:,} parameters, "
            f"{self.macs / 1e6:,.1f} M MACs, weights {readable(self.weight_bytes)}, "
            f"activations {readable(self.peak_activation_bytes)}, "
            f"{least}{milliseconds(self.latency_ms)} ms ({word}{how}), {self.fitting}"
        )

    @property
    def fitting(self) -> str:
        """Whether it fits, in words."""
        return "fits" if self.fits else ("fits in tiles" if self.runs_tiled else "does not fit")

    def _repr_html_(self) -> str:
        """Return what a notebook shows: a table, each number with how it is known."""
        energy = [] if self.energy_mj is None else [("energy_mj", f"{self.energy_mj:.3g} mJ")]
        rows = [
            ("macs", f"{self.macs:,} MACs"),
            ("weight_bytes", f"{readable(self.weight_bytes)} of weights"),
            ("peak_activation_bytes", f"{readable(self.peak_activation_bytes)} of activations"),
            ("latency_ms", f"{self.latency_ms:.3g} ms"),
            *energy,
        ]
        known = dict(self.obtained)
        if (front := self.front_end) is not None:
            rows += [
                ("front operations", f"{front.operations:,} operations of {front.name}"),
                ("front table_bytes", f"{readable(front.table_bytes)} of its tables"),
                ("front memory_bytes", f"{readable(front.memory_bytes)} of its memory"),
                ("front latency_ms", front.time),
            ]
            known |= {f"front {key}": how for key, how in front.obtained.items()}
        cells = "".join(
            f"<tr><td>{escape(text)}</td><td>{escape(known.get(key, ''))}</td></tr>"
            for key, text in rows
        )
        reasons = "".join(f"<p>{escape(reason)}</p>" for reason in self.fits.reasons)
        return f"<table><caption>{escape(self.target)}</caption>{cells}</table>{reasons}"

    @property
    def runs_tiled(self) -> bool:
        """Whether `latency_ms` is the tiled run's."""
        return self.tiled is not None and self.tiled.latency_ms == self.latency_ms


class SideBySide(list[Cost]):
    """Costs of several targets or methods; a notebook shows them in one table."""

    def _repr_html_(self) -> str:
        """Return a table: a column for each cost, with its interval and how the time is known."""
        rows: dict[str, list[str]] = {
            "method": [cost.method for cost in self],
            "input": [_shape(cost) for cost in self],
            "MACs": [f"{cost.macs / 1e6:,.1f} M" for cost in self],
            "latency, ms": [f"{'≥ ' * bool(c.host)}{milliseconds(c.latency_ms)}" for c in self],
            "90 % within, ms": [_within(cost) for cost in self],
            "energy, mJ": ["" if c.energy_mj is None else f"{c.energy_mj:.3g}" for c in self],
            "activations": [readable(cost.peak_activation_bytes) for cost in self],
            "weights": [readable(cost.stored_bytes) for cost in self],
            "waits for": [cost.bound or "" for cost in self],
            "fits": [cost.fitting for cost in self],
            "latency known": [cost.obtained["latency_ms"] for cost in self],
        }
        head = "".join(f"<th>{escape(cost.target)}</th>" for cost in self)
        lines = [
            f"<tr><th>{escape(name)}</th>{''.join(f'<td>{escape(c)}</td>' for c in cells)}</tr>"
            for name, cells in rows.items()
            if any(cells)
        ]
        return f"<table><tr><th></th>{head}</tr>{''.join(lines)}</table>"


def _shape(cost: Cost) -> str:
    return f"{'x'.join(map(str, cost.input_shape))} {cost.dtype}"


def _within(cost: Cost) -> str:
    return "" if cost.interval_ms is None else " to ".join(map(milliseconds, cost.interval_ms))


def milliseconds(value: float) -> str:
    """Return a time for people, with two decimals below 100 ms."""
    return f"{value:,.{0 if value >= 100 else 2}f}"


def exceeds(what: str, used: int, size: int, memory: str) -> str:
    """Return why something does not fit: which limit, and by how much."""
    return (
        f"{readable(used)} of {what} exceed {readable(size)} of {memory} by {readable(used - size)}"
    )


def readable(count: float) -> str:
    """Return a number of bytes for people: "675.0 KiB" (1 KiB = 1024 bytes)."""
    unit = "B"
    for larger in ("KiB", "MiB", "GiB"):
        if count < 1024:
            break
        count, unit = count / 1024, larger
    return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
