"""The numbers of an Ethos-U that its cycles follow from; a target's table `[array]`.

`Array` is that of U55 and U65, `Array85` that of U85, whose table has `microblocks`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from zoo.errors import MismatchError

OUTPUTS = ("wide_unary", "wide", "wide_mul", "mul", "add", "max_pool", "other")
ACTIVATIONS = ("table", "relu", "none")


@dataclass(frozen=True, kw_only=True)
class Array:
    """The arithmetic of an Ethos-U55 or U65, and how it reaches its memories.

    Attributes:
        microblock: rows, columns and channels of the outputs that are made at once.
        cores: that share the output channels.
        banks: KiB of the buffer for inputs and accumulators; `reserved_banks` at its two ends are
            kept for outputs and tables.
        input_granule: banks that an input's share is rounded up to; `accumulator_granule` and
            `wide_granule` likewise for accumulators and for inputs of 32 bits.
        output_cycles: cycles for each output element, by kind of operation (`OUTPUTS`).
        activation_cycles: likewise by activation (`ACTIVATIONS`); the slower of both counts.
        burst_bytes: longest transfer of the fast and of the slow memory; shorter ones waste it.
        latency_cycles: before the first byte of the fast and of the slow memory.
        confidence, source: as of a number.

    """

    microblock: tuple[int, int, int]
    cores: int
    banks: int
    reserved_banks: tuple[int, int]
    input_granule: int
    accumulator_granule: int
    wide_granule: int
    output_cycles: Mapping[str, float]
    activation_cycles: Mapping[str, float]
    burst_bytes: tuple[int, int]
    latency_cycles: tuple[int, int]
    confidence: str
    source: str

    def __hash__(self) -> int:
        """Hash what tells arrays apart."""
        return hash((self.microblock, self.cores, self.banks, self.source))


@dataclass(frozen=True, kw_only=True)
class Microblock:
    """A shape in which an Ethos-U85 makes outputs.

    Attributes:
        shape: rows, columns and channels of the outputs that are made at once.
        units: of a pass (`zoo.cost.ethos_u.passes`) that it serves; elementwise ones take any.
        steps: rows, columns and 16-byte bricks of channels that inputs are stored in, for blocks of
            up to 16, up to 32, and more bytes of channels.

    """

    shape: tuple[int, int, int]
    units: tuple[str, ...]
    steps: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Array85:
    """The arithmetic of an Ethos-U85, and how it reaches its memories.

    Attributes:
        macs: multiply-accumulates a cycle.
        cores: weight decoders that share the output channels of a micro-block.
        microblocks: in the order in which the compiler tries them.
        input_bytes: of the buffer for inputs; `sum_bytes` of that for accumulators.
        output_cycles: cycles for each output element of 8 bits; wider ones take `wide_cycles`.
        burst_bytes: longest transfer of the fast and of the slow memory; shorter ones waste it.
        latency_cycles: before the first byte read from the fast and from the slow memory;
            `write_cycles` before the first byte written.
        inputs: bytes a cycle that the channel for inputs takes from the fast and from the slow
            memory; `outputs`, `weights` and `scales` likewise.
        copies: bytes a cycle that are copied from the slow to the fast memory.
        confidence, source: as of a number.

    """

    macs: int
    cores: int
    microblocks: tuple[Microblock, ...] = field(hash=False)
    input_bytes: int
    sum_bytes: int
    output_cycles: float
    wide_cycles: float
    burst_bytes: tuple[int, int]
    latency_cycles: tuple[int, int]
    write_cycles: tuple[int, int]
    inputs: tuple[float, float]
    outputs: tuple[float, float]
    weights: tuple[float, float]
    scales: tuple[float, float]
    copies: float
    confidence: str
    source: str = field(hash=False)

    @property
    def microblock(self) -> tuple[int, int, int]:
        """The last shape, which convolutions take; a code of weights follows from its channels."""
        return self.microblocks[-1].shape


def array(table: Mapping[str, Any]) -> Array | Array85:
    """Return the array of a target's table.

    Raises:
        MismatchError: a field is missing or unknown, or there is no source.

    """
    if "microblocks" in table:
        return _array85(table)
    _check(Array, table)
    for group, known in (("output_cycles", OUTPUTS), ("activation_cycles", ACTIVATIONS)):
        if set(table[group]) != set(known):
            raise MismatchError(f"array.{group} has {sorted(table[group])}; expected {known}")
    lists = ("microblock", "reserved_banks", "burst_bytes", "latency_cycles")
    return Array(**{**table, **{name: tuple(table[name]) for name in lists}})


def _array85(table: Mapping[str, Any]) -> Array85:
    _check(Array85, table)
    parts = []
    for one in table["microblocks"]:
        if set(one) != {"shape", "units", "steps"} or len(one["steps"]) != 3:
            raise MismatchError(f"array.microblocks has {one}; expected shape, units and 3 steps")
        steps = tuple(tuple(step) for step in one["steps"])
        parts.append(Microblock(shape=tuple(one["shape"]), units=tuple(one["units"]), steps=steps))
    pairs = {name: tuple(value) for name, value in table.items() if isinstance(value, list)}
    return Array85(**{**table, **pairs, "microblocks": tuple(parts)})


def _check(kind: type[Array | Array85], table: Mapping[str, Any]) -> None:
    names = {field.name for field in fields(kind)}
    if wrong := sorted(names ^ set(table)):
        raise MismatchError(f"array.{wrong[0]} is missing or unknown; fields: {sorted(names)}")
    if not str(table["source"]).strip():
        raise MismatchError("array has no source")
