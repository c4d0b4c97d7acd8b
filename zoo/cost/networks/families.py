"""Families of random networks, each a search space: what a predictor of costs is taught on.

A family is a function that writes one network with a `Builder`, all sizes drawn from its random
numbers. Their forms are those of published networks for small devices.
"""

import math
from collections.abc import Callable

import numpy as np

from zoo.cost.networks.builder import Builder
from zoo.graph.ir import Graph

MOST_WEIGHTS = 600_000
MOST_MACS = 400_000_000

Draw = Callable[[np.random.Generator], Graph]


def _picture(rng: np.random.Generator, low: int, high: int) -> Builder:
    side = int(math.exp(rng.uniform(math.log(low), math.log(high))))
    wide = side if rng.random() < 0.7 else int(side * rng.uniform(0.6, 1.8))
    return Builder(rng, max(side, 8), max(wide, 8), int(rng.choice([1, 3, 3])))


def _small(builder: Builder, x: str, side: int = 4) -> bool:
    return min(builder.shape(x)[1:3]) < side


def _classes(b: Builder, x: str) -> Graph:
    """End with a pool over all positions and a layer, as classifiers do."""
    if b.rng.random() < 0.25:
        x = b.mean(x)
    else:
        x = b.pool(x, "avg_pool2d", (min(b.shape(x)[1], 64), min(b.shape(x)[2], 64)))
    x = b.dense(x, b.pick(2, 10, 12, 100, 200))
    return b.graph(b.function(x, "softmax", dim=1, beta=1.0) if b.rng.random() < 0.6 else x)


def _stage(b: Builder, x: str) -> int:
    """Return the stride of a stage's first layer."""
    return 1 if _small(b, x, 6) else 2


def plain(rng: np.random.Generator) -> Graph:
    """Return convolutions and pools (as VGG)."""
    b = _picture(rng, 16, 112)
    x, width = b.input, b.draw(4, 24)
    for _ in range(b.pick(2, 3, 4)):
        for _ in range(b.pick(1, 2, 3)):
            side = b.pick(1, 3, 3, 3, 5)
            x = b.conv(x, width, (side, side))
        if not _small(b, x):
            x = b.pool(x, b.pick("max_pool2d", "avg_pool2d"), (2, 2))
        width = max(1, int(width * b.pick(1, 1.5, 2)))
    return _classes(b, x)


def residual(rng: np.random.Generator) -> Graph:
    """Return blocks of two convolutions and an addition (as ResNet)."""
    b = _picture(rng, 16, 128)
    width = b.draw(4, 24)
    side = b.pick(3, 3, 5, 7)
    x = b.conv(b.input, width, (side, side), stride=b.pick(1, 2))
    for stage in range(b.pick(2, 3, 4)):
        for block in range(b.pick(1, 2, 3)):
            stride = _stage(b, x) if stage and not block else 1
            y = b.conv(x, width, (3, 3), stride=stride)
            y = b.conv(y, width, (3, 3), activation=None)
            if b.shape(y) != b.shape(x):
                x = b.conv(x, width, stride=stride, activation=None)
            x = b.add(y, x, activation="given")
        width = max(1, int(width * b.pick(1.5, 2)))
    return _classes(b, x)


def separable(rng: np.random.Generator) -> Graph:
    """Return depthwise and pointwise convolutions (as MobileNetV1)."""
    b = _picture(rng, 24, 160)
    x = b.conv(b.input, b.draw(4, 24), (3, 3), stride=2)
    for _ in range(b.pick(3, 5, 7, 9)):
        stride = 2 if b.rng.random() < 0.4 and not _small(b, x, 6) else 1
        side = b.pick(3, 3, 3, 5)
        x = b.depthwise(x, (side, side), stride=stride)
        x = b.conv(x, min(192, int(b.shape(x)[3] * b.pick(1, 1.25, 2))))
    return _classes(b, x)


def inverted(rng: np.random.Generator) -> Graph:
    """Return narrow ends and wide middles (as MobileNetV2)."""
    b = _picture(rng, 24, 160)
    x = b.conv(b.input, b.draw(4, 20), (3, 3), stride=2)
    for _ in range(b.pick(3, 5, 7, 10)):
        x = _inverted(b, x)
    return _classes(b, b.conv(x, b.draw(32, 160)))


