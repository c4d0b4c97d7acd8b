"""Measured latency: the network run on the CPU at hand."""

import copy
import os
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from zoo.cost import memory
from zoo.cost.deployed import materialised, on_meta
from zoo.cost.estimators.contract import Subject, counts, obtained
from zoo.cost.result import Cost, Fit
from zoo.cost.target import Target
from zoo.errors import MismatchError
from zoo.graph.inputs import Shapes, arguments, made

WARM_UP_RUNS = 2
LEAST_RUNS = 5
MOST_RUNS = 50
ENOUGH_SECONDS = 2.0


SUMMARY = "the network run and timed on the CPU at hand"


@dataclass(frozen=True, kw_only=True)
class Options:
    """There are no settings: runs go on until two seconds have been timed."""


def refusal(target: Target) -> str | None:
    """Return why a target is not the machine at hand, or None where it is."""
    if target.method == "measured":
        return None
    return f"target {target.name!r} is {target.method}, not measured"


def estimate(subject: Subject, target: Target, options: Options) -> Cost:
    """Return the median time of repeated runs of a module."""
    if subject.module is None:
        raise MismatchError("a graph cannot be run; to measure, give the module")
    graph = subject.graph  # first: a module that cannot be traced has no counts to go with a time
    timing = measure(subject.module, subject.shape)
    how = f"measured (median of {timing.runs} runs, {timing.threads} threads, {timing.machine})"
    return Cost(
        **counts(graph, memory.plan(graph, target.dtype), target),
        method="measured",
        latency_ms=timing.latency_ms,
        energy_mj=None,
        bound=None,
        fits=Fit(sram=True, flash=True),
        tiled=None,
        obtained=obtained(how, target),
        notes=(*target.notes, f"interquartile range of the runs: {timing.spread_ms:.3g} ms"),
        ops=(),
    )


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The median of repeated runs and what it holds for.

    Attributes:
        latency_ms: median time of one run.
        spread_ms: interquartile range of the runs.
        runs: how many were timed.
        threads: how many PyTorch used.
        machine: processor, system, PyTorch version and date.

    """

    latency_ms: float
    spread_ms: float
    runs: int
    threads: int
    machine: str


def measure(module: nn.Module, input_shape: Shapes) -> Measurement:
    """Time a module in eval mode on the CPU, on random input of this shape.

    Latency hardly depends on the values, so a module on the meta device is given random weights.
    The module itself is not changed.
    """
    if on_meta(module):
        module = materialised(module)
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    if device.type != "cpu":
        module = copy.deepcopy(module).to("cpu")
    generator = torch.Generator().manual_seed(0)
    example = made(input_shape, lambda shape: torch.rand(shape, generator=generator))
    positional, named = arguments(example)
    times: list[float] = []
    with torch.inference_mode():
        for _ in range(WARM_UP_RUNS):
            module(*positional, **named)
        while len(times) < LEAST_RUNS or (sum(times) < ENOUGH_SECONDS and len(times) < MOST_RUNS):
            start = time.perf_counter()
            module(*positional, **named)
            times.append(time.perf_counter() - start)
    quarter, _, three_quarters = statistics.quantiles(times, n=4)
    return Measurement(
        latency_ms=statistics.median(times) * 1e3,
        spread_ms=(three_quarters - quarter) * 1e3,
        runs=len(times),
        threads=torch.get_num_threads(),
        machine=f"{_processor()}, {platform.system()}, torch {torch.__version__}, "
        f"{time.strftime('%Y-%m-%d')}",
    )


def _processor() -> str:
    cores = os.cpu_count()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name} ({cores} cores)"
