"""What an injected inference costs: faults of this engine, clean inferences, pytorchfi's faults.

    python -m benchmarks.reliability_speed REF=DATA ... [--faults 4000]

DATA is a folder as `zoo evaluate REF --data` takes. Every contestant has the same inputs and one
thread, in turn, and what counts is the processor's time. Faults are drawn as they are likely on an
output-stationary array of 16 x 16; a clean inference is one of the same integer network, 256 at a
time. pytorchfi 0.6.0, where it is installed, sets one value of a convolution's output in the float
network of the same weights, one input at a time, as it is used; it has no integers.

Such seconds depend little on what else the machine does: two idle processors would take half of
those of 10 000 faults, the clean pass before them included.
"""

import argparse
import time
from typing import Any

import numpy as np
import torch

from benchmarks.common import alternate, ratio, report
from zoo.resilience.dataflow import OutputStationary
from zoo.resilience.engine import Engine
from zoo.resilience.faults import BITS
from zoo.resilience.plan import FaultPlan
from zoo.resilience.specimen import Specimen
from zoo.verbs.reliability import specimen

PEER_FAULTS = 100
MANY, MOST = 10_000, 10.0  # faults; seconds of processors: five on two that are idle


def peer(found: Specimen) -> Any:
    """Return what injects pytorchfi's faults, or None where it is not installed."""
    try:
        from pytorchfi.core import fault_injection
    except ImportError:
        return None
    network, inputs = found.network.eval(), found.inputs
    whole = fault_injection(
        network, 1, input_shape=list(inputs.shape[1:]), layer_types=[torch.nn.Conv2d],
        use_cuda=False,
    )  # fmt: skip
    dice = np.random.default_rng(0)
    sizes = whole.output_size

    def run() -> None:
        for _ in range(PEER_FAULTS):
            layer = int(dice.integers(len(sizes)))
            place = [int(dice.integers(size)) for size in sizes[layer][1:]]
            hit = whole.declare_neuron_fi(
                batch=[0], layer_num=[layer], dim1=[place[0]], dim2=[place[1]], dim3=[place[2]],
                value=[100.0],
            )  # fmt: skip
            with torch.inference_mode():
                hit(inputs[:1])

    return run


def measured(ref: str, data: str, faults: int, runs: int) -> dict[str, Any]:
    """Return the cost of a fault in clean inferences, and seconds of each contestant."""
    found = specimen(ref, None, data)
    start = time.process_time()
    engine = Engine(found.graph, found.samples)
    prepared = time.process_time() - start
    registers, stretch = tuple(BITS), [1.0] * len(engine.layers)
    labels = found.labels.numpy()
    plan = FaultPlan(engine, OutputStationary(), registers, stretch, labels, near=False)
    cells = np.random.default_rng(0).multinomial(faults, plan.shares)
    drawn = plan.drawn(cells, (0,))
    inputs = found.samples.repeat(-(-1024 // len(found.samples)), 1, 1, 1)[:1024]
    contestants = {
        "faults": lambda: plan.tried(drawn),
        "clean": lambda: [engine.network(part) for part in inputs.split(256)],
    }
    if (other := peer(found)) is not None:
        contestants["pytorchfi"] = other
    times = alternate(contestants, runs, clock=time.process_time)
    each = {"faults": faults, "clean": len(inputs), "pytorchfi": PEER_FAULTS}
    per = {name: [t / each[name] for t in values] for name, values in times.items()}
    many = plan.drawn(np.random.default_rng(1).multinomial(MANY, plan.shares), (1,))
    start = time.process_time()
    plan.tried(many)
    spent = time.process_time() - start
    masked = float(plan.tried(drawn)[0].masked.mean())
    result = {
        "ref": ref, "inputs": len(found.samples), "faults": faults, "masked": masked,
        "recording_cpu_s": prepared, "faults_10000_cpu_s": spent,
        "bars": {f"10 000 faults in {MOST:g} s of processors": spent + prepared <= MOST},
        "fault_over_clean": ratio(per, "faults", "clean"),
        "best_ms": {name: 1e3 * min(values) for name, values in per.items()},
    }  # fmt: skip
    if "pytorchfi" in per:
        result["pytorchfi_over_fault"] = ratio(per, "pytorchfi", "faults")
    return result


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", nargs="+", metavar="REF=DATA")
    parser.add_argument("--faults", type=int, default=4000)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [["network", "masked", "fault / clean", "CPU of 10 000 faults", "pytorchfi / fault"]]
    results = []
    for pair in args.pairs:
        ref, _, data = pair.partition("=")
        found = measured(ref, data, args.faults, args.runs)
        results.append(found)
        other = found.get("pytorchfi_over_fault", {}).get("median")
        spent = found["recording_cpu_s"] + found["faults_10000_cpu_s"]
        rows.append([
            ref, f"{found['masked']:.0%}", f"{found['fault_over_clean']['median']:.2f}",
            f"{spent:.1f} s", "-" if other is None else f"{other:.0f}",
        ])  # fmt: skip
    report("reliability_speed", 1, {"networks": results}, rows)


if __name__ == "__main__":
    main()