def _inverted(b: Builder, x: str, *, gates: bool = False, swish: bool = False) -> str:
    stride = 2 if b.rng.random() < 0.3 and not _small(b, x, 6) else 1
    width = b.shape(x)[3] if b.rng.random() < 0.5 else min(64, b.draw(8, 64))
    side = b.pick(3, 3, 5)
    wide = b.shape(x)[3] * b.pick(2, 3, 4, 6)
    y = b.conv(x, wide, activation=None if swish else "given")
    y = b.function(y, "hard_swish") if swish else y
    y = b.depthwise(y, (side, side), stride=stride)
    if gates:
        y = b.gated(y, max(4, wide // 4))
    y = b.conv(y, width, activation=None)
    return b.add(y, x) if b.shape(y) == b.shape(x) else y


def gated(rng: np.random.Generator) -> Graph:
    """Return inverted blocks with gates and hard-swish (as MobileNetV3)."""
    b = _picture(rng, 24, 128)
    x = b.conv(b.input, b.draw(4, 16), (3, 3), stride=2)
    for _ in range(b.pick(3, 5, 7)):
        x = _inverted(b, x, gates=b.pick(True, False), swish=b.pick(True, False))
    return _classes(b, x)


def fire(rng: np.random.Generator) -> Graph:
    """Return two kernels side by side, joined (as SqueezeNet)."""
    b = _picture(rng, 24, 112)
    x = b.conv(b.input, b.draw(8, 32), (3, 3), stride=2)
    for _ in range(b.pick(2, 3, 4, 6)):
        if b.rng.random() < 0.4 and not _small(b, x, 6):
            x = b.pool(x, "max_pool2d", (2, 2))
        x = b.conv(x, b.draw(4, 24))
        wide = b.draw(8, 64)
        left = b.conv(x, wide)
        x = b.concat([left, b.conv(x, wide, (3, 3), like=left)])
    return _classes(b, x)


def spectrogram(rng: np.random.Generator) -> Graph:
    """Return a separable network on frames by features (as DS-CNN and MicroNet-KWS)."""
    b = Builder(rng, b_frames(rng), int(rng.choice([10, 20, 40])), 1)
    x = b.conv(b.input, b.draw(16, 128), b.pick((10, 4), (3, 3), (8, 4)), stride=b.pick(1, 2))
    for _ in range(b.pick(2, 3, 4, 6)):
        stride = 2 if b.rng.random() < 0.2 and not _small(b, x, 6) else 1
        x = b.depthwise(x, (3, 3), stride=stride)
        x = b.conv(x, b.shape(x)[3] if b.rng.random() < 0.6 else b.draw(16, 192))
    return _classes(b, x)


def b_frames(rng: np.random.Generator) -> int:
    """Return a number of frames of a second of sound."""
    return int(rng.choice([25, 32, 49, 61, 98]))


def temporal(rng: np.random.Generator) -> Graph:
    """Return convolutions along time, features as channels (as TC-ResNet)."""
    b = Builder(rng, b_frames(rng), 1, int(rng.choice([10, 20, 40])))
    x = b.conv(b.input, b.draw(8, 32), (3, 1))
    for _ in range(b.pick(2, 3, 4)):
        stride = (2, 1) if b.shape(x)[1] > 8 else (1, 1)
        width, size = b.draw(8, 96), b.pick(3, 5, 9)
        y = b.conv(x, width, (size, 1), stride=stride)
        y = b.conv(y, width, (size, 1), activation=None)
        if b.shape(y) != b.shape(x):
            x = b.conv(x, width, stride=stride)
        x = b.add(y, x, activation="given")
    return _classes(b, x)


def dense(rng: np.random.Generator) -> Graph:
    """Return fully connected layers (as autoencoders of machine sounds)."""
    b = Builder(rng, 1, 1, int(rng.choice([40, 128, 320, 640])))
    x, width = b.input, b.draw(32, 256)
    for layer in range(b.pick(2, 4, 6, 9)):
        x = b.dense(x, b.pick(8, 16) if layer == 3 else width, activation="given")
    return b.graph(b.dense(x, b.shape(b.input)[3]))


def collapsed(rng: np.random.Generator) -> Graph:
    """Return a narrow network at full resolution with a long skip (as SESR)."""
    b = _picture(rng, 24, 96)
    side, cut = b.pick(3, 5), b.pick("given", "prelu", "leaky_relu")
    first = x = _cut(b, b.input, b.draw(8, 32), side, cut)
    for _ in range(b.pick(2, 3, 5, 7, 11)):
        x = _cut(b, x, b.shape(first)[3], 3, cut)
    x = b.add(x, first)
    side = b.pick(3, 5)
    return b.graph(b.conv(x, b.pick(4, 12, 16), (side, side), activation=None))


def _cut(b: Builder, x: str, width: int, side: int, how: str) -> str:
    """Return a convolution with the activation that a network has throughout."""
    x = b.conv(x, width, (side, side), activation="given" if how == "given" else None)
    if how == "leaky_relu":
        return b.function(x, how, negative_slope=0.1)
    return b.prelu(x) if how == "prelu" else x


def shrinking(rng: np.random.Generator) -> Graph:
    """Return a narrow middle and a transposed convolution (as FSRCNN)."""
    b = _picture(rng, 16, 64)
    wide = b.draw(16, 56)
    x = b.conv(b.conv(b.input, wide, (5, 5)), b.draw(4, 16))
    for _ in range(b.pick(1, 2, 4)):
        x = b.conv(x, b.shape(x)[3], (3, 3))
    return b.graph(b.transposed(b.conv(x, wide), 1, b.pick(4, 8)))


def _trunk(b: Builder) -> list[str]:
    """Return the results of a backbone's stages, each half as large as the one before."""
    x = b.conv(b.input, b.draw(4, 16), (3, 3), stride=2)
    found, heavy = [], b.pick(True, False)
    for _ in range(b.pick(3, 4)):
        width = b.draw(8, 64)
        x = b.conv(x, width, (3, 3), stride=2) if heavy else b.depthwise(x, stride=2)
        for _ in range(b.pick(1, 2)):
            x = b.conv(x if heavy else b.depthwise(x), width, (3, 3) if heavy else (1, 1))
        found.append(x)
    return found


def heads(rng: np.random.Generator) -> Graph:
    """Return a backbone with boxes and classes at several sizes (as SSD)."""
    b = _picture(rng, 64, 192)
    outputs = []
    anchors, classes = b.pick(3, 6), b.pick(2, 4, 21)
    for x in _trunk(b)[-b.pick(1, 2, 3) :]:
        for channels in (4 * anchors, classes * anchors):
            y = b.depthwise(x) if b.rng.random() < 0.5 else x
            outputs.append(b.conv(y, channels, b.pick((1, 1), (3, 3)), activation=None))
    return b.graph(*outputs)


def pyramid(rng: np.random.Generator) -> Graph:
    """Return a backbone whose sizes are added from the smallest up (as FPN)."""
    b = _whole(rng)
    stages = _trunk(b)
    width, smooth = b.draw(8, 48), b.pick(True, False, False)
    x = b.conv(stages[-1], width)
    outputs = [b.conv(x, b.pick(12, 18, 24), activation=None)]
    for stage in reversed(stages[:-1]):
        x = b.add(b.conv(stage, width), b.doubled(x, smooth=smooth))
        x = b.conv(x, width, (3, 3))
        outputs.append(b.conv(x, b.pick(12, 18, 24), activation=None))
    return b.graph(*outputs)


def hourglass(rng: np.random.Generator) -> Graph:
    """Return a path down and a path up that joins it (as U-Net)."""
    b = _whole(rng)
    x, width, kept = b.input, b.draw(4, 16), []
    for _ in range(b.pick(2, 3)):
        x = b.conv(b.conv(x, width, (3, 3)), width, (3, 3))
        kept.append(x)
        x, width = b.pool(x, "max_pool2d", (2, 2)), 2 * width
    x = b.conv(x, width, (3, 3))
    for beside in reversed(kept):
        width //= 2
        up = b.transposed(x, width, b.pick(2, 4)) if b.rng.random() < 0.5 else b.doubled(x)
        joined = b.concat([up, b.conv(beside, width, like=up)])
        x = b.conv(joined, width, (3, 3))
    return b.graph(b.conv(x, b.pick(1, 2, 21), activation=None))


def _whole(rng: np.random.Generator) -> Builder:
    """Return a picture whose sides can be halved five times."""
    return Builder(rng, int(rng.choice([32, 64, 96, 128])), int(rng.choice([32, 64, 96])), 3)


SPACES: dict[str, tuple[Draw, ...]] = {
    "classification": (plain, residual, separable, inverted, gated, fire),
    "keyword-spotting": (spectrogram, temporal, dense),
    "super-resolution": (collapsed, shrinking),
    "detection": (heads, pyramid, hourglass),
}
FAMILIES = {draw.__name__: (space, draw) for space, some in SPACES.items() for draw in some}


def network(seed: int, index: int) -> tuple[str, Graph]:
    """Return the family and the graph of a number; the same ones for the same seed, anywhere.

    A draw with more than `MOST_WEIGHTS` or `MOST_MACS` is drawn again.
    """
    rng = np.random.default_rng([seed, index])
    name = list(FAMILIES)[index % len(FAMILIES)]
    while True:
        graph = FAMILIES[name][1](rng)
        if graph.macs <= MOST_MACS and sum(v.size for v in graph.values.values()) <= MOST_WEIGHTS:
            return name, graph
