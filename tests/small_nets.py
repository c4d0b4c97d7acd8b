"""Three integer networks of a few thousand MACs, on which every fault can be tried."""

import functools

import torch
from torch import Tensor, nn

from zoo.graph.ir import Graph
from zoo.quantization.int8.post_training import quantize


class Residual(nn.Module):
    """A depthwise and a pointwise convolution beside a skip, then labels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 3, 3, stride=2, padding=1)
        self.deep = nn.Conv2d(3, 3, 3, padding=1, groups=3)
        self.point = nn.Conv2d(3, 3, 1)
        self.last = nn.Linear(3 * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, 3) of (N, 1, 8, 8)."""
        x = self.first(x).relu()
        x = x + self.point(self.deep(x).relu())
        result: Tensor = self.last(x.flatten(1))
        return result


def _module(name: str) -> nn.Module:
    if name == "convolutions":
        return nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 3),
            nn.ReLU(), nn.Flatten(), nn.Linear(16, 3),
        )  # fmt: skip
    if name == "dense":
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, 10), nn.ReLU(), nn.Linear(10, 7), nn.ReLU(), nn.Linear(7, 4)
        )
    return Residual()


NAMES = ("convolutions", "dense", "residual")


@functools.cache
def small_net(name: str, count: int = 20) -> tuple[Graph, Tensor, Tensor]:
    """Return a graph, stored inputs (N, 8, 8, 1) and labels that it mostly gets right."""
    generator = torch.Generator().manual_seed(NAMES.index(name) + 1)
    with torch.random.fork_rng():
        torch.manual_seed(NAMES.index(name) + 1)
        module = _module(name).eval()
    for parameter in module.parameters():
        parameter.data *= 2
    x = torch.rand(count, 1, 8, 8, generator=generator)
    graph = quantize(module, [x], (1, 1, 8, 8))
    meaning = graph.tensors[graph.inputs[0]].quantization
    assert meaning is not None
    stored = torch.round(x / meaning.scale + meaning.zero_point).clamp(-128, 127)
    with torch.no_grad():
        labels = module(x).argmax(1).clone()
    labels[::7] = (labels[::7] + 1) % 3  # wrong answers, which faults may repair
    return graph, stored.to(torch.int8).permute(0, 2, 3, 1).contiguous(), labels
