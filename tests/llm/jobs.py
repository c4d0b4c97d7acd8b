"""Jobs that tests run as processes of their own: `python jobs.py WHAT BASE OUT TEXT ...`."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import zoo.quantization.language.pipeline as pipeline
from zoo.quantization.language.job import compress_model
from zoo.quantization.options import LayerOptions
from zoo.quantization.plan import QuantizationPlan

OPTIONS = LayerOptions(bits=2, dim=2, group_size=1024, iterations=4)
PLAN = QuantizationPlan(options=OPTIONS, windows=4, length=48)


def die_at(moment: str, count: int) -> None:
    """Let the process be killed at the `count`-th call of a method of the job."""
    original: Any = getattr(pipeline.Job, moment)
    calls: list[int] = []

    def die(self: pipeline.Job, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *args, **kwargs)

    setattr(pipeline.Job, moment, die)


if __name__ == "__main__":
    what, base, out, text, *rest = sys.argv[1:]
    if what == "kill":
        die_at(rest[0], int(rest[1]))
    report = compress_model(Path(base), Path(out), PLAN, text=Path(text), device="cpu")
    print(report["peak_bytes"])
