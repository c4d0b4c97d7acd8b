"""The predictor of PerfSAGE, as a baseline: GraphSAGE on operators, pooled, to a latency.

Three layers of mean aggregation over neighbours, an embedding of the kind of operator, logarithms
of shapes and sizes, a sum over the graph, two layers to the logarithm of the latency
(arXiv 2301.10999). It sees what a row of the data set holds, and nothing of the cycle model.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

HIDDEN, KINDS, EMBEDDED = 64, 32, 16


def nodes(row: dict[str, Any], kinds: dict[str, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return kinds (operators,), features (operators, F), edges (2, E), both directions."""
    made = {op["outputs"][0]: place for place, op in enumerate(row["operators"])}
    names, features, edges = [], [], []
    for place, op in enumerate(row["operators"]):
        names.append(kinds.setdefault(op["kind"], len(kinds)))
        shapes = [row["tensors"][op[key][0]]["shape"] for key in ("inputs", "outputs")]
        sizes = [[1] * (4 - len(shape)) + shape for shape in shapes]
        attributes = json.loads(op["attributes"])
        kernel, stride = (attributes.get(key, (1, 1)) for key in ("kernel", "stride"))
        numbers = [*sizes[0][1:], *sizes[1][1:], *kernel, *stride, op["macs"], op["weights"]]
        numbers += [op["zeros"], op["levels"], op["coded_bytes"]]
        activation = float("activation" in attributes)
        features.append([*(math.log1p(n) for n in numbers), op["entropy_bits"] / 8, activation])
        for source in op["inputs"]:
            if source in made:
                edges += [(made[source], place), (place, made[source])]
    ends = torch.tensor(edges or [(0, 0)]).T
    return torch.tensor(names), torch.tensor(features), ends


class Sage(nn.Module):
    """Three GraphSAGE layers, a sum and a head."""

    def __init__(self, features: int) -> None:
        """Make one for nodes with so many features."""
        super().__init__()
        self.kind = nn.Embedding(KINDS, EMBEDDED)
        sizes = [features + EMBEDDED, HIDDEN, HIDDEN]
        self.own = nn.ModuleList(nn.Linear(n, HIDDEN) for n in sizes)
        self.near = nn.ModuleList(nn.Linear(n, HIDDEN, bias=False) for n in sizes)
        self.head = nn.Sequential(nn.Linear(2 * HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("spread", torch.ones(features))

    def forward(self, graphs: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        """Return the logarithms of the latencies."""
        sizes = torch.tensor([len(kinds) for kinds, _, _ in graphs])
        starts = sizes.cumsum(0) - sizes
        kinds = torch.cat([one for one, _, _ in graphs])
        unit = (torch.cat([one for _, one, _ in graphs]) - self.mean) / self.spread
        edges = torch.cat([e + s for (_, _, e), s in zip(graphs, starts, strict=True)], 1)
        x = torch.cat([unit, self.kind(kinds)], 1)
        degree = torch.bincount(edges[1], minlength=len(x)).clamp(min=1)[:, None]
        for own, near in zip(self.own, self.near, strict=True):
            around = torch.zeros_like(x).index_add(0, edges[1], x[edges[0]]) / degree
            x = torch.relu(own(x) + near(around))
        place = torch.repeat_interleave(torch.arange(len(graphs)), sizes)
        total = x.new_zeros(len(graphs), HIDDEN).index_add(0, place, x)
        return self.head(torch.cat([total / sizes[:, None], (1 + total).log()], 1)).squeeze(1)


def taught(
    graphs: Sequence[tuple[Tensor, Tensor, Tensor]], cycles: Sequence[float], epochs: int
) -> Sage:
    """Return the network, taught."""
    torch.manual_seed(0)
    found = Sage(graphs[0][1].shape[1])
    every = torch.cat([one for _, one, _ in graphs])
    found.mean.copy_(every.mean(0))
    found.spread.copy_(every.std(0).clamp(min=1e-3))
    truth = torch.tensor(cycles).log()
    with torch.no_grad():
        found.head[2].bias.fill_(float(truth.mean()))
    optimizer = torch.optim.AdamW(found.parameters(), lr=3e-3)
    steps = epochs * math.ceil(len(graphs) / 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(epochs):
        for chosen in torch.randperm(len(graphs)).split(64):
            loss = (found([graphs[i] for i in chosen]) - truth[chosen]).abs().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(found.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return found.eval()


def ratios(
    found: Sage, graphs: Sequence[tuple[Tensor, Tensor, Tensor]], cycles: Sequence[float]
) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """Return truth over prediction."""
    with torch.inference_mode():
        return np.array(cycles) / found(graphs).exp().double().numpy()
