"""Images made larger or smaller: by nearest pixels or bilinearly."""

from typing import TYPE_CHECKING, Any

from zoo.errors import MismatchError
from zoo.graph.ir import Graph, Op
from zoo.graph.operators.contract import OpKind, Shape, Trace, never

if TYPE_CHECKING:
    from torch import fx

    from zoo.graph.lower import Lowering
    from zoo.graph.trace import Tracer

# Relative: far below what moves a sample by a step of its 2^-10 grid.
_SAME_FACTOR = 1e-6


def _trace(kind: str, *, exact: bool = False) -> Trace:
    def trace(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
        corners = bool(a.get("align_corners", False))
        size = tuple(int(n) for n in node.meta["val"].shape[-2:])
        before = a[next(iter(a))].meta["val"].shape[-2:]
        sizes = list(zip(size, map(int, before), strict=True))
        if kind == "resize_nearest" and any(n % m and m % n for n, m in sizes):
            raise tracer.unmapped(
                node, f"{node.target} from {tuple(before)} to {size}, not a whole multiple or part,"
            )
        if not corners:
            _check_factors(tracer.where(node), a, size, before)
        attributes = {
            "size": size,
            "align_corners": corners,
            # torch's nearest takes the pixel to the left; the others look from pixel centres.
            "half_pixel_centers": not corners and (kind == "resize_bilinear" or exact),
        }
        tracer.emit(node, kind, node.all_input_nodes[:1], attributes)

    return trace


def _check_factors(
    where: str, a: dict[str, Any], size: tuple[int, ...], before: tuple[int, ...]
) -> None:
    """Raise if torch samples by a factor other than the ratio of the sizes, which devices use."""
    factors = a.get("scale_factors") or (a.get("scales_h"), a.get("scales_w"))
    for factor, pixels, made in zip(factors, before, size, strict=True):
        if factor is not None and abs(factor * int(pixels) / made - 1) > _SAME_FACTOR:
            raise MismatchError(
                f"interpolate at {where} enlarges by {factor:g}, "
                f"which makes {made} pixels of {int(pixels)}; devices sample by the ratio of the "
                f"sizes, {made / int(pixels):.4g}: give size={size}, or "
                "recompute_scale_factor=True, to do the same"
            )


def _lower(lowering: "Lowering", op: Op) -> None:
    lowering.emit(op)


def _shape(graph: Graph, op: Op, shapes: list[Shape]) -> Shape:
    height, width = op.attributes["size"]
    batch, _, _, channels = shapes[0]
    if op.attributes["align_corners"] and op.attributes["half_pixel_centers"]:
        raise MismatchError(f"{op.label}: align_corners and half_pixel_centers exclude each other")
    return (batch, height, width, channels)


ROWS = (
    OpKind(
        name="resize_nearest",
        aten={
            "upsample_nearest2d": _trace("resize_nearest"),
            "_upsample_nearest_exact2d": _trace("resize_nearest", exact=True),
        },
        lower=_lower,
        shape=_shape,
        mixes_samples=never,
        shares_quantization=True,
    ),
    OpKind(
        name="resize_bilinear",
        aten={"upsample_bilinear2d": _trace("resize_bilinear")},
        lower=_lower,
        shape=_shape,
        mixes_samples=never,
        shares_quantization=True,
    ),
)
