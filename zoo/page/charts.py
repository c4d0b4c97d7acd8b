"""Charts of the page as HTML and SVG: they follow its colours, and say their names on a hover."""

import html
from collections.abc import Callable, Sequence

from zoo.cost.axes import Roofline, Scale, slowest
from zoo.cost.pictures import Dot, front
from zoo.cost.result import Cost
from zoo.cost.target import Target

MOST_BARS = 12
MOST_NAMED = 8  # marks that all have their names beside them
WORDS = {
    "compute": "arithmetic", "sram": "SRAM", "flash": "flash", "dram": "DRAM", "host": "host CPU",
}  # fmt: skip
WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 76, 16, 34, 52
CSS = """
.zoo-chart { width: 100%; max-width: 720px; height: auto; display: block; }
.zoo-chart text { fill: var(--body-text-color-subdued); font-size: 12px; }
.zoo-chart .grid { stroke: var(--border-color-primary); }
.zoo-chart .roof { stroke: var(--body-text-color); stroke-width: 1.5; }
.zoo-chart circle { fill-opacity: .35; stroke-width: 1.5; }
.zoo-chart [data-ref] { cursor: pointer; }
.zoo-chart [data-ref]:is(:hover, :focus-visible) circle { stroke-width: 4; }
.zoo-chart .best text { fill: var(--body-text-color); font-weight: 700; }
.zoo-compute { --mark: #1f77c4; } .zoo-sram { --mark: #2e9b5f; } .zoo-flash { --mark: #d1495b; }
.zoo-dram { --mark: #9a6ab0; } .zoo-host { --mark: #c77d0a; } .zoo-other { --mark: #8a8f98; }
:is(.zoo-compute, .zoo-sram, .zoo-flash, .zoo-dram, .zoo-host, .zoo-other) > :is(circle, line) {
  fill: var(--mark); stroke: var(--mark); }
.zoo-bars { list-style: none; margin: 0; padding: 0; font-size: 13px; }
.zoo-bars li { display: grid; grid-template-columns: minmax(0, 14rem) 1fr 7.5rem; gap: 8px;
  align-items: center; padding: 2px 0; }
.zoo-bars li > span:first-child { overflow: hidden; text-overflow: ellipsis; white-space: nowrap;
  text-align: right; }
.zoo-bars i { display: block; height: 14px; min-width: 2px; border-radius: 3px;
  background: var(--mark); }
.zoo-bars li > span:last-child { color: var(--body-text-color-subdued);
  font-variant-numeric: tabular-nums; white-space: nowrap; }
.zoo-key { display: flex; flex-wrap: wrap; gap: 4px 14px; font-size: 12px; margin: 4px 0;
  color: var(--body-text-color-subdued); }
.zoo-key i { display: inline-block; width: 10px; height: 10px; border-radius: 50%;
  background: var(--mark); margin-right: 5px; }
@media (max-width: 640px) { .zoo-chart text { font-size: 19px; }
  .zoo-bars li { grid-template-columns: minmax(0, 9rem) 1fr 6.5rem; } }
"""


def bars(cost: Cost) -> str:
    """Return the slowest operators of a cost as bars; empty if its method gives none."""
    slow = slowest(cost, MOST_BARS)
    if not slow:
        return ""
    total = sum(op.latency_ms for op in cost.ops)
    rows = []
    for op in slow:
        name = html.escape(f"{op.module} {op.kind}".strip())
        share = 100 * op.latency_ms / slow[0].latency_ms
        rows.append(
            f"<li class='zoo-{_kind(op.bound)}'><span title='{name}'>{name}</span>"
            f"<span><i style='width:{share:.1f}%'></i></span>"
            f"<span>{op.latency_ms:.3g} ms, {100 * op.latency_ms / total:.0f} %</span></li>"
        )
    rest = sum(op.latency_ms > 0 for op in cost.ops) - len(slow)
    more = f"<p class='zoo-note'>and {rest} faster one{'s' * (rest != 1)}</p>" if rest else ""
    return f"{_key({op.bound for op in slow})}<ul class='zoo-bars'>{''.join(rows)}</ul>{more}"


def _kind(bound: str) -> str:
    return bound if bound in WORDS else "other"


def _key(bounds: set[str]) -> str:
    """Return what the colours mean: what an operator waits for."""
    items = "".join(
        f"<span class='zoo-{_kind(bound)}'><i></i>{html.escape(WORDS.get(bound, bound))}</span>"
        for bound in sorted(bounds)
    )
    return f"<div class='zoo-key'>waits for: {items}</div>"


