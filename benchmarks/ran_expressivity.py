"""Claim: what NN-Mass, which knows only a network's shape, says about its accuracy, and what else.

30 ConvNeXt-like networks of equal MACs (within 5 %), from one block a stage to 48 in all, with
blocks early or late and widths that grow in four ways, each trained alike from two seeds on 10,000
pictures of CIFAR-10. The rank correlation with accuracy is that of NN-Mass and the expected number
of non-linear units, beside depth, parameters, MACs, synflow and NASWOT; what one seed says about
the other is the ceiling that no measure can pass. Rows are kept in --work and resumed there.

Run: python -m benchmarks.ran_expressivity --data CIFAR10 [--work runs/ran-expressivity]
CIFAR10 holds train/LABEL/*.jpg and test/LABEL/*.jpg.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from benchmarks.common import PICTURES, report
from zoo.cost.chart import Series, chart
from zoo.models.convnext import ConvNeXt
from zoo.nas.expressivity import Topology
from zoo.nas.proxies import naswot, synflow

FloatArray = NDArray[np.float64]
BUDGET, TOLERANCE = 1_000_000, 0.05  # MACs of every network
SEEDS = (0, 1)
STEPS, BATCH, RATE, WARMUP = 240, 128, 4e-3, 30
TRAIN, TEST = 1000, 400  # pictures of each label
LAYER_SCALE = 0.1  # 1e-6, as published, suits 300 epochs; these are not four
PATCH, SIZE = 4, (32, 32)
DOUBLING, FLAT, SLOW, STEEP = (1, 2, 4), (1, 1, 1), (1, 1.5, 2), (1, 3, 9)
# Depths of three stages, by how widths grow; the deepest are six times as deep as (2, 4, 2).
NETWORKS = {
    DOUBLING: [
        (1, 1, 1), (1, 2, 1), (2, 4, 2), (3, 6, 3), (4, 8, 4), (5, 10, 5), (6, 14, 6), (8, 20, 8),
        (10, 28, 10), (1, 2, 8), (1, 4, 16), (1, 8, 24), (6, 1, 1), (10, 2, 1),
        (16, 2, 1), (1, 12, 1), (1, 24, 1),
    ],
    FLAT: [(1, 2, 1), (2, 4, 2), (4, 8, 4), (6, 14, 6)],
    SLOW: [(1, 1, 1), (2, 4, 2), (4, 8, 4), (8, 20, 8)],
    STEEP: [(1, 1, 1), (1, 2, 1), (2, 4, 2), (4, 8, 4), (8, 20, 8)],
}  # fmt: skip
DEEP = 32  # blocks in all: four times those of (2, 4, 2)


def topology(depths: tuple[int, ...], growth: tuple[float, ...]) -> Topology:
    """Return the widest network of the budget, its widths about in the ratio of `growth`."""

    def of(dims: tuple[int, ...]) -> Topology:
        return Topology(depths=depths, dims=dims, patch=PATCH, num_classes=10, size=SIZE)

    least = 1.0
    while of(tuple(round(least * g) for g in growth)).macs <= BUDGET:
        least += 0.05
    best = of(tuple(max(1, round((least - 0.05) * g)) for g in growth))
    while True:  # what rounding left over
        wider = [
            of(tuple(d + (i == stage) for i, d in enumerate(best.dims)))
            for stage in range(len(growth))
        ]
        fitting = [one for one in wider if one.macs <= BUDGET]
        if not fitting:
            return best
        best = max(fitting, key=lambda one: one.macs)


def topologies() -> dict[str, Topology]:
    """Return the networks by name."""
    found = {}
    for growth, choices in NETWORKS.items():
        for depths in choices:
            one = topology(depths, growth)
            assert abs(one.macs / BUDGET - 1) <= TOLERANCE, (depths, growth, one.macs)
            found["-".join(map(str, (*depths, "x", *one.dims)))] = one
    return found


def pictures(folder: Path, each: int) -> tuple[Tensor, Tensor]:
    """Return the first pictures of each label as bytes `(N, 3, 32, 32)`, and label numbers."""
    files = [
        (path, number)
        for number, label in enumerate(sorted(p for p in folder.iterdir() if p.is_dir()))
        for path in sorted(label.glob("*.jpg"))[:each]
    ]
    pixels = np.stack([np.asarray(Image.open(path).convert("RGB")) for path, _ in files])
    labels = torch.tensor([number for _, number in files])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), labels


def scaled(pixels: Tensor) -> Tensor:
    """Return bytes as numbers around 0, in the layout that CPUs like."""
    return ((pixels.float() - 127.5) / 64).to(memory_format=torch.channels_last)


def build(shape: Topology, seed: int) -> ConvNeXt:
    """Return a network, initialised from a seed."""
    torch.manual_seed(seed)
    return ConvNeXt(shape.depths, shape.dims, 10, patch=PATCH, layer_scale=LAYER_SCALE)


def train(network: nn.Module, data: tuple[Tensor, Tensor], seed: int, steps: int) -> None:
    """Train with AdamW, warm-up and cosine; pictures are flipped and moved by up to 3 pixels."""
    pixels, labels = data
    dice = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=0.05)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / WARMUP, 0.5 + 0.5 * np.cos(np.pi * step / steps)),
    )
    order = np.concatenate(
        [dice.permutation(len(labels)) for _ in range(-(-steps * BATCH // len(labels)))]
    )
    network.train()
    for step in range(steps):
        chosen = torch.from_numpy(order[step * BATCH : (step + 1) * BATCH])
        x = scaled(pixels[chosen])
        x = torch.where(
            torch.from_numpy(dice.random(BATCH) < 0.5)[:, None, None, None], x.flip(3), x
        )
        down, right = dice.integers(0, 7, 2).tolist()
        x = F.pad(x, (3, 3, 3, 3), "reflect")[..., down : down + 32, right : right + 32]
        loss = F.cross_entropy(network(x), labels[chosen], label_smoothing=0.1)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()


@torch.inference_mode()
def accuracy(network: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """Return the share of pictures whose label is the likeliest."""
    network.eval()
    right = [
        network(scaled(x)).argmax(1) == y
        for x, y in zip(data[0].split(500), data[1].split(500), strict=True)
    ]
    return float(torch.cat(right).double().mean())


def measured(args: argparse.Namespace, shapes: dict[str, Topology]) -> dict[str, Any]:
    """Return what is known of every network; train what is not yet kept in `args.work`."""
    args.work.mkdir(parents=True, exist_ok=True)
    data: dict[str, tuple[Tensor, Tensor]] = {}
    rows: dict[str, Any] = {name: {**shape.to_json()} for name, shape in shapes.items()}
    for name, shape in shapes.items():
        for seed in SEEDS:
            kept = args.work / f"{name}.{seed}.{args.steps}.json"
            if not kept.exists() and args.kept:
                continue
            if not kept.exists():
                if not data:
                    data["train"] = pictures(args.data / "train", TRAIN)
                    data["test"] = pictures(args.data / "test", TEST)
                kept.write_text(json.dumps(one(shape, seed, data, args.steps)))
            rows[name][seed] = json.loads(kept.read_text())
    return {name: row for name, row in rows.items() if set(SEEDS) <= set(row)}


def one(
    shape: Topology, seed: int, data: dict[str, tuple[Tensor, Tensor]], steps: int
) -> dict[str, float]:
    """Return the measures of one untrained network, and its accuracy once trained."""
    start = time.process_time()
    network = build(shape, seed)
    some = scaled(data["train"][0][:: len(data["train"][0]) // BATCH][:BATCH])
    found = {
        "parameters": sum(p.numel() for p in network.parameters()),
        "synflow": synflow(network, (1, network.in_chans, *SIZE)),
        "naswot": naswot(network, some),
    }
    train(network, data["train"], seed, steps)
    found["accuracy"] = accuracy(network, data["test"])
    found["cpu_seconds"] = round(time.process_time() - start, 1)
    print(shape.depths, shape.dims, seed, found, flush=True)
    return found


def ranks(values: Sequence[float]) -> FloatArray:
    """Return the ranks of values; equal ones share their mean rank."""
    found = np.asarray(values, float)
    less, equal = (found[:, None] > found).sum(1), (found[:, None] == found).sum(1)
    return np.asarray(less + (equal - 1) / 2, float)


def correlation(one: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    """Return Spearman's rank correlation, and 95 % of those of networks drawn anew."""
    dice = np.random.default_rng(0)
    a, b = np.asarray(one, float), np.asarray(other, float)
    drawn = []
    for _ in range(2000):
        chosen = dice.integers(0, len(a), len(a))
        drawn.append(spearman(a[chosen], b[chosen]))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"rho": spearman(a, b), "low": float(low), "high": float(high)}


