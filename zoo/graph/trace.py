"""From a module to the graph IR, through `torch.export`."""

import dataclasses
import math
import operator
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn
from torch.export.graph_signature import ExportGraphSignature, InputKind, OutputKind

from zoo.errors import MismatchError
from zoo.graph.fold import absorb_padding, fold_batch_norm
from zoo.graph.ir import MAC_KINDS, Graph, Kind, Op, Tensor
from zoo.graph.program import export_program

# ATen operator -> kind and the arguments that become attributes.
_PLAIN: dict[str, tuple[str, tuple[str, ...]]] = {
    "prelu": ("prelu", ()),
    "relu": ("relu", ()),
    "relu6": ("relu6", ()),
    "leaky_relu": ("leaky_relu", ("negative_slope",)),
    "hardswish": ("hard_swish", ()),
    "silu": ("silu", ()),
    "gelu": ("gelu", ("approximate",)),
    "sigmoid": ("sigmoid", ()),
    "tanh": ("tanh", ()),
    "softmax": ("softmax", ("dim",)),
    "mean": ("mean", ("dim", "keepdim")),
    "permute": ("transpose", ("dims",)),
    "view": ("reshape", ()),
    "reshape": ("reshape", ()),
    "flatten": ("reshape", ()),
    "squeeze": ("reshape", ()),
    "unsqueeze": ("reshape", ()),
}
# Relative: far below what moves a sample by a step of its 2^-10 grid.
_SAME_FACTOR = 1e-6
_ALIASES = frozenset({"contiguous", "clone", "dropout", "alias", "detach", "identity"})


def trace(module: nn.Module, input_shape: tuple[int, ...], *, values: bool = False) -> Graph:
    """Return the graph of a deployed module for one input of this shape, e.g. (N, C, H, W).

    The module is in eval mode. Nothing is computed, so it may be on the meta device. Batch
    normalisations are folded into the layers before them, or become layers; with `values` the
    graph also holds the constants.

    Raises:
        MismatchError: the module is in training mode, cannot be exported (the shape does not
            fit, or control flow depends on values), or uses an operator without a mapping.

    """
    program = export_program(module, input_shape)
    state = _state(module) if values else {}
    graph = absorb_padding(_Tracer(program.graph_signature).run(program.graph))
    return fold_batch_norm(graph, state)


def _state(module: nn.Module) -> dict[str, NDArray[np.float32]]:
    # A shared tensor under each of its names: which one the exporter takes is its own affair.
    tensors: dict[str, torch.Tensor] = dict(module.named_parameters(remove_duplicate=False))
    tensors |= dict(module.named_buffers(remove_duplicate=False))
    if any(tensor.is_meta for tensor in tensors.values()):
        raise MismatchError(
            f"{type(module).__name__} is on the meta device, where parameters have no values, and "
            "what is asked for needs them: build it on the CPU; without values there is "
            'zoo.estimate(..., method="roofline")'
        )
    return {name: t.detach().to("cpu", torch.float32).numpy() for name, t in tensors.items()}


