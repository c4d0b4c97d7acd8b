"""Arm's compiler in a process of its own: one that can be stopped, and whose prints are its own.

`regor`, the core of Vela 5, is C++ that writes to the process's files 1 and 2, cannot be
interrupted, and may crash. So it runs in a child: this module, started with `python -m`.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.errors import MismatchError

TIME_LIMIT_S = 600.0
_TABLES = ("source", "perf")  # of the compiler's database: what it compiled, what became of it


def compiled(
    settings: Mapping[str, str], content: bytes, *, time_limit_s: float, what: str
) -> dict[str, Any]:
    """Return what the compiler reports on the bytes of a `.tflite` file, as plain data.

    Args:
        settings: "architecture", "system" and "options", as `regor.compile` takes them.
        content: the file.
        time_limit_s: seconds after which the compiler is stopped.
        what: what is compiled and for what, for messages.

    Raises:
        MismatchError: the compiler refuses the network, crashes or takes too long.

    """
    if not time_limit_s > 0:
        raise MismatchError(f"time_limit_s is {time_limit_s:g}; expected seconds, more than 0")
    search = os.pathsep.join(place or str(Path.cwd()) for place in sys.path)
    command = [sys.executable, "-P", "-m", __name__, json.dumps(settings)]
    try:
        done = subprocess.run(
            command,
            input=content,
            capture_output=True,
            timeout=time_limit_s,
            env={**os.environ, "PYTHONPATH": search},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise MismatchError(
            f"Vela did not finish {what} in {time_limit_s:g} s and was stopped; give it more "
            "(--time-limit), or take method roofline"
        ) from None
    said = done.stderr.decode("utf-8", "replace")
    try:
        result: dict[str, Any] = json.loads(done.stdout)
    except ValueError:  # no report: it crashed
        last = (said.strip().splitlines() or ["no message"])[-1]
        raise MismatchError(
            f"Vela crashed with code {done.returncode} on {what} ({last}); take method roofline, "
            "or check the file with zoo show"
        ) from None
    if reason := result.get("refused"):
        raise MismatchError(f"Vela cannot compile {what}: {reason}")
    return {**result, "said": said}


def _main() -> None:
    """Compile the file on stdin; write the report to stdout, and all that C++ prints to stderr."""
    report = os.dup(1)
    os.dup2(2, 1)
    from ethosu import regor

    settings = json.loads(sys.argv[1])
    try:
        done = regor.compile(
            settings["architecture"],
            sys.stdin.buffer.read(),
            "TFLITE",
            settings["system"],
            settings["options"],
        )
        value = plain(done)
    except Exception as error:  # pybind11 raises RuntimeError and others
        value = {"refused": " ".join(str(error).split()) or type(error).__name__}
    with os.fdopen(report, "w", encoding="utf-8") as stream:
        json.dump(value, stream)


def plain(done: Any) -> dict[str, Any]:
    """Return the compiler's answer as plain data."""
    perf, tables = done.perf_report, done.opt_database.tables
    numbers = ("totalCycles", "npuCycles", "macCount", "originalWeights", "encodedWeights")
    return {
        **{name: int(getattr(perf, name)) for name in (*numbers, "cpuOps", "npuOps")},
        "peaks": {name: int(memory.peakUsage) for name, memory in perf.memories.items()},
        "moved": {
            name: sum(a.bytesRead + a.bytesWritten for a in memory.accesses.values())
            for name, memory in perf.memories.items()
            if name.lower() not in ("shram", "lutram")
        },
        "tables": {
            name: [dict(zip(tables[name].header, row, strict=False)) for row in tables[name].data]
            for name in _TABLES
        },
    }


if __name__ == "__main__":
    _main()
