"""What the demo page shows, without the page: comparisons, details, cost tables, an example.

Nothing here knows Gradio; `zoo.page.tabs.enlarge` lays these out.
"""

import copy
import functools
import html
import math
import shutil
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageChops, ImageFilter
from torch import nn

from zoo import registry
from zoo.artifacts.resolution import checkpoint
from zoo.cost import Cost, estimate, target, target_names
from zoo.cost.estimators.contract import Subject
from zoo.cost.pricing import of_module
from zoo.cost.result import readable
from zoo.data import images
from zoo.errors import MissingWeightsError
from zoo.page.cards import duration, figures, threads
from zoo.registry.recipe import Recipe
from zoo.tasks.super_resolution import enlarging as enlarge
from zoo.verbs.use import load

SHOWN_PIXELS = 9_000_000  # a little over 4K; a browser loads two of them
OUTPUT_PIXELS = 100_000_000  # of a result to download: 24 megapixels, twice as wide and high
DETAIL = (144, 120)  # output pixels of a magnified detail
ZOOM = 4
HEADLINE = "ethos-u55-256"  # the microcontroller-class NPU named next to the picture
TIMES, DASH = "\N{MULTIPLICATION SIGN}", "\N{EN DASH}"
REFERENCE = (1280, 720)  # width and height of the output that the papers count MACs for
JUDGED_ON = "Set5"
TO_720P = f"{REFERENCE[0]}{TIMES}{REFERENCE[1]}"
COLUMNS = ("Device", "Time, this picture", f"Time, to {TO_720P}", "MACs", "Peak memory", "Fits",
           "Energy", "How known")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Loaded:
    """A network on the page's shelf, read when it is first used.

    Attributes:
        ref: what visitors call it.
        recipe: how it was made.
        checkpoint: where it lies.
        quality: what its weights reach, e.g. "37.3 dB"; "" where nobody measured it.

    """

    ref: str
    recipe: Recipe
    checkpoint: str
    quality: str

    @functools.cached_property
    def model(self) -> nn.Module:
        """The network, after a first run, so that no visitor waits for that."""
        model = load(self.checkpoint)
        model(torch.zeros(1, 1, 64, 64))
        return model

    @property
    def scale(self) -> int:
        """How many times wider and higher the output is."""
        return int(self.recipe.args["scale"])

    @functools.cached_property
    def parameters(self) -> int:
        """How many there are."""
        known = registry.counts().get(self.recipe.name, {}).get("parameters")
        return known or sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def label(self) -> str:
        """What visitors choose by: scale, name, thousands of parameters and quality."""
        words = [f"{self.scale}{TIMES}", self.ref, f"{self.parameters / 1000:.1f} k", self.quality]
        return " · ".join(word for word in words if word)


@dataclass(frozen=True)
class Comparison:
    """One picture enlarged twice, as files in a folder of its own.

    Attributes:
        folder: holds the files below and nothing else.
        bicubic: 8-bit PNG for the eye, without transparency.
        network: likewise.
        shown: both as a browser gets them, smaller than `SHOWN_PIXELS`.
        download: the network's output in the input's own depth, transparency kept.
        given: width and height of the picture as it came.
        used: width and height that were enlarged; smaller when `given` was too large for a page.
        scale: of the network.
        seconds: the network and bicubic colour, without files.
        by: what computed it: "2 threads", or a GPU's name.
        spot: output pixel around which the two differ most.

    """

    folder: Path
    bicubic: Path
    network: Path
    shown: tuple[Path, Path]
    download: Path
    given: tuple[int, int]
    used: tuple[int, int]
    scale: int
    seconds: float
    by: str
    spot: tuple[int, int]

    @property
    def output(self) -> tuple[int, int]:
        """Width and height of the result."""
        return self.used[0] * self.scale, self.used[1] * self.scale


def shelf() -> dict[str, Loaded]:
    """Return every super-resolution network that has weights, by ref.

    Raises:
        MissingWeightsError: no such network has weights.

    """
    networks = {}
    for name, recipe in registry.all_recipes().items():
        if recipe.subtask != "super-resolution":
            continue
        for tag in registry.shipped_tags(name):
            ref = name if tag == recipe.default_tag else f"{name}.{tag}"
            networks[ref] = Loaded(ref, recipe, f"{name}.{tag}", _quality(f"{name}.{tag}"))
    if not networks:
        raise MissingWeightsError(
            f"no super-resolution network has weights in {registry.weights_folder()}; reinstall "
            "the package, or type: zoo train sesr-m5-x2 --data DIR --out runs/sesr-m5-x2"
        )
    return dict(sorted(networks.items(), key=lambda item: (item[1].scale, item[1].parameters)))


def _quality(ref: str) -> str:
    """Return what a network's weights reach on the photographs that all were judged by."""
    reached = checkpoint(ref).metrics.get("evaluations", {}).get(JUDGED_ON, {}).get("psnr_y_db")
    return "" if reached is None else f"{reached:.1f} dB"


