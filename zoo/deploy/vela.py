"""Arm's compiler for the Ethos-U accelerators, called in process: the only importer of `ethosu`.

`regor`, the core of Vela 5, has no documented interface; what is used here is what its own command
line calls, and a test compares the two. Vela's totals leave out what runs on the host CPU, so
`VelaReport.cpu_ops` belongs to every total.
"""

import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.deploy.formats import NPU
from zoo.deploy.tflite_write import serialize_tflite
from zoo.errors import MismatchError, MissingExtraError, UnknownNameError
from zoo.graph.ir import Graph, Op


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
    "u65": ("Ethos_U65_High_End", "Dedicated_Sram", (256, 512)),
    "u85": ("Ethos_U85_SYS_DRAM_Mid", "Dedicated_Sram", (128, 256, 512, 1024, 2048)),
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
        module: path in the network.
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


def compile_graph(graph: Graph, npu: str) -> VelaReport:
    """Compile an int8 graph, channels last, and return Vela's estimate.

    Args:
        graph: an integer graph with values, of one sample.
        npu: a name in `NPUS`, e.g. "ethos-u55-128".

    Raises:
        UnknownNameError: there is no such accelerator.
        MissingExtraError: ethos-u-vela is not installed.
        MismatchError: Vela refuses the network; its reason is given.

    """
    return compile_file(serialize_tflite(graph), npu, graph)


def compile_file(content: bytes, npu: str, graph: Graph | None = None) -> VelaReport:
    """Compile the bytes of a `.tflite` file; its graph, if given, names the operators.

    Raises:
        UnknownNameError, MissingExtraError, MismatchError: see `compile_graph`.

    """
    if npu not in NPUS:
        raise UnknownNameError.near("Ethos-U", npu, NPUS, f"one of {', '.join(NPUS)}")
    try:
        from ethosu import regor
    except ImportError as error:
        raise MissingExtraError.of("ethos-u-vela", "tflite") from error
    device = NPUS[npu]
    ini = (Path(regor.__file__).parent / "config_files" / "Arm" / "vela.ini").read_text()
    with _quiet() as said:
        try:
            result = regor.compile(
                device.architecture, content, "TFLITE", _system(device, ini), _options(device)
            )
        except Exception as error:  # pybind11 raises RuntimeError and others
            reason = " ".join(str(error).split()) or type(error).__name__
            raise MismatchError(f"Vela cannot compile this network for {npu}: {reason}") from error
    report = result.perf_report
    clock = _clock(ini, device.system_config)
    return VelaReport(
        npu=npu,
        cycles=int(report.totalCycles),
        npu_cycles=int(report.npuCycles),
        latency_ms=1e3 * int(report.totalCycles) / clock,
        macs=int(report.macCount),
        peak_bytes={
            name: int(memory.peakUsage)
            for name, memory in report.memories.items()
            if name.lower() not in ("shram", "lutram")
        },
        weight_bytes=int(report.originalWeights),
        encoded_bytes=int(report.encodedWeights),
        cpu_ops=_cpu_ops(graph, result, said()),
    )


def _system(device: Npu, ini: str) -> str:
    return (
        f"[architecture]\nmacs={device.macs}\ncores={device.cores}\n"
        f"[vela]\nsystem_config_name={device.system_config}\n"
        f"memory_mode_name={device.memory_mode}\n{ini}"
    )


def _options(device: Npu) -> str:
    # The command line's defaults; the database tells which operators stay on the CPU.
    arena = 2 ** (48 if device.architecture == "EthosU85" else 32)
    return (
        "[compiler]\nenable_db=true\noutput_format=TFLite\ncop_format=COP1\n"
        f"[scheduler]\noptimize=Performance\narena_size_limit={arena}\ndisable_feature=\n"
        "cpu_tensor_alignment=16\ntensor_allocator=HillClimb\n"
        "[graph]\nsoftmax_int16_neg_exp_range=10.0\n"
    )


def _clock(ini: str, section: str) -> float:
    match = re.search(rf"\[System_Config\.{section}\].*?core_clock=([\d.e]+)", ini, re.DOTALL)
    assert match, f"vela.ini has no clock in {section}"
    return float(match[1])


def _cpu_ops(graph: Graph | None, result: Any, said: str) -> tuple[CpuOp, ...]:
    """Name the operators that Vela says it leaves, by the tensors they make."""
    count = int(result.perf_report.cpuOps)
    reasons = dict(re.findall(r"ofm: '([^']*)'\s*Reason: ([^\n]*)", said))
    tables = result.opt_database.tables if count else {}
    if graph is None:
        named = [("operator", name, reason) for name, reason in reasons.items()]
        named += [("operator", "", "no reason given")] * (count - len(named))
    else:
        left = [op for op in graph.ops if op.outputs[0] in reasons]
        if len(left) < count:  # some lack an explanation: look for operators without a command
            left += [op for op in _idle(graph, tables) if op not in left]
        named = [(op.kind, op.module, reasons.get(op.outputs[0], "no reason given")) for op in left]
    advice = "replace it with operators that the accelerator has"
    return tuple(
        CpuOp(kind=kind, module=where, reason=why.rstrip("."), fix=NPU.get(kind) or advice)
        for kind, where, why in named
    )


def _idle(graph: Graph, tables: Mapping[str, Any]) -> list[Op]:
    """Return the operators that no command of the accelerator came from."""
    queued = {row["optimised_id"] for row in _rows(tables["queue"])}
    sources = {row["source_id"] for row in _rows(tables["optimised"]) if row["id"] in queued}
    idle = [row["ext_key"] for row in _rows(tables["source"]) if row["id"] not in sources]
    places = [int(place) for place in idle if place.isdecimal()]
    return [graph.ops[place] for place in places if place < len(graph.ops)]


def _rows(table: Any) -> Iterator[dict[str, str]]:
    for row in table.data:
        yield dict(zip(table.header, row, strict=False))


_LOCK = threading.Lock()


@contextmanager
def _quiet() -> Iterator[Callable[[], str]]:
    """Catch what the C++ code prints; yield a function that returns it.

    It writes to the process's own files 1 and 2, past Python's sys.stdout.
    """
    text = ""
    with _LOCK, tempfile.TemporaryFile() as file:
        sys.stdout.flush()
        sys.stderr.flush()
        saved = os.dup(1), os.dup(2)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield lambda: text
        finally:
            for place, copy in zip((1, 2), saved, strict=True):
                os.dup2(copy, place)
                os.close(copy)
            file.seek(0)
            text = file.read().decode("utf-8", "replace")
