"""executorch's road from a network to an Ethos-U55, run in an environment of its own.

    pip install "torch==2.13.0+cpu" "executorch[ethos-u]==1.4.1"

Called by `benchmarks.export`: executorch.py PROGRAM.pt2 INPUTS.npy OUT.pte; prints JSON.
"""

import csv
import json
import sys
import time
from pathlib import Path

sys.path.pop(0)  # this folder, in which this file has the name of the package

import numpy as np
import torch
from executorch.backends.arm.ethosu import EthosUCompileSpec, EthosUPartitioner
from executorch.backends.arm.quantizer import EthosUQuantizer, get_symmetric_quantization_config
from executorch.exir import to_edge_transform_and_lower
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e


def main(program: Path, inputs: Path, out: Path) -> None:
    x, artifacts = torch.from_numpy(np.load(inputs)), out.parent / "artifacts"
    start = time.perf_counter()
    spec = EthosUCompileSpec(
        "ethos-u55-128",
        system_config="Ethos_U55_High_End_Embedded",
        memory_mode="Shared_Sram",
    ).dump_intermediate_artifacts_to(str(artifacts))
    tool = EthosUQuantizer(spec).set_global(get_symmetric_quantization_config())
    module = prepare_pt2e(torch.export.load(program).module(check_guards=False), tool)
    with torch.no_grad():
        for sample in x:
            module(sample[None])
    integers = torch.export.export(convert_pt2e(module), (x[:1],))
    edge = to_edge_transform_and_lower(integers, partitioner=[EthosUPartitioner(spec)])
    calls = [node for node in edge.exported_program().graph.nodes if node.op == "call_function"]
    names = [node.name for node in calls]  # after their operators
    boundary = ("quantize_per_tensor", "getitem", "executorch_call_delegate")
    left = [name for name in names if not any(word in name for word in boundary)]
    out.write_bytes(edge.to_executorch().buffer)
    seconds = time.perf_counter() - start
    rows = [
        next(csv.DictReader(path.read_text().splitlines()))
        for path in artifacts.rglob("*summary*.csv")
    ]
    parts = sum("executorch_call_delegate" in name for name in names)
    facts = {
        "seconds": seconds,
        "bytes": out.stat().st_size,
        # Each part of the network that is compiled writes its table over the one before.
        "u55_128_cycles": int(float(rows[0]["cycles_total"])) if parts == 1 else None,
        "npu_parts": parts,
        "cpu_ops": len(left),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
