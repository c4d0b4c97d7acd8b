"""What a request costs a server, and histories that make it dear."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

MOST_CPU_S = 0.5
linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="counts by /proc")


def cpu_s(process: Any) -> float:
    """Processor seconds that a process has taken so far."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Taken:
    """What a request costs a server: the least of a few, for a machine is never quite idle."""

    def __init__(self, served: Any, client: Any) -> None:
        self.served, self.client = served, client

    def __call__(self, *request: Any, **more: Any) -> tuple[float, Any]:
        before = cpu_s(self.served.process)
        answer = self.client(*request, **more)
        return cpu_s(self.served.process) - before, answer


def history(folder: Path, commits: int, files: int) -> None:
    """Import a history in which each commit changes one file of many, as real git does it."""
    lines = []
    for i in range(commits):
        lines += [f"commit refs/heads/main\ncommitter a <a@b> {1_700_000_000 + i} +0000"]
        lines += [f"data {len(str(i))}\n{i}"]
        for j in range(files) if i == 0 else (i % files,):
            text = f"{i} {j}"
            lines += [f"M 644 inline f{j:05}.txt\ndata {len(text)}\n{text}"]
    subprocess.run(
        ["git", "-C", str(folder), "fast-import", "--quiet", "--force"],
        input="\n".join(lines).encode() + b"\n", check=True,
    )  # fmt: skip
