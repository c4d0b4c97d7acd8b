"""`Array`: the numbers of an Ethos-U that its cycles follow from; a target's table `[array]`."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
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


def array(table: Mapping[str, Any]) -> Array:
    """Return the array of a target's table.

    Raises:
        MismatchError: a field is missing or unknown, or there is no source.

    """
    names = {field.name for field in fields(Array)}
    if wrong := sorted(names ^ set(table)):
        raise MismatchError(f"array.{wrong[0]} is missing or unknown; fields: {sorted(names)}")
    for group, known in (("output_cycles", OUTPUTS), ("activation_cycles", ACTIVATIONS)):
        if set(table[group]) != set(known):
            raise MismatchError(f"array.{group} has {sorted(table[group])}; expected {known}")
    if not str(table["source"]).strip():
        raise MismatchError("array has no source")
    lists = ("microblock", "reserved_banks", "burst_bytes", "latency_cycles")
    return Array(**{**table, **{name: tuple(table[name]) for name in lists}})
