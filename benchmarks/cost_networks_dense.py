"""Networks for pictures as a whole, for sound and for sensors, for `benchmarks.cost_networks`."""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.cost_blocks import cna, head


class UNet(nn.Module):
    """Encoder and decoder with joined skips; `mode` is how the decoder enlarges."""

    def __init__(self, widths: list[int], outputs: int, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.down = nn.ModuleList(
            cna(a, b, 3, 1) for a, b in zip([3, *widths], widths, strict=False)
        )
        pairs = list(itertools.pairwise(widths))
        self.up = nn.ModuleList(cna(a + b, a, 3) for a, b in reversed(pairs))
        self.turn = nn.ModuleList(
            nn.ConvTranspose2d(b, b, 2, 2) if mode == "transposed" else nn.Identity()
            for _, b in reversed(pairs)
        )
        self.last = nn.Conv2d(widths[0], outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for number, layer in enumerate(self.down):
            x = layer(F.max_pool2d(x, 2) if number else x)
            skips.append(x)
        skips.pop()
        for turn, layer in zip(self.turn, self.up, strict=True):
            x = turn(x)
            if self.mode == "nearest":
                x = F.interpolate(x, scale_factor=2, mode="nearest")
            elif self.mode == "bilinear":
                x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = layer(torch.cat([skips.pop(), x], 1))
        return self.last(x)


class Csp(nn.Module):
    """YOLO's cross-stage block with SiLU."""

    def __init__(self, i: int, o: int, n: int, act: str) -> None:
        super().__init__()
        self.one, self.two = cna(i, o // 2, 1, act=act), cna(i, o // 2, 1, act=act)
        self.body = nn.Sequential(*(cna(o // 2, o // 2, 3, act=act) for _ in range(n)))
        self.three = cna(o, o, 1, act=act)

    def forward(self, x: Tensor) -> Tensor:
        left = self.one(x)
        return self.three(torch.cat([left + self.body(left), self.two(x)], 1))


class Yolo(nn.Module):
    """A small one-stage detector: backbone, one step up, two heads."""

    def __init__(self, width: int, act: str) -> None:
        super().__init__()
        w = width
        self.stem = nn.Sequential(cna(3, w, 3, 2, act=act), cna(w, 2 * w, 3, 2, act=act))
        self.c3 = nn.Sequential(Csp(2 * w, 2 * w, 1, act), cna(2 * w, 4 * w, 3, 2, act=act))
        self.c4 = nn.Sequential(Csp(4 * w, 4 * w, 2, act), cna(4 * w, 8 * w, 3, 2, act=act))
        self.c5 = Csp(8 * w, 8 * w, 1, act)
        self.lateral, self.join = cna(8 * w, 4 * w, 1, act=act), Csp(8 * w, 4 * w, 1, act)
        self.small, self.large = nn.Conv2d(4 * w, 18, 1), nn.Conv2d(8 * w, 18, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        c3 = self.c3(self.stem(x))
        c5 = self.c5(self.c4(c3))
        up = F.interpolate(self.lateral(c5), scale_factor=2, mode="nearest")
        return self.small(self.join(torch.cat([up, c3], 1))), self.large(c5)


class Fsrcnn(nn.Module):
    """FSRCNN: shrink, map, expand, a transposed convolution; PReLUs."""

    def __init__(self, d: int, s: int, m: int, scale: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(1, d, 5, padding=2), nn.PReLU(d)]
        layers += [nn.Conv2d(d, s, 1), nn.PReLU(s)]
        for _ in range(m):
            layers += [nn.Conv2d(s, s, 3, padding=1), nn.PReLU(s)]
        layers += [nn.Conv2d(s, d, 1), nn.PReLU(d)]
        last = nn.ConvTranspose2d(d, 1, 9, scale, padding=4, output_padding=scale - 1)
        self.body = nn.Sequential(*layers, last)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Denoiser(nn.Module):
    """DnCNN: convolutions of one width, the noise subtracted."""

    def __init__(self, width: int, depth: int, act: str) -> None:
        super().__init__()
        middle = [cna(width, width, 3, act=act) for _ in range(depth)]
        self.body = nn.Sequential(
            cna(1, width, act=act), *middle, nn.Conv2d(width, 1, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x - self.body(x)


def ds_cnn(width: int, blocks: int, classes: int) -> nn.Module:
    """DS-CNN for keywords."""
    layers: list[nn.Module] = [nn.Conv2d(1, width, (10, 4), 2, (5, 1)), nn.ReLU()]
    for _ in range(blocks):
        layers += [cna(width, width, 3, 1, width), cna(width, width, 1)]
    return nn.Sequential(*layers, head(width, classes))


class TcResNet(nn.Module):
    """Temporal convolutions over features as channels."""

    def __init__(self, widths: list[int], classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv1d(40, widths[0], 3, padding=1, bias=False)]
        for i, o in itertools.pairwise(widths):
            layers += [nn.Conv1d(i, o, 9, 2, 4, bias=False), nn.BatchNorm1d(o), nn.ReLU()]
            layers += [nn.Conv1d(o, o, 9, 1, 4, bias=False), nn.BatchNorm1d(o), nn.ReLU()]
        self.body, self.last = nn.Sequential(*layers), nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(x).mean(-1))


def perceptron(sizes: list[int]) -> nn.Module:
    """Fully connected layers with ReLU between."""
    layers: list[nn.Module] = []
    for i, o in itertools.pairwise(sizes):
        layers += [nn.Linear(i, o), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def lenet(width: int) -> nn.Module:
    """LeNet on 28 x 28."""
    layers = [nn.Conv2d(1, width, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(width, 16, 5)]
    tail = [nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(256, 84), nn.ReLU()]
    return nn.Sequential(*layers, *tail, nn.Linear(84, 10), nn.Softmax(-1))


def autoencoder(act: str) -> nn.Module:
    """Strided convolutions down, transposed ones up."""
    down = [cna(3, 16, 3, 2, act=act), cna(16, 32, 3, 2, act=act), cna(32, 64, 3, 2, act=act)]
    up: list[nn.Module] = []
    for i, o in ((64, 32), (32, 16), (16, 3)):
        up += [nn.ConvTranspose2d(i, o, 4, 2, 1), nn.ReLU() if o > 3 else nn.Sigmoid()]
    return nn.Sequential(*down, *up)