def roofline(cost: Cost, target: Target) -> str:
    """Return the operators of a cost under the target's roofline; empty without any."""
    found = Roofline.of(cost, target)
    if not found.ops or not cost.moved_bytes:
        return ""
    x = Scale.over(found.depths, LEFT, WIDTH - RIGHT)
    roof = [found.roof] if found.roof else []
    y = Scale.over([*found.speeds, *roof], HEIGHT - BOTTOM, TOP)
    parts = [_grid(x, y.ticks(), y.place, "MACs for a byte moved", "GMAC/s")]
    for memory in found.slopes:
        if ends := found.line(memory, x, y):
            (a, b), (c, d) = ((x.place(u), y.place(v)) for u, v in ends)
            parts.append(
                f"<g class='zoo-{memory}'><line x1='{a:.1f}' y1='{b:.1f}' x2='{c:.1f}' "
                f"y2='{d:.1f}'/><text x='{c:.1f}' y='{d - 5:.1f}' text-anchor='end'>{memory}"
                "</text></g>"
            )
    if found.roof:
        top = y.place(found.roof)
        parts.append(
            f"<line class='roof' x1='{x.start}' x2='{x.end}' y1='{top:.1f}' y2='{top:.1f}'/>"
            f"<text x='{x.start}' y='{top - 5:.1f}'>all multipliers</text>"
        )
    most = max(op.latency_ms for op in found.ops)
    for op, deep, speed in zip(found.ops, found.depths, found.speeds, strict=True):
        radius = 3 + 9 * (op.latency_ms / most) ** 0.5
        says = f"{f'{op.module} {op.kind}'.strip()}: {op.latency_ms:.3g} ms, {speed:.3g} GMAC/s"
        parts.append(
            f"<g class='zoo-{_kind(op.bound)}'><title>{html.escape(says)}</title>"
            f"<circle cx='{x.place(deep):.1f}' cy='{y.place(speed):.1f}' r='{radius:.1f}'/></g>"
        )
    return _svg(parts, f"Roofline of {cost.target}")


def pareto(dots: Sequence[Dot], quality: str) -> str:
    """Return networks by latency and quality; those that none beats in both stand out.

    Each mark has its network's name as `data-ref`, and can be reached by the keyboard.
    """
    x = Scale.over([dot.latency_ms for dot in dots], LEFT, WIDTH - RIGHT)
    low, high = min(dot.quality for dot in dots), max(dot.quality for dot in dots)
    margin = 0.1 * ((high - low) or abs(high) or 1)

    def place(value: float) -> float:
        share = (value - low + margin) / (high - low + 2 * margin)
        return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)

    ticks = [low + (high - low) * step / 4 for step in range(5)] if high > low else [low]
    best = front(dots)
    line = " ".join(f"{x.place(d.latency_ms):.1f},{place(d.quality):.1f}" for d in best)
    parts = [
        _grid(x, ticks, place, "milliseconds", quality),
        f"<polyline class='roof' points='{line}' fill='none'/>",
    ]
    for dot in sorted(dots, key=lambda d: d in best):
        a, b = x.place(dot.latency_ms), place(dot.quality)
        name = html.escape(dot.name, quote=True)
        says = f"{dot.name}: {dot.latency_ms:.3g} ms, {dot.quality:.4g}"
        side = "end" if a > WIDTH * 0.7 else "start"
        label = (
            f"<text x='{a + (-8 if side == 'end' else 8):.1f}' y='{b + 14:.1f}' "
            f"text-anchor='{side}'>{name}</text>"
        )
        parts.append(
            f"<g class='{'best zoo-compute' if dot in best else 'zoo-other'}' data-ref='{name}' "
            f"tabindex='0' role='button' aria-label='{html.escape(says, quote=True)}'>"
            f"<title>{html.escape(says)}</title><circle cx='{a:.1f}' cy='{b:.1f}' r='6'/>"
            f"{label if dot in best or len(dots) <= MOST_NAMED else ''}</g>"
        )
    return _svg(parts, f"{quality} against latency")


def _grid(
    x: Scale, ticks: Sequence[float], place: Callable[[float], float], below: str, beside: str
) -> str:
    parts = []
    for value in x.ticks():
        at = f"{x.place(value):.1f}"
        parts.append(f"<line class='grid' x1='{at}' x2='{at}' y1='{TOP}' y2='{HEIGHT - BOTTOM}'/>")
        parts.append(
            f"<text x='{at}' y='{HEIGHT - BOTTOM + 20}' text-anchor='middle'>{value:g}</text>"
        )
    for value in ticks:
        at = f"{place(value):.1f}"
        parts.append(f"<line class='grid' x1='{LEFT}' x2='{WIDTH - RIGHT}' y1='{at}' y2='{at}'/>")
        parts.append(
            f"<text x='{LEFT - 6}' y='{at}' dy='.35em' text-anchor='end'>{value:.4g}</text>"
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f"<text x='{middle}' y='{HEIGHT - 6}' text-anchor='middle'>{below}</text>")
    parts.append(f"<text x='{LEFT}' y='{TOP - 14}'>{html.escape(beside)}</text>")
    return "".join(parts)


def _svg(parts: Sequence[str], label: str) -> str:
    return (
        f"<svg class='zoo-chart' viewBox='0 0 {WIDTH} {HEIGHT}' role='group' "
        f"aria-label='{html.escape(label, quote=True)}'>{''.join(parts)}</svg>"
    )
