"""Claims: 1080p to 4K at most 1.2x ONNX Runtime's time; 8K output under 1.5 GB of memory.

SESR-M5 x2, same network, same threads, same run; bicubic (Pillow's) as the floor.
Run: python -m benchmarks.sesr_inference
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.common import alternate, ratio, report
from zoo import registry
from zoo.deploy.onnx import export_onnx
from zoo.registry.checkpoint import build
from zoo.tasks.super_resolution.enlarging import enlarge, run

NAME = "sesr-m5-x2"
_PEAK = "--peak"  # of this file, started again: peak memory is a property of a process


def network() -> torch.nn.Module:
    """Return the shipped network, or the same architecture untrained: the cost is the same."""
    import zoo

    try:
        return zoo.load(NAME)
    except zoo.errors.MissingWeightsError:
        return build(registry.find(NAME))


def peak_bytes(height: int, width: int) -> int:
    """Return the peak memory of a fresh process that enlarges a `height` x `width` RGB picture."""
    command = [sys.executable, "-m", "benchmarks.sesr_inference", _PEAK, f"{height},{width}"]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def enlarge_and_print_peak(height: int, width: int) -> None:
    """Enlarge a random picture and print this process's peak memory in bytes."""
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    result = run(network(), registry.find(NAME), picture)
    assert result.picture.pixels.shape == (2 * height, 2 * width, 3)
    print(own_peak_bytes())


def own_peak_bytes() -> int:
    """Return this process's peak memory.

    Not `ru_maxrss` where it can be helped: Linux counts what the parent had before `exec` in it.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def speed_rows(times: dict[str, list[float]], against: dict[str, float]) -> list[list[str]]:
    """The ratio to ONNX Runtime, and each one's median."""
    middle = {name: sorted(values)[len(values) // 2] for name, values in times.items()}
    spread = f"{against['min']:.2f}-{against['max']:.2f}"
    rows = [["zoo / onnxruntime", f"{against['median']:.2f}x", spread]]
    return rows + [[name, f"{s:.3f} s", "1080p to 4K, luma"] for name, s in middle.items()]


def main() -> None:
    """Time the three in turn, check that tiles leave no seam, measure the memory."""
    import onnxruntime

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(_PEAK)
    args = parser.parse_args()
    if args.peak:
        enlarge_and_print_peak(*map(int, args.peak.split(",")))
        return
    torch.set_num_threads(args.threads)
    model = network()
    y = torch.rand(1, 1, 1080, 1920, generator=torch.Generator().manual_seed(0))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    with tempfile.TemporaryDirectory() as folder:
        path = export_onnx(model, Path(folder) / "m5.onnx", (1, 1, 64, 64)).path
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: y.numpy()}
    plain = Image.fromarray(y[0, 0].numpy(), mode="F")

    times = alternate(
        {
            "zoo": lambda: enlarge(model, y),
            "onnxruntime": lambda: session.run(None, feed),
            "bicubic": lambda: plain.resize((3840, 2160), Image.Resampling.BICUBIC),
        },
        args.runs,
    )
    with torch.inference_mode():
        whole, tiled = model(y), enlarge(model, y)
    seam = (whole - tiled).abs().max().item()
    bits = int(((whole * 255).round() != (tiled * 255).round()).sum())
    gap = float(np.abs(session.run(None, feed)[0] - tiled.numpy()).max())
    against = ratio(times, "zoo", "onnxruntime")
    peak = peak_bytes(2160, 3840)

    rows = speed_rows(times, against)
    rows += [
        ["tiled - whole", f"{seam:.1e}", f"{bits} pixels differ after rounding to 8 bits"],
        ["zoo - onnxruntime", f"{gap:.1e}", "largest difference"],
        ["peak memory, 8K output", f"{peak / 1e9:.2f} GB", "whole process, colour"],
    ]
    result = {"against_onnxruntime": against, "seconds": times, "seam": seam, "peak_bytes": peak}
    report("sesr_inference", args.threads, result, rows)
    if against["median"] > 1.2 or seam > 1e-6 or bits or peak > 1.5e9:
        raise SystemExit("claim not met: expected 1.2x, 1e-6 and equal bits, 1.5 GB")


if __name__ == "__main__":
    main()
