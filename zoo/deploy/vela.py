"""Arm's compiler for the Ethos-U accelerators: what it is asked, and what its answer means.

`regor`, the core of Vela 5, has no documented interface; what is used here is what its own command
line calls, and a test compares the two. Vela's totals leave out what runs on the host CPU, so
`VelaReport.cpu_ops` belongs to every total. `zoo.deploy.vela_process` runs it.
"""

import importlib.util
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.deploy import vela_process
from zoo.deploy.formats import NPU
from zoo.deploy.tflite_outline import Operator, outline
from zoo.deploy.tflite_write import serialize_tflite
from zoo.deploy.vela_process import TIME_LIMIT_S
from zoo.errors import MissingExtraError, UnknownNameError
from zoo.graph.ir import Graph


@dataclass(frozen=True, kw_only=True)
class Npu:
    """An accelerator in a system, as Vela names them.

    Attributes:
        architecture: "EthosU55", "EthosU65" or "EthosU85".
        macs: multiply-accumulates per cycle and core.
        cores: number of cores.
        system_config: section of Arm/vela.ini: clock and memories.
        memory_mode: section of Arm/vela.ini: which memory holds what.

    """

    architecture: str
    macs: int
    cores: int
    system_config: str
    memory_mode: str


# Arm's own names for its high-end systems; each number of a report holds for this system.
_SYSTEMS = {
    "u55": ("Ethos_U55_High_End_Embedded", "Shared_Sram", (32, 64, 128, 256)),
    "u65": ("Ethos_U65_High_End", "Dedicated_Sram_384KB", (256, 512)),
    "u85": ("Ethos_U85_SYS_DRAM_Mid", "Dedicated_Sram_384KB", (128, 256, 512, 1024, 2048)),
}
NPUS = {
    f"ethos-{name}-{macs}": Npu(
        architecture=f"Ethos{name.upper()}",
        macs=256 if (name, macs) == ("u65", 512) else macs,  # two cores of 256
        cores=2 if (name, macs) == ("u65", 512) else 1,
        system_config=system,
        memory_mode=mode,
    )
    for name, (system, mode, sizes) in _SYSTEMS.items()
    for macs in sizes
}


@dataclass(frozen=True, kw_only=True)
class CpuOp:
    """An operator that Vela leaves to the host CPU, at no cost in its totals.

    Attributes:
        kind: kind in the graph IR, e.g. "depth_to_space".
        module: path in the network; for a file of another tool, the tensor that it makes.
        reason: Vela's reason.
        fix: what to change in the network.

    """

    kind: str
    module: str
    reason: str
    fix: str

    def __str__(self) -> str:
        """One line."""
        where = self.module or "the top level"
        return f"{self.kind.upper()} at {where} runs on the host CPU ({self.reason}): {self.fix}"


@dataclass(frozen=True, kw_only=True)
class NpuOp:
    """What the accelerator spends on an operator of the file.

    Attributes:
        number: place in the file.
        kind: kind in the graph IR.
        module: path in the network, or the tensor that it makes.
        cycles: of all passes that the operator became.
        bound: what was busy longest: "compute", "sram", "flash" or "dram".

    """

    number: int
    kind: str
    module: str
    cycles: int
    bound: str


@dataclass(frozen=True, kw_only=True)
class VelaReport:
    """What Vela estimates.

    Attributes:
        npu: name of the accelerator.
        cycles: total; `npu_cycles` is what the arithmetic alone would take.
        latency_ms: milliseconds that the cycles take at the system's clock.
        macs: as Vela counts them, with the padding that it adds to some.
        peak_bytes: peak use by memory: "Sram", "Dram", "OffChipFlash".
        weight_bytes: bytes of parameters before Vela's compression; `encoded_bytes` after.
        cpu_ops: what the totals leave out.
        npu_ops: number of operators, as Vela splits and fuses them, in the totals.
        ops: what each operator of the file takes, in its order; those that became part of another
            are missing.
        moved_bytes: read and written, by memory.

    """

    npu: str
    cycles: int
    npu_cycles: int
    latency_ms: float
    macs: int
    peak_bytes: Mapping[str, int]
    weight_bytes: int
    encoded_bytes: int
    cpu_ops: tuple[CpuOp, ...]
    npu_ops: int
    ops: tuple[NpuOp, ...] = ()
    moved_bytes: Mapping[str, int] = field(default_factory=dict)


