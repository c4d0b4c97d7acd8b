"""What an Ethos-U85 does on the way out of a pass: elementwise operators chained to a layer.

The compiler chains a sum, a product and the like to the layer that makes one of its inputs, if
nothing else reads that. The chained operator takes no pass of its own: it costs the output stage
of the layer, which then reads the other operand too.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from zoo.cost.ethos_u.passes import Pass
from zoo.cost.ethos_u.site import NUMBERS
from zoo.graph.ir import Graph, Op

STARTING = frozenset(
    ("conv2d", "depthwise_conv2d", "fully_connected", "avg_pool2d", "max_pool2d", *NUMBERS)
)
LONGEST = 4  # operators of a chain


def chained(graph: Graph, tables: Mapping[str, str]) -> Graph:
    """Return a graph whose chained operators are part of the layer before.

    Such a layer has the last operator's output, its attribute "chained" tells how many there are,
    and its last inputs, as many as its attribute "operands" says, are what they read beside.

    Args:
        graph: in the order in which it runs.
        tables: names of layers that apply a table, which chain nothing.

    """
    kept: dict[str, tuple[int, Op]] = {}  # by what they make, with their place
    for step, op in enumerate(graph.ops):
        maker = _maker(graph, op, kept, tables) if op.kind in NUMBERS else None
        if maker is not None:
            del kept[maker.outputs[0]]
            op = _joined(graph, maker, op)
        for name in op.outputs:
            kept[name] = step, op
    return replace(graph, ops=tuple({op.name: op for _, op in kept.values()}.values()))


def _maker(
    graph: Graph, op: Op, kept: Mapping[str, tuple[int, Op]], tables: Mapping[str, str]
) -> Op | None:
    """Return the layer that an operator is chained to: the last that makes one of its inputs."""
    made = [(kept[name], name) for name in op.inputs if name in kept]
    if not made or op.inputs[0] == op.inputs[-1]:
        return None
    (_, maker), name = max(made, key=lambda one: one[0][0])
    shape = graph.tensors[op.outputs[0]].shape
    free = len(graph.consumers[name]) == 1 and name not in graph.outputs
    few = maker.kind in NUMBERS and len(maker.inputs) < 2
    if (
        not free
        or few
        or maker.kind not in STARTING
        or maker.name in tables
        or maker.attributes.get("chained", 0) >= LONGEST
        or graph.tensors[name].shape != shape
    ):
        return None
    return maker


def _joined(graph: Graph, maker: Op, op: Op) -> Op:
    output = graph.tensors[op.outputs[0]]
    beside = [
        name
        for name in op.inputs
        if name not in maker.outputs and math.prod(graph.tensors[name].shape) == output.elements
    ]
    attributes = maker.attributes
    return replace(
        maker,
        inputs=(*maker.inputs, *beside),
        outputs=op.outputs,
        attributes={
            **attributes,
            "chained": attributes.get("chained", 0) + 1,
            "operands": attributes.get("operands", 0) + len(beside),
        },
    )


def placed(jobs: Sequence[Pass], op: Op, fast: frozenset[str] | None) -> list[Pass]:
    """Return an operator's passes with the memories that its tensors lie in.

    Args:
        jobs: its passes.
        op: the operator, with what is chained to it.
        fast: activations in the fast memory; None for all.

    """
    found = list(jobs)
    if fast is not None:
        slow = op.inputs[0] not in fast, op.outputs[0] not in fast
        ends = len(found) - 1, 0 if op.kind == "softmax" else len(found)
        found = [
            replace(
                job,
                reads_slow=slow[0] and number <= ends[1],
                writes_slow=slow[1] and number >= ends[0] - ends[1],
            )
            for number, job in enumerate(found)
        ]
    if found and (count := op.attributes.get("chained", 0)):
        number = op.attributes["operands"]
        beside = op.inputs[len(op.inputs) - number :]
        far = tuple(fast is not None and name not in fast for name in beside)
        found[-1] = replace(found[-1], chained=found[-1].chained + count, operands=far)
    return found
