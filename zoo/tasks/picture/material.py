"""What pictures are learned from: photographs and a filter, or pairs of before and after."""

import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.data import filters, images
from zoo.errors import MismatchError
from zoo.registry.recipe import Recipe

_LOG = logging.getLogger("zoo")
BEFORE, AFTER = "before", "after"  # folders of pairs
_LONGEST = 768  # pixels; larger photographs are shrunk: looks are for what a screen shows
_HOLD_OUT_EVERY, _LAST_HELD_OUT, _HELD_OUT_SIDE = 10, 16, 240
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Sample:
    """A picture and what it shall become: `(H, W, 3)` of uint8 each."""

    name: str
    before: Pixels
    after: Pixels


@dataclass(frozen=True)
class Material:
    """Pictures decoded.

    Attributes:
        train: what patches are drawn from.
        shares: for each of `train`, the share of all pixels that it and those before it hold.
        held_out: middle parts of every tenth picture in name order; they choose the checkpoint.
        fingerprint: SHA-256 over pictures, filter and settings.
        facts: what a card says of the data.

    """

    train: list[Sample]
    shares: NDArray[np.float64]
    held_out: list[Sample]
    fingerprint: str
    facts: dict[str, Any]


def rgb(source: Any, name: str = "") -> Pixels:
    """Return any picture as `(H, W, 3)` of uint8."""
    picture = images.read(source, name)
    upright = images.to_pillow(images.Picture(picture.pixels)).convert("RGB")
    return np.asarray(upright)


def unit(pixels: Pixels) -> filters.Array:
    """Return pixels as float32 in [0, 1]."""
    return pixels.astype(np.float32) / np.float32(255)


def samples(folder: Path, look: str, longest: int = _LONGEST) -> list[Sample]:
    """Return the pictures of a folder with what they shall become.

    A folder that holds the folders `before` and `after` has pairs: files of the same name, but
    for the suffix, and of the same size. Of any other every picture is a photograph, and
    `look` says what comes after: a filter of `zoo.data.filters`, or "" for the same again.

    Raises:
        MismatchError: no pictures; a partner is missing, of another size or there twice; pairs and
            a filter.
        UnknownNameError: no such filter.

    """
    if holds_pairs(folder):
        if look:
            raise MismatchError(
                f"{folder} holds pairs, and train.options.filter is {look!r}; give a folder of "
                "photographs, or leave the filter out"
            )
        return _pairs(folder)
    change = filters.named(look) if look else None
    found = []
    for path in images.find(folder):
        before = _shrunk(rgb(path), longest)
        after = before if change is None else to_bytes(change(unit(before)))
        found.append(Sample(_label(path), before, after))
    return found


def _label(path: Path) -> str:
    """Return a file's name as text that can be stored: names on disk need not be UTF-8."""
    return os.fsencode(path.name).decode("utf-8", "replace")


def holds_pairs(folder: Path) -> bool:
    """Say whether a folder holds pairs, or what is left of them."""
    return (folder / BEFORE).is_dir() or (folder / AFTER).is_dir()


def _shrunk(picture: Pixels, longest: int) -> Pixels:
    share = longest / max(picture.shape[:2])
    if share >= 1:
        return picture
    size = [max(1, round(n * share)) for n in picture.shape[1::-1]]
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def to_bytes(picture: filters.Array) -> Pixels:
    """Return values in [0, 1] as uint8, rounded."""
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


def by_stem(folder: Path) -> dict[str, Path]:
    """Return the pictures of a folder by their names without suffix, by which pairs are known.

    Raises:
        MismatchError: no pictures, or two of one name.

    """
    found: dict[str, Path] = {}
    for path in images.find(folder):
        other = found.setdefault(path.stem, path)
        if other != path:
            raise MismatchError(
                f"{folder} has {other.name} and {path.name}; expected one picture of each name: "
                "rename or remove one"
            )
    return found


def _pairs(folder: Path) -> list[Sample]:
    befores, afters = (by_stem(folder / part) for part in (BEFORE, AFTER))
    if alone := sorted(set(befores) ^ set(afters)):
        place, other = (BEFORE, AFTER) if alone[0] in befores else (AFTER, BEFORE)
        unread = sorted(f.name for f in (folder / other).iterdir() if f.stem == alone[0])
        reason = f" ({unread[0]} is none of {', '.join(images.SUFFIXES)})" if unread else ""
        raise MismatchError(
            f"{folder / place} has {alone[0]!r}, which has no partner{reason}; expected files of "
            f"the same names in {BEFORE}/ and {AFTER}/"
        )
    found = []
    for stem, path in befores.items():
        before, after = rgb(path), rgb(afters[stem])
        if before.shape != after.shape:
            sizes = [f"{p.shape[1]}x{p.shape[0]}" for p in (before, after)]
            raise MismatchError(
                f"the pair {stem!r} of {folder} has pictures of {sizes[0]} and {sizes[1]} pixels; "
                "expected the same size before and after"
            )
        found.append(Sample(_label(path), before, after))
    return found


