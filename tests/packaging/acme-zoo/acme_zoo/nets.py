"""The network: torch, and nothing else of ours."""

from torch import Tensor, nn


class Trend(nn.Module):
    """Logits `(N, 2)`, falling and rising, of series `(N, length)`."""

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(length, width), nn.ReLU(), nn.Linear(width, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
