"""Small networks of signals, with random weights; and all of them by name."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from tests.parity import patterns, tokens
from tests.parity.networks import IMAGES, Call, Maker, conv, head, old_weight_norm, plus


def conv1d(i: int, o: int, k: int, stride: int = 1, groups: int = 1) -> nn.Module:
    layer = nn.Conv1d(i, o, k, stride, k // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm1d(o), nn.ReLU())


def causal(dilation: int) -> nn.Module:
    layer = parametrizations.weight_norm(nn.Conv1d(6, 6, 3, dilation=dilation))
    return Call(lambda x, c: F.relu(c(F.pad(x, (2 * dilation, 0))) + x), c=layer)


SIGNALS: dict[str, Maker] = {
    "m5": lambda: nn.Sequential(
        conv1d(6, 8, 7, 2),
        nn.MaxPool1d(2),
        conv1d(8, 8, 3),
        nn.AvgPool1d(2),
        nn.Flatten(),
        nn.Linear(32, 5),
    ),
    "quartznet": lambda: nn.Sequential(
        conv1d(6, 6, 5, groups=6), conv1d(6, 8, 1), nn.Conv1d(8, 5, 1)
    ),
    "tc-resnet": lambda: nn.Sequential(
        conv1d(6, 8, 3),
        plus(conv1d(8, 8, 9), nn.Conv1d(8, 8, 9, padding=4), nn.BatchNorm1d(8)),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    ),
    "tcn": lambda: nn.Sequential(causal(1), causal(2), nn.Conv1d(6, 4, 1)),
    "old-weight-norm": lambda: nn.Sequential(
        old_weight_norm(nn.Conv1d(6, 8, 3)), nn.ReLU(), nn.Conv1d(8, 4, 1)
    ),
    "global-maximum-1d": lambda: nn.Sequential(
        conv1d(6, 8, 3), nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(8, 5)
    ),
    "ds-cnn": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 6)), conv(1, 8, 3, 2), conv(8, 8, 3, groups=8), conv(8, 8, 1), head(8)
    ),
}
ALL = {**IMAGES, **SIGNALS, **tokens.PICTURES, **tokens.ROWS, **patterns.PICTURES, **patterns.ROWS}
ALL["signal-decoder"] = tokens.signal_decoder
SHAPES: dict[str, tuple[int, ...]] = {
    **dict.fromkeys((*IMAGES, *tokens.PICTURES, *patterns.PICTURES), (1, 3, 16, 16)),
    **dict.fromkeys((*SIGNALS, "signal-decoder"), (1, 6, 32)),
    **dict.fromkeys((*tokens.ROWS, *patterns.ROWS), (1, 6, tokens.WIDTH)),
}


def make(name: str) -> tuple[nn.Module, Tensor]:
    """Return a network in eval mode, with statistics of its own, and inputs."""
    torch.manual_seed(0)
    module, x = ALL[name](), torch.randn(6, *SHAPES[name][1:])
    with torch.no_grad():
        module.train()(x)
    return module.eval(), x
