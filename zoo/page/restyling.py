"""What the page's Looks tab shows, without the page: photographs restyled by mixed adapters.

A studio is shared by all visitors. A mix of looks goes into the network for one picture and comes
out before the next, under a lock, so that nobody sees another's choice; pictures in full size are
made by a network of their own, so that they keep nobody's sliders waiting. Nothing here knows
Gradio; `zoo.page.tabs.looks` lays it out.
"""

import math
import threading
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoo.adapters import SparseAdapter, Switcher, compare, registry
from zoo.artifacts import adapters as adapter_refs
from zoo.artifacts.base import load_base
from zoo.data import images
from zoo.errors import MismatchError, MissingWeightsError
from zoo.page.given import number
from zoo.page.lowrank import LowRank
from zoo.registry import catalogue
from zoo.tasks import picture as task

BASE = "looks"
PREVIEW = 512  # pixels of the longest side that follows the sliders
MOST_PIXELS = 24_000_000  # of a picture that is made in full size
# Looks are trained alone and in pairs of up to 1 + 1. Where the sliders sum up to more, all of
# them are scaled down to this sum: further out the picture falls apart into coloured noise.
MOST_STRENGTH = 2.0
ROUNDS = 3  # of a switch that is timed
_KEPT = 24  # photographs whose previews stay decoded
_PLANS = 64 << 20  # bytes of plans, some 200 mixes
_ORDER = ("pencil", "oil", "cartoon", "watercolour", "night", "film", "halftone", "neon")
_EXAMPLES = Path(__file__).parent / "examples"
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Look:
    """A look: its adapter's name, what visitors call it, what it does, and its file's bytes."""

    name: str
    label: str
    summary: str
    nbytes: int


@dataclass(frozen=True, eq=False)
class Photo:
    """A visitor's picture, shrunk for the page.

    Attributes:
        pixels: `(H, W, 3)`, the longest side at most `PREVIEW`.
        alpha: `(H, W)`, or None.
        given: width and height of the file, upright.

    """

    pixels: Pixels
    alpha: Pixels | None
    given: tuple[int, int]

    def shown(self, pixels: Pixels) -> Image.Image:
        """Return pixels of this picture for the eye: what is transparent on white."""
        image = Image.fromarray(pixels)
        if self.alpha is None:
            return image
        white = Image.new("RGB", image.size, "white")
        return Image.composite(image, white, Image.fromarray(self.alpha))


@dataclass(frozen=True)
class Mix:
    """A picture in a mix of looks, and what the switch cost.

    Attributes:
        picture: for the eye.
        strengths: that were used, by adapter; those of 0 are left out.
        scaled: whether they are smaller than asked for; see `MOST_STRENGTH`.
        changed: weights of the network that the mix changed.
        plan_ms: working out what to write; near 0 for a mix that was asked for lately.
        switch_ms: the looks taken out of the network and written in again, fastest of `ROUNDS`: a
            busy machine disturbs some.
        forward_ms: the picture.
        lora_ms: low-rank factors of the same size merged into a copy and out again, likewise.
        lora_off: weights that were not the same bits after that.
        before: SHA-256 of the base before.
        after: and after.

    """

    picture: Image.Image
    strengths: Mapping[str, float]
    scaled: bool
    changed: int
    plan_ms: float
    switch_ms: float
    forward_ms: float
    lora_ms: float
    lora_off: int
    before: str
    after: str


@dataclass(frozen=True)
class Losses:
    """What looks do to each other in a mix.

    Attributes:
        psnr_db: of the mix against each look alone at its strength, by adapter.
        picture: their interference.
        peft_ms: low-rank factors of the same size merged and unmerged by peft; None without it.

    """

    psnr_db: Mapping[str, float]
    picture: Image.Image
    peft_ms: float | None


def shipped() -> list[str]:
    """Return the names of the looks that can be shown here: theirs and the base's weights lie here.

    Raises:
        MissingWeightsError: there are none; the message says what to type.

    """
    tag = catalogue.find(BASE).default_tag
    names = [
        name
        for name in registry.names(base=BASE)
        if registry.file_path(registry.find(name)) is not None
    ]
    if not names or tag not in catalogue.shipped_tags(BASE):
        raise MissingWeightsError(
            "no looks are shipped with this installation; type: zoo adapter joint looks "
            "--data DIR --out runs/looks"
        )
    return sorted(names, key=_place)


