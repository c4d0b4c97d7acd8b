"""Running in tiles what does not fit whole, by an estimator that prices one graph at a time."""

import dataclasses
from collections.abc import Callable

from zoo.cost.estimators import roofline
from zoo.cost.estimators.contract import Subject, energy_mj
from zoo.cost.result import Fit, TiledRun
from zoo.cost.target import Target
from zoo.graph.ir import Graph


def in_tiles(
    subject: Subject, target: Target, fits: Fit, price: Callable[[Graph], tuple[float, int]]
) -> tuple[TiledRun | None, Fit]:
    """Return the run in the tiles that the roofline finds where the whole does not fit, priced.

    Args:
        subject: what is priced.
        target: the device.
        fits: whether the whole does.
        price: of an int8 graph: latency in ms, and the bytes of its activations at their peak.

    """
    if fits.sram or subject.module is None or not hasattr(subject.module, "halo"):
        return None, fits
    if roofline.refusal(target) is not None:
        return None, fits
    rough = roofline.estimate(subject, target, roofline.Options())
    tile = rough.tiled
    if tile is None:
        return None, fits
    one, peak = price(subject.integer((*subject.first_shape[:2], tile.height, tile.width)))
    latency = one * tile.count
    return (
        dataclasses.replace(
            tile,
            latency_ms=latency,
            energy_mj=energy_mj(latency, target),
            peak_activation_bytes=peak,
        ),
        rough.fits,
    )