def material(recipe: Recipe, folder: Path) -> Material:
    """Read a folder for training; see `samples`.

    Raises:
        MismatchError: fewer than two pictures that hold a patch and its surroundings.

    """
    patch = patch_size(recipe)
    look = str(recipe.train.options.get("filter", ""))
    least = patch + 2 * filters.PERIOD
    all_of_them = samples(folder, look)
    found = [s for s in all_of_them if min(s.before.shape[:2]) >= least]
    if len(found) < 2:
        raise MismatchError(
            f"{folder} has {len(found)} pictures of at least {least}x{least} pixels (of "
            f"{len(all_of_them)} in all); expected two or more"
        )
    if len(found) < len(all_of_them):
        _LOG.warning(
            "%d of %d pictures of %s are smaller than %dx%d pixels and left out",
            len(all_of_them) - len(found), len(all_of_them), folder, least, least,
        )  # fmt: skip
    every = max(_HOLD_OUT_EVERY, -(-len(found) // _LAST_HELD_OUT))
    held = [_middle(sample) for sample in found[::every]]
    train = [sample for number, sample in enumerate(found) if number % every]
    digest = hashlib.sha256(f"{look} {patch} {every}".encode())
    for sample in found:
        digest.update(f"\0{sample.name}\0{sample.before.shape}".encode())
        digest.update(sample.before.tobytes())
        digest.update(sample.after.tobytes())
    pixels = np.cumsum([sample.before.size for sample in train], dtype=np.float64)
    facts = {
        "source": f"{folder.resolve().name}{f', filter {look}' if look else ''}",
        "pictures": len(train),
        "held_out": [sample.name for sample in held],
        "sha256": digest.hexdigest(),
    }
    return Material(train, pixels / pixels[-1], held, digest.hexdigest(), facts)


def patch_size(recipe: Recipe) -> int:
    """Return the side of a patch.

    Raises:
        MismatchError: it is not a positive even number.

    """
    size = recipe.train.options.get("patch_size", 0)
    if not isinstance(size, int) or size < 2 or size % 2:
        raise MismatchError(f"train.options.patch_size is {size!r}; expected an even number")
    return size


def _middle(sample: Sample) -> Sample:
    rows, columns = (min(n - n % 2, _HELD_OUT_SIDE) for n in sample.before.shape[:2])
    # Where the texture begins anew, so that a cut shows what the whole shows there.
    top, left = (
        (n - size) // 2 // filters.PERIOD * filters.PERIOD
        for n, size in zip(sample.before.shape, (rows, columns), strict=False)
    )
    spot = np.s_[top : top + rows, left : left + columns]
    return Sample(sample.name, sample.before[spot], sample.after[spot])


def patches(
    data: Material,
    recipe: Recipe,
    step: int,
    rows: range,
    total: int,
    strengths: Mapping[str, float] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return rows of a step: inputs `(n, 6, P, P)` and targets `(n, 3, P, P)` in [0, 1].

    A sample is a function of (seed, step, row) alone. Patches begin at multiples of the texture's
    period, so that before and after are in step with the planes. With `strengths`, by filter,
    the targets are `zoo.data.filters.mixed` of the photographs instead of `after`.
    """
    size, period = patch_size(recipe), filters.PERIOD
    dice = np.random.Generator(np.random.Philox(key=[recipe.train.seed, step]))
    draws = dice.random((total, 3))
    before = np.empty((len(rows), size, size, 3), np.float32)
    after = np.empty_like(before)
    for slot, row in enumerate(rows):
        sample = data.train[int(np.searchsorted(data.shares, draws[row, 0], side="right"))]
        top, left = (
            period * (1 + int(draw * ((n - size - 2 * period) // period + 1)))
            for draw, n in zip(draws[row, 1:], sample.before.shape, strict=False)
        )
        inner = np.s_[top : top + size, left : left + size]
        before[slot] = unit(sample.before[inner])
        if strengths is None:
            after[slot] = unit(sample.after[inner])
            continue
        # A filter sees the surroundings of a patch too, as far as one period.
        outer = np.s_[top - period : top + size + period, left - period : left + size + period]
        around = filters.mixed(unit(sample.before[outer]), strengths)
        after[slot] = around[period : period + size, period : period + size]
    inputs, targets = (torch.from_numpy(x.transpose(0, 3, 1, 2)) for x in (before, after))
    return with_texture(inputs), targets.contiguous()


def with_texture(pictures: Tensor, top: int = 0, left: int = 0) -> Tensor:
    """Return pictures `(N, 3, H, W)` with their planes of texture, `(N, 6, H, W)`, in [0, 1].

    Args:
        pictures: colours in [0, 1]; parts of one large picture, or whole.
        top: row of the large picture that is the first here.
        left: column of the large picture that is the first here.

    """
    period, (height, width) = filters.PERIOD, pictures.shape[-2:]
    down, right = top % period, left % period
    whole = filters.textures(height + down, width + right)[:, down:, right:]
    planes = torch.from_numpy(0.5 + 0.5 * whole).to(pictures)
    return torch.cat([pictures, planes.expand(len(pictures), -1, -1, -1)], 1)
