"""Equal graphs that suit a device better."""

import dataclasses
from typing import Any

import numpy as np

from zoo.export.graph import Graph, Op, Tensor


def on_npu(graph: Graph) -> Graph:
    """Return a graph that gives the same values without DEPTH_TO_SPACE, which no Ethos-U runs.

    For one sample and one output channel, (1, H, W, b*b) to (1, bH, bW, 1) is a transposition:
    (H, W, b, b) -> (H, b, W, b). Others keep their operator.
    """
    ops: list[Op] = []
    tensors = dict(graph.tensors)
    for op in graph.ops:
        output = tensors[op.outputs[0]]
        if op.kind != "depth_to_space" or output.shape[0] != 1 or output.shape[3] != 1:
            ops.append(op)
            continue
        _, height, width, _ = tensors[op.inputs[0]].shape
        block = op.attributes["block"]
        shapes = ((height, width, block, block), (height, block, width, block))
        cells, rows = (f"{op.name}.cells", f"{op.name}.rows")
        for name, shape in zip((cells, rows), shapes, strict=True):
            tensors[name] = dataclasses.replace(output, name=name, shape=shape, kind="activation")
        parts: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
            ("reshape", op.inputs[0], cells, {}),
            ("transpose", cells, rows, {"dims": (0, 2, 1, 3)}),
            ("reshape", rows, output.name, {}),
        )
        ops += [
            dataclasses.replace(
                op, name=out, kind=kind, inputs=(source,), outputs=(out,), attributes=attributes
            )
            for kind, source, out, attributes in parts
        ]
    return dataclasses.replace(graph, ops=tuple(ops), tensors=tensors)


def without_clamps(graph: Graph) -> Graph:
    """Return an equal float graph whose fused clamps are MAXIMUM and MINIMUM with a scalar.

    An int8 graph needs none: its outputs' ranges saturate at the limits.
    """
    ops: list[Op] = []
    tensors, values = dict(graph.tensors), dict(graph.values)
    for op in graph.ops:
        if op.attributes.get("activation") != "clamp":
            ops.append(op)
            continue
        output = tensors[op.outputs[0]]
        limits = zip(("maximum", "minimum"), op.attributes["activation_limits"], strict=True)
        parts = [(kind, limit) for kind, limit in limits if limit is not None]
        names = [*(f"{op.name}.{place}" for place in range(len(parts))), output.name]
        plain = {k: v for k, v in op.attributes.items() if not k.startswith("activation")}
        ops.append(dataclasses.replace(op, attributes=plain, outputs=(names[0],)))
        for place, (kind, limit) in enumerate(parts):
            source, scalar = names[place], f"{op.name}.{kind}"
            shape = (1,) * len(output.shape)
            tensors[source] = dataclasses.replace(output, name=source, kind="activation")
            tensors[scalar] = Tensor(name=scalar, shape=shape, dtype="float32", kind="constant")
            values[scalar] = np.full(shape, limit, np.float32)
            ops.append(
                dataclasses.replace(
                    op,
                    name=scalar,
                    kind=kind,
                    inputs=(source, scalar),
                    outputs=(names[place + 1],),
                    attributes={},
                    macs=0,
                )
            )
    return dataclasses.replace(graph, ops=tuple(ops), tensors=tensors, values=values)