def _place(name: str) -> tuple[int, str]:
    word = name.removeprefix(f"{BASE}-")
    return (_ORDER.index(word) if word in _ORDER else len(_ORDER)), name


def examples() -> list[Path]:
    """Return the photographs that come with the page, the first to be shown first."""
    return sorted(_EXAMPLES.glob("*.jpg"), key=lambda file: (file.stem != "mountains", file.stem))


class _Easel:
    """A network with its looks, for one picture at a time."""

    def __init__(self, adapters: Mapping[str, SparseAdapter]) -> None:
        base = load_base(BASE)
        if base.recipe is None:
            raise MismatchError(f"the base {BASE!r} has no recipe; install edge-zoo again")
        self.model, self.recipe = base.model, base.recipe
        self.switcher = Switcher(self.model, cache_bytes=_PLANS)
        self.lock = threading.Lock()
        for name, adapter in adapters.items():
            self.switcher.register(name, adapter)

    def restyled(self, pixels: Pixels) -> Pixels:
        """Return a picture as the network makes it now; the caller holds the lock."""
        made = task.restyle(self.model, task.to_tensor(pixels))[0]
        return task.to_bytes(made.permute(1, 2, 0).numpy())


class Studio:
    """What all visitors share: the network, its looks, and previews of their pictures.

    Raises:
        MissingWeightsError: no looks are shipped.

    """

    def __init__(self) -> None:
        names = shipped()
        self._adapters = {name: adapter_refs.adapter(name) for name in names}
        self.looks = {name: _look(name) for name in names}
        self._live, self._large = _Easel(self._adapters), _Easel(self._adapters)
        self.total = sum(p.numel() for p in self._live.model.parameters())
        self.values = max(adapter.nnz for adapter in self._adapters.values())
        self._low_rank = LowRank(self._live.model, self.values, len(names))
        self._photos: dict[tuple[str, int, int], Photo] = {}
        self._shelf = threading.Lock()
        for name in names:  # so that no visitor waits for the first reading of a file
            self._live.switcher.activate(name)
        self._live.switcher.deactivate()

    @property
    def rank(self) -> int:
        """Of the low-rank factors that are as large as a look."""
        return self._low_rank.rank

    @property
    def low_rank_values(self) -> int:
        """Numbers in them."""
        return self._low_rank.values

    def photo(self, file: Path) -> Photo:
        """Return a file's picture, shrunk; the last few are kept.

        Raises:
            MismatchError: the file is not a picture, is truncated, or has too many pixels.

        """
        try:
            stat = file.stat()
        except OSError:
            raise MismatchError("That picture is gone; bring it once more.") from None
        key = (str(file), stat.st_mtime_ns, stat.st_size)
        with self._shelf:
            known = self._photos.pop(key, None)
            if known is not None:
                self._photos[key] = known
                return known
        photo = _shrunk(file)
        with self._shelf:
            self._photos[key] = photo
            while len(self._photos) > _KEPT:
                del self._photos[next(iter(self._photos))]
        return photo

    def strengths(self, asked: Mapping[str, Any]) -> dict[str, float]:
        """Return checked strengths, those of 0 left out, scaled down to a sum of `MOST_STRENGTH`.

        Raises:
            MismatchError: no such look, or a strength that is not a number from 0 to 1.

        """
        chosen = {}
        for name, value in asked.items():
            if name not in self.looks:
                raise MismatchError(f"there is no look {name!r}; one of {', '.join(self.looks)}")
            if strength := number(value, f"strength of {name}", 0, 1, 0.0):
                chosen[name] = strength
        share = MOST_STRENGTH / max(sum(chosen.values()), MOST_STRENGTH)
        # Rounded, because the code that visitors copy says them.
        return chosen if share == 1 else {n: round(v * share, 3) for n, v in chosen.items()}

    def mix(self, photo: Photo, strengths: Mapping[str, Any]) -> Mix:
        """Return a picture in a mix of looks; `strengths` by adapter, from 0 to 1.

        Raises:
            MismatchError: see `strengths`.

        """
        chosen = self.strengths(strengths)
        easel, switcher = self._live, self._live.switcher
        with easel.lock:
            switcher.deactivate()  # an interrupted visitor may have left a look in
            before = switcher.verify()
            start = time.perf_counter()
            switcher.activate(chosen)
            planned = time.perf_counter() - start
            times = []
            for _ in range(ROUNDS):  # from the plan
                start = time.perf_counter()
                switcher.deactivate()
                switcher.activate(chosen)
                times.append(time.perf_counter() - start)
            try:
                changed = switcher.changed
                start = time.perf_counter()
                made = easel.restyled(photo.pixels)
                forward = time.perf_counter() - start
            finally:
                switcher.deactivate()
            after = switcher.verify()
            lora_ms, lora_off = self._low_rank.in_and_out(list(chosen.values()), ROUNDS)
        scaled = sum(value or 0 for value in strengths.values()) > MOST_STRENGTH
        return Mix(
            photo.shown(made), chosen, scaled, changed, planned * 1e3,
            min(times) * 1e3, forward * 1e3, lora_ms, lora_off, before, after,
        )  # fmt: skip

    def losses(self, photo: Photo, strengths: Mapping[str, Any]) -> Losses | None:
        """Return what two or more looks lose to each other; None for fewer."""
        chosen = self.strengths(strengths)
        if len(chosen) < 2:
            return None
        easel, made = self._large, {}
        with easel.lock:
            for name, mix in [("", chosen), *((n, {n: v}) for n, v in chosen.items())]:
                with easel.switcher.using(mix):
                    made[name] = easel.restyled(photo.pixels)
            adapters = {name: self._adapters[name] for name in chosen}
            report = compare(adapters, easel.model, chosen)
        return Losses(
            {name: _psnr(made[""], made[name]) for name in chosen},
            report.picture(),
            self._low_rank.peft_ms(),
        )

    def in_full(
        self, file: Path, strengths: Mapping[str, Any], folder: Path
    ) -> Generator[tuple[int, int], None, Path]:
        """Write a picture in full size into a folder, as `zoo.run` makes it; return its file.

        Yields after each tile how many are done, and of how many; the looks are in the network
        for a tile alone.

        Raises:
            MismatchError: see `photo` and `strengths`, or more than `MOST_PIXELS` pixels.

        """
        width, height = self.photo(file).given
        if width * height > MOST_PIXELS:
            raise MismatchError(
                f"Your picture has {width} x {height} pixels; this page makes pictures of up to "
                f"{MOST_PIXELS / 1e6:.0f} megapixels. The lines under Use this make any size."
            )
        chosen, easel = self.strengths(strengths), self._large
        work, result = task.steps(easel.model, easel.recipe, images.read(file, file.name)), None
        while result is None:
            try:
                with easel.lock, easel.switcher.using(chosen):
                    step = next(work)
            except StopIteration as end:
                result = end.value
            else:
                yield step
        target = folder / task.default_output(easel.recipe, Path(file.name)).name
        # The default level takes three times as long for a few percent.
        result.image.save(target, compress_level=1, icc_profile=result.picture.profile)
        return target


