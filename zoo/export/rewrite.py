"""Equal graphs that suit a device better."""

import dataclasses
from typing import Any

from zoo.export.graph import Graph, Op


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
