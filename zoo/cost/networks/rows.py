"""A network as a row of plain data, with what a compiler says of it; and the graph of a row.

Weights are not kept: of each layer the row has their number, their zeros, distinct values and
entropy, and the bytes that the accelerators' weight code needs for them.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from zoo.cost.ethos_u.encoding import Coding, encoded_bytes
from zoo.graph.ir import Graph, Op, Tensor

Row = dict[str, Any]
UNITS = {"conv2d": "conv", "depthwise_conv2d": "depthwise", "fully_connected": "vector"}
UNITS |= {"transpose_conv2d": "conv"}
STREAMS = ("coded_bytes", "coded_bytes_two_cores")  # of the weights, by the number of cores
DEPTH = 8  # output channels at once of all Ethos-U55 and U65 but the smallest


def described(graph: Graph) -> Row:
    """Return the tensors and the operators of a graph."""
    places = {name: place for place, name in enumerate(graph.tensors)}
    return {
        "macs": graph.macs,
        "weight_bytes": graph.weight_bytes("int8"),
        "inputs": [places[name] for name in graph.inputs],
        "outputs": [places[name] for name in graph.outputs],
        "tensors": [
            {"shape": list(t.shape), "dtype": t.dtype, "kind": t.kind}
            for t in graph.tensors.values()
        ],
        "operators": [_operator(graph, op, places) for op in graph.ops],
    }


def _operator(graph: Graph, op: Op, places: Mapping[str, int]) -> Row:
    return {
        "kind": op.kind,
        "inputs": [places[name] for name in op.inputs],
        "outputs": [places[name] for name in op.outputs],
        "attributes": json.dumps(op.attributes, sort_keys=True),
        "macs": op.macs,
        **_spread(graph, op),
    }


def _spread(graph: Graph, op: Op) -> Row:
    """Return how the weights of an operator are spread; zeros where it has none."""
    if op.kind not in UNITS or op.inputs[1] not in graph.values:
        none = dict.fromkeys(("weights", "zeros", "levels", *STREAMS), 0)
        return {**none, "entropy_bits": 0.0}
    values = graph.values[op.inputs[1]]
    counts = np.bincount(values.astype(np.int64).ravel() + 256)
    shares = counts[counts > 0] / values.size
    return {
        "weights": values.size,
        "zeros": int(counts[256]) if counts.size > 256 else 0,
        "levels": int((counts > 0).sum()),
        "entropy_bits": round(float(-(shares * np.log2(shares)).sum()), 4),
        **{
            name: encoded_bytes(graph, op, Coding(UNITS[op.kind], DEPTH, cores=cores))
            for cores, name in enumerate(STREAMS, 1)
        },
    }


def label(target: str, found: Mapping[str, Any], clock_hz: float, operators: int) -> Row:
    """Return what the compiler says of a network for a target.

    Args:
        target: its name.
        found: the compiler's report, see `zoo.deploy.vela_process`.
        clock_hz: of the target's system.
        operators: how many the network has.

    """
    numbers = {row["id"]: int(row["ext_key"] or -1) for row in found["tables"]["source"]}
    cycles: Counter[int] = Counter()
    held: Counter[int] = Counter()
    for row in found["tables"]["perf"]:
        place = numbers.get(row["source_id"], -1)
        cycles[place] += int(row["op_cycles"] or 0)
        held[place] = max(held[place], int(row["staging_usage"] or 0))
    peaks = {name.lower(): size for name, size in found["peaks"].items()}
    return {
        "target": target,
        "latency_ms": 1e3 * found["totalCycles"] / clock_hz,
        "cycles": found["totalCycles"],
        "sram_bytes": peaks.get("sram", 0),
        "dram_bytes": peaks.get("dram", 0),
        "encoded_bytes": found["encodedWeights"],
        "host_operators": found["cpuOps"],
        "operator_cycles": [cycles[place] for place in range(operators)],
        "operator_sram": [held[place] for place in range(operators)],
    }


def graph_of(row: Row) -> Graph:
    """Return the graph of a row, without values of weights; layers have their coded bytes."""
    names = [f"t{place}" for place in range(len(row["tensors"]))]
    tensors = {
        name: Tensor(
            name=name,
            shape=tuple(one["shape"]),
            dtype=one["dtype"],
            kind=one["kind"],
            source=name if one["kind"] in ("weight", "bias", "slope", "constant") else "",
        )
        for name, one in zip(names, row["tensors"], strict=True)
    }
    ops = []
    for place, one in enumerate(row["operators"]):
        attributes = {name: _tuples(v) for name, v in json.loads(one["attributes"]).items()}
        if one["weights"]:
            sizes = (one.get(name, one[STREAMS[0]]) for name in STREAMS)  # older rows have one
            attributes["encoded_bytes"] = tuple(sizes)
        ops.append(
            Op(
                name=f"{one['kind']}_{place}",
                kind=one["kind"],
                inputs=tuple(names[i] for i in one["inputs"]),
                outputs=tuple(names[i] for i in one["outputs"]),
                attributes=attributes,
                macs=one["macs"],
                module=f"{one['kind']}_{place}",
            )
        )
    return Graph(
        ops=tuple(ops),
        tensors=tensors,
        inputs=tuple(names[i] for i in row["inputs"]),
        outputs=tuple(names[i] for i in row["outputs"]),
        layout="channels_last",
    )


def without_values(graph: Graph) -> Graph:
    """Return a graph as its row has it: layers with their coded bytes, no weights."""
    spread = {op.name: _spread(graph, op) for op in graph.ops}
    sizes = {name: tuple(found[key] for key in STREAMS) for name, found in spread.items()}
    ops = [
        dataclasses.replace(op, attributes={**op.attributes, "encoded_bytes": sizes[op.name]})
        if all(sizes[op.name])
        else op
        for op in graph.ops
    ]
    return dataclasses.replace(graph, ops=tuple(ops), values={})


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
