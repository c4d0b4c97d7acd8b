"""Others' patterns: every network of tests/parity in int8, and 200 operators in under 10 s.

    python -m benchmarks.export_networks

Networks of the patterns of timm, of audio, detection and segmentation, with random weights, are
calibrated on 16 random inputs and exported as `.tflite` and ONNX in int8, with `npu` on; the SNR is
against the module on the same inputs. Vela compiles each for an Ethos-U55-128. The networks are
those that the tests compare with TFLite Micro and LiteRT.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.common import report
from tests.parity.signals import SHAPES, make
from zoo.deploy.onnx_qdq import export_qdq
from zoo.deploy.tflite import export_tflite
from zoo.deploy.tflite_read import read_tflite
from zoo.deploy.vela import compile_file
from zoo.errors import MismatchError

NPU = "ethos-u55-128"
OPERATORS, MOST_SECONDS, RUNS = 200, 10.0, 3


def exported(name: str, folder: Path) -> dict[str, Any]:
    """Return what became of one network."""
    module, _ = make(name)
    shape = SHAPES[name]
    x = torch.randn(16, *shape[1:], generator=torch.Generator().manual_seed(0))
    path = folder / f"{name}.tflite"
    file = export_tflite(module, path, shape, [x], npu=True)
    graph = read_tflite(path)
    found = compile_file(path.read_bytes(), NPU)
    facts = {
        "operators": len(graph.ops),
        "bytes": path.stat().st_size,
        "snr_db": file.snr_db,
        "cycles": found.cycles,
        "on_host": sorted({op.kind for op in found.cpu_ops}),
    }
    try:
        return facts | {"onnx_snr_db": export_qdq(module, path, shape, [x]).snr_db}
    except MismatchError as error:
        return facts | {"onnx_snr_db": None, "onnx": str(error)}


def deep(operators: int) -> nn.Module:
    """Return a chain of residual blocks with this many operators when it is deployed."""

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
            self.second = nn.Conv2d(8, 8, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sigmoid(x + self.second(torch.relu(self.norm(self.first(x)))))

    return nn.Sequential(*(Residual() for _ in range(operators // 4))).eval()


def seconds(folder: Path) -> tuple[int, list[float]]:
    """Return operators and seconds of exports of the deep network."""
    torch.manual_seed(0)
    module, x = deep(OPERATORS), torch.randn(8, 8, 16, 16)
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        export_tflite(module, folder / "deep.tflite", (1, 8, 16, 16), [x])
        times.append(time.perf_counter() - start)
    return len(read_tflite(folder / "deep.tflite").ops), times


def main() -> None:
    """Run, print and store."""
    torch.set_num_threads(1)
    rows = [["network", "operators", "int8 SNR", "ONNX int8", "U55-128 cycles", "on the host"]]
    networks: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in SHAPES:
            facts = networks[name] = exported(name, Path(folder))
            onnx = facts["onnx_snr_db"]
            rows.append([
                name, str(facts["operators"]), f"{facts['snr_db']:.0f} dB",
                "refused" if onnx is None else f"{onnx:.0f} dB",
                f"{facts['cycles']:,.0f}", ", ".join(facts["on_host"]),
            ])  # fmt: skip
        count, times = seconds(Path(folder))
    median = statistics.median(times)
    verdict = "met" if median < MOST_SECONDS else "MISSED"
    rows.append([f"{count} operators", f"{median:.1f} s", verdict, "", "", ""])
    facts = {"networks": networks, "deep": {"operators": count, "seconds": times}}
    report("export_networks", 1, facts, rows)


if __name__ == "__main__":
    main()