def _look(name: str) -> Look:
    recipe = registry.find(name)
    path = registry.file_path(recipe)
    nbytes = path.stat().st_size if path else 0
    return Look(name, name.removeprefix(f"{BASE}-").capitalize(), recipe.summary, nbytes)


def _shrunk(file: Path) -> Photo:
    given = images.read(file, file.name)
    image = images.to_pillow(given)
    size = image.size
    image = image.convert("RGBA" if "A" in image.getbands() else "RGB")
    if max(size) > PREVIEW:
        # A picture may be 20,000 pixels wide and one high.
        share = PREVIEW / max(size)
        smaller = tuple(max(1, round(n * share)) for n in size)
        image = image.resize((smaller[0], smaller[1]), Image.Resampling.LANCZOS, reducing_gap=3)
    pixels = np.asarray(image)
    alpha = pixels[..., 3].copy() if pixels.shape[2] == 4 else None
    return Photo(np.ascontiguousarray(pixels[..., :3]), alpha, size)


def _psnr(one: Pixels, other: Pixels) -> float:
    error = float(np.square(one.astype(np.float64) - other).mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def code(strengths: Mapping[str, float]) -> str:
    """Return three lines of Python that give the same picture, in full size."""
    looks = ", ".join(f'"{name}": {value:g}' for name, value in strengths.items())
    made = '"photo.jpg", "photo-looks.png"'
    if not strengths:
        return f'import zoo\n\nzoo.run("{BASE}", {made})  # without a look: the photograph again\n'
    return f'import zoo\n\nlooks = {{{looks}}}\nzoo.run("{BASE}", {made}, adapter=looks)\n'
