"""Claim: a training step in collapsed space is at least 15x faster than in expanded space.

Same SESR-M5 x2, same batch (32 of 64x64), same loss curve. Run: python -m benchmarks.sesr_training
"""

import argparse

import torch
import torch.nn.functional as F

from benchmarks.common import alternate, ratio, report
from zoo import registry
from zoo.models.sesr import SESR, ExpandedSESR
from zoo.registry.checkpoint import build

EXPANSION = 256  # channels of a linear block inside, as in the paper; the recipe's default is none


def trainer(expanded: bool, expansion: int) -> tuple[ExpandedSESR, object]:
    """Return a seeded model, and a function that does one step of Adam and gives its loss."""
    torch.manual_seed(0)
    network = build(registry.find("sesr-m5-x2"))
    assert isinstance(network, SESR)
    model = network.trainable(expansion=expansion)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)
    generator = torch.Generator().manual_seed(1)
    y = torch.rand(32, 1, 64, 64, generator=generator)
    target = F.interpolate(y, scale_factor=2, mode="bicubic").clamp(0, 1)

    def step() -> float:
        loss = F.l1_loss(model(y, expanded=expanded), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return model, step


def main() -> None:
    """Time both forms in turn, then compare their loss curves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--curve", type=int, default=10, help="steps of the loss curves")
    args = parser.parse_args()
    torch.set_num_threads(1)

    _, collapsed = trainer(False, EXPANSION)
    _, expanded = trainer(True, EXPANSION)
    curves = [(collapsed(), expanded()) for _ in range(args.curve)]  # type: ignore[operator]
    gap = max(abs(a - b) / b for a, b in curves)
    times = alternate({"collapsed": collapsed, "expanded": expanded}, args.runs, warmup=0)
    speedup = ratio(times, "expanded", "collapsed")

    middle = {name: sorted(values)[len(values) // 2] for name, values in times.items()}
    rows = [
        [
            "expanded / collapsed",
            f"{speedup['median']:.1f}x",
            f"{speedup['min']:.1f}-{speedup['max']:.1f}",
        ],
        ["collapsed step", f"{middle['collapsed']:.3f} s", ""],
        ["expanded step", f"{middle['expanded']:.3f} s", ""],
        [f"loss curves, {args.curve} steps", f"{gap:.1e}", "largest relative gap"],
    ]
    result = {"speedup": speedup, "seconds": times, "loss_curve_gap": gap, "curve": curves}
    report("sesr_training", 1, result, rows)
    if speedup["median"] < 15 or gap > 1e-3:
        raise SystemExit("claim not met: expected 15x and curves within 1e-3")


if __name__ == "__main__":
    main()
