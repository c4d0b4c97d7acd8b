"""Training images decoded once: luma planes in one memory-mapped file, with their shrunk forms."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo import cache
from zoo.data import images
from zoo.data.resize import resize
from zoo.errors import HubError, MismatchError, MissingExtraError
from zoo.files import replacing_folder, write_json
from zoo.registry.recipe import Recipe

VERSION = 2  # version of the layout and of the arithmetic below
HOLD_OUT_EVERY = 20
_LAST_HELD_OUT = 40  # more would slow down validation and tell little more
Planes = tuple[NDArray[np.uint16], NDArray[np.uint16]]


@dataclass(frozen=True)
class Prepared:
    """Training images of one scale.

    Attributes:
        train: (high, low) luma planes `(sH, sW)` and `(H, W)`, uint16 with white = 65535; each
            image, then its shrunk copies.
        shares: for each of `train`, the share of all pixels that it and those before it hold.
        held_out: the same for every 20th image in name order (at most 40); neither they nor copies
            of them are trained on; they choose the checkpoint.
        fingerprint: SHA-256 over the names and contents of all images.
        facts: what a card says about the data: source, counts, names held out.

    """

    train: list[Planes]
    shares: NDArray[np.float64]
    held_out: list[Planes]
    fingerprint: str
    facts: dict[str, Any]


def prepare(recipe: Recipe, source: str) -> Prepared:
    """Decode and shrink the images of a folder, or of a data set on the Hub, once; then map them.

    Args:
        recipe: its scale is used, and `patch_size` and `shrunk_copies` of its train.options: so
            many copies of each image, evenly spaced down to half its size, are trained on too. They
            are sharper, and free of JPEG artefacts.
        source: a folder of pictures, or a Hub data set id such as "org/name" whose `train`
            split has an `image` column.

    Raises:
        MismatchError: there is no such folder, it holds no pictures or an unreadable one, or fewer
            than two hold a patch.
        HubError: the data set cannot be loaded.

    """
    scale, patch = recipe.args["scale"], recipe.train.options.get("patch_size", 0)
    copies = recipe.train.options.get("shrunk_copies", 0)
    if patch < 1:
        raise MismatchError(f"train.options.patch_size is {patch}; expected at least 1")
    if not 0 <= copies <= 8:
        raise MismatchError(f"train.options.shrunk_copies is {copies}; expected 0 to 8")
    digest = hashlib.sha256(f"{VERSION} x{scale} copies {copies}".encode())
    for name, data in encoded(source):
        digest.update(f"\0{name}\0{len(data)}\0".encode())
        digest.update(data)
    folder = cache.root() / "prepared" / digest.hexdigest()[:32]
    if not (folder / "index.json").is_file():
        try:
            with replacing_folder(folder) as temporary:
                _decode(encoded(source), scale, copies, temporary)
        except OSError:
            if not (folder / "index.json").is_file():  # otherwise another process was faster
                raise
    os.utime(folder)
    return _open(folder, source, patch, digest.hexdigest())


def encoded(source: str) -> Iterator[tuple[str, bytes]]:
    """Yield (name, file content) of every image of a folder, in name order, or of a data set.

    Raises:
        MismatchError: there is no such folder, or the data set has no `image` column.
        HubError: the data set cannot be loaded.
        MissingExtraError: a data set needs `datasets`, which is not installed.

    """
    path = Path(source).expanduser()
    if path.is_dir():
        for file in images.find(path):
            yield file.name, file.read_bytes()
        return
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise MismatchError(f"no such folder: {source} (a Hub data set is written org/name)")
    yield from _of_a_data_set(source)


def _of_a_data_set(source: str) -> Iterator[tuple[str, bytes]]:
    try:
        import datasets
    except ImportError:
        raise MissingExtraError.of("datasets", "train") from None
    datasets.disable_progress_bars()
    try:
        rows = datasets.load_dataset(source, split="train")
    except Exception as error:  # it raises many errors without a common base
        raise HubError(f"data set {source!r} cannot be loaded: {error}") from error
    if "image" not in rows.column_names:
        raise MismatchError(
            f"data set {source!r} has columns {rows.column_names}; expected 'image'"
        )
    rows = rows.cast_column("image", datasets.Image(decode=False))
    for number, row in enumerate(rows):
        image = row["image"]
        name = Path(image["path"]).name if image["path"] else f"{number:07d}"
        yield name, image["bytes"] or Path(image["path"]).read_bytes()


def _decode(pictures: Iterable[tuple[str, bytes]], scale: int, copies: int, folder: Path) -> None:
    """Write `planes.bin` and `index.json` into `folder`."""
    index, offset = [], 0
    sizes = [0.5 ** (number / max(copies, 1)) for number in range(copies + 1)]
    with (folder / "planes.bin").open("wb") as stream:
        for name, data in pictures:
            picture = images.read(data, f"training image {name}")
            rgb = np.asarray(images.to_pillow(images.Picture(picture.pixels)).convert("RGB"))
            for number, size in enumerate(sizes):
                copy = resize(rgb, size) if number else rgb
                rows, columns = (n - n % scale for n in copy.shape[:2])
                copy = copy[:rows, :columns]
                facts = {"name": name, "copy": number, "rows": rows, "columns": columns}
                index.append({**facts, "offset": offset})
                for plane in (copy, resize(copy, 1 / scale)):
                    values = np.rint(images.luma(plane, 255) * 65535).astype(np.uint16)
                    offset += stream.write(values.tobytes()) // 2
    write_json(folder / "index.json", {"scale": scale, "images": index})


def _open(folder: Path, source: str, patch: int, fingerprint: str) -> Prepared:
    index = json.loads((folder / "index.json").read_text())
    scale, least = index["scale"], patch * index["scale"]
    items = [i for i in index["images"] if min(i["rows"], i["columns"]) >= least]
    names = [i["name"] for i in items if not i["copy"]]
    if len(names) < 2:
        total = sum(not i["copy"] for i in index["images"])
        raise MismatchError(
            f"{source} has {len(names)} images of at least {least}x{least} pixels "
            f"(of {total} in all); expected two or more"
        )
    planes = np.memmap(folder / "planes.bin", np.uint16, mode="r")
    held_names = names[:: max(HOLD_OUT_EVERY, len(names) // _LAST_HELD_OUT)]
    train, held_out, unseen = [], [], frozenset(held_names)
    for entry in items:
        pair = _planes(planes, entry, scale)
        if entry["name"] not in unseen:
            train.append(pair)
        elif not entry["copy"]:
            held_out.append(pair)
    path = Path(source).expanduser()
    pixels = np.cumsum([high.size for high, _ in train])
    return Prepared(
        train=train,
        shares=pixels / pixels[-1],
        held_out=held_out,
        fingerprint=fingerprint,
        facts={
            "source": path.resolve().name if path.is_dir() else source,
            "images": len(names) - len(held_names),
            "held_out": held_names,
            "sha256": fingerprint,
        },
    )


def _planes(planes: NDArray[np.uint16], entry: dict[str, Any], scale: int) -> Planes:
    rows, columns, at = entry["rows"], entry["columns"], entry["offset"]
    high = planes[at : at + rows * columns].reshape(rows, columns)
    at += rows * columns
    low = planes[at : at + rows * columns // scale**2].reshape(rows // scale, -1)
    return high, low
