"""Claim: RAN-i is nearly 1.4x as fast as ConvNeXt on server CPUs; with widths in eights, too.

Each RAN-i against the ConvNeXt of its size, one picture and sixteen at a time, 224x224, channels
last, in torch as it is, and with the blocks compiled (torch.compile). Networks take turns, and
what is compared is the time of this process's thread: a shared machine makes others wait.

Run: python -m benchmarks.ran_implicit [--work runs/ran-implicit] [--compiled base]
"""

import argparse
import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from benchmarks.common import ratio, report
from zoo import registry
from zoo.models.convnext import Block, ConvNeXt
from zoo.nas.scaling import read
from zoo.registry.checkpoint import build

AGAINST = {"tiny": "convnext-t", "small": "convnext-s", "base": "convnext-b"}
ROUNDS = {1: 7, 16: 3}


def network(name: str, *, compiled: bool) -> ConvNeXt:
    """Return an untrained network: the cost is the same."""
    torch.manual_seed(0)
    made = build(registry.find(name))
    assert isinstance(made, ConvNeXt)
    if compiled:
        # Three networks have 12 shapes of blocks; from the ninth on torch would not compile them.
        torch._dynamo.config.recompile_limit = 64
        for layer in made.modules():
            if isinstance(layer, Block):  # those of one shape are compiled once
                layer.compile(dynamic=False)
    return made


def names(size: str) -> list[str]:
    """Return the networks that are compared, ConvNeXt first."""
    return [AGAINST[size], f"ran-i-{size}", f"ran-i-{size}-r8"]


@torch.inference_mode()
def timed(size: str, batch: int, *, compiled: bool) -> dict[str, list[float]]:
    """Return the seconds of this thread per pass of each network, run in turn: A B C A B C ..."""
    networks = {name: network(name, compiled=compiled) for name in names(size)}
    x = torch.randn(batch, 3, 224, 224).to(memory_format=torch.channels_last)
    times: dict[str, list[float]] = {name: [] for name in networks}
    for turn in range(1 + ROUNDS[batch]):
        for name, one in networks.items():
            start = time.thread_time()
            one(x)
            if turn:
                times[name].append(time.thread_time() - start)
    return times


def measured(work: Path, sizes: Mapping[bool, list[str]]) -> dict[str, dict[str, list[float]]]:
    """Return the times of every comparison; those kept in `work` are not measured again."""
    work.mkdir(parents=True, exist_ok=True)
    found = {}
    for compiled, chosen in sizes.items():
        for batch in ROUNDS:
            for size in chosen:
                key = f"{size}, batch {batch}, {'compiled' if compiled else 'eager'}"
                kept = work / f"{size}-{batch}-{'compiled' if compiled else 'eager'}.json"
                if not kept.exists():
                    kept.write_text(json.dumps(timed(size, batch, compiled=compiled)))
                found[key] = json.loads(kept.read_text())
                print(key, {name: min(t) for name, t in found[key].items()}, flush=True)
    return found


def main() -> None:
    """Time the networks and print how much faster each RAN-i is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/ran-implicit"))
    parser.add_argument("--compiled", nargs="*", choices=AGAINST, default=list(AGAINST))
    args = parser.parse_args()
    torch.set_num_threads(1)
    times = measured(args.work, {False: list(AGAINST), True: args.compiled})
    macs = {name: read(network(name, compiled=False)).macs for s in AGAINST for name in names(s)}
    rows = [["network", "how", "pictures/s", "times ConvNeXt", "spread", "MACs of ConvNeXt's"]]
    result = {}
    for key, found in times.items():
        size, how = key.split(", ", 1)
        base, *others = names(size)
        pictures = int(how.split()[1].strip(","))
        for name in (base, *others):
            faster = ratio(found, base, name)
            rate = pictures / statistics.median(found[name])
            result[f"{name}, {how}"] = {"pictures_per_s": rate, "times_convnext": faster}
            spread = f"{faster['min']:.2f}-{faster['max']:.2f}"
            share = f"1 / {macs[base] / macs[name]:.2f}"
            rows.append([name, how, f"{rate:.2f}", f"{faster['median']:.2f}x", spread, share])
    report("ran_implicit", 1, {"networks": result, "macs": macs, "seconds": times}, rows)


if __name__ == "__main__":
    main()
