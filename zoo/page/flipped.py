"""How a flip and a heat map of flips look on the page, as HTML."""

import base64
import html
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from zoo.page.flipping import DEVICE, EACH, Flip, Rates, hears
from zoo.resilience.faults import BITS

_SIDE, _MOST_ZOOM = 320, 40  # pixels of the longer side of a picture; of a value in it, at most
_MARK = (230, 0, 90)
_LOW, _MIDDLE, _HIGH = (12, 20, 60), (38, 150, 150), (250, 240, 170)
CSS = """
.zoo-maps { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 12px; }
.zoo-maps figure { margin: 0; min-width: 0; }
.zoo-maps img { width: 100%; max-height: 320px; object-fit: contain; object-position: left top;
  image-rendering: pixelated; }
.zoo-maps figcaption { font-size: 12px; color: var(--body-text-color-subdued); }
.zoo-flip { margin: 8px 0; }
.zoo-flip b { overflow-wrap: anywhere; }
.zoo-heat { border-collapse: collapse; font-size: 10px; font-variant-numeric: tabular-nums; }
.zoo-heat caption { text-align: left; font-size: 13px; padding-bottom: 6px; }
.zoo-heat :is(th, td) { border: 1px solid var(--border-color-primary) !important;
  padding: 2px 3px; min-width: 22px; text-align: center; font-weight: 400; }
.zoo-heat tbody th { text-align: right; white-space: nowrap; font-size: 12px; }
.zoo-heat td { background: rgba(215, 70, 60, calc(var(--share) * .85)); }
@media (max-width: 640px) { .zoo-maps { grid-template-columns: 1fr; } }
"""


def maps(flip: Flip) -> str:
    """Return the input, and the layer's output without and with the flip, changes marked."""
    clean, faulty = flip.maps
    low, high = min(clean.min(), faulty.min()), max(clean.max(), faulty.max())
    scale = float(low), float(high)
    moved = clean != faulty
    here = f"output of {flip.layer}"
    if flip.clean.ndim == 3:
        here = f"channel {flip.channel} of {flip.clean.shape[-1]}, {here}"
    sound = hears(flip.mounted.network)
    turned = [x.T[::-1] if sound and flip.clean.ndim == 3 else x for x in (clean, faulty, moved)]
    marked = f"{int(moved.sum())} marked" if moved.any() else "nothing changed"
    return (
        "<div class='zoo-maps'>"
        + _figure(_given(flip), f"The input, {flip.example}" + ", as sound bands" * sound)
        + _figure(drawn(turned[0], scale), f"Without the flip: {here}")
        + _figure(drawn(turned[1], scale, turned[2]), f"With the flip: the same, {marked}")
        + "</div>"
    )


def words(flip: Flip) -> str:
    """Return what happened, in words."""
    clean, faulty = (html.escape(answer) for answer in flip.answers)
    hit = (
        f"Bit {flip.bit} of {_a(flip.register)} register in <b>{html.escape(flip.layer)}</b> "
        f"flipped: {flip.held:,} became {flip.made:,}. It went into "
        f"{_count(flip.reached, 'output')} of the layer"
    )
    if not flip.changed:
        hit += "; rounding hid it, and <b>nothing changed</b>."
    elif clean == faulty:
        hit += f", {flip.changed} changed, and the answer <b>stays {clean}</b>."
    else:
        hit += f", {flip.changed} changed, and the answer <b>turns from {clean} to {faulty}</b>."
    return (
        f"<p class='zoo-flip' role='status'>{hit}</p><p class='zoo-note'>Computed in the integers "
        f"of the device, registers as an {DEVICE} holds them. Another place is another cycle, and "
        "another register of the same kind.</p>"
    )


