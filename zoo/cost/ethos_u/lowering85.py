"""The passes of operators that an Ethos-U85 has another way for than U55 and U65."""

import math
from collections.abc import Callable
from dataclasses import replace

from zoo.cost.ethos_u.encoding import Coding, encoded_bytes
from zoo.cost.ethos_u.layers import reduced
from zoo.cost.ethos_u.passes import Pass
from zoo.cost.ethos_u.site import OnHostError, Site, pair


def _transposed(site: Site) -> list[Pass]:
    """Return a convolution for each place of an output among its neighbours, a stride apart.

    The compiler counts each of them on the whole output.
    """
    steps = pair(site, "stride")
    outputs, inputs, elements = site.graph.kernel(site.op)
    code = encoded_bytes(site.graph, site.op, Coding("conv", site.micro_depth, cores=site.cores))
    parts = math.prod(steps)
    rows, columns = (
        -(-size // step) for size, step in zip(pair(site, "kernel"), steps, strict=True)
    )
    job = Pass(
        unit="conv", ifm=site.ifm, ofm=site.ofm, kernel=(rows, columns),
        activation=site.activation, weights=outputs * inputs * elements // parts,
        encoded=code // parts, scales=outputs,
    )  # fmt: skip
    return [site.laid(job)] * parts


def _mean(site: Site) -> list[Pass]:
    """Return a sum by a depthwise layer of ones, with a product chained to it."""
    ifm, kernel = reduced(site)
    channels, elements = ifm[2], math.prod(kernel)
    job = Pass(
        unit="depthwise", ifm=ifm, ofm=(ifm[0] // kernel[0], ifm[1] // kernel[1], channels),
        kernel=kernel, stride=kernel, out_bits=32, weights=channels * elements,
        encoded=16 + channels * elements // 8, scales=channels, chained=1,
    )  # fmt: skip
    return [site.laid(job)]


def _prelu(site: Site) -> list[Pass]:
    """Return the product with the slopes, then that with 1, the greater of both chained to it."""
    whole = Pass(unit="elementwise", ifm=site.ifm, ofm=site.ofm, ifm2=(1, 1, 1), scalar=True)
    slopes = replace(whole, ifm2=(1, 1, site.ifm[2]), scalar=False, constant=True)
    last = replace(site.laid(whole), chained=1, operands=(False,))
    return [replace(site.laid(slopes), bricks=True), last]


def _resized(site: Site) -> list[Pass]:
    """Return one pass: the device resizes by itself."""
    if site.op.attributes.get("align_corners"):
        raise OnHostError("a bilinear resize with aligned corners")
    return [site.laid(Pass(unit="elementwise", ifm=site.ifm, ofm=site.ofm))]


def _softmax(site: Site) -> list[Pass]:
    channels = site.ifm[2]
    rows = site.ifm[0] * site.ifm[1]
    whole, one = (1, rows, channels), (1, 1, rows)
    greatest = Pass(unit="pool", ifm=(rows, channels, 1), ofm=(rows, 1, 1), kernel=(1, channels))
    wide = Pass(
        unit="elementwise", ifm=whole, ofm=whole, ifm2=(1, rows, 1), in_bits=32, out_bits=32
    )
    less = replace(wide, in_bits=8, chained=1)
    total = Pass(unit="reduce", ifm=whole, ofm=(1, rows, 1), in_bits=32, out_bits=32)
    small = replace(wide, ifm=one, ofm=one, ifm2=one)
    steps = [replace(small, chained=3), small] * 3
    scaled = replace(wide, chained=1)
    return [greatest, less, wide, total, small, small, replace(small, chained=1),
            replace(small, chained=1), *steps, scaled]  # fmt: skip


OWN: dict[str, Callable[[Site], list[Pass]]] = {
    "transpose_conv2d": _transposed,
    "mean": _mean,
    "prelu": _prelu,
    "softmax": _softmax,
    "resize_nearest": _resized,
    "resize_bilinear": _resized,
}
