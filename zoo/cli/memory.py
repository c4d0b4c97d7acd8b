"""What the commands say about the memory of activations, and files that need the least of it."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.cli.printing import print_table
from zoo.errors import MismatchError

if TYPE_CHECKING:
    from zoo.cost.planner import Arena
    from zoo.registry.artifact import Artifact


def arenas(
    artifact: "Artifact", targets: Sequence[str], shape: tuple[int, ...] | None
) -> "dict[str, list[Arena]]":
    """Return the ways to pack an artifact's activations on each target, a name or a file."""
    from zoo.verbs.planning import plan_memory

    return {name: plan_memory(artifact, name, input_shape=shape) for name in targets}


def as_json(found: "Sequence[Arena]") -> list[dict[str, Any]]:
    """Return arenas as JSON types."""
    return [dataclasses.asdict(arena) for arena in found]


def show(found: "Sequence[Arena]") -> None:
    """Print arenas as a table below a line about a target."""
    rows = [("  ORDER", "IN PLACE", "PLACEMENT", "ARENA", "NOTHING IS SMALLER")]
    for arena in found:
        if arena.proved and arena.order_proved and arena.arena_bytes == arena.live_bytes:
            proof = "in any order"
        else:
            proof = "in this order" if arena.proved else "-"
        in_place = "yes" if arena.in_place else "no"
        size = f"{arena.arena_bytes:,} B"
        rows.append((f"  {arena.order}", in_place, arena.placement, size, proof))
    print_table(rows)


def plan_file(source: Path, out: Path) -> None:
    """Write a `.tflite` file that needs the least memory, and say how much."""
    from zoo.verbs.planning import write_least_memory

    file = write_least_memory(source, out)
    proof = ", and nothing is smaller" if file.proved else ""
    print(
        f"{file.path}  {file.arena_bytes:,} bytes of activations in TFLite Micro, which by itself "
        f"would take {file.greedy_bytes:,}{proof}"
    )


def check_format(format: str) -> None:
    """Raise unless a format can hold a plan.

    Raises:
        MismatchError: it cannot.

    """
    if format != "tflite":
        raise MismatchError(
            f"--least-memory is of .tflite files, not {format}; name it FILE.tflite"
        )