def compile_graph(graph: Graph, npu: str, *, time_limit_s: float = TIME_LIMIT_S) -> VelaReport:
    """Compile an int8 graph, channels last, and return Vela's estimate.

    Args:
        graph: an integer graph with values, of one sample.
        npu: a name in `NPUS`, e.g. "ethos-u55-128".
        time_limit_s: seconds after which the compiler is stopped.

    Raises:
        UnknownNameError: there is no such accelerator.
        MissingExtraError: ethos-u-vela is not installed.
        MismatchError: Vela refuses the network, with its reason, or does not finish in time.

    """
    parts = [(op.module, Operator(kind=op.kind, output=op.outputs[0])) for op in graph.ops]
    return _report(serialize_tflite(graph), npu, parts, time_limit_s)


def compile_file(content: bytes, npu: str, *, time_limit_s: float = TIME_LIMIT_S) -> VelaReport:
    """Compile the bytes of a `.tflite` file of any tool, as they are; see `compile_graph`.

    Raises:
        UnsafeFileError: it is not a TFLite file, or damaged.
        UnknownNameError, MissingExtraError, MismatchError: see `compile_graph`.

    """
    operators = enumerate(outline(content).operators)
    parts = [(op.output or f"operator {number}", op) for number, op in operators]
    return _report(content, npu, parts, time_limit_s)


Parts = Sequence[tuple[str, Operator]]  # by their number in the file: where they come from


def configuration(npu: str) -> tuple[dict[str, str], float]:
    """Return what the compiler is told of an accelerator and its system, and the clock in Hz.

    Raises:
        UnknownNameError, MissingExtraError: see `compile_graph`.

    """
    if npu not in NPUS:
        raise UnknownNameError.near("Ethos-U", npu, NPUS, f"one of {', '.join(NPUS)}")
    spec = importlib.util.find_spec("ethosu")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError.of("ethos-u-vela", "tflite")
    place = Path(next(iter(spec.submodule_search_locations))) / "config_files" / "Arm" / "vela.ini"
    device, ini = NPUS[npu], place.read_text()
    settings = {
        "architecture": device.architecture,
        "system": _system(device, ini),
        "options": _options(device, ini),
    }
    return settings, _clock(ini, device.system_config)


def _report(content: bytes, npu: str, parts: Parts, time_limit_s: float) -> VelaReport:
    settings, clock_hz = configuration(npu)
    found = vela_process.compiled(
        settings, content, time_limit_s=time_limit_s, what=f"this network for {npu}"
    )
    return VelaReport(
        npu=npu,
        cycles=found["totalCycles"],
        npu_cycles=found["npuCycles"],
        latency_ms=1e3 * found["totalCycles"] / clock_hz,
        macs=found["macCount"],
        peak_bytes={
            name: size
            for name, size in found["peaks"].items()
            if name.lower() not in ("shram", "lutram")
        },
        weight_bytes=found["originalWeights"],
        encoded_bytes=found["encodedWeights"],
        cpu_ops=_cpu_ops(found, parts),
        npu_ops=found["npuOps"],
        ops=_npu_ops(found, parts),
        moved_bytes=found["moved"],
    )


_MEMORIES = {"Sram_ac": "sram", "OffChipFlash_ac": "flash", "OnChipFlash_ac": "flash"}
_MEMORIES |= {"Dram_ac": "dram"}


