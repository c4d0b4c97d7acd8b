"""What each operator of a graph becomes on an Ethos-U: passes, nothing, or work for its host.

The rules follow the compiler's own rewriting, as its per-operator reports show it.
"""

import math
from collections.abc import Callable
from dataclasses import replace

from zoo.cost.ethos_u.layers import (
    convolution,
    depthwise,
    fully_connected,
    lstm,
    products,
    reduced,
    strided,
    transposed,
)
from zoo.cost.ethos_u.lowering85 import OWN
from zoo.cost.ethos_u.passes import Pass
from zoo.cost.ethos_u.site import OnHostError, Site, copy_of, pair, stride
from zoo.graph.ir import Graph, Op
from zoo.graph.operators.mathematics import FUNCTIONS

TABLES = frozenset(
    ("sigmoid", "tanh", "hard_swish", "gelu", "elu", "leaky_relu", "rsqrt", *FUNCTIONS)
)
CUTS = frozenset(("relu", "relu6", "clamp", "relu_n1_to_1"))
PRODUCERS = frozenset(
    (
        "conv2d", "depthwise_conv2d", "fully_connected", "transpose_conv2d", "add", "sub", "mul",
        "avg_pool2d", "max_pool2d",
    )
)  # fmt: skip


LONGEST_WINDOW, LARGEST_WINDOW, LONGEST_PADDED = 256, 256 * 256, 8


def _pool(site: Site) -> list[Pass]:
    kind = "max_pool" if site.op.kind == "max_pool2d" else "other"
    height, width = pair(site, "kernel")
    if height > LONGEST_WINDOW or height * width > LARGEST_WINDOW:
        raise OnHostError(f"a pool over {height}x{width}, more than Ethos-U has")
    padded = any(site.op.attributes.get("padding") or ())
    if kind == "other" and padded and max(height, width) > LONGEST_PADDED:
        raise OnHostError(f"a padded average over {height}x{width}, more than {LONGEST_PADDED}")
    job = Pass(
        unit="pool", ifm=site.ifm, ofm=site.ofm, kernel=pair(site, "kernel"),
        stride=stride(site), output=kind, activation=site.activation,
    )  # fmt: skip
    return strided(site.laid(job))


def _elementwise(site: Site) -> list[Pass]:
    kind = {"add": "add", "sub": "add", "mul": "mul"}.get(site.op.kind, "other")
    if len(site.op.inputs) < 2:  # a scalar, or a square
        job = Pass(
            unit="elementwise", ifm=site.ifm, ofm=site.ofm, output=kind, ifm2=(1, 1, 1), scalar=True
        )
        return [site.laid(job)]
    second = site.shape(site.op.inputs[1])
    job = Pass(
        unit="elementwise", ifm=site.ifm, ofm=site.ofm, output=kind, activation=site.activation,
        ifm2=second, scalar=1 in (math.prod(second), math.prod(site.ifm)),
        constant=site.graph.tensors[site.op.inputs[1]].is_parameter,
    )  # fmt: skip
    return [site.laid(job)]


def _squared_difference(site: Site) -> list[Pass]:
    (sub,) = _elementwise(site)
    wide = replace(sub, output="wide", in_bits=32, out_bits=32)
    return [wide, wide, replace(wide, output="wide_mul"), replace(wide, scalar=True)]


def _tabled(graph: Graph, op: Op) -> bool:
    """Return whether an operator is a table: a function of one number, and a PReLU of one slope."""
    if op.kind != "prelu":
        return op.kind in TABLES and bool(op.inputs)
    slopes = graph.values.get(op.inputs[1])
    return slopes is not None and bool((slopes == slopes.flat[0]).all())


def _prelu(site: Site) -> list[Pass]:
    if _tabled(site.graph, site.op):
        return _table(site)
    (slope,) = _elementwise(site)
    slope = replace(slope, output="mul", bricks=True)
    whole = replace(slope, ifm2=(1, 1, 1), scalar=True, constant=False)
    greater = replace(site.laid(slope), output="other", ifm2=site.ifm, constant=False, scalar=False)
    return [whole, slope, replace(greater, reads_bricks=True)]


def _table(site: Site) -> list[Pass]:
    return [site.laid(copy_of(site.ifm, site.ofm, "table"))]


def _cut(site: Site) -> list[Pass]:
    return [site.laid(copy_of(site.ifm, site.ofm, "relu"))]


def _move(site: Site) -> list[Pass]:
    return [site.laid(copy_of(site.ofm, site.ofm))]


def _convert(site: Site) -> list[Pass]:
    names = (*site.op.inputs[:1], *site.op.outputs)
    if any(site.graph.tensors[name].dtype.startswith("float") for name in names):
        raise OnHostError("a conversion of floats")
    return _move(site)


