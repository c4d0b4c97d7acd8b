"""What the networks of `benchmarks.cost_networks` share."""

from collections.abc import Callable

from torch import nn


def cna(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: str = "relu"
) -> nn.Sequential:
    """Convolution, batch norm, activation."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    kinds: dict[str, Callable[[], nn.Module]] = {
        "relu": nn.ReLU,
        "relu6": nn.ReLU6,
        "hswish": nn.Hardswish,
        "silu": nn.SiLU,
        "leaky": lambda: nn.LeakyReLU(0.1),
        "prelu": lambda: nn.PReLU(outputs),
        "gelu": nn.GELU,
    }
    return nn.Sequential(*layers, *([kinds[act]()] if act != "none" else []))


def head(inputs: int, classes: int) -> nn.Sequential:
    """Global average, flatten, classifier."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))
