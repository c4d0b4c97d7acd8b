"""Jobs that a test does in this process or in two others: `python -m tests.training.jobs JOBS`."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

from tests.limits import HANGS_SECONDS


def perform(kind: str, **arguments: Any) -> None:
    """Do a job on the CPU, and undo what Accelerate keeps globally."""
    import zoo
    from zoo.verbs.adapters import train_adapter

    out = Path(arguments.pop("out"))
    try:
        match kind:
            case "recipe":
                recipe = zoo.find(arguments.pop("name")).in_tiny_form()
                zoo.train(recipe, out, device="cpu", **arguments)
            case "adapter":
                train_adapter(arguments.pop("name"), out, device="cpu", **arguments)
            case "compress":
                zoo.compress(arguments.pop("base"), out, device="cpu", **arguments)
    finally:
        for state in (AcceleratorState, GradientState, PartialState):
            state._reset_state()


@contextlib.contextmanager
def two_processes(jobs: Sequence[Mapping[str, Any]], folder: Path) -> Iterator[None]:
    """Do jobs in two processes while the body runs; both are started once, as `torchrun` would.

    Accelerate ends its process group with each run, hence a port for each job.
    """
    with contextlib.ExitStack() as stack:
        places = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in jobs]
        ports = [place.getsockname()[1] for place in places]
    (folder / "jobs.json").write_text(json.dumps([ports, list(jobs)]))
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    processes = []
    try:
        for rank in ("0", "1"):
            with (folder / f"said-{rank}.txt").open("w") as said:
                started = subprocess.Popen(
                    [sys.executable, "-m", "tests.training.jobs", str(folder / "jobs.json")],
                    cwd=Path(__file__).parents[2],
                    env={**os.environ, **common, "RANK": rank, "LOCAL_RANK": rank},
                    stdout=said,
                    stderr=said,
                )
            processes.append(started)
        yield
        for process in processes:
            process.wait(timeout=HANGS_SECONDS)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    printed = "".join((folder / f"said-{rank}.txt").read_text() for rank in (0, 1))
    assert [process.returncode for process in processes] == [0, 0], printed


if __name__ == "__main__":
    torch.set_num_threads(1)
    for port, job in zip(*json.loads(Path(sys.argv[1]).read_text()), strict=True):
        os.environ["MASTER_PORT"] = str(port)
        perform(**job)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
