"""Networks as others write them, to judge cost estimates by: none of them was used to fit one.

Each is written the way public collections write it: plain `torch.nn`, batch norms after
convolutions, activations as modules, sizes as arguments. Their weights are those of PyTorch's own
initialisation.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.cost_blocks import cna, head
from benchmarks.cost_networks_dense import (
    Denoiser,
    Fsrcnn,
    TcResNet,
    UNet,
    Yolo,
    autoencoder,
    ds_cnn,
    lenet,
    perceptron,
)


class SqueezeExcite(nn.Module):
    """Scale channels by what a small network says of their means."""

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, reduced, 1), nn.Conv2d(reduced, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        s = x.mean((2, 3), keepdim=True)
        return x * F.hardsigmoid(self.expand(F.relu(self.reduce(s))))


class Inverted(nn.Module):
    """Inverted residual: expand, depthwise, squeeze and excite if asked, project."""

    def __init__(
        self, i: int, o: int, ratio: float, stride: int, kernel: int = 3,
        act: str = "relu6", se: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        hidden = int(i * ratio)
        layers: list[nn.Module] = [] if ratio == 1 else [cna(i, hidden, 1, act=act)]
        layers.append(cna(hidden, hidden, kernel, stride, hidden, act))
        layers += [SqueezeExcite(hidden, max(hidden // 4, 8))] if se else []
        layers.append(cna(hidden, o, 1, act="none"))
        self.body, self.shortcut = nn.Sequential(*layers), stride == 1 and i == o

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.shortcut else self.body(x)


class Residual(nn.Module):
    """Basic or bottleneck residual block, grouped if asked, with the shortcut's projection."""

    def __init__(self, i: int, o: int, stride: int = 1, groups: int = 0, se: bool = False) -> None:
        super().__init__()
        if groups:
            body = [cna(i, o, 1), cna(o, o, 3, stride, groups), cna(o, o, 1, act="none")]
        else:
            body = [cna(i, o, 3, stride), cna(o, o, 3, act="none")]
        self.body = nn.Sequential(*body, *([SqueezeExcite(o, o // 4)] if se else []))
        same = stride == 1 and i == o
        self.down = nn.Identity() if same else cna(i, o, 1, stride, act="none")

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.down(x))


def mobilenet_v1(width: float, classes: int, channels: int = 3) -> nn.Module:
    """MobileNet v1."""
    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)]
    plan += [(512, 1)] * 5 + [(1024, 2), (1024, 1)]
    last = int(32 * width)
    layers: list[nn.Module] = [cna(channels, last, 3, 2)]
    for base, stride in plan:
        outputs = int(base * width)
        layers += [cna(last, last, 3, stride, last), cna(last, outputs, 1)]
        last = outputs
    return nn.Sequential(*layers, head(last, classes))


def mobilenet_v2(width: float, classes: int, ratio: float = 6) -> nn.Module:
    """MobileNet v2."""
    plan = [(1, 16, 1, 1), (ratio, 24, 2, 2), (ratio, 32, 3, 2), (ratio, 64, 4, 2)]
    plan += [(ratio, 96, 3, 1), (ratio, 160, 3, 2), (ratio, 320, 1, 1)]
    last = max(8, int(32 * width) // 8 * 8)
    layers: list[nn.Module] = [cna(3, last, 3, 2, act="relu6")]
    for t, c, n, s in plan:
        outputs = max(8, int(c * width) // 8 * 8)
        for k in range(n):
            layers.append(Inverted(last, outputs, t, s if k == 0 else 1))
            last = outputs
    return nn.Sequential(*layers, cna(last, 1280, 1, act="relu6"), head(1280, classes))


def mobilenet_v3(classes: int) -> nn.Module:
    """MobileNet v3 small."""
    plan = [(3, 16, 16, True, "relu", 2), (3, 72, 24, False, "relu", 2)]
    plan += [(3, 88, 24, False, "relu", 1), (5, 96, 40, True, "hswish", 2)]
    plan += [(5, 240, 40, True, "hswish", 1)] * 2 + [(5, 120, 48, True, "hswish", 1)]
    plan += [(5, 144, 48, True, "hswish", 1), (5, 288, 96, True, "hswish", 2)]
    plan += [(5, 576, 96, True, "hswish", 1)] * 2
    last, layers = 16, [cna(3, 16, 3, 2, act="hswish")]
    for k, hidden, o, se, act, s in plan:
        layers.append(Inverted(last, o, hidden / last, s, k, act, se))  # type: ignore[arg-type]
        last = o
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(576, 1024), nn.Hardswish()]
    return nn.Sequential(*layers, cna(last, 576, 1, act="hswish"), *tail, nn.Linear(1024, classes))


def efficientnet_lite(width: float, classes: int) -> nn.Module:
    """EfficientNet-Lite: no squeeze and excite, ReLU6."""
    plan = [(1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3)]
    plan += [(6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3)]
    last, layers = 32, [cna(3, 32, 3, 2, act="relu6")]
    for t, c, n, s, k in plan:
        outputs = max(8, int(c * width + 4) // 8 * 8)
        for number in range(n):
            layers.append(Inverted(last, outputs, t, s if number == 0 else 1, k))  # type: ignore[arg-type]
            last = outputs
    return nn.Sequential(*layers, cna(last, 1280, 1, act="relu6"), head(1280, classes))


def resnet(
    depths: list[int], widths: list[int], classes: int, *, groups: int = 0, se: bool = False,
    stem: int = 3,
) -> nn.Module:  # fmt: skip
    """ResNet, or ResNeXt and RegNet with groups."""
    last = widths[0]
    first = [cna(3, last, 7, 2), nn.MaxPool2d(3, 2, 1)] if stem == 7 else [cna(3, last, 3)]
    layers: list[nn.Module] = list(first)
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        for block in range(depth):
            stride = 2 if block == 0 and stage > 0 else 1
            layers.append(Residual(last, width, stride, width // groups if groups else 0, se))
            last = width
    return nn.Sequential(*layers, head(last, classes))


def vgg(plan: list[int | str], classes: int, hidden: int, pixels: int) -> nn.Module:
    """VGG with batch norms and a fully connected tail."""
    last, layers = 3, []
    for step in plan:
        if isinstance(step, str):
            layers.append(nn.MaxPool2d(2))
        else:
            layers.append(cna(last, step))
            last = step
    tail = [nn.Flatten(), nn.Linear(last * pixels, hidden), nn.ReLU(), nn.Linear(hidden, classes)]
    return nn.Sequential(*layers, *tail)


class Fire(nn.Module):
    """Squeeze, then expand by 1 x 1 and 3 x 3, side by side."""

    def __init__(self, i: int, s: int, e: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(i, s, 1)
        self.one, self.three = nn.Conv2d(s, e, 1), nn.Conv2d(s, e, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.one(x)), F.relu(self.three(x))], 1)


def squeezenet(classes: int) -> nn.Module:
    """SqueezeNet 1.1."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    layers += [Fire(64, 16, 64), Fire(128, 16, 64), nn.MaxPool2d(3, 2), Fire(128, 32, 128)]
    layers += [Fire(256, 32, 128), nn.MaxPool2d(3, 2), Fire(256, 48, 192), Fire(384, 48, 192)]
    layers += [Fire(384, 64, 256), Fire(512, 64, 256), nn.Conv2d(512, classes, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Dense(nn.Module):
    """A dense block: each layer reads all before it."""

    def __init__(self, i: int, growth: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(cna(i + k * growth, growth, 3) for k in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return x


def densenet(growth: int, layers: int, classes: int) -> nn.Module:
    """Three dense blocks with transitions."""
    width, parts = 2 * growth, [cna(3, 2 * growth, 3)]
    for block in range(3):
        parts.append(Dense(width, growth, layers))  # type: ignore[arg-type]
        width += layers * growth
        if block < 2:
            parts += [cna(width, width // 2, 1), nn.AvgPool2d(2)]  # type: ignore[list-item]
            width //= 2
    return nn.Sequential(*parts, head(width, classes))


class Shuffle(nn.Module):
    """ShuffleNet v2's unit: split, work on a half, join, shuffle."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.body = nn.Sequential(
            cna(half, half, 1), cna(half, half, 3, 1, half, "none"), cna(half, half, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        x = torch.cat([left, self.body(right)], 1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def shufflenet(classes: int) -> nn.Module:
    """ShuffleNet v2, strided units replaced by strided convolutions."""
    layers: list[nn.Module] = [cna(3, 24, 3, 2)]
    for i, o, n in ((24, 48, 3), (48, 96, 7), (96, 192, 3)):
        layers += [cna(i, o, 3, 2), *(Shuffle(o) for _ in range(n))]
    return nn.Sequential(*layers, cna(192, 512, 1), head(512, classes))


class Ghost(nn.Module):
    """Half of the channels by convolution, half by a cheap depthwise one of them."""

    def __init__(self, i: int, o: int, stride: int = 1) -> None:
        super().__init__()
        self.first, self.cheap = cna(i, o // 2, 1, stride), cna(o // 2, o // 2, 3, 1, o // 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return torch.cat([x, self.cheap(x)], 1)


def ghostnet(classes: int) -> nn.Module:
    """Ghost modules between strided depthwise convolutions."""
    layers: list[nn.Module] = [cna(3, 16, 3, 2)]
    for i, o in ((16, 24), (24, 40), (40, 80), (80, 160)):
        layers += [Ghost(i, 3 * i), cna(3 * i, 3 * i, 3, 2, 3 * i), Ghost(3 * i, o), Ghost(o, o)]
    return nn.Sequential(*layers, head(160, classes))


class ConvNextBlock(nn.Module):
    """Depthwise 7 x 7, norm of channels, two linear layers, shortcut."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(c, c, 7, padding=3, groups=c), nn.BatchNorm2d(c)
        self.one, self.two = nn.Conv2d(c, 4 * c, 1), nn.Conv2d(4 * c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(F.gelu(self.one(self.norm(self.depthwise(x)))))


def convnext(widths: list[int], depths: list[int], classes: int) -> nn.Module:
    """ConvNeXt with batch norms."""
    layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 4)]
    for number, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        layers += [nn.Conv2d(widths[number - 1], width, 2, 2)] if number else []
        layers += [ConvNextBlock(width) for _ in range(depth)]
    return nn.Sequential(*layers, head(widths[-1], classes))


Maker = Callable[[], nn.Module]
_C = 10
NETWORKS: dict[str, tuple[Maker, tuple[int, ...]]] = {
    "mobilenet-v1-0.25-96": (lambda: mobilenet_v1(0.25, 2), (1, 3, 96, 96)),
    "mobilenet-v1-0.5-128": (lambda: mobilenet_v1(0.5, 100), (1, 3, 128, 128)),
    "mobilenet-v1-1.0-160": (lambda: mobilenet_v1(1.0, 1000), (1, 3, 160, 160)),
    "mobilenet-v1-0.25-gray": (lambda: mobilenet_v1(0.25, 2, 1), (1, 1, 64, 64)),
    "mobilenet-v2-0.35-96": (lambda: mobilenet_v2(0.35, 2), (1, 3, 96, 96)),
    "mobilenet-v2-0.5-160": (lambda: mobilenet_v2(0.5, 100), (1, 3, 160, 160)),
    "mobilenet-v2-1.0-224": (lambda: mobilenet_v2(1.0, 1000), (1, 3, 224, 224)),
    "mobilenet-v2-ratio3-64": (lambda: mobilenet_v2(0.5, 10, 3), (1, 3, 64, 64)),
    "mobilenet-v3-small-128": (lambda: mobilenet_v3(100), (1, 3, 128, 128)),
    "mobilenet-v3-small-224": (lambda: mobilenet_v3(1000), (1, 3, 224, 224)),
    "efficientnet-lite-0.5-128": (lambda: efficientnet_lite(0.5, 100), (1, 3, 128, 128)),
    "efficientnet-lite0-224": (lambda: efficientnet_lite(1.0, 1000), (1, 3, 224, 224)),
    "resnet8-32": (lambda: resnet([1, 1, 1], [16, 32, 64], _C), (1, 3, 32, 32)),
    "resnet20-32": (lambda: resnet([3, 3, 3], [16, 32, 64], _C), (1, 3, 32, 32)),
    "resnet18-96": (lambda: resnet([2] * 4, [64, 128, 256, 512], 100, stem=7), (1, 3, 96, 96)),
    "resnet18-narrow-160": (
        lambda: resnet([2] * 4, [16, 32, 64, 128], 100, stem=7),
        (1, 3, 160, 160),
    ),
    "se-resnet-32": (lambda: resnet([2] * 3, [24, 48, 96], _C, se=True), (1, 3, 32, 32)),
    "resnext-32": (lambda: resnet([2] * 3, [32, 64, 128], _C, groups=8), (1, 3, 32, 32)),
    "resnext-wide-64": (lambda: resnet([2] * 3, [64, 128, 256], _C, groups=16), (1, 3, 64, 64)),
    "regnet-96": (lambda: resnet([1, 3, 4], [32, 64, 160], 100, groups=16, stem=7), (1, 3, 96, 96)),
    "regnet-se-64": (
        lambda: resnet([1, 2, 2], [24, 56, 152], 100, groups=8, se=True),
        (1, 3, 64, 64),
    ),
    "vgg-small-32": (
        lambda: vgg([32, 32, "m", 64, 64, "m", 128, "m"], _C, 128, 16),
        (1, 3, 32, 32),
    ),
    "vgg11-32": (
        lambda: vgg([64, "m", 128, "m", 256, 256, "m", 512, 512, "m"], _C, 512, 4),
        (1, 3, 32, 32),
    ),
    "vgg-tail-64": (lambda: vgg([16, "m", 32, "m", 64, "m"], 100, 512, 64), (1, 3, 64, 64)),
    "squeezenet-128": (lambda: squeezenet(100), (1, 3, 128, 128)),
    "squeezenet-224": (lambda: squeezenet(1000), (1, 3, 224, 224)),
    "densenet-32": (lambda: densenet(12, 6, _C), (1, 3, 32, 32)),
    "densenet-64": (lambda: densenet(16, 4, 100), (1, 3, 64, 64)),
    "shufflenet-96": (lambda: shufflenet(100), (1, 3, 96, 96)),
    "ghostnet-96": (lambda: ghostnet(100), (1, 3, 96, 96)),
    "ghostnet-160": (lambda: ghostnet(100), (1, 3, 160, 160)),
    "convnext-femto-64": (lambda: convnext([24, 48, 96], [2, 2, 2], 100), (1, 3, 64, 64)),
    "convnext-128": (lambda: convnext([48, 96, 192], [2, 2, 4], 100), (1, 3, 128, 128)),
    "unet-bilinear-64": (lambda: UNet([16, 32, 64], 2, "bilinear"), (1, 3, 64, 64)),
    "unet-bilinear-128": (lambda: UNet([8, 16, 32, 64], 1, "bilinear"), (1, 3, 128, 128)),
    "unet-nearest-96": (lambda: UNet([16, 32, 64], 2, "nearest"), (1, 3, 96, 96)),
    "unet-transposed-64": (lambda: UNet([16, 32, 64], 2, "transposed"), (1, 3, 64, 64)),
    "yolo-silu-128": (lambda: Yolo(8, "silu"), (1, 3, 128, 128)),
    "yolo-silu-224": (lambda: Yolo(16, "silu"), (1, 3, 224, 224)),
    "yolo-leaky-160": (lambda: Yolo(12, "leaky"), (1, 3, 160, 160)),
    "yolo-relu-192": (lambda: Yolo(16, "relu"), (1, 3, 192, 192)),
    "fsrcnn-x2-48": (lambda: Fsrcnn(56, 12, 4, 2), (1, 1, 48, 48)),
    "fsrcnn-small-x3-32": (lambda: Fsrcnn(32, 5, 1, 3), (1, 1, 32, 32)),
    "denoiser-relu-64": (lambda: Denoiser(32, 5, "relu"), (1, 1, 64, 64)),
    "denoiser-prelu-64": (lambda: Denoiser(16, 4, "prelu"), (1, 1, 64, 64)),
    "denoiser-leaky-96": (lambda: Denoiser(24, 4, "leaky"), (1, 1, 96, 96)),
    "denoiser-gelu-32": (lambda: Denoiser(16, 3, "gelu"), (1, 1, 32, 32)),
    "ds-cnn-s": (lambda: ds_cnn(64, 4, 12), (1, 1, 49, 10)),
    "ds-cnn-l": (lambda: ds_cnn(276, 5, 12), (1, 1, 49, 10)),
    "ds-cnn-xs": (lambda: ds_cnn(24, 2, 4), (1, 1, 49, 10)),
    "tc-resnet8": (lambda: TcResNet([16, 24, 32, 48], 12), (1, 40, 98)),
    "tc-resnet-wide": (lambda: TcResNet([32, 64, 96, 128], 12), (1, 40, 98)),
    "autoencoder-relu-64": (lambda: autoencoder("relu"), (1, 3, 64, 64)),
    "autoencoder-prelu-48": (lambda: autoencoder("prelu"), (1, 3, 48, 48)),
    "perceptron-anomaly": (
        lambda: perceptron([640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640]),
        (1, 640),
    ),
    "perceptron-wide": (lambda: perceptron([784, 512, 512, 10]), (1, 784)),
    "perceptron-tiny": (lambda: perceptron([16, 16, 4]), (1, 16)),
    "perceptron-sensors": (lambda: perceptron([128, 32, 6]), (1, 128)),
    "lenet-6": (lambda: lenet(6), (1, 1, 28, 28)),
    "lenet-12": (lambda: lenet(12), (1, 1, 28, 28)),
}


def network(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """Return a network in eval mode, made from a fixed seed, and its input's shape."""
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    return make().eval(), shape
