"""Small networks of the patterns that published ones are made of, with random weights."""

import warnings
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

Maker = Callable[[], nn.Module]


class Call(nn.Module):
    """A function of an input and of named parts."""

    def __init__(
        self, function: Callable[..., Tensor | Sequence[Tensor]], **parts: nn.Module
    ) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleDict(parts)

    def forward(self, *x: Tensor) -> Tensor | Sequence[Tensor]:
        return self.function(*x, **self.parts)


def conv(
    i: int,
    o: int,
    k: int = 3,
    stride: int = 1,
    act: bool = True,
    groups: int = 1,
    dilation: int = 1,
) -> nn.Module:
    around = dilation * (k // 2)
    layer = nn.Conv2d(i, o, k, stride, around, dilation, groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(o), *[nn.ReLU(inplace=True)] * act)


def head(channels: int, classes: int = 5) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def plus(*parts: nn.Module) -> nn.Module:
    """A shortcut around parts."""
    return Call(lambda x, body: F.relu(body(x) + x), body=nn.Sequential(*parts))


def cut(*parts: nn.Module) -> nn.Module:
    """Half of the channels pass, half go through parts (ShuffleNetV2, YOLO's C2f)."""
    return joined(Half(0), nn.Sequential(Half(1), *parts))


class Half(nn.Module):
    """One half of the channels."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place = place

    def forward(self, x: Tensor) -> Tensor:
        return x.chunk(2, 1)[self.place]


def joined(*branches: nn.Module) -> nn.Module:
    """Branches side by side."""
    named = {str(place): branch for place, branch in enumerate(branches)}
    return Call(lambda x, **parts: torch.cat([part(x) for part in parts.values()], 1), **named)


def gate(channels: int) -> nn.Module:
    """Squeeze and excitation."""
    squeeze, excite = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def weigh(x: Tensor, squeeze: nn.Module, excite: nn.Module) -> Tensor:
        pooled = x.mean((2, 3), keepdim=True)
        return x * F.hardsigmoid(excite(F.relu(squeeze(pooled)))).expand_as(x)

    return Call(weigh, squeeze=squeeze, excite=excite)


def inverted(i: int, o: int, stride: int = 1, *, gated: bool = False) -> nn.Module:
    return nn.Sequential(
        conv(i, 2 * i, 1),
        conv(2 * i, 2 * i, 3, stride, groups=2 * i),
        *[gate(2 * i)] * gated,
        conv(2 * i, o, 1, act=False),
    )


class Shuffled(nn.Module):
    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.view(n, self.groups, c // self.groups, h, w)
        return x.transpose(1, 2).contiguous().view(n, c, h, w)


def repvgg() -> nn.Module:
    three, one = conv(8, 8, 3, act=False), conv(8, 8, 1, act=False)
    block = Call(
        lambda x, three, one, same: F.relu(three(x) + one(x) + same(x)),
        three=three,
        one=one,
        same=nn.BatchNorm2d(8),
    )
    return nn.Sequential(conv(3, 8, 3, 2), block, head(8))


def unet() -> nn.Module:
    def forward(x: Tensor, **p: nn.Module) -> Tensor:
        first = p["first"](x)
        low = p["low"](F.max_pool2d(first, 2))
        up = F.interpolate(low, scale_factor=2, mode="bilinear", align_corners=False)
        return p["last"](torch.cat([first, up], 1))

    return Call(forward, first=conv(3, 8), low=conv(8, 8), last=nn.Conv2d(16, 2, 1))


def aspp() -> nn.Module:
    pooled = Call(
        lambda x, c: F.interpolate(F.relu(c(F.adaptive_avg_pool2d(x, 1))), size=(8, 8)),
        c=nn.Conv2d(8, 4, 1),
    )
    branches = [conv(8, 4, 1), conv(8, 4, dilation=2), conv(8, 4, dilation=3), pooled]
    return nn.Sequential(conv(3, 8, 3, 2), joined(*branches), nn.Conv2d(16, 3, 1))


def pyramid() -> nn.Module:
    """Feature maps of several sizes: several outputs."""

    def forward(x: Tensor, **p: nn.Module) -> list[Tensor]:
        large = p["c1"](x)
        small = p["c2"](large)
        top = p["l2"](small)
        merged = p["l1"](large) + F.interpolate(top, scale_factor=2, mode="nearest")
        return [p["boxes"](merged), p["boxes"](top)]

    return Call(
        forward,
        c1=conv(3, 8, 3, 2),
        c2=conv(8, 12, 3, 2),
        l1=nn.Conv2d(8, 6, 1),
        l2=nn.Conv2d(12, 6, 1),
        boxes=nn.Conv2d(6, 4, 3, padding=1),
    )


def resolutions() -> nn.Module:
    """Branches of two resolutions that exchange what they have."""

    def forward(x: Tensor, **p: nn.Module) -> Tensor:
        high = p["high"](x)
        low = p["down"](high)
        up = F.interpolate(p["narrow"](low), scale_factor=2, mode="nearest")
        return p["last"](torch.cat([F.relu(high + up), F.interpolate(low, scale_factor=2)], 1))

    return Call(
        forward,
        high=conv(3, 6),
        down=conv(6, 8, 3, 2),
        narrow=nn.Conv2d(8, 6, 1),
        last=nn.Conv2d(14, 3, 1),
    )


def old_weight_norm(layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # many published networks have it
        return nn.utils.weight_norm(layer)


class Mixer(nn.Module):
    """Layers across places and across channels, in turn, on rows of patches."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.across, self.within = nn.Linear(16, 16), nn.Linear(8, 8)
        self.scale = nn.Parameter(torch.rand(8))
        self.last = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.across(x.transpose(1, 2)).transpose(1, 2) * self.scale
        x = x + F.relu(self.within(x))
        return self.last(x.mean(1))


class Normalized(nn.Module):
    """Pixels are normalized in the network; the numbers are a list, a buffer and an attribute."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]))
        self.std = torch.tensor([0.2, 0.25, 0.3])
        self.body = nn.Sequential(conv(3, 8), head(8))

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean[None, :, None, None]) / self.std.view(1, -1, 1, 1)
        return self.body(x * torch.tensor([1.0, 0.9, 1.1]).view(1, 3, 1, 1))


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = conv(3, 8), head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = x.mul(0.5).add_(x).relu_().clamp_(0.1, 3.0)
        y += x
        y *= 0.5
        return self.last(F.hardtanh(y, -1, 2, inplace=True))


class Functional(nn.Module):
    """Every layer in its functional form, with parameters of one's own."""

    centre: Tensor
    spread: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(8, 3, 3, 3) / 5)
        self.register_buffer("centre", torch.rand(8))
        self.register_buffer("spread", torch.rand(8) + 0.5)
        self.gamma, self.beta = (nn.Parameter(torch.rand(8) + 0.5) for _ in range(2))
        self.matrix = nn.Parameter(torch.randn(8, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.kernel - self.kernel.mean((1, 2, 3), keepdim=True), padding="same")
        x = F.relu6(F.batch_norm(x, self.centre, self.spread, self.gamma, self.beta))
        x = F.dropout(F.max_pool2d(x, 2), training=self.training)
        return F.adaptive_avg_pool2d(x, 1).flatten(1) @ self.matrix


IMAGES: dict[str, Maker] = {
    "vgg": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(512, 5)
    ),
    "resnet": lambda: nn.Sequential(
        conv(3, 8, 3, 2), nn.MaxPool2d(3, 2, 1), plus(conv(8, 8), conv(8, 8, act=False)), head(8)
    ),
    "resnext": lambda: nn.Sequential(
        conv(3, 8, 3, 2), plus(conv(8, 8, 1), conv(8, 8, groups=2), conv(8, 8, 1)), head(8)
    ),
    "senet": lambda: nn.Sequential(conv(3, 8, 3, 2), plus(conv(8, 8), gate(8)), head(8)),
    "mobilenet-v1": lambda: nn.Sequential(
        conv(3, 8, 3, 2), conv(8, 8, 3, 2, groups=8), conv(8, 12, 1), head(12)
    ),
    "mobilenet-v2": lambda: nn.Sequential(
        conv(3, 8, 3, 2), inverted(8, 8), inverted(8, 12, 2), nn.ReLU6(), head(12)
    ),
    "mobilenet-v3-relu": lambda: nn.Sequential(
        conv(3, 8, 3, 2), plus(inverted(8, 8, gated=True)), head(8)
    ),
    "efficientnet-lite": lambda: nn.Sequential(
        conv(3, 8, 3, 2), plus(inverted(8, 8)), inverted(8, 12, 2), conv(12, 16, 1), head(16)
    ),
    "ghostnet": lambda: nn.Sequential(
        conv(3, 8, 3, 2), joined(nn.Identity(), conv(8, 8, groups=8)), head(16)
    ),
    "shufflenet-v2": lambda: nn.Sequential(
        conv(3, 8, 3, 2), cut(conv(4, 4, 1), conv(4, 4, groups=4)), Shuffled(2), head(8)
    ),
    "focus": lambda: nn.Sequential(
        Call(lambda x: torch.cat([x[..., i::2, j::2] for j in (0, 1) for i in (0, 1)], 1)),
        *(conv(12, 8), head(8)),
    ),
    "silu": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.SiLU(), cut(nn.Conv2d(4, 4, 1), nn.SiLU()), head(8)
    ),
    "mobilenet-v3": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.Hardswish(), plus(nn.Conv2d(8, 8, 1), nn.Hardswish()), head(8)
    ),
    "tokens": lambda: nn.Sequential(
        *(conv(3, 8, 3, 2), nn.Flatten(2)),
        Call(lambda x, rows: rows(x.transpose(1, 2)), rows=nn.Linear(8, 4)),
        Call(lambda y: y[:, 0] + y.unbind(1)[-1]),
    ),
    "shufflenet": lambda: nn.Sequential(
        conv(3, 8, 3, 2),
        plus(conv(8, 8, 1, groups=2), Shuffled(2), conv(8, 8, groups=8), conv(8, 8, 1)),
        head(8),
    ),
    "regnet": lambda: nn.Sequential(
        conv(3, 8, 3, 2), plus(conv(8, 8, 1), conv(8, 8, groups=4), gate(8)), head(8)
    ),
    "repvgg": repvgg,
    "densenet": lambda: nn.Sequential(
        conv(3, 8, 3, 2),
        joined(nn.Identity(), nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), conv(8, 4))),
        nn.AvgPool2d(2),
        head(12),
    ),
    "squeezenet": lambda: nn.Sequential(
        conv(3, 8, 3, 2),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        joined(conv(8, 4, 1), conv(8, 4)),
        head(8),
    ),
    "inception": lambda: nn.Sequential(
        conv(3, 8, 3, 2),
        joined(
            conv(8, 4, 1),
            nn.Sequential(conv(8, 4, 1), conv(4, 4, 5)),
            nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), conv(8, 4, 1)),
            nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(8, 4, 1)),
        ),
        head(16),
    ),
    "csp": lambda: nn.Sequential(
        conv(3, 8, 3, 2),
        joined(conv(8, 4, 1), nn.Sequential(conv(8, 4, 1), plus(conv(4, 4, 1), conv(4, 4)))),
        head(8),
    ),
    "unet": unet,
    "aspp": aspp,
    "pyramid": pyramid,
    "hrnet": resolutions,
    "fast-scnn": lambda: nn.Sequential(
        conv(3, 8, 3, 2), conv(8, 8, 3, 2, groups=8), conv(8, 8, 1), nn.Upsample(scale_factor=4)
    ),
    "autoencoder": lambda: nn.Sequential(
        conv(3, 8, 3, 2),
        conv(8, 4, 3, 2),
        nn.Upsample(scale_factor=2),
        conv(4, 8),
        nn.Conv2d(8, 3, 3),
    ),
    "espcn": lambda: nn.Sequential(conv(3, 8), nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2)),
    "network-in-network": lambda: nn.Sequential(
        conv(3, 8, 5), conv(8, 8, 1), nn.AvgPool2d(3, 2, ceil_mode=True), conv(8, 5, 1), head(5)
    ),
    "spectral-norm": lambda: nn.Sequential(
        parametrizations.spectral_norm(nn.Conv2d(3, 8, 3)), nn.ReLU(), head(8)
    ),
    "global-maximum": lambda: nn.Sequential(
        conv(3, 8), Call(lambda x: x.amax((2, 3))), nn.Linear(8, 5)
    ),
    "adaptive-maximum": lambda: nn.Sequential(
        conv(3, 8), nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(32, 5)
    ),
    "smaller": lambda: nn.Sequential(nn.Upsample(scale_factor=0.5), conv(3, 8), head(8)),
    "arithmetic": lambda: nn.Sequential(
        conv(3, 8), Call(lambda x: 1 - x.square() / 4 + (-x)), head(8)
    ),
    "mixer": Mixer,
    "normalized": Normalized,
    "in-place": InPlace,
    "functional": Functional,
}
