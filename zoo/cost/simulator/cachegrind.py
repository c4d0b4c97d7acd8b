"""Instructions and cache misses of a program, counted by valgrind's cachegrind.

The caches are those below, not the machine's, so the counts do not depend on where they are made.
A program runs once and twice; the difference is one run on warm caches.
"""

import os
import platform
import shutil
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoo.cost.simulator.program import Program
from zoo.errors import MismatchError

CACHES = ("--I1=32768,8,64", "--D1=32768,8,64", "--LL=1048576,16,64")
# Valgrind knows no AVX-512; a loop that became memcpy would be counted under that name.
FLAGS = ("-std=gnu11", "-O3", "-no-pie", "-fno-tree-loop-distribute-patterns")
VARIANT = {"x86_64": ("-mavx2",), "AMD64": ("-mavx2",)}
L1_CYCLES, LAST_CYCLES = 10, 100  # of a miss, as KCachegrind's "cycle estimation" has them


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What one run of an operator takes.

    Attributes:
        instructions: executed.
        l1_misses: of instructions, reads and writes.
        last_misses: of them, those that the last cache misses too.

    """

    instructions: int
    l1_misses: int
    last_misses: int

    @property
    def cycles(self) -> int:
        """An estimate: one for each instruction, and more for each miss."""
        misses = L1_CYCLES * self.l1_misses + LAST_CYCLES * self.last_misses
        return self.instructions + misses

    def __add__(self, other: "Counts") -> "Counts":
        """Return the counts of both."""
        names = [field.name for field in fields(Counts)]
        return Counts(**{name: getattr(self, name) + getattr(other, name) for name in names})


def counted(
    program: Program, given: NDArray[np.int8] | None = None, *, time_limit_s: float = 600.0
) -> tuple[list[Counts], NDArray[np.int8]]:
    """Return the counts of each operator, and the output, of one run on an input.

    Args:
        program: of the network.
        given: in the graph's input shape; None: zeros, since the counts hardly depend on values.
        time_limit_s: for each of two simulations.

    Raises:
        MismatchError: there is no compiler or no valgrind, or it did not end in time.

    """
    with tempfile.TemporaryDirectory(prefix="zoo-simulated-") as name:
        folder = Path(name)
        build(program, folder, given)
        once, twice = (_simulated(folder, runs, time_limit_s) for runs in (1, 2))
        output = np.frombuffer((folder / "output").read_bytes(), np.int8)
    numbers = range(len(program.graph.ops))
    found = [_counts(twice[f"op_{n}"] - once[f"op_{n}"]) for n in numbers]
    return found, output.reshape(program.graph.tensors[program.graph.outputs[0]].shape)


def build(program: Program, folder: Path, given: NDArray[np.int8] | None = None) -> Path:
    """Compile a program into a folder, beside its constants and its input; return its path.

    `./program N` runs the network N times, at most 1000, writes the output and prints the seconds
    that each operator took, a line for each run.

    Raises:
        MismatchError: there is no C compiler, or it fails.

    """
    compiler = _found(os.environ.get("CC", "cc"), "a C compiler", "gcc")
    shape = program.graph.tensors[program.graph.inputs[0]].shape
    values = np.zeros(shape, np.int8) if given is None else given.reshape(shape)
    (folder / "program.c").write_text(program.source(), encoding="utf-8")
    (folder / "constants").write_bytes(bytes(program.constants))
    (folder / "input").write_bytes(values.astype(np.int8).tobytes())
    words = [compiler, *FLAGS, *VARIANT.get(platform.machine(), ()), "-o", "program", "program.c"]
    made = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    if made.returncode:
        reason = made.stderr.strip().splitlines() or ["no message"]
        raise MismatchError(f"{compiler} cannot compile the network: {reason[0]}")
    return folder / "program"


def _found(command: str, what: str, package: str) -> str:
    path = shutil.which(command)
    if path is None:
        raise MismatchError(
            f"{what} is needed to simulate, and there is no {command!r}; type: "
            f"sudo apt-get install {package}"
        )
    return path


def _simulated(folder: Path, runs: int, time_limit_s: float) -> "dict[str, Counter[str]]":
    """Return the events of each function of a program that runs the network some times."""
    valgrind = _found("valgrind", "valgrind", "valgrind")
    words = [valgrind, "--tool=cachegrind", "--cache-sim=yes", *CACHES]
    words += ["--cachegrind-out-file=counts", "./program", str(runs)]
    try:
        ended = subprocess.run(
            words,
            cwd=folder,
            env={},  # whose size moves the stack
            capture_output=True,
            text=True,
            check=False,
            timeout=time_limit_s,
        )
    except subprocess.TimeoutExpired as error:
        raise MismatchError(
            f"valgrind did not finish in {time_limit_s:g} s and was stopped; give a smaller "
            "--shape, or more with --time-limit"
        ) from error
    if ended.returncode:
        reason = ended.stderr.strip().splitlines() or ["no message"]
        raise MismatchError(f"valgrind cannot run the network: {reason[-1]}")
    return parse((folder / "counts").read_text(encoding="utf-8"))


def parse(text: str) -> "dict[str, Counter[str]]":
    """Return the events by function of a file that cachegrind wrote."""
    functions: dict[str, Counter[str]] = {}
    events: list[str] = []
    current: Counter[str] = Counter()
    for line in text.splitlines():
        if line.startswith("events:"):
            events = line.split()[1:]
        elif line.startswith("fn="):
            current = functions.setdefault(line[3:], Counter())
        elif line[:1].isdigit():
            for event, count in zip(events, line.split()[1:], strict=False):
                current[event] += int(count)
    return functions


def _counts(events: "Counter[str]") -> Counts:
    return Counts(
        instructions=events["Ir"],
        l1_misses=events["I1mr"] + events["D1mr"] + events["D1mw"],
        last_misses=events["ILmr"] + events["DLmr"] + events["DLmw"],
    )