class _Tracer:
    """Walks an exported graph once and collects ops and tensors."""

    def __init__(self, signature: ExportGraphSignature) -> None:
        self.sources = {
            spec.arg.name: spec.target or ""
            for spec in signature.input_specs
            if spec.kind is not InputKind.USER_INPUT
        }
        # What is changed in place (an input by a first ReLU) is given back beside the outputs.
        self.wanted = [spec.kind is OutputKind.USER_OUTPUT for spec in signature.output_specs]
        self.ops: list[Op] = []
        self.tensors: dict[str, Tensor] = {}
        self.names: dict[fx.Node, str] = {}  # a node that only passes a tensor on shares its name

    def run(self, graph: fx.Graph) -> Graph:
        inputs: list[str] = []
        outputs: list[str] = []
        for node in graph.nodes:
            if node.op == "placeholder" and node.name not in self.sources:
                inputs.append(self.add_tensor(node, "input"))
            elif node.op == "placeholder":
                self.names[node] = node.name  # becomes a tensor when an op first reads it
            elif node.op == "output":
                given = zip(node.args[0], self.wanted, strict=True)
                results = [item for item, wanted in given if wanted and isinstance(item, fx.Node)]
                outputs = [self.output(item) for item in results]
            else:
                self.call(node)
        return Graph(
            ops=tuple(self.ops),
            tensors=self.tensors,
            inputs=tuple(inputs),
            outputs=tuple(outputs),
        )

    def add_tensor(self, node: fx.Node, kind: Kind) -> str:
        value = node.meta["val"]
        if isinstance(value, tuple):  # an operator with by-products, which nothing reads
            value = value[0]
        self.names[node] = node.name
        self.tensors[node.name] = Tensor(
            name=node.name,
            shape=tuple(int(size) for size in value.shape),
            dtype=str(value.dtype).removeprefix("torch."),
            kind=kind,
            source=self.sources.get(node.name, ""),
        )
        return node.name

    def output(self, node: fx.Node) -> str:
        name = self.names[node]
        if name not in self.tensors or self.tensors[name].is_parameter:
            raise MismatchError(
                f"the module returns its own {self.sources[name]!r} unchanged; leave that out of "
                "its outputs, and give it to the application"
            )
        if self.tensors[name].kind == "activation":
            self.tensors[name] = dataclasses.replace(self.tensors[name], kind="output")
        return name

    def read(self, nodes: Iterable[fx.Node], roles: tuple[Kind, ...] = ()) -> tuple[str, ...]:
        """Return the names of an op's operands, typing parameters by the operand's place."""
        names = []
        for place, node in enumerate(nodes):
            name = self.names[node]
            if name in self.sources and name not in self.tensors:
                self.add_tensor(node, roles[place] if place < len(roles) else "constant")
            names.append(name)
        return tuple(names)

    def emit(
        self,
        node: fx.Node,
        kind: str,
        operands: Iterable[fx.Node],
        attributes: dict[str, Any] | None = None,
        roles: tuple[Kind, ...] = (),
    ) -> None:
        inputs = self.read(operands, roles)
        output = self.add_tensor(node, "activation")
        macs = 0
        if kind in MAC_KINDS:  # each output element is a dot product with one kernel
            macs = self.tensors[output].elements * math.prod(self.tensors[inputs[1]].shape[1:])
        self.ops.append(
            Op(
                name=node.name,
                kind=kind,
                inputs=inputs,
                outputs=(output,),
                attributes=attributes or {},
                macs=macs,
                module=_module_path(node),
            )
        )

    def call(self, node: fx.Node) -> None:
        target = node.target
        if target is operator.getitem and node.args[1] == 0 and node.args[0] in self.names:
            self.names[node] = self.names[node.args[0]]  # type: ignore[index]
            return
        if not isinstance(target, torch._ops.OpOverload):
            raise _unmapped(node, str(target))
        name = target._schema.name.split("::")[-1].rstrip("_")
        arguments = dict(zip((a.name for a in target._schema.arguments), node.args, strict=False))
        arguments = {
            a.name: {**arguments, **node.kwargs}.get(a.name, a.default_value)
            for a in target._schema.arguments
        }
        if name in _ALIASES:
            self.names[node] = self.names[node.all_input_nodes[0]]
        elif name in _PLAIN:
            kind, wanted = _PLAIN[name]
            roles: tuple[Kind, ...] = ("activation", "slope") if kind == "prelu" else ()
            attributes = {key: arguments[key] for key in wanted}
            self.emit(node, kind, node.all_input_nodes, attributes, roles)
        elif name in _HANDLERS:
            _HANDLERS[name](self, node, arguments)
        else:
            raise _unmapped(node, f"aten.{name}")