def spearman(one: Sequence[float] | FloatArray, other: Sequence[float] | FloatArray) -> float:
    """Return Spearman's rank correlation."""
    return float(np.corrcoef(ranks(list(one)), ranks(list(other)))[0, 1])


def correlations(rows: Mapping[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Return what each measure says about the mean accuracy, of all and of networks not too deep.

    And what one seed says about the other, which no measure can pass by more than luck: the mean of
    two seeds is less noisy, so a perfect measure could reach sqrt(2 r / (1 + r)) of r.
    """
    found = {}
    shallow = {name: row for name, row in rows.items() if sum(row["depths"]) <= DEEP // 2}
    for what, chosen in (("all", rows), (f"at most {DEEP // 2} blocks", shallow)):
        means = [mean(row, "accuracy") for row in chosen.values()]
        measures = {
            "NN-Mass": [row["nn_mass"] for row in chosen.values()],
            "non-linear units": [row["nonlinear_units"] for row in chosen.values()],
            "depth": [sum(row["depths"]) for row in chosen.values()],
            "MACs": [row["macs"] for row in chosen.values()],
            **{
                name: [mean(row, name) for row in chosen.values()]
                for name in ("parameters", "synflow", "naswot")
            },
        }
        found[what] = {name: correlation(values, means) for name, values in measures.items()}
        found[what]["seed against seed"] = correlation(
            *([row[seed]["accuracy"] for row in chosen.values()] for seed in SEEDS)
        )
    return found


def mean(row: Mapping[Any, Any], key: str) -> float:
    """Return the mean of a number over the seeds."""
    return sum(float(row[seed][key]) for seed in SEEDS) / len(SEEDS)


def draw(rows: Mapping[str, Any], path: Path) -> None:
    """Draw accuracy against NN-Mass, networks by how deep they are."""
    groups = {
        "up to 8 blocks": (0, 8), "9 to 16": (9, 16), "17 to 31": (17, DEEP - 1),
        f"{DEEP} and more": (DEEP, 1000),
    }  # fmt: skip
    series = [
        Series(
            name,
            [
                (row["nn_mass"], 100 * mean(row, "accuracy"))
                for row in rows.values()
                if least <= sum(row["depths"]) <= most
            ],
            line=False,
        )
        for name, (least, most) in groups.items()
    ]
    chart(
        path,
        [one for one in series if one.points],
        title=f"{len(rows)} networks of {BUDGET / 1e6:g} M MACs: topology and accuracy",
        x="NN-Mass",
        y="accuracy (%), mean of two seeds",
    )


def main() -> None:
    """Train what is missing, and print what each measure says about accuracy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/ran-expressivity"))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--kept", action="store_true", help="train nothing: only what is kept")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = measured(args, topologies())
    found = correlations(rows)
    table = [["networks", "measure", "rank correlation with accuracy", "95 %"]]
    for what, measures in found.items():
        table += [
            [what, name, f"{c['rho']:+.2f}", f"{c['low']:+.2f} to {c['high']:+.2f}"]
            for name, c in sorted(measures.items(), key=lambda item: -item[1]["rho"])
        ]
    seconds = sum(row[seed]["cpu_seconds"] for row in rows.values() for seed in SEEDS)
    result = {
        "steps": args.steps, "batch": BATCH, "cpu_seconds": round(seconds),
        "correlations": found, "networks": rows,
    }  # fmt: skip
    report("ran_expressivity", 1, result, table)
    draw(rows, PICTURES / "ran_expressivity.png")


if __name__ == "__main__":
    main()
