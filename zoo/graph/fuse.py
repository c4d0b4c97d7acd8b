"""Activations that an op applies to its own result."""

import dataclasses

from zoo.graph.ir import Graph, Op
from zoo.graph.kinds import FUSING, MOVEMENT, SCALAR_ACTIVATIONS

# What a fused activation cuts off; a clamp has its own limits, in the op's attributes.
LIMITS: dict[str, tuple[float | None, float | None]] = {
    "relu": (0.0, None),
    "relu6": (0.0, 6.0),
    "relu_n1_to_1": (-1.0, 1.0),  # in files only
}


def fuse(graph: Graph, activations: frozenset[str]) -> Graph:
    """Move each activation of these kinds into the op that produces its input.

    This is what runtimes do: the activation is applied on the way out, and the tensor in between is
    never stored. It needs a producer of a kind that fuses, without an activation yet, whose result
    nothing else reads. Activations that act on single elements also move ahead of reshapes,
    transposes and depth-to-space, with which they commute.
    """
    for op in graph.ops:
        if op.kind in activations:
            graph = _fuse_one(graph, op)
    return graph


def without_detours(graph: Graph) -> Graph:
    """Return the graph, in the layout "torch", without reshapes that the next one undoes.

    Layers of signals, (N, C, 1, L) inside and (N, C, L) between, leave such pairs.
    """
    origin: dict[str, str] = {}  # of what a reshape makes: what was reshaped
    same: dict[str, str] = {}
    ops = []
    for op in graph.ops:
        op = dataclasses.replace(op, inputs=tuple(same.get(name, name) for name in op.inputs))
        if op.kind == "reshape":
            source, output = origin.get(op.inputs[0], op.inputs[0]), op.outputs[0]
            origin[output] = source
            unchanged = graph.tensors[source].shape == graph.tensors[output].shape
            if unchanged and output not in graph.outputs:
                same[output] = source
                continue
            op = dataclasses.replace(op, inputs=(source,))
        ops.append(op)
    read = {name for op in ops for name in op.inputs} | set(graph.outputs)
    kept = tuple(op for op in ops if op.kind != "reshape" or read.intersection(op.outputs))
    return dataclasses.replace(graph, ops=kept)


def _fuse_one(graph: Graph, op: Op) -> Graph:
    source = op.inputs[0]
    while (producer := graph.producers.get(source)) is not None:
        if source in graph.outputs or len(graph.consumers[source]) > 1:
            return graph
        if op.kind not in SCALAR_ACTIVATIONS or producer.kind not in MOVEMENT:
            break
        source = producer.inputs[0]
    if producer is None or producer.kind not in FUSING or "activation" in producer.attributes:
        return graph
    fused = {**producer.attributes, "activation": op.kind}
    if op.kind == "clamp":
        fused["activation_limits"] = (op.attributes["min"], op.attributes["max"])
    # The op's own output takes the place of its input, in whatever op makes or reads that.
    old, new = op.inputs[0], op.outputs[0]
    ops = []
    for other in graph.ops:
        if other is op:
            continue
        if other is producer:
            other = dataclasses.replace(
                other, attributes=fused, inputs=(*other.inputs, *op.inputs[1:])
            )
        if old in other.outputs:
            other = dataclasses.replace(other, outputs=(new,))
        ops.append(other)
    tensors = {name: tensor for name, tensor in graph.tensors.items() if name != old}
    return dataclasses.replace(graph, ops=tuple(ops), tensors=tensors)
