"""Int8 graphs written layer by layer, with random weights: no module, no trace, no calibration."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from zoo.graph.ir import Graph, Op, Quantization, Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

Pair = tuple[int, int]


class Builder:
    """Writes one graph, channels last, of batch 1.

    How weights are spread is drawn once for the network and varied from layer to layer: the share
    of zeros, the number of distinct values, and a normal or a heavy-tailed distribution; what an
    accelerator stores depends on them.
    """

    def __init__(self, rng: np.random.Generator, height: int, width: int, channels: int) -> None:
        """Start with an input (1, height, width, channels)."""
        self.rng = rng
        self.ops: list[Op] = []
        self.tensors: dict[str, Tensor] = {}
        self.values: dict[str, NDArray[Any]] = {}
        self.zeros = float(rng.uniform(0.1, 0.95)) if rng.random() < 0.5 else 0.0
        self.levels = int(2 ** rng.uniform(1.5, 6.5)) if rng.random() < 0.4 else 255
        self.heavy = bool(rng.random() < 0.5)
        self.explicit = bool(rng.random() < 0.4)  # strides after an operator that pads, as PyTorch
        self.activation = str(rng.choice(["relu", "relu", "relu6"]))
        self.input = self._tensor((1, height, width, channels), "input")

    def graph(self, *outputs: str) -> Graph:
        """Return the graph whose results these are."""
        ends = {name: Tensor(**{**vars(self.tensors[name]), "kind": "output"}) for name in outputs}
        return Graph(
            ops=tuple(self.ops),
            tensors={**self.tensors, **ends},
            inputs=(self.input,),
            outputs=outputs,
            layout="channels_last",
            values=self.values,
        )

    @property
    def weights(self) -> int:
        """How many weights there are so far."""
        return sum(value.size for value in self.values.values() if value.dtype == np.int8)

    def draw(self, low: int, high: int) -> int:
        """Return a number of channels, most often whole eights."""
        value = math.exp(self.rng.uniform(math.log(low), math.log(high)))
        step = int(self.rng.choice([8, 8, 8, 4, 1]))
        return max(low, round(value / step) * step, 1)

    def pick(self, *choices: Any) -> Any:
        """Return one of some choices."""
        return choices[int(self.rng.integers(len(choices)))]

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape (1, H, W, C)."""
        return self.tensors[name].shape

    def conv(
        self,
        x: str,
        channels: int,
        kernel: Pair = (1, 1),
        *,
        stride: int | Pair = 1,
        activation: str | None = "given",
        like: str | None = None,
    ) -> str:
        """Add a convolution, padded as TFLite's SAME."""
        return self._window("conv2d", x, channels, kernel, stride, activation, like)

    def depthwise(
        self, x: str, kernel: Pair = (3, 3), *, stride: int | Pair = 1, activation: str = "given"
    ) -> str:
        """Add a depthwise convolution, padded as TFLite's SAME."""
        channels = self.shape(x)[3]
        return self._window("depthwise_conv2d", x, channels, kernel, stride, activation, None)

    def _window(
        self,
        kind: str,
        x: str,
        channels: int,
        kernel: Pair,
        stride: int | Pair,
        activation: str | None,
        like: str | None,
    ) -> str:
        steps = (stride, stride) if isinstance(stride, int) else stride
        _, height, width, inputs = self.shape(x)
        sizes = (-(-height // steps[0]), -(-width // steps[1]))
        ends = zip(sizes, steps, kernel, (height, width), strict=True)
        rest = [max((n - 1) * s + k - size, 0) for n, s, k, size in ends]
        padding = (rest[0] // 2, rest[0] - rest[0] // 2, rest[1] // 2, rest[1] - rest[1] // 2)
        if self.explicit and max(steps) > 1 and any(padding):
            x, padding = self.pad(x, padding), (0, 0, 0, 0)
        wide = kind == "conv2d"
        shape = (channels, *kernel, inputs) if wide else (1, *kernel, channels)
        weight, bias = self._weights(shape, 0 if wide else 3, x)
        attributes: dict[str, Any] = {
            "kernel": kernel, "stride": steps, "padding": padding, "dilation": (1, 1),
            "groups": 1 if wide else channels,
        }  # fmt: skip
        self._activate(attributes, activation)
        macs = math.prod(sizes) * channels * math.prod(kernel) * (inputs if wide else 1)
        return self._op(kind, (x, weight, bias), (1, *sizes, channels), attributes, macs, like)

    def transposed(self, x: str, channels: int, kernel: int) -> str:
        """Add a transposed convolution of stride 2 that doubles both sides."""
        _, height, width, inputs = self.shape(x)
        side = (kernel - 2) // 2
        padding = (side, kernel - 2 - side) * 2
        weight, bias = self._weights((channels, kernel, kernel, inputs), 0, x)
        attributes = {
            "kernel": (kernel, kernel), "stride": (2, 2), "padding": padding,
            "size": (2 * height, 2 * width),
        }  # fmt: skip
        shape = (1, 2 * height, 2 * width, channels)
        macs = height * width * inputs * channels * kernel * kernel
        return self._op("transpose_conv2d", (x, weight, bias), shape, attributes, macs)

    def dense(self, x: str, outputs: int, *, activation: str | None = None) -> str:
        """Add a fully connected layer on all there is."""
        inputs = math.prod(self.shape(x))
        if len(self.shape(x)) != 2:
            x = self._op("reshape", (x,), (1, inputs), {"shape": (1, inputs)}, like=x)
        weight, bias = self._weights((outputs, inputs), None, x)
        attributes: dict[str, Any] = {}
        self._activate(attributes, activation)
        shape = (1, outputs)
        return self._op("fully_connected", (x, weight, bias), shape, attributes, inputs * outputs)

    def pad(self, x: str, padding: tuple[int, int, int, int]) -> str:
        """Add zeros: top, bottom, left, right."""
        _, height, width, channels = self.shape(x)
        shape = (1, height + sum(padding[:2]), width + sum(padding[2:]), channels)
        attributes = {"padding": (0, 0, *padding[2:], *padding[:2], 0, 0), "value": 0}
        return self._op("pad", (x,), shape, attributes, like=x)

    def pool(self, x: str, kind: Literal["avg_pool2d", "max_pool2d"], size: Pair) -> str:
        """Add a pool whose windows do not overlap; rows and columns that fill none are dropped."""
        _, height, width, channels = self.shape(x)
        attributes = {
            "kernel": size, "stride": size, "padding": (0, 0, 0, 0), "dilation": (1, 1),
            "count_padding": False,
        }  # fmt: skip
        shape = (1, height // size[0], width // size[1], channels)
        return self._op(kind, (x,), shape, attributes, like=x)

    def add(self, x: str, y: str, *, activation: str | None = None) -> str:
        """Add two tensors of one shape."""
        attributes: dict[str, Any] = {}
        self._activate(attributes, activation)
        return self._op("add", (x, y), self.shape(x), attributes)

    def gated(self, x: str, hidden: int) -> str:
        """Multiply by gates that see the whole picture (squeeze and excitation)."""
        _, height, width, channels = self.shape(x)
        gate = self.pool(x, "avg_pool2d", (height, width))
        gate = self.conv(self.conv(gate, hidden), channels, activation=None)
        gate = self.function(gate, "sigmoid")
        return self._op("mul", (x, gate), self.shape(x), {})

    def function(self, x: str, kind: str, **attributes: Any) -> str:
        """Add a function of each number."""
        return self._op(kind, (x,), self.shape(x), attributes)

    def concat(self, parts: Sequence[str]) -> str:
        """Join channels; all parts have the quantization of the first."""
        shape = (*self.shape(parts[0])[:3], sum(self.shape(part)[3] for part in parts))
        return self._op("concat", tuple(parts), shape, {"dim": 3}, like=parts[0])

    def doubled(self, x: str, *, smooth: bool = False) -> str:
        """Enlarge both sides twice, by repeating pixels or bilinearly."""
        _, height, width, channels = self.shape(x)
        size = (2 * height, 2 * width)
        attributes = {"size": size, "align_corners": False, "half_pixel_centers": smooth}
        kind = "resize_bilinear" if smooth else "resize_nearest"
        return self._op(kind, (x,), (1, *size, channels), attributes, like=x)

    def mean(self, x: str) -> str:
        """Add the mean over all positions."""
        attributes = {"dim": (1, 2), "keepdim": False}
        return self._op("mean", (x,), (1, self.shape(x)[3]), attributes)

    def prelu(self, x: str) -> str:
        """Add a PReLU with a slope for each channel."""
        slope, channels = f"s{len(self.tensors)}", self.shape(x)[3]
        self.tensors[slope] = Tensor(
            name=slope, shape=(1, 1, channels), dtype="int8", kind="slope", source=slope,
            quantization=Quantization(scales=(0.002,), zero_points=(0,)),
        )  # fmt: skip
        self.values[slope] = self.rng.integers(-127, 128, (1, 1, channels)).astype(np.int8)
        return self._op("prelu", (x, slope), self.shape(x), {})

    def _activate(self, attributes: dict[str, Any], activation: str | None) -> None:
        if activation is not None:
            attributes["activation"] = self.activation if activation == "given" else activation

    def _op(
        self,
        kind: str,
        inputs: tuple[str, ...],
        shape: tuple[int, ...],
        attributes: dict[str, Any],
        macs: int = 0,
        like: str | None = None,
    ) -> str:
        output = self._tensor(shape, "activation", like)
        if kind in ("sigmoid", "softmax"):  # runtimes fix what their results mean
            fixed = Quantization(scales=(1 / 256,), zero_points=(-128,))
            self.tensors[output] = Tensor(**{**vars(self.tensors[output]), "quantization": fixed})
        name = f"{kind}_{len(self.ops)}"
        self.ops.append(
            Op(
                name=name, kind=kind, inputs=inputs, outputs=(output,), attributes=attributes,
                macs=macs, module=name,
            )
        )  # fmt: skip
        return output

    def _tensor(
        self, shape: tuple[int, ...], kind: Literal["input", "activation"], like: str | None = None
    ) -> str:
        name = f"t{len(self.tensors)}"
        scale = float(np.float32(self.rng.uniform(0.01, 0.1)))
        meaning = Quantization(scales=(scale,), zero_points=(int(self.rng.integers(-20, 20)),))
        if like is not None:
            given = self.tensors[like].quantization
            assert given is not None
            meaning = given
        self.tensors[name] = Tensor(
            name=name, shape=shape, dtype="int8", kind=kind, quantization=meaning
        )
        return name

    def _weights(self, shape: tuple[int, ...], axis: int | None, x: str) -> tuple[str, str]:
        """Add weights and biases of a layer that reads `x`; return their names."""
        value = self._values(shape, axis)
        outputs = shape[axis] if axis is not None else shape[0]
        count = 1 if axis is None else outputs
        drawn = self.rng.uniform(1e-3, 5e-3, count).astype(np.float32)
        weight, bias = f"w{len(self.tensors)}", f"b{len(self.tensors)}"
        read = self.tensors[x].quantization
        assert read is not None
        scales = tuple(float(one) for one in drawn)
        sums = tuple(float(np.float32(read.scale * one)) for one in scales)
        zeros = (0,) * count
        self.tensors[weight] = Tensor(
            name=weight, shape=shape, dtype="int8", kind="weight", source=weight,
            quantization=Quantization(scales=scales, zero_points=zeros, axis=axis),
        )  # fmt: skip
        self.tensors[bias] = Tensor(
            name=bias, shape=(outputs,), dtype="int32", kind="bias", source=bias,
            quantization=Quantization(
                scales=sums, zero_points=zeros, axis=None if axis is None else 0
            ),
        )  # fmt: skip
        self.values[weight] = value
        self.values[bias] = self.rng.integers(-2000, 2000, outputs).astype(np.int32)
        return weight, bias

    def _values(self, shape: tuple[int, ...], axis: int | None) -> "NDArray[np.int8]":
        """Return int8 weights, as the spread that was drawn for the network has them."""
        rng = self.rng
        drawn = (rng.laplace if self.heavy else rng.normal)(size=shape).astype(np.float32)
        axes = tuple(i for i in range(len(shape)) if i != axis)
        largest = np.abs(drawn).max(axis=axes if axis is not None else None, keepdims=True)
        unit = drawn / largest
        half = max(1, min(127, round(self.levels * rng.uniform(0.8, 1.25) / 2)))
        value = np.rint(np.rint(unit * half) * (127 / half))
        if self.zeros:
            share = min(0.98, self.zeros * rng.uniform(0.8, 1.15))
            value[np.abs(unit) < np.quantile(np.abs(unit), share)] = 0
        return value.astype(np.int8)