def _module_path(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {"": ("", None)}
    return str(list(stack.values())[-1][0])


def _unmapped(node: fx.Node, name: str) -> MismatchError:
    where = _module_path(node) or "the top level"
    return MismatchError(
        f"{name} at {where} has no mapping to the deployed graph: replace it by operators that "
        "devices have, or add it to zoo/graph/trace.py"
    )


def _pair(value: Any) -> tuple[int, int]:
    items = [value] if isinstance(value, int) else list(value)
    return (items[0], items[-1])


def _operands(*nodes: Any) -> list[fx.Node]:
    return [node for node in nodes if isinstance(node, fx.Node)]


def _conv2d(tracer: _Tracer, node: fx.Node, a: dict[str, Any]) -> None:
    weight, groups = a["weight"].meta["val"].shape, a["groups"]
    kernel, dilation = (int(weight[2]), int(weight[3])), _pair(a["dilation"])
    if a["padding"] == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        top, left = total[0] // 2, total[1] // 2
        padding = (top, total[0] - top, left, total[1] - left)
    else:
        vertical, horizontal = (0, 0) if a["padding"] == "valid" else _pair(a["padding"])
        padding = (vertical, vertical, horizontal, horizontal)
    depthwise = groups > 1 and groups == a["input"].meta["val"].shape[1]
    attributes = {
        "kernel": kernel,
        "stride": _pair(a["stride"]),
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
    }
    tracer.emit(
        node,
        "depthwise_conv2d" if depthwise else "conv2d",
        _operands(a["input"], a["weight"], a["bias"]),
        attributes,
        ("activation", "weight", "bias"),
    )


def _linear(tracer: _Tracer, node: fx.Node, a: dict[str, Any]) -> None:
    operands = _operands(a["input"], a["weight"], a["bias"])
    tracer.emit(node, "fully_connected", operands, None, ("activation", "weight", "bias"))


def _arithmetic(kind: str) -> Callable[[_Tracer, fx.Node, dict[str, Any]], None]:
    def handle(tracer: _Tracer, node: fx.Node, a: dict[str, Any]) -> None:
        if a.get("alpha", 1) != 1 or a.get("rounding_mode") is not None:
            raise _unmapped(node, str(node.target))
        operands, constant = _operands(a["self"], a["other"]), a["other"]
        if len(operands) == 2:
            tracer.emit(node, kind, operands)
        elif kind in ("add", "sub"):
            tracer.emit(
                node, "add", operands, {"constant": constant if kind == "add" else -constant}
            )
        else:
            tracer.emit(
                node, "mul", operands, {"constant": constant if kind == "mul" else 1 / constant}
            )

    return handle


def _clamp(tracer: _Tracer, node: fx.Node, a: dict[str, Any]) -> None:
    low, high = a.get("min", a.get("min_val")), a.get("max", a.get("max_val"))
    kind = "clamp"
    if low == 0 and high in (None, 6):
        kind = "relu" if high is None else "relu6"
    attributes = {"min": low, "max": high} if kind == "clamp" else None
    tracer.emit(node, kind, [a["self"]], attributes)


def _batch_norm(tracer: _Tracer, node: fx.Node, a: dict[str, Any]) -> None:
    names = [n for n in ("running_mean", "running_var", "weight", "bias") if a[n] is not None]
    stored = all(a[name].name in tracer.sources for name in names)
    if a.get("training") or names[:2] != ["running_mean", "running_var"] or not stored:
        raise _unmapped(node, "aten.batch_norm without running statistics of its own")
    attributes = {"epsilon": a["eps"], "parameters": tuple(names)}
    tracer.emit(node, "batch_norm", [a[name] for name in ("input", *names)], attributes)


def _concat(tracer: _Tracer, node: fx.Node, a: dict[str, Any]) -> None:
    tracer.emit(node, "concat", a["tensors"], {"dim": a["dim"]})  # one tensor may come twice


def _pixel_shuffle(tracer: _Tracer, node: fx.Node, a: dict[str, Any]) -> None:
    # Channel c * b * b + i * b + j is row i, column j of channel c (torch); TFLite's operator has
    # the cell's place first. They agree when there is one channel.
    tracer.emit(node, "depth_to_space", [a["self"]], {"block": a["upscale_factor"]})


def _resize(
    kind: str, *, exact: bool = False
) -> Callable[[_Tracer, fx.Node, dict[str, Any]], None]:
    def handle(tracer: _Tracer, node: fx.Node, a: dict[str, Any]) -> None:
        corners = bool(a.get("align_corners", False))
        size = tuple(int(n) for n in node.meta["val"].shape[-2:])
        before = a[next(iter(a))].meta["val"].shape[-2:]
        if kind == "resize_nearest" and any(n % int(m) for n, m in zip(size, before, strict=True)):
            raise _unmapped(
                node, f"{node.target} from {tuple(before)} to {size}, no whole multiple,"
            )
        if not corners:
            _check_factors(node, a, size, before)
        attributes = {
            "size": size,
            "align_corners": corners,
            # torch's nearest takes the pixel to the left; the others look from pixel centres.
            "half_pixel_centers": not corners and (kind == "resize_bilinear" or exact),
        }
        tracer.emit(node, kind, node.all_input_nodes[:1], attributes)

    return handle


def _check_factors(
    node: fx.Node, a: dict[str, Any], size: tuple[int, ...], before: tuple[int, ...]
) -> None:
    """Raise where torch samples by another factor than the ratio of the sizes, as devices do."""
    factors = a.get("scale_factors") or (a.get("scales_h"), a.get("scales_w"))
    for factor, given, made in zip(factors, before, size, strict=True):
        if factor is not None and abs(factor * int(given) / made - 1) > _SAME_FACTOR:
            raise MismatchError(
                f"interpolate at {_module_path(node) or 'the top level'} enlarges by {factor:g}, "
                f"which makes {made} pixels of {int(given)}; devices sample by the ratio of the "
                f"sizes, {made / int(given):.4g}: give size={size}, or "
                "recompute_scale_factor=True, to do the same"
            )


def _pool2d(kind: str) -> Callable[[_Tracer, fx.Node, dict[str, Any]], None]:
    def handle(tracer: _Tracer, node: fx.Node, a: dict[str, Any]) -> None:
        kernel, (vertical, horizontal) = _pair(a["kernel_size"]), _pair(a["padding"])
        if a["ceil_mode"] or a.get("divisor_override") is not None:
            raise _unmapped(node, f"{node.target} with ceil_mode or divisor_override")
        attributes = {
            "kernel": kernel,
            "stride": _pair(a["stride"]) if a["stride"] else kernel,
            "padding": (vertical, vertical, horizontal, horizontal),
            "dilation": _pair(a.get("dilation", 1)),
            "count_padding": bool(a.get("count_include_pad", False)),
        }
        tracer.emit(node, kind, [a["self"]], attributes)

    return handle


def _adaptive_avg_pool2d(tracer: _Tracer, node: fx.Node, a: dict[str, Any]) -> None:
    size, wanted = a["self"].meta["val"].shape[-2:], _pair(a["output_size"])
    if any(int(have) % want for have, want in zip(size, wanted, strict=True)):
        raise _unmapped(node, f"aten.adaptive_avg_pool2d from {tuple(size)} to {wanted}")
    kernel = (int(size[0]) // wanted[0], int(size[1]) // wanted[1])
    attributes = {"kernel": kernel, "stride": kernel, "padding": (0, 0, 0, 0)}
    attributes |= {"dilation": (1, 1), "count_padding": False}  # type: ignore[dict-item]
    tracer.emit(node, "avg_pool2d", [a["self"]], attributes)


def _pad(tracer: _Tracer, node: fx.Node, a: dict[str, Any]) -> None:
    if a.get("mode", "constant") != "constant":
        raise _unmapped(node, f"aten.pad with mode {a['mode']!r}")
    # torch lists the last dimension first: (left, right, top, bottom, ...).
    attributes = {"padding": tuple(a["pad"]), "value": a["value"] or 0}
    tracer.emit(node, "pad", [a["self"]], attributes)


_HANDLERS: dict[str, Callable[[_Tracer, fx.Node, dict[str, Any]], None]] = {
    "batch_norm": _batch_norm,
    # What becomes of it where an operator in place is made pure, see `export_program`.
    "_native_batch_norm_legit_no_training": _batch_norm,
    "conv2d": _conv2d,
    "linear": _linear,
    "add": _arithmetic("add"),
    "sub": _arithmetic("sub"),
    "mul": _arithmetic("mul"),
    "div": _arithmetic("div"),
    "clamp": _clamp,
    "hardtanh": _clamp,
    "cat": _concat,
    "pixel_shuffle": _pixel_shuffle,
    "upsample_nearest2d": _resize("resize_nearest"),
    "_upsample_nearest_exact2d": _resize("resize_nearest", exact=True),
    "upsample_bilinear2d": _resize("resize_bilinear"),
    "max_pool2d": _pool2d("max_pool2d"),
    "avg_pool2d": _pool2d("avg_pool2d"),
    "adaptive_avg_pool2d": _adaptive_avg_pool2d,
    "pad": _pad,
    "constant_pad_nd": _pad,
}
