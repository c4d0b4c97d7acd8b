"""litert-torch's road from a network to int8, run in an environment of its own.

    pip install "torch==2.13.0+cpu" litert-torch==0.10.0 ai-edge-quantizer==0.10.0

Called by `benchmarks.export`: litert.py PROGRAM.pt2 INPUTS.npy OUT.tflite; prints JSON.
"""

import json
import sys
import time
from pathlib import Path

import litert_torch
import numpy as np
import torch
from ai_edge_quantizer import quantizer, recipe


class Plain(torch.nn.Module):
    """The exported program as an ordinary module."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


def main(program: Path, inputs: Path, out: Path) -> None:
    module, x = Plain(torch.export.load(program).module()), np.load(inputs)
    images = [0] if module(torch.from_numpy(x[:1])).ndim == 4 else []
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    start = time.perf_counter()
    wrapped = litert_torch.to_channel_last_io(module, args=[0], outputs=images)
    litert_torch.convert(wrapped, (torch.from_numpy(last[:1]),)).export(str(out))
    tool = quantizer.Quantizer(str(out), recipe.static_wi8_ai8())
    ranges = tool.calibrate({"serving_default": [{"args_0": sample[None]} for sample in last]})
    tool.quantize(ranges).export_model(str(out), overwrite=True)
    print(json.dumps({"seconds": time.perf_counter() - start, "bytes": out.stat().st_size}))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