def compare(
    network: Loaded, source: Path, folder: Path, device: str = "cpu"
) -> Generator[tuple[int, int], None, Comparison]:
    """Enlarge a picture file by the network and by bicubic, into an empty `folder`.

    Yields after each tile how many are done, and of how many. A picture whose result would exceed
    `OUTPUT_PIXELS` is reduced first; the caller says so.

    Raises:
        MismatchError: the file is not a picture, is truncated, or has too many pixels.

    """
    picture = images.read(source)
    height, width = picture.pixels.shape[:2]
    shown = images.to_pillow(picture)
    shrink = math.sqrt(OUTPUT_PIXELS / (width * height * network.scale**2))
    if shrink < 1:
        shown = shown.resize(
            (max(1, int(width * shrink)), max(1, int(height * shrink))), Image.Resampling.LANCZOS
        )
        shown.info["icc_profile"] = picture.profile
        picture = images.read(shown)
    model = network.model
    if device != "cpu" and torch.cuda.is_available():
        model = copy.deepcopy(model).to(device)  # the costs are those of the one on the processor
    result = yield from enlarge.steps(model, network.recipe, picture)
    sharp = _opaque(result.image)
    smooth = _opaque(shown.resize(sharp.size, Image.Resampling.BICUBIC))
    stem = enlarge.default_output(network.recipe, source).stem
    files = [folder / f"{stem}.png", folder / "bicubic.png", folder / "network.png"]
    for image, file in zip((smooth, sharp), files[1:], strict=True):
        # The default level takes three times as long for a few percent.
        image.save(file, compress_level=1, icc_profile=picture.profile)
    if result.image.mode == "RGB" and result.picture.white == 255:
        shutil.copyfile(files[2], files[0])
    else:
        result.save(files[0])
    return Comparison(
        folder=folder,
        bicubic=files[1],
        network=files[2],
        shown=(_fitting(smooth, files[1]), _fitting(sharp, files[2])),
        download=files[0],
        given=(width, height),
        used=shown.size,
        scale=network.scale,
        seconds=result.seconds,
        by=_computer(model),
        spot=_busiest(ImageChops.difference(sharp, smooth)),
    )


def _computer(model: nn.Module) -> str:
    device = next(model.parameters()).device
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return threads()


def _fitting(image: Image.Image, file: Path) -> Path:
    """Return the file of a picture, or of a smaller copy where a browser had too much to load."""
    share = math.sqrt(SHOWN_PIXELS / (image.width * image.height))
    if share >= 1:
        return file
    size = int(image.width * share), int(image.height * share)
    made = file.with_suffix(".jpg")
    image.resize((max(1, size[0]), max(1, size[1])), Image.Resampling.LANCZOS).save(
        made, quality=92, subsampling=0, icc_profile=image.info.get("icc_profile")
    )
    return made


def _opaque(image: Image.Image) -> Image.Image:
    """Return the picture on white: two layers that show through each other compare nothing."""
    if "A" not in image.getbands():
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _busiest(difference: Image.Image) -> tuple[int, int]:
    """Return the centre of the detail-sized window with the largest sum of differences."""
    step = max(1, min(8, *difference.size))
    small = difference.convert("L").reduce(step)
    blurred = small.filter(ImageFilter.BoxBlur((DETAIL[0] / step / 2, DETAIL[1] / step / 2)))
    row, column = divmod(int(np.asarray(blurred).argmax()), blurred.width)
    return column * step + step // 2, row * step + step // 2


