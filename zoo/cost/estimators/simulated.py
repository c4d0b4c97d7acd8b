"""The method "simulated": the int8 network as compiled C, run in valgrind's cachegrind.

Instructions and cache misses of one run are counted, and are the same each time and everywhere for
one compiler. The time follows from them by KCachegrind's estimate, one cycle an instruction, 10 a
miss of the first cache, 100 a miss of the last, at a nominal clock: believe the order of networks,
and no millisecond. Kernels are plain loops as in TFLite Micro's reference, with AVX2 at most.
"""

import dataclasses
from dataclasses import dataclass

from zoo.cost.deployed import materialised, on_meta
from zoo.cost.estimators.contract import Subject, counts, obtained
from zoo.cost.result import Cost, Fit, OpCost
from zoo.cost.simulator.cachegrind import L1_CYCLES, LAST_CYCLES, Counts, counted
from zoo.cost.simulator.program import Program
from zoo.cost.target import Target
from zoo.errors import MismatchError
from zoo.graph.ir import Graph
from zoo.graph.lower import lower
from zoo.quantization.int8.post_training import quantize_graph

SUMMARY = "int8 kernels in C, run instruction by instruction in valgrind's cachegrind"
MOST_MACS = 500_000_000  # a minute and more of simulation


@dataclass(frozen=True, kw_only=True)
class Options:
    """The clock, and how long valgrind may take.

    Attributes:
        clock_ghz: of a nominal processor.
        time_limit_s: seconds after which it is stopped.

    """

    clock_ghz: float = 1.0
    time_limit_s: float = 600.0


@dataclass(frozen=True, kw_only=True)
class SimulatedCost(Cost):
    """What a simulation counts.

    Attributes:
        instructions: of one run.
        l1_misses: of the first caches, 32 KiB each for instructions and data, 8 ways.
        last_misses: of them, those of the last cache, 1 MiB, 16 ways.

    """

    instructions: int
    l1_misses: int
    last_misses: int

    @property
    def details(self) -> tuple[str, ...]:
        """What belongs under the one line."""
        line = (
            f"{self.instructions:,} instructions, {self.l1_misses:,} misses of the first cache, "
            f"{self.last_misses:,} of the last"
        )
        return (line, *super().details)


def refusal(target: Target) -> str | None:
    """Return why a target's processor is not simulated, or None if it is."""
    if target.method == "measured":
        return None
    return (
        f"target {target.name!r} is not the CPU at hand, whose instructions alone valgrind runs; "
        "type: --target cpu"
    )


def estimate(subject: Subject, target: Target, options: Options) -> Cost:
    """Return the counts of one run of a network in int8.

    Raises:
        MismatchError: see `zoo.cost.simulator`; or the network is too large.

    """
    graph = _integer(subject)
    if graph.macs > MOST_MACS:
        raise MismatchError(
            f"{graph.macs / 1e6:,.0f} M MACs are too many to simulate, at most "
            f"{MOST_MACS / 1e6:,.0f} M; give a smaller --shape"
        )
    program = Program.of(graph)
    found, _ = counted(program, time_limit_s=options.time_limit_s)
    total = sum(found, Counts(instructions=0, l1_misses=0, last_misses=0))
    milliseconds = 1 / (options.clock_ghz * 1e6)  # of a cycle
    numbers = counts(graph, program.plan, target) | {"dtype": "int8"}
    numbers["weight_bytes"] = graph.weight_bytes("int8")
    if subject.module is not None:
        numbers["input_shape"] = subject.first_shape  # as it was given, not channels last
    how = (
        f"estimated (valgrind's cachegrind: instructions + {L1_CYCLES} x misses of the first cache "
        f"+ {LAST_CYCLES} x of the last, at {options.clock_ghz:g} GHz)"
    )
    words = obtained(how, target)
    words["weight_bytes"] = "exact (every parameter in int8, uncompressed)"
    words["peak_activation_bytes"] = "estimated (arena plan, greedy by size)"
    return SimulatedCost(
        **numbers,
        method="simulated",
        latency_ms=total.cycles * milliseconds,
        energy_mj=None,
        bound=_bound(total),
        fits=Fit(sram=True, flash=True),
        tiled=None,
        obtained=words,
        notes=("int8 kernels of plain loops, compiled here; their order is meant, not their time",),
        ops=tuple(
            OpCost(
                module=op.module,
                kind=op.kind,
                macs=op.macs,
                latency_ms=each.cycles * milliseconds,
                bound=_bound(each),
            )
            for op, each in zip(graph.ops, found, strict=True)
        ),
        **dataclasses.asdict(total),
    )


def _bound(found: Counts) -> str:
    """Return whether instructions or misses take most of the cycles."""
    return "compute" if 2 * found.instructions >= found.cycles else "dram"


def _integer(subject: Subject) -> Graph:
    """Return the int8 graph of a subject; a module is quantized with nominal ranges."""
    if subject.module is None:
        return subject.graph
    module = materialised(subject.module) if on_meta(subject.module) else subject.module
    lowered = lower(module, subject.shape)
    names = [tensor.name for tensor in lowered.tensors.values() if not tensor.is_parameter]
    above = {op.inputs[0]: (0.0, 1.0) for op in lowered.ops if op.kind == "rsqrt"}
    return quantize_graph(lowered, dict.fromkeys(names, (-1.0, 1.0)) | above)