def heat(rates: Rates) -> str:
    """Return a table of how many flips turned an answer in %, by layer and bit."""
    mounted, done = rates.mounted, int(rates.tried.sum())
    examples = ", ".join(mounted.examples)
    head = "".join(f"<th scope='col'>{bit}</th>" for bit in range(BITS[rates.register]))
    rows = "".join(
        f"<tr><th scope='row'>{html.escape(name)}</th>{_cells(name, tried, turned)}</tr>"
        for name, tried, turned in zip(mounted.layers, rates.tried, rates.turned, strict=True)
    )
    total = f"{int(rates.turned.sum()):,} of them turned the answer"
    return (
        "<div class='zoo-scroll' tabindex='0' role='region' aria-label='Heat map'>"
        f"<table class='zoo-heat'><caption>Flips in {rates.register} registers of "
        f"{html.escape(mounted.network.ref)} that turn the answer, in %, by layer and bit</caption>"
        f"<thead><tr><th scope='col'>layer, bit</th>{head}</tr></thead><tbody>{rows}</tbody>"
        f"</table></div><p class='zoo-note' role='status'>{done:,} of {rates.whole:,} flips "
        f"tried, {EACH} of each layer and bit, on {html.escape(examples)}; {total}. On so few "
        "inputs it says where to look, not how good the network is: zoo reliability "
        f"{html.escape(mounted.network.ref)} --target {DEVICE} --data DIR does.</p>"
    )


def button(faults: int) -> str:
    """Return what the button that measures says."""
    return f"Measure: {faults:,} faults"


def _cells(name: str, tried: NDArray[np.int64], turned: NDArray[np.int64]) -> str:
    made = []
    for bit, (all_, some) in enumerate(zip(tried.tolist(), turned.tolist(), strict=True)):
        if not all_:
            made.append("<td></td>")
            continue
        says = html.escape(f"{name}, bit {bit}: {some} of {all_} flips turned the answer", True)
        share = some / all_
        made.append(f"<td style='--share:{share:.2f}' title='{says}'>{100 * share:.0f}</td>")
    return "".join(made)


def _a(register: str) -> str:
    return f"{'an' if register[0] == 'a' else 'a'} {register}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _figure(picture: Image.Image, caption: str) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    text = html.escape(caption, quote=True)
    return (
        f"<figure><img src='data:image/png;base64,{data}' alt='{text}'>"
        f"<figcaption>{text}</figcaption></figure>"
    )


def _given(flip: Flip) -> Image.Image:
    """Return the input as the network takes it, in the whole range of its values."""
    mounted = flip.mounted
    x = mounted.inputs[mounted.examples.index(flip.example)].numpy()
    if hears(mounted.network):
        bands = x[0].T if x.shape[0] == 1 else x[..., 0]  # (bands, frames)
        return drawn(bands[::-1], (float(x.min()), float(x.max())))
    low, high = mounted.network.recipe.preprocessing["range"]
    pixels = np.rint((x - low) * (255 / (high - low))).clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    return _zoomed(picture)


def drawn(
    values: NDArray[np.generic], scale: tuple[float, float], marked: object = None
) -> Image.Image:
    """Return a picture of values (rows, columns), those that changed framed."""
    low, high = scale
    share = (values.astype(float) - low) / ((high - low) or 1.0)
    ends = np.array([_LOW, _MIDDLE, _HIGH], float)
    colours = np.stack([np.interp(share, [0, 0.5, 1], ends[:, i]) for i in range(3)], -1)
    picture = _zoomed(Image.fromarray(colours.round().astype(np.uint8)))
    if marked is not None:
        zoom = picture.height // values.shape[0]
        draw = ImageDraw.Draw(picture)
        for y, x in np.argwhere(np.asarray(marked)).tolist():
            box = [x * zoom, y * zoom, (x + 1) * zoom - 1, (y + 1) * zoom - 1]
            draw.rectangle(box, outline=_MARK, width=max(1, zoom // 5))
    return picture


def _zoomed(picture: Image.Image) -> Image.Image:
    zoom = min(_MOST_ZOOM, max(1, _SIDE // max(picture.size)))
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)