def detail(comparison: Comparison) -> tuple[Image.Image, Image.Image]:
    """Return bicubic and network around the spot, every pixel a square of `ZOOM`."""
    size = [min(limit, extent) for limit, extent in zip(DETAIL, comparison.output, strict=True)]
    left, top = (
        min(max(middle - length // 2, 0), extent - length)
        for middle, length, extent in zip(comparison.spot, size, comparison.output, strict=True)
    )
    box = (left, top, left + size[0], top + size[1])
    magnified = []
    for file in (comparison.bicubic, comparison.network):
        with Image.open(file) as image:
            part = image.crop(box)
            part.info["icc_profile"] = image.info.get("icc_profile")
        magnified.append(part.resize((size[0] * ZOOM, size[1] * ZOOM), Image.Resampling.NEAREST))
    return magnified[0], magnified[1]


def costs(network: Loaded, size: tuple[int, int]) -> list[tuple[Cost, Cost]]:
    """Return, per device that can be estimated, the cost for `(width, height)` and to 720p."""
    reference = (REFERENCE[0] // network.scale, REFERENCE[1] // network.scale)
    names = sorted(target_names(), key=lambda name: (name != HEADLINE, name))
    return [
        (_cost(network, name, size), _cost(network, name, reference))
        for name in names
        if target(name).method == "roofline"
    ]


@functools.lru_cache(maxsize=1000)
def _cost(network: Loaded, name: str, size: tuple[int, int]) -> Cost:
    device = target(name)  # by the method that answers at once
    return estimate(_subject(network, size), device, method=device.method)


@functools.lru_cache(maxsize=32)
def _subject(network: Loaded, size: tuple[int, int]) -> Subject:
    """Return what is priced: traced once for all devices, which takes most of the time."""
    return of_module(network.model, (1, 1, size[1], size[0]))


def work(macs: int) -> str:
    """Return a number of MACs for people: "3.11 G"."""
    for unit, size in (("G", 1e9), ("M", 1e6)):
        if macs >= size:
            return f"{macs / size:.3g} {unit}"
    return f"{macs / 1e3:.3g} k"


def energy(millijoules: float | None) -> str:
    """Return an energy for people, or a dash where the device's power is not known."""
    if millijoules is None:
        return DASH
    return f"{millijoules / 1000:.3g} J" if millijoules >= 1000 else f"{millijoules:.3g} mJ"


def _how_it_runs(cost: Cost) -> str:
    if not cost.fits.flash:
        return "no: weights exceed flash"
    if cost.runs_tiled and cost.tiled:
        return f"in {cost.tiled.count:,} tiles of {cost.tiled.width}{TIMES}{cost.tiled.height}"
    return "whole" if cost.fits else "no: activations exceed SRAM"


def headline(comparison: Comparison, network: Loaded, pairs: Sequence[tuple[Cost, Cost]]) -> str:
    """Return the HTML of the facts next to the picture."""
    here, reference = next(pair for pair in pairs if pair[0].target == HEADLINE)
    counts = here.parameters
    rest = here.total_parameters - counts.get("weights", 0)
    width, height = comparison.output
    tiled = here.tiled if here.runs_tiled else None
    memory = tiled.peak_activation_bytes if tiled else here.peak_activation_bytes
    cards = [
        (
            "On a microcontroller NPU",
            duration(here.latency_ms),
            f"Arm Ethos-U55-256, estimated; {readable(memory)} of SRAM, {_how_it_runs(here)}",
        ),
        (
            "On this computer",
            duration(comparison.seconds * 1e3),
            f"measured, {comparison.by}; {width:,}{TIMES}{height:,} pixels",
        ),
        (
            "Work",
            f"{work(here.macs)} MACs",
            f"counted, for this picture; {work(reference.macs)} to {TO_720P}",
        ),
        (
            "Network",
            readable(here.weight_bytes),
            f"{counts.get('weights', 0):,} weights, {rest:,} biases and slopes, as 8-bit integers",
        ),
    ]
    return figures(cards)


def table(comparison: Comparison, network: Loaded, pairs: Sequence[tuple[Cost, Cost]]) -> str:
    """Return the HTML of the cost table: a row per device, this computer first, then the notes."""
    tiles = len(list(enlarge.tiles(*comparison.used)))
    how = "whole" if tiles == 1 else f"in {tiles:,} tiles of {enlarge.TILE}{TIMES}{enlarge.TILE}"
    own = ("This computer", "float32, PyTorch", duration(comparison.seconds * 1e3), DASH,
           work(pairs[0][0].macs), DASH, how, DASH, "measured (this run)")  # fmt: skip
    rows = [_row(*own), *(_row(*_cells(*pair)) for pair in pairs)]
    head = "".join(f'<th scope="col">{html.escape(column)}</th>' for column in COLUMNS)
    notes = "".join(
        f"<dt>{html.escape(cost.target)}</dt><dd>{html.escape('; '.join(cost.notes))}</dd>"
        for cost, _ in pairs
        if cost.notes
    )
    return (
        f'<table class="zoo-table zoo-costs"><thead><tr>{head}</tr>'
        f"</thead><tbody>{''.join(rows)}</tbody></table>"
        f"<p class='zoo-note'>Luma of {html.escape(network.ref)}, the deployed network, 8-bit on "
        "every device. MACs are counted exactly, overlap of tiles included; memory is a plan of "
        "the activations; time is a roofline <em>estimate</em>, not a measurement.</p>"
        f"<details class='zoo-note'><summary>What each estimate assumes</summary>"
        f"<dl>{notes}</dl></details>"
    )


def _cells(here: Cost, reference: Cost) -> tuple[str, ...]:
    tiled = here.tiled if here.runs_tiled else None
    runs = bool(here.fits) or here.runs_tiled
    return (
        here.target,
        target(here.target).summary.partition(":")[0],
        duration(here.latency_ms) if runs else DASH,
        duration(reference.latency_ms) if reference.fits or reference.runs_tiled else DASH,
        work(tiled.macs if tiled else here.macs),
        readable(tiled.peak_activation_bytes if tiled else here.peak_activation_bytes),
        _how_it_runs(here),
        energy(here.energy_mj) if runs else DASH,
        here.obtained["latency_ms"],
    )


def _row(name: str, summary: str, *cells: str) -> str:
    body = "".join(
        f"<td data-label='{label}'>{html.escape(cell)}</td>"
        for label, cell in zip(COLUMNS[1:], cells, strict=True)
    )
    return (
        f'<tr><th scope="row">{html.escape(name)}<small>{html.escape(summary)}</small></th>'
        f"{body}</tr>"
    )


def moved(comparison: Comparison, click: Sequence[int]) -> Comparison:
    """Return the comparison with its spot where the visitor clicked on the given picture."""
    x, y = (
        int(min(max(at, 0), before - 1) * after / before)
        for at, before, after in zip(click, comparison.given, comparison.output, strict=True)
    )
    return replace(comparison, spot=(x, y))