def _nothing(site: Site) -> list[Pass]:
    return []


def _mean(site: Site) -> list[Pass]:
    ifm, kernel = reduced(site)
    channels, elements = ifm[2], math.prod(kernel)
    ofm = (ifm[0] // kernel[0], ifm[1] // kernel[1], channels)
    sums = Pass(
        unit="depthwise", ifm=ifm, ofm=ofm, kernel=kernel, out_bits=32, scales=channels,
        stride=kernel, weights=channels * elements, encoded=16 + channels * elements // 8,
    )  # fmt: skip
    scaled = Pass(
        unit="elementwise", ifm=ofm, ofm=ofm, output="wide_mul", in_bits=32, ifm2=(1, 1, 1),
        scalar=True, constant=True,
    )  # fmt: skip
    sums = replace(site.laid(sums), bricks=True)
    if channels == 1:
        sums = replace(sums, reads_bricks=False)
    return [sums, site.laid(replace(scaled, reads_bricks=True))]


def _softmax(site: Site) -> list[Pass]:
    channels = site.ifm[2]
    rows = site.ifm[0] * site.ifm[1]
    whole, one = (1, rows, channels), (1, 1, rows)
    wide = Pass(
        unit="elementwise", ifm=whole, ofm=whole, ifm2=(1, 1, 1), scalar=True, constant=True,
        output="wide", in_bits=32, out_bits=32,
    )  # fmt: skip
    greatest = Pass(
        unit="pool",
        ifm=(rows, channels, 1),
        ofm=(rows, 1, 1),
        kernel=(1, channels),
        output="max_pool",
    )
    less = replace(wide, output="add", in_bits=8, ifm2=(1, rows, 1), constant=False, scalar=False)
    total = Pass(unit="reduce", ifm=whole, ofm=(1, rows, 1), in_bits=32, out_bits=32)
    small = [replace(wide, ifm=one, ofm=one, ifm2=one, constant=False, scalar=False)] * 21
    product = replace(wide, output="wide_mul", ifm2=(1, rows, 1), constant=False, scalar=False)
    return [greatest, less, wide, total, *small, product, wide, replace(wide, out_bits=8)]


def _bilinear(site: Site) -> list[Pass]:
    height, width, channels = site.ifm
    scale = site.ofm[0] / height
    attributes = site.op.attributes
    if attributes.get("align_corners"):
        raise OnHostError("a bilinear resize with aligned corners")
    if scale != site.ofm[1] / width or scale not in (2, 4, 8):
        raise OnHostError("a bilinear resize that is not by 2, 4 or 8")
    if not attributes.get("half_pixel_centers"):
        smooth = Pass(unit="pool", ifm=site.ofm, ofm=site.ofm, kernel=(int(scale), int(scale)))
        return [*_doubled(site, int(scale)), site.laid(smooth)]
    if scale != 2:
        raise OnHostError("a bilinear resize with half-pixel centres that is not by 2")
    padded = (height + 2, width + 2, channels)
    edges = [copy_of((1, width, channels), (1, width, channels))] * 2
    edges += [copy_of((height + 2, 1, channels), (height + 2, 1, channels))] * 2
    # Four kernels of 2 x 2, one for each corner of a pixel; each is counted on the whole output,
    # and on the whole of what that is joined into.
    readers = site.graph.consumers.get(site.op.outputs[0], [])
    joined = len(readers) == 1 and readers[0].kind == "concat"
    whole = site.shape(readers[0].outputs[0]) if joined else site.ofm
    corner = Pass(
        unit="depthwise", ifm=padded, ofm=whole, kernel=(2, 2), weights=4 * channels,
        encoded=32, scales=channels,
    )  # fmt: skip
    return [site.laid(copy_of(site.ifm, site.ifm)), *edges, *[replace(corner, bricks=False)] * 4]


def _doubled(site: Site, scale: int) -> list[Pass]:
    jobs, shape = [], site.ifm
    while scale > 1:
        larger = (2 * shape[0], 2 * shape[1], shape[2])
        jobs.append(Pass(unit="pool", ifm=shape, ofm=larger, upscale=2))
        shape, scale = larger, scale // 2
    return jobs


def _nearest(site: Site) -> list[Pass]:
    scale = site.ofm[0] / site.ifm[0]
    if scale != site.ofm[1] / site.ifm[1] or scale not in (1, 2, 4, 8):
        raise OnHostError("a nearest resize that is not by 2, 4 or 8")
    jobs = _doubled(site, int(scale)) or [copy_of(site.ifm, site.ofm)]
    return [site.laid(jobs[0]), *jobs[1:]]


def padded_on_the_way(graph: Graph, op: Op) -> bool:
    """Return whether an operator is padding that the convolutions after it do themselves."""
    readers = graph.consumers.get(op.outputs[0], []) if op.kind == "pad" else []
    return bool(readers) and all(one.kind in ("conv2d", "depthwise_conv2d") for one in readers)


def _pad(site: Site) -> list[Pass]:
    if padded_on_the_way(site.graph, site.op):
        return []
    height, width, channels = site.ofm
    strips = [copy_of((height, 1, channels), (height, 1, channels))] * 2
    strips += [copy_of((1, width, channels), (1, width, channels))] * 2
    return [site.laid(copy_of(site.ifm, site.ifm)), *strips]


def _concat(site: Site) -> list[Pass]:
    """Return a copy of each input that its own operator cannot write in place."""
    graph, jobs = site.graph, []
    for name in site.op.inputs:
        maker = graph.producers.get(name)
        kept = len(graph.consumers.get(name, [])) > 1 or name in graph.outputs
        if maker is None or kept or maker.kind in ("reshape", "strided_slice", "split"):
            jobs.append(site.laid(copy_of(site.shape(name), site.shape(name))))
    return jobs


def _cutting(site: Site) -> list[Pass]:
    """Readers read a part where it lies, but for a graph's own output."""
    ends = [name for name in site.op.outputs if name in site.graph.outputs]
    return [site.laid(copy_of(site.shape(n), site.shape(n))) for n in ends]


def _transpose(site: Site) -> list[Pass]:
    """Return a pass for each pair of dimensions that is swapped; more of them, beyond four."""
    sizes = site.graph.tensors[site.op.inputs[0]].shape
    axes = [a for a in site.op.attributes["dims"] if sizes[a] > 1]
    order = [sorted(axes).index(a) for a in axes]
    steps = 5 if len(sizes) > 4 and order != sorted(order) else _swaps(order)
    if steps and site.ofm[1] == 1:
        steps += 1  # the device swaps neighbours, and columns are one of them
    move = Pass(unit="move", ifm=site.ifm, ofm=site.ofm, reads_bricks=False, bricks=False)
    return [move] * steps


def _swaps(order: list[int]) -> int:
    """Return how many swaps of two make an order: all but one of each cycle."""
    seen: set[int] = set()
    cycles = 0
    for start in order:
        cycles += start not in seen
        while start not in seen:
            seen.add(start)
            start = order[start]
    return len(order) - cycles


Rule = Callable[[Site], list[Pass]]
RULES: dict[str, Rule] = {
    "conv2d": convolution,
    "depthwise_conv2d": depthwise,
    "fully_connected": fully_connected,
    "transpose_conv2d": transposed,
    "batch_matmul": products,
    "avg_pool2d": _pool,
    "max_pool2d": _pool,
    "lstm": lstm,
    "prelu": _prelu,
    "mean": _mean,
    "sum": _mean,
    "softmax": _softmax,
    "resize_bilinear": _bilinear,
    "resize_nearest": _nearest,
    "pad": _pad,
    "concat": _concat,
    "pack": _concat,
    "strided_slice": _cutting,
    "split": _cutting,
    "unpack": _cutting,
    "transpose": _transpose,
    "reshape": _nothing,
    "squared_difference": _squared_difference,
    **dict.fromkeys(("add", "sub", "mul", "maximum", "minimum"), _elementwise),
    **dict.fromkeys(CUTS, _cut),
    **dict.fromkeys(TABLES, _table),
    "tile": _move,
    **dict.fromkeys(("quantize", "cast"), _convert),
}


def on_host(graph: Graph) -> frozenset[str]:
    """Return the tensors that operators without passes read or write."""
    ops = [op for op in graph.ops if op.kind not in RULES]
    return frozenset(name for op in ops for name in (*op.inputs, *op.outputs))


def passes(site: Site) -> list[Pass]:
    """Return the passes of an operator, in order.

    Raises:
        OnHostError: the accelerator does not have it.

    """
    rule = RULES.get(site.op.kind)
    if rule is None:
        raise OnHostError("not an operator of this device")
    if site.chains:
        rule = OWN.get(site.op.kind, rule)
    return rule(site)


def fused_tables(graph: Graph) -> dict[str, str]:
    """Return which operators apply a table to their own result: by name, its kind.

    A function of one number becomes part of the layer before it, if nothing else reads that.
    """
    found = {}
    for op in graph.ops:
        if not _tabled(graph, op):
            continue
        maker = graph.producers.get(op.inputs[0])
        if (
            maker is not None
            and maker.kind in PRODUCERS
            and len(graph.consumers[op.inputs[0]]) == 1
            and op.inputs[0] not in graph.outputs
            and maker.name not in found
            and "activation" not in maker.attributes
        ):
            found[maker.name] = op.name
    return found
