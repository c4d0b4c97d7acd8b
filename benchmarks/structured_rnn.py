"""Recurrent networks in forms: KP, HKP, HMF and HMD against low rank, pruning and fewer units.

The papers' LSTM (28 inputs, 40 units, 10 classes) reads Fashion-MNIST row by row; each arm is
trained in its form, from three seeds; those recorded so far are three of the dense network and of
the four at 37x, two of all others. The claims: Kronecker factors at 37x and at 17x (1906.02876)
are above low rank, above pruning and above a smaller dense network of as many numbers or more; rows
over low rank (HMF, 2010.03193) and over blocks (HMD) are above plain low rank (LMF) of as many
numbers. The rates of these three are chosen among five, by 5,000 training pictures that are not
trained on, at seed 0; all others learn at the middle one. Two epochs. Numbers are those of both
matrices, without biases; a pruned network's without its indices. `DIR` holds the four published
files of Fashion-MNIST.

Every run is recorded as it ends, and not repeated. Run: python -m benchmarks.structured_rnn DIR
"""

import argparse
import gzip
import json
import math
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.common import RESULTS, report
from zoo.models.structured.composed import BlocksForm, RowsForm
from zoo.models.structured.forms import DenseForm, Form, KronForm, LowRankForm
from zoo.models.structured.recurrent import StructuredLSTM

NAME = "structured_rnn"
INPUTS, UNITS, CLASSES, GATES = 28, 40, 10, 4
STEPS, BATCH, HELD = 430, 256, 5000
SEEDS = (0, 1, 2)
RATE, RATES = 1e-2, (2.5e-3, 5e-3, 1e-2, 2e-2, 4e-2)
RAMP = (0.2, 0.8)  # of the steps, within which pruning goes from none to all it takes


def rows_over(below: Form, rows: int) -> Form:
    """Return some dense rows of each gate over a form."""
    return RowsForm(rows, below, GATES)


DENSE, BLOCK = DenseForm(), BlocksForm(GATES, LowRankForm(1))
# name: (form of the inputs' matrix, of the state's, units, numbers left by pruning)
ARMS: dict[str, tuple[Form, Form, int, int]] = {
    "dense": (DENSE, DENSE, UNITS, 0),
    "KP, 37x": (KronForm(10, 7), KronForm(10, 8), UNITS, 0),
    "LMF rank 1": (LowRankForm(1), LowRankForm(1), UNITS, 0),
    "pruned to 294": (DENSE, DENSE, UNITS, 294),
    "dense, 3 units": (DENSE, DENSE, 3, 0),
    "KP, 17x": (KronForm(40, 7), KronForm(40, 8), UNITS, 0),
    "LMF rank 2": (LowRankForm(2), LowRankForm(2), UNITS, 0),
    "pruned to 636": (DENSE, DENSE, UNITS, 636),
    "dense, 5 units": (DENSE, DENSE, 5, 0),
    "HKP, 2 rows a gate": (
        rows_over(KronForm(8, 7), 2), rows_over(KronForm(8, 8), 2), UNITS, 0,
    ),
    "LMF rank 5": (LowRankForm(5), LowRankForm(5), UNITS, 0),
    "HMF, 6 rows a gate": (
        rows_over(LowRankForm(1), 6), rows_over(LowRankForm(1), 6), UNITS, 0,
    ),
    "HMD, 5 rows a gate": (rows_over(BLOCK, 5), rows_over(BLOCK, 5), UNITS, 0),
}  # fmt: skip
SEARCHED = ("LMF rank 5", "HMF, 6 rows a gate", "HMD, 5 rows a gate")
AGAINST = {  # (arm, what it claims to be above)
    "KP, 37x": ("LMF rank 1", "pruned to 294", "dense, 3 units", "dense"),
    "KP, 17x": ("LMF rank 2", "pruned to 636", "dense, 5 units", "dense"),
    "HMF, 6 rows a gate": ("LMF rank 5",),
    "HMD, 5 rows a gate": ("LMF rank 5",),
}


