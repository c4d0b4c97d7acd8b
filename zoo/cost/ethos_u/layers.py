"""The passes of layers with weights, and of products of activations."""

import math
from dataclasses import replace

from zoo.cost.ethos_u.encoding import Coding, encoded_bytes
from zoo.cost.ethos_u.passes import Pass, Shape
from zoo.cost.ethos_u.site import OnHostError, Site, apart, copy_of, pair, stride

LONGEST_STRIDE = 3


def convolution(site: Site) -> list[Pass]:
    """Return a pass for each group of a convolution."""
    _check_stride(site)
    outputs, inputs, _ = site.graph.kernel(site.op)
    height, width = pair(site, "kernel")
    wanted = pair(site, "dilation")
    groups = site.ifm[2] // inputs
    done = _done(wanted[0]), _done(wanted[1])
    kernel = (
        (height - 1) * wanted[0] // done[0] + 1,
        (width - 1) * wanted[1] // done[1] + 1,
    )
    ofm = (*site.ofm[:2], outputs // groups)
    jobs = []
    for group in range(groups):
        coding = Coding("conv", site.micro_depth, groups, group, site.cores)
        code = encoded_bytes(site.graph, site.op, coding)
        job = Pass(
            unit="conv", ifm=(*site.ifm[:2], inputs), ofm=ofm, kernel=kernel,
            stride=stride(site), dilation=done,
            activation=site.activation if groups == 1 else "none",
            weights=height * width * inputs * ofm[2], encoded=code, scales=ofm[2],
        )  # fmt: skip
        job = site.laid(job)
        whole = groups == 1 or (inputs % 16 == 0 and ofm[2] % 16 == 0)
        jobs.append(job if whole else replace(job, reads_bricks=False, bricks=False))
    made = [part for job in jobs for part in strided(job)]
    if groups > 1 and site.activation != "none":
        made.append(
            site.laid(copy_of(site.ofm, site.ofm, site.activation))
        )  # of all groups at once
    return apart(made[0]) if len(made) == 1 else made


def _done(dilation: int) -> int:
    """Return the part of a dilation that the device has; the rest are zeros in the kernel."""
    return dilation if dilation <= 2 else 2 - dilation % 2


def _check_stride(site: Site) -> None:
    """Raise if a convolution of a long stride is one that the compiler does not cut to pieces."""
    steps = pair(site, "stride")
    if max(steps) <= LONGEST_STRIDE:
        return
    maker = site.graph.producers.get(site.op.inputs[0])
    padded = any(site.op.attributes.get("padding") or ()) or (maker and maker.kind == "pad")
    if padded or pair(site, "dilation") != (1, 1):
        raise OnHostError(
            f"a convolution of stride {steps}, beyond {LONGEST_STRIDE}, with padding or dilation"
        )


def strided(job: Pass) -> list[Pass]:
    """Return one pass for each output where a stride is longer than the device's: 3."""
    if max(job.stride) <= LONGEST_STRIDE:
        return [job]
    one = replace(job, ifm=(*job.kernel, job.ifm[2]), ofm=(1, 1, job.ofm[2]), stride=(1, 1))
    return [one, *[replace(one, again=True)] * (job.ofm[0] * job.ofm[1] - 1)]


def depthwise(site: Site) -> list[Pass]:
    """Return the pass of a depthwise convolution; of several outputs a channel, one for each."""
    outputs, _, elements = site.graph.kernel(site.op)
    steps, inputs = pair(site, "stride"), site.ifm[2]
    if max(steps) > LONGEST_STRIDE:
        raise OnHostError(f"a depthwise convolution of stride {steps}, beyond {LONGEST_STRIDE}")
    code = encoded_bytes(
        site.graph, site.op, Coding("depthwise", site.micro_depth, cores=site.cores)
    )
    job = Pass(
        unit="depthwise", ifm=site.ifm, ofm=site.ofm, kernel=pair(site, "kernel"),
        stride=stride(site), dilation=pair(site, "dilation"),
        activation=site.activation, weights=outputs * elements, encoded=code, scales=outputs,
    )  # fmt: skip
    if inputs in (1, outputs):
        return apart(site.laid(job))
    times = outputs // inputs  # a layer for each channel, whose outputs are written one by one
    one = replace(
        job, ifm=(*site.ifm[:2], 1), ofm=(*site.ofm[:2], times), weights=times * elements,
        encoded=code // inputs, scales=times, scattered=True,
    )  # fmt: skip
    return [site.laid(one)] * inputs


def fully_connected(site: Site) -> list[Pass]:
    """Return the pass of a fully connected layer, its rows laid out as a picture."""
    if not site.graph.tensors[site.op.inputs[1]].is_parameter:
        return products(site)
    outputs, inputs, _ = site.graph.kernel(site.op)
    rows = math.prod(site.ofm) // outputs
    side = max(n for n in range(1, math.isqrt(rows) + 1) if rows % n == 0)
    code = encoded_bytes(site.graph, site.op, Coding("vector", site.micro_depth, cores=site.cores))
    job = Pass(
        unit="vector" if rows == 1 else "conv", ifm=(side, rows // side, inputs),
        ofm=(side, rows // side, outputs), activation=site.activation,
        weights=outputs * inputs, encoded=code, scales=outputs,
    )  # fmt: skip
    return [site.laid(job)]


def transposed(site: Site) -> list[Pass]:
    """Return the pass of a transposed convolution, on an input that is doubled on the way in."""
    steps = pair(site, "stride")
    # One row or one column is doubled along its length alone.
    line = [n == k == 1 for n, k in zip(site.ifm, pair(site, "kernel"), strict=False)]
    flat = tuple(1 if one else step for one, step in zip(line, (2, 2), strict=True))
    if steps not in ((1, 1), (2, 2), flat):
        raise OnHostError(f"a transposed convolution of stride {steps}; Ethos-U has 1 and 2")
    outputs, inputs, elements = site.graph.kernel(site.op)
    code = encoded_bytes(site.graph, site.op, Coding("conv", site.micro_depth, cores=site.cores))
    job = Pass(
        unit="conv", ifm=site.ifm, ofm=site.ofm, kernel=pair(site, "kernel"),
        upscale=max(steps), activation=site.activation, weights=outputs * inputs * elements,
        encoded=code, scales=outputs,
    )  # fmt: skip
    return [site.laid(job)]


def products(site: Site) -> list[Pass]:
    """Return a product of two activations: a multiplication and a sum for every column."""
    columns = site.ofm[2]
    rows, width, depth = site.ifm
    product = Pass(
        unit="elementwise", ifm=(rows, width, depth), ofm=(rows, width, depth), output="wide_mul",
        ifm2=(rows, 1, depth), out_bits=32,
    )  # fmt: skip
    total = Pass(unit="reduce", ifm=(rows, width, depth), ofm=(rows, width, 1), in_bits=32)
    return [product, total] * columns


def lstm(site: Site) -> list[Pass]:
    """Return an LSTM step by step: four gates, each of two products, then the state."""
    graph, op = site.graph, site.op
    if not all(op.inputs[place] for place in range(1, 9)):
        raise OnHostError("an LSTM with coupled gates")
    units = site.ofm[2]
    steps = math.prod(graph.tensors[op.inputs[0]].shape[:-1])
    gates, whole = [], (1, 1, units)
    for place in range(1, 9):
        shape = graph.tensors[op.inputs[place]].shape
        one = replace(op, inputs=(op.inputs[0], op.inputs[place]), kind="fully_connected")
        code = encoded_bytes(graph, one, Coding("vector", site.micro_depth, cores=site.cores))
        gates.append(
            Pass(
                unit="vector", ifm=(1, 1, shape[1]), ofm=whole, weights=math.prod(shape),
                encoded=code, scales=units, out_bits=16,
            )
        )  # fmt: skip
    both = Pass(unit="elementwise", ifm=whole, ofm=whole, ifm2=whole, in_bits=16, out_bits=16)
    joined = [replace(both, output="add")] * 5 + [replace(both, output="mul")] * 3
    tables = [replace(copy_of(whole, whole, "table"), table_bytes=0)] * 5
    later = [replace(gate, again=True) for gate in gates]
    return [*gates, *joined, *tables, *[*later, *joined, *tables] * (steps - 1)]


def reduced(site: Site) -> tuple[Shape, tuple[int, int]]:
    """Return the input of a mean as rows, columns and channels, and the window it covers."""
    sizes = site.graph.tensors[site.op.inputs[0]].shape
    dims = site.op.attributes["dim"]
    dims = range(len(sizes)) if dims is None else [dims] if isinstance(dims, int) else dims
    axes = sorted(d % len(sizes) for d in dims)
    last = 1 if site.graph.layout == "torch" and len(sizes) == 4 else len(sizes) - 1
    if last in axes:  # channels are no window: they lie along columns
        rows = math.prod(s for i, s in enumerate(sizes) if i not in axes)
        return (rows, math.prod(sizes[i] for i in axes), 1), (1, math.prod(sizes[i] for i in axes))
    height, width, channels = site.ifm
    window = [sizes[i] for i in axes]
    return (height, width, channels), (window[0] if len(window) > 1 else 1, window[-1])
