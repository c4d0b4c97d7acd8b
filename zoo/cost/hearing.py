"""What comes before a network that hears: the front end, as the C source that `zoo export` writes.

Bytes and operations are those of the source. Its time on a device is operations over the target's
rates for floating point, from the fastest to the slowest, since no device was timed; on the CPU at
hand the front end in torch is run and timed.
"""

import dataclasses
import statistics
import time
from collections.abc import Mapping
from typing import Any

import torch

from zoo.cost.result import Cost, Fit, FrontEndCost, exceeds
from zoo.cost.target import FLOATS, Target
from zoo.data import frontends
from zoo.data.frontends import FrontEnd
from zoo.deploy.front_end import counted

_RUNS = 20


def with_front_end(cost: Cost, facts: Mapping[str, Any], target: Target) -> Cost:
    """Return a cost with that of the front end, which has to fit beside the network.

    Args:
        cost: of the network alone.
        facts: the recipe's preprocessing.
        target: the device.

    """
    found = front_end_cost(frontends.named(str(facts["front_end"])), facts, target)
    return dataclasses.replace(cost, front_end=found, fits=_fit(cost, found, target))


def front_end_cost(front: FrontEnd, facts: Mapping[str, Any], target: Target) -> FrontEndCost:
    """Return what the features of one inference cost."""
    frames = int(facts["frames"] if "frames" in facts else front.frames(facts["samples"]))
    samples = front.window + (frames - 1) * front.hop
    # A clip is brought to full scale by its largest sample, so that all of it is kept till then.
    levelled = "samples" in facts and facts.get("level") != "as recorded"
    counts = counted(front)
    memory = {
        "buffers": counts.ram_bytes,
        "a frame as floats": 4 * front.window,
        "the features as floats": 4 * frames * front.width,
        "the sound as 16-bit samples": 2 * (int(facts["samples"]) if levelled else front.window),
    }
    latency, how = _latency(front, frames * counts.operations, samples, target)
    parts = ", ".join(f"{what} {size:,}" for what, size in memory.items())
    return FrontEndCost(
        name=front.name,
        frames=frames,
        operations=frames * counts.operations,
        table_bytes=counts.flash_bytes,
        memory_bytes=sum(memory.values()),
        latency_ms=latency,
        obtained={
            "operations": "exact (additions and multiplications of the exported C source)",
            "table_bytes": "exact (the exported C source)",
            "memory_bytes": f"exact (bytes: {parts})",
            "latency_ms": how,
        },
    )


def _latency(
    front: FrontEnd, operations: int, samples: int, target: Target
) -> tuple[tuple[float, float] | None, str]:
    """Return the least and the most milliseconds of an inference's frames, and how known."""
    if target.method == "measured":
        return _timed(front, samples)
    least, most = (target.numbers.get(name) for name in FLOATS)
    clock = target.get("clock_hz")
    if least is None or most is None or clock is None:
        return None, "not known: the target has no rate of floating point; its host CPU computes it"
    slow, fast = (operations / number.value / clock * 1e3 for number in (least, most))
    assumed = "assumed" in (least.confidence, most.confidence)
    words = "assumed rates" if assumed else "counted instructions, published cycles"
    return (fast, slow), (
        f"estimated (operations at {least.value:g} to {most.value:g} a cycle: {words})"
    )


def _timed(front: FrontEnd, samples: int) -> tuple[tuple[float, float], str]:
    """Return the quartiles of repeated runs in torch, of noise."""
    wave = torch.rand((1, samples), generator=torch.Generator().manual_seed(0)) - 0.5
    front(wave)  # its tables are made
    times = []
    for _ in range(_RUNS):
        start = time.perf_counter()
        front(wave)
        times.append((time.perf_counter() - start) * 1e3)
    first, _, third = statistics.quantiles(times, n=4)
    return (first, third), f"measured (quartiles of {_RUNS} runs in torch, not of the C source)"


def _fit(cost: Cost, front: FrontEndCost, target: Target) -> Fit:
    """Return whether the network and its front end fit together."""
    fits, reasons = cost.fits, list(cost.fits.reasons)
    memories = (
        ("sram", "activations and the front end", cost.peak_activation_bytes, front.memory_bytes),
        ("flash", "weights and the front end's tables", cost.weight_bytes, front.table_bytes),
    )
    over = set()
    for memory, what, own, more in memories:
        size = target.sram_bytes if memory == "sram" else target.flash_bytes
        spills = memory == "sram" and target.spills
        if not getattr(fits, memory) or size is None or spills or own + more <= size:
            continue
        reasons.append(exceeds(what, own + more, size, memory.upper()))
        over.add(memory)
    return Fit(
        sram=fits.sram and "sram" not in over,
        flash=fits.flash and "flash" not in over,
        reasons=tuple(reasons),
    )