class Rows(nn.Module):
    """The LSTM over the rows of pictures, and a layer over its last state."""

    def __init__(self, of_inputs: Form, of_state: Form, units: int) -> None:
        super().__init__()
        self.lstm = StructuredLSTM(INPUTS, units, of_inputs, of_state)
        self.head = nn.Linear(units, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Map pictures (N, 28, 28) to logits (N, 10)."""
        logits: Tensor = self.head(self.lstm.trained(x)[:, -1])
        return logits


def numbers(name: str) -> int:
    """Return how many numbers both matrices of an arm store."""
    of_inputs, of_state, units, kept = ARMS[name]
    m = GATES * units
    return kept or of_inputs.count(m, INPUTS) + of_state.count(m, units)


def pictures(folder: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return training pictures and labels, then those of the test."""

    def read(name: str, skip: int) -> NDArray[np.uint8]:
        return np.frombuffer(gzip.decompress((folder / name).read_bytes()), np.uint8, offset=skip)

    found = []
    for part in ("train", "t10k"):
        pixels = read(f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
        found.append((torch.from_numpy(pixels.copy()).float() / 255 - 0.286) / 0.353)
        found.append(torch.from_numpy(read(f"{part}-labels-idx1-ubyte.gz", 8).astype(np.int64)))
    return found[0], found[1], found[2], found[3]


@torch.no_grad()
def prune(weights: list[nn.Parameter], share: float) -> None:
    """Set the smallest values of some matrices, all together, to zero."""
    sizes = torch.cat([weight.abs().flatten() for weight in weights])
    if count := round(share * len(sizes)):
        limit = sizes.kthvalue(count).values
        for weight in weights:
            weight[weight.abs() <= limit] = 0


def trained(name: str, rate: float, seed: int, x: Tensor, labels: Tensor) -> Rows:
    """Return the network of an arm, trained at a peak rate along a cosine."""
    torch.manual_seed(seed)
    of_inputs, of_state, units, kept = ARMS[name]
    network = Rows(of_inputs, of_state, units)
    weights = [network.lstm.of_inputs.weight, network.lstm.of_state.weight] if kept else []
    target = 1 - kept / sum(weight.numel() for weight in weights) if kept else 0.0
    optimizer = torch.optim.Adam(network.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    dice = torch.Generator().manual_seed(seed)
    order = torch.cat([torch.randperm(len(x), generator=dice) for _ in range(2 + STEPS // 200)])
    for step in range(STEPS):
        some = order[step * BATCH : (step + 1) * BATCH]
        optimizer.zero_grad()
        F.cross_entropy(network(x[some]), labels[some]).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if weights:  # Zhu and Gupta, 1710.01878
            done = min(max((step / STEPS - RAMP[0]) / (RAMP[1] - RAMP[0]), 0.0), 1.0)
            prune(weights, target * (1 - (1 - done) ** 3))
    return network.eval()


@torch.inference_mode()
def accuracy(network: Rows, x: Tensor, labels: Tensor) -> float:
    """Return the share of pictures whose likeliest label is theirs, in percent."""
    guesses = torch.cat([network(part).argmax(1) for part in x.split(1000)])
    return 100 * float((guesses == labels).float().mean())


def wanted(runs: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, float, int]]:
    """Return the runs still to do: a seed after the other, and its rates before an arm's seeds."""
    return [
        (name, rate, seed)
        for seed in SEEDS
        for name in ARMS
        for rate in (rates(name) if seed == 0 else [best_rate(runs, name)])
        if key(name, rate, seed) not in runs
    ]


def rates(name: str) -> tuple[float, ...]:
    """Return the rates that an arm tries."""
    return RATES if name in SEARCHED else (RATE,)


def key(name: str, rate: float, seed: int) -> str:
    """Return what a run is called in the record."""
    return f"{name} | {rate:g} | {seed}"


def best_rate(runs: Mapping[str, Mapping[str, Any]], name: str) -> float:
    """Return the rate of the best run at seed 0, as pictures held out of training see it."""
    tried = [rate for rate in rates(name) if key(name, rate, 0) in runs] or [RATE]
    if len(tried) == 1:
        return tried[0]
    return max(tried, key=lambda rate: float(runs[key(name, rate, 0)]["held_out"]))


def table(runs: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Return a row for each arm with all seeds, and the differences that are claimed."""
    rows = [["arm", "numbers", "rate", "test accuracy", "mean", "against"]]
    whole: dict[str, list[float]] = {}
    for name in ARMS:
        found = [runs.get(key(name, best_rate(runs, name), seed)) for seed in SEEDS]
        whole[name] = [one["test"] for one in found if one is not None]
    for name, found in whole.items():
        cells = [", ".join(f"{a:.1f}" for a in found), f"{statistics.fmean(found):.2f}"]
        said = [f"{other} {difference(found, whole[other])}" for other in AGAINST.get(name, ())]
        count = f"{numbers(name):,}"
        rows.append([name, count, f"{best_rate(runs, name):g}", *cells, "; ".join(said)])
    return rows


def difference(ours: list[float], theirs: list[float]) -> str:
    """Return the mean difference seed by seed, and its 95 % interval by Student's t."""
    apart = [a - b for a, b in zip(ours, theirs, strict=False)]
    if len(apart) < 2:
        return f"{statistics.fmean(apart):+.1f}"
    half = {2: 12.71, 3: 4.303}[len(apart)] * statistics.stdev(apart) / math.sqrt(len(apart))
    return f"{statistics.fmean(apart):+.1f} +- {half:.1f}"


def main() -> None:
    """Do the runs that are missing, recording each; print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of the four files")
    args = parser.parse_args()
    torch.set_num_threads(1)
    file = RESULTS / f"{NAME}.json"
    runs: dict[str, dict[str, Any]] = json.loads(file.read_text())["runs"] if file.is_file() else {}
    x, labels, test_x, test_labels = pictures(args.data)
    while todo := wanted(runs):
        name, rate, seed = todo[0]  # the best rate is known only once all were tried
        start = time.process_time()
        network = trained(name, rate, seed, x[HELD:], labels[HELD:])
        runs[key(name, rate, seed)] = {
            "numbers": numbers(name),
            "held_out": accuracy(network, x[:HELD], labels[:HELD]),
            "test": accuracy(network, test_x, test_labels),
            "cpu_s": round(time.process_time() - start, 1),
        }
        report(NAME, 1, {"runs": runs}, [[key(name, rate, seed), str(runs[key(name, rate, seed)])]])
    report(NAME, 1, {"runs": runs}, table(runs))


if __name__ == "__main__":
    main()
