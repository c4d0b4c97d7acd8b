"""What the activations of a network need in memory, and files that need the least."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.artifacts.resolution import Ref, resolve
from zoo.errors import MismatchError
from zoo.verbs.pricing import pricer

if TYPE_CHECKING:
    from zoo.cost.planner import Arena
    from zoo.registry.artifact import Artifact


def plan_memory(
    item: "Ref | Artifact", target: str, *, input_shape: tuple[int, ...] | None = None
) -> "list[Arena]":
    """Return the ways to pack a network's activations on a target; the first is TFLite Micro's.

    Args:
        item: a ref, or what it was resolved to.
        target: whose type of numbers and fused activations count.
        input_shape: as in `zoo.estimate`.

    Raises:
        UnknownNameError: there is no such recipe or target.
        MismatchError: the network cannot be traced with this input shape.

    """
    from zoo import cost
    from zoo.cost import planner
    from zoo.cost.estimators.contract import Subject
    from zoo.graph.fuse import fuse
    from zoo.graph.ir import Graph

    device = cost.target(target)
    # A file's activations are as large as they are, whatever the target computes in.
    found = pricer(resolve(item, weights=False), input_shape)(device, "memory")
    if isinstance(found, Graph):
        return planner.compare(found, None, scratch=device.scratch)
    assert isinstance(found, Subject)
    return planner.compare(fuse(found.graph, device.fuses), device.dtype, scratch=device.scratch)


@dataclass(frozen=True, kw_only=True)
class PlannedFile:
    """A file with a plan of its arena.

    Attributes:
        path: of the file.
        greedy_bytes: what TFLite Micro's own plan would take, operators in their former order.
        arena_bytes: what the file's plan takes.
        proved: whether no order keeps fewer bytes alive, and no placement in it takes less.

    """

    path: Path
    greedy_bytes: int
    arena_bytes: int
    proved: bool


def write_least_memory(source: Path, path: Path) -> PlannedFile:
    """Write a `.tflite` file anew so that TFLite Micro needs the least memory for its activations.

    Its operators run in the order that keeps the fewest bytes alive, and metadata say where in the
    arena each activation lies. No operator writes over its input, so any kernels will do; other
    runtimes take no notice.

    Args:
        source: a `.tflite` file.
        path: the file to write, replaced in one step or not at all; may be the source.

    Raises:
        MismatchError: the file keeps states, which TFLite Micro places by itself.
        UnsafeFileError: it is damaged.

    """
    from zoo.cost import memory, ordering, planner
    from zoo.deploy.tflite_read import read_tflite
    from zoo.deploy.tflite_write import serialize_tflite
    from zoo.files import write_bytes

    graph = read_tflite(source)
    if graph.states:
        raise MismatchError(
            f"{source} keeps states from call to call, which TFLite Micro places by itself; "
            "leave --least-memory out"
        )
    before = memory.plan(graph, None, in_place=False)
    order = ordering.reordered(graph, None, in_place=False)
    after, proved = planner.smallest_plan(order.graph, None, in_place=False)
    write_bytes(path, serialize_tflite(order.graph, after.offsets))
    return PlannedFile(
        path=path,
        greedy_bytes=before.arena_bytes,
        arena_bytes=after.arena_bytes,
        proved=order.proved and proved,
    )