def _npu_ops(found: Mapping[str, Any], parts: Parts) -> tuple[NpuOp, ...]:
    """Return the compiler's passes, summed by the operator of the file that they come from."""
    numbers = {row["id"]: row["ext_key"] for row in found["tables"]["source"]}
    cycles: dict[int, Counter[str]] = {}
    for row in found["tables"]["perf"]:
        place = int(numbers.get(row["source_id"]) or -1)
        busy = {"compute": int(row["npu_cycles"] or 0)}
        for column, memory in _MEMORIES.items():
            busy[memory] = max(busy.get(memory, 0), int(row.get(column) or 0))
        bound = max(busy, key=lambda name: busy[name])
        if busy[bound] and 0 <= place < len(parts):
            cycles.setdefault(place, Counter())[bound] += busy[bound]
    return tuple(
        NpuOp(
            number=place,
            kind=parts[place][1].kind,
            module=parts[place][0],
            cycles=times.total(),
            bound=times.most_common(1)[0][0],
        )
        for place, times in sorted(cycles.items())
    )


def _system(device: Npu, ini: str) -> str:
    return (
        f"[architecture]\nmacs={device.macs}\ncores={device.cores}\n"
        f"[vela]\nsystem_config_name={device.system_config}\n"
        f"memory_mode_name={device.memory_mode}\n{ini}"
    )


def _options(device: Npu, ini: str) -> str:
    # The command line's defaults; the database tells which operators stay on the CPU.
    arena = _arena_limit(ini, device.memory_mode) or 2**32
    return (
        "[compiler]\nenable_db=true\noutput_format=TFLite\ncop_format=COP1\n"
        f"[scheduler]\noptimize=Performance\narena_size_limit={arena}\ndisable_feature=\n"
        "cpu_tensor_alignment=16\ntensor_allocator=HillClimb\n"
        "[graph]\nsoftmax_int16_neg_exp_range=10.0\n"
    )


def _arena_limit(ini: str, mode: str) -> int | None:
    """Return how many bytes a memory mode gives activations in SRAM, None for all there are."""
    section = re.search(rf"\[Memory_Mode\.{mode}\]([^\[]*)", ini)
    assert section, f"vela.ini has no memory mode {mode}"
    size = re.search(r"^arena_cache_size=(\d+)", section[1], re.MULTILINE)
    return None if size is None else int(size[1])


def _clock(ini: str, section: str) -> float:
    match = re.search(rf"\[System_Config\.{section}\].*?core_clock=([\d.e]+)", ini, re.DOTALL)
    assert match, f"vela.ini has no clock in {section}"
    return float(match[1])


def _cpu_ops(found: Mapping[str, Any], parts: Parts) -> tuple[CpuOp, ...]:
    """Name the operators that Vela leaves: it says why of some, and passes all of them through."""
    said = re.findall(r"operator: (\S+), ofm: '([^']*)'\s*Reason: ([^\n]*)", found["said"])
    # Vela parts an activation from its layer, and then calls the layer's own output "_act".
    reasons = {output.removesuffix("_act"): reason for _, output, reason in said}
    numbers = {row["id"]: row["ext_key"] for row in found["tables"]["source"]}
    rows = [row for row in found["tables"]["perf"] if row["operator"] == "Passthrough"]
    places = [int(numbers.get(row["source_id"]) or -1) for row in rows]
    if len(places) == found["cpuOps"] and all(0 <= place < len(parts) for place in places):
        named = [
            (op.kind, where, reasons.get(op.output.removesuffix("_act")))
            for where, op in (parts[place] for place in sorted(places))
        ]
    else:  # operators of several subgraphs, whose numbers say nothing
        named = [(kind.lower(), output, why) for kind, output, why in dict.fromkeys(said)]
        named += [("operator", "", None)] * (found["cpuOps"] - len(named))
    advice = "replace it with operators that the accelerator has"
    return tuple(
        CpuOp(
            kind=kind,
            module=where,
            reason=(why or "no reason given").rstrip("."),
            fix=NPU.get(kind) or advice,
        )
        for kind, where, why in named
    )
