"""The target of the machine at hand: its rates, measured with PyTorch."""

import os
import platform
import time
from collections.abc import Callable

import torch
from torch import nn

RUNS = 5
LEAST_SECONDS = 0.05

_FIELD = """
[{name}]
value = {value:.6g}
confidence = "measured"
source = "{source}"
"""


def _seconds(run: Callable[[], object]) -> float:
    """Return the least time of a run: what the machine can, not what else it does."""
    run()
    best = float("inf")
    for _ in range(RUNS):
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < LEAST_SECONDS:
            run()
            count += 1
        best = min(best, (time.perf_counter() - start) / count)
    return best


def _layer(layer: nn.Module, shape: tuple[int, ...]) -> float:
    x = torch.rand(shape)
    with torch.inference_mode():
        return _seconds(lambda: layer(x))


def measured(name: str, clock_hz: float = 1e9) -> str:
    """Return the TOML of a target for this machine, in float32, with PyTorch's kernels.

    Rates are given per cycle of a nominal clock: only their product with it is measured. Four
    layers that are bound by arithmetic, one elementwise operator, one that does nothing but start,
    and a copy of 64 MiB are timed, each as often as a quarter of a second takes.

    Args:
        name: of the machine, for the summary.
        clock_hz: nominal.

    """
    threads = torch.get_num_threads()
    how = f"timed here: {platform.machine()}, {os.cpu_count()} cores, {threads} threads"
    how += f", torch {torch.__version__}, {time.strftime('%Y-%m-%d')}"
    layers = {
        "conv2d": (nn.Conv2d(64, 64, 3, padding=1), (1, 64, 48, 48), 48 * 48 * 64 * 64 * 9),
        "pointwise": (nn.Conv2d(128, 128, 1), (1, 128, 48, 48), 48 * 48 * 128 * 128),
        "depthwise_conv2d": (
            nn.Conv2d(128, 128, 3, padding=1, groups=128),
            (1, 128, 48, 48),
            48 * 48 * 128 * 9,
        ),
        "fully_connected": (nn.Linear(512, 512), (1, 512), 512 * 512),
        "default": (nn.Sigmoid(), (1, 64, 96, 96), 64 * 96 * 96),
    }
    large = torch.rand(16 << 20)
    copied = torch.empty_like(large)
    speed = 2 * 4 * large.numel() / _seconds(lambda: copied.copy_(large))
    start = _layer(nn.ReLU(), (1, 8))
    text = [
        f'summary = "{name}: PyTorch in float32, {threads} threads, rates measured here"',
        'method = "roofline"',
        'dtype = "float32"',
        'notes = ["the least of several runs: another load of the machine takes longer"]',
        _FIELD.format(
            name="numbers.clock_hz", value=clock_hz, source=f"nominal, rates are per cycle; {how}"
        ),
        _FIELD.format(name="numbers.dram_bytes_per_s", value=speed, source=f"a copy; {how}"),
        _FIELD.format(
            name="numbers.op_overhead_us", value=start * 1e6, source=f"a ReLU of 8; {how}"
        ),
    ]
    for kind, (layer, shape, work) in layers.items():
        seconds = max(_layer(layer.eval(), shape) - start, 1e-9)
        rate = work / seconds / clock_hz
        text.append(
            _FIELD.format(name=f"rates.{kind}", value=rate, source=f"{work:,} in one; {how}")
        )
    return "\n".join(text[:4]) + "\n" + "".join(text[4:])
