"""`FloatNetwork`: a channels-last float graph as a module; what calibration observes."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import MismatchError
from zoo.graph.ir import Graph, Op
from zoo.runtime.integer_moves import depth_to_space, nearest_pixels, pad_image

Observer = Callable[[str, Tensor], None]


class FloatNetwork(nn.Module):
    """Runs a float graph in the layout "channels_last", on the CPU.

    Args:
        graph: with values, from `zoo.graph.lower` or from a float `.tflite` file.

    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        for op in graph.ops:
            if op.kind not in KERNELS:
                raise MismatchError(f"{op.label} has no float semantics here")
        wrong = [t.name for t in graph.tensors.values() if t.dtype != "float32"]
        if wrong or graph.layout != "channels_last":
            raise MismatchError(f"a float network needs float32 tensors; {wrong[:1]} is not")
        self._values = {name: torch.from_numpy(v.copy()) for name, v in graph.values.items()}

    @torch.inference_mode()
    def forward(
        self, *inputs: Tensor, observe: Observer | None = None
    ) -> Tensor | tuple[Tensor, ...]:
        """Return the output (a tuple if there are several).

        `observe` is told the name and value of every activation.
        """
        values = dict(self._values)
        for name, given in zip(self.graph.inputs, inputs, strict=True):
            values[name] = given
            if observe:
                observe(name, given)
        for op in self.graph.ops:
            result = KERNELS[op.kind](self.graph, op, *(values[name] for name in op.inputs))
            values[op.outputs[0]] = result = activated(op, result)
            if observe:
                observe(op.outputs[0], result)
        results = tuple(values[name] for name in self.graph.outputs)
        return results[0] if len(results) == 1 else results


def activated(op: Op, x: Tensor) -> Tensor:
    """Apply the activation that is fused into an op."""
    activation = op.attributes.get("activation")
    if activation is None:
        return x
    limits = {"relu": (0.0, None), "relu6": (0.0, 6.0), "relu_n1_to_1": (-1.0, 1.0)}
    low, high = limits.get(activation) or op.attributes["activation_limits"]
    return x.clamp(low, high)


def _conv2d(graph: Graph, op: Op, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    order = (3, 0, 1, 2) if op.kind == "depthwise_conv2d" else (0, 3, 1, 2)
    image = pad_image(x.permute(0, 3, 1, 2), op.attributes["padding"])
    kernel = weight.permute(order)
    groups = image.shape[1] // kernel.shape[1]
    stride, dilation = op.attributes["stride"], op.attributes["dilation"]
    return F.conv2d(image, kernel, bias, stride, 0, dilation, groups).permute(0, 2, 3, 1)


def _fully_connected(
    graph: Graph, op: Op, x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    rows = F.linear(x.reshape(-1, weight.shape[1]), weight, bias)
    return rows.reshape(-1, *graph.tensors[op.outputs[0]].shape[1:])


def _avg_pool2d(graph: Graph, op: Op, x: Tensor) -> Tensor:
    kernel, stride, padding = (op.attributes[key] for key in ("kernel", "stride", "padding"))

    def sums(image: Tensor) -> Tensor:
        return F.avg_pool2d(pad_image(image, padding), kernel, stride, divisor_override=1)

    count = sums(x.new_ones(1, 1, *x.shape[1:3]))
    return (sums(x.permute(0, 3, 1, 2)) / count).permute(0, 2, 3, 1)


def _max_pool2d(graph: Graph, op: Op, x: Tensor) -> Tensor:
    image = pad_image(x.permute(0, 3, 1, 2), op.attributes["padding"], -math.inf)
    return F.max_pool2d(image, op.attributes["kernel"], op.attributes["stride"]).permute(0, 2, 3, 1)


def _mean(graph: Graph, op: Op, x: Tensor) -> Tensor:
    return x.mean(tuple(op.attributes["dim"]), keepdim=bool(op.attributes["keepdim"]))


def _prelu(graph: Graph, op: Op, x: Tensor, slope: Tensor) -> Tensor:
    if x.ndim == 4 and slope.numel() == x.shape[-1]:  # per channel: one fused kernel
        return F.prelu(x.permute(0, 3, 1, 2), slope.flatten()).permute(0, 2, 3, 1)
    return torch.where(x >= 0, x, x * slope)


def _reshape(graph: Graph, op: Op, x: Tensor) -> Tensor:
    before, after = (graph.tensors[n].shape for n in (op.inputs[0], op.outputs[0]))
    free = before[:1] == after[:1]
    return x.reshape(x.shape[0] if free else after[0], *after[1:])


def _resize_nearest(graph: Graph, op: Op, x: Tensor) -> Tensor:
    rows, columns = nearest_pixels(graph, op)
    return x[:, rows][:, :, columns]


def _resize_bilinear(graph: Graph, op: Op, x: Tensor) -> Tensor:
    corners = op.attributes["align_corners"]
    if not corners and not op.attributes["half_pixel_centers"]:
        raise MismatchError(f"{op.label} looks from pixel corners, which has no float form here")
    image, size = x.permute(0, 3, 1, 2), op.attributes["size"]
    return F.interpolate(image, size, mode="bilinear", align_corners=corners).permute(0, 2, 3, 1)


KERNELS: dict[str, Callable[..., Tensor]] = {
    "conv2d": _conv2d,
    "depthwise_conv2d": _conv2d,
    "fully_connected": _fully_connected,
    "avg_pool2d": _avg_pool2d,
    "max_pool2d": _max_pool2d,
    "mean": _mean,
    "reshape": _reshape,
    "add": lambda graph, op, x, y: x + y,
    "sub": lambda graph, op, x, y: x - y,
    "mul": lambda graph, op, x, y: x * y,
    "maximum": lambda graph, op, x, y: torch.maximum(x, y),
    "minimum": lambda graph, op, x, y: torch.minimum(x, y),
    "relu": lambda graph, op, x: x.relu(),
    "relu6": lambda graph, op, x: x.clamp(0, 6),
    "prelu": _prelu,
    "softmax": lambda graph, op, x: torch.softmax(x * op.attributes["beta"], -1),
    "concat": lambda graph, op, *parts: torch.cat(parts, op.attributes["dim"]),
    "pad": lambda graph, op, x: F.pad(x, op.attributes["padding"], value=op.attributes["value"]),
    "transpose": lambda graph, op, x: x.permute(op.attributes["dims"]),
    "resize_nearest": _resize_nearest,
    "resize_bilinear": _resize_bilinear,
    "depth_to_space": lambda graph, op, x: depth_to_space(x, op.attributes["block"]),
}
