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
from zoo.errors import HubError, MismatchError, MissingExtraError
from zoo.files import replacing_folder, write_json
from zoo.recipe import Recipe
from zoo.tasks import images
from zoo.tasks.resize import resize

VERSION = 1  # of the layout and of the arithmetic below
HOLD_OUT_EVERY = 20
_LAST_HELD_OUT = 40  # more would slow validation down and say little more
Planes = tuple[NDArray[np.uint16], NDArray[np.uint16]]


@dataclass(frozen=True)
class Prepared:
    """Training images of one scale.

    Attributes:
        train: (high, low) luma planes `(sH, sW)` and `(H, W)`, uint16 with white = 65535.
        held_out: the same for every 20th image in name order (at most 40), never trained on;
            they choose the checkpoint.
        fingerprint: SHA-256 over the names and contents of all images.
        facts: what a card says of the data: source, counts, names held out.

    """

    train: list[Planes]
    held_out: list[Planes]
    fingerprint: str
    facts: dict[str, Any]


def prepare(recipe: Recipe, source: str) -> Prepared:
    """Decode and shrink the images of a folder, or of a data set on the Hub, once; then map them.

    Args:
        recipe: its scale and patch size are used.
        source: a folder of pictures, or a Hub data set id such as "org/name" whose `train`
            split has an `image` column.

    Raises:
        MismatchError: no such folder, no pictures, an unreadable one, or fewer than two that
            hold a patch.
        HubError: the data set cannot be loaded.

    """
    scale, patch = recipe.args["scale"], recipe.train.options["patch_size"]
    if patch < 1:
        raise MismatchError(f"train.options.patch_size is {patch}; expected at least 1")
    digest = hashlib.sha256(f"{VERSION} x{scale}".encode())
    for name, data in _encoded(source):
        digest.update(f"\0{name}\0{len(data)}\0".encode())
        digest.update(data)
    folder = cache.root() / "prepared" / digest.hexdigest()[:32]
    if not (folder / "index.json").is_file():
        try:
            with replacing_folder(folder) as temporary:
                _decode(_encoded(source), scale, temporary)
        except OSError:
            if not (folder / "index.json").is_file():  # else another process was faster
                raise
    os.utime(folder)
    return _open(folder, source, patch, digest.hexdigest())


def _encoded(source: str) -> Iterator[tuple[str, bytes]]:
    """Yield (name, file content) of every image, in name order for folders."""
    try:
        import datasets
    except ImportError:
        raise MissingExtraError.of("datasets", "train") from None
    datasets.disable_progress_bars()
    path = Path(source).expanduser()
    if path.is_dir():
        files = [str(file) for file in images.find(path)]
        rows = datasets.Dataset.from_dict({"image": files})
    elif source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise MismatchError(f"no such folder: {source} (a Hub data set is written org/name)")
    else:
        try:
            rows = datasets.load_dataset(source, split="train")
        except Exception as error:  # its errors are many and share no base
            raise HubError(f"data set {source!r} cannot be loaded: {error}") from error
        if "image" not in rows.column_names:
            raise MismatchError(
                f"data set {source!r} has columns {rows.column_names}; expected 'image'"
            )
    rows = rows.cast_column("image", datasets.Image(decode=False))
    for number, row in enumerate(rows):
        item = row["image"]
        name = Path(item["path"]).name if item["path"] else f"{number:07d}"
        yield name, item["bytes"] or Path(item["path"]).read_bytes()


def _decode(pictures: Iterable[tuple[str, bytes]], scale: int, folder: Path) -> None:
    """Write `planes.bin` and `index.json` into `folder`."""
    index, offset = [], 0
    with (folder / "planes.bin").open("wb") as stream:
        for name, data in pictures:
            picture = images.read(data, f"training image {name}")
            rgb = np.asarray(images.to_pillow(images.Picture(picture.pixels)).convert("RGB"))
            rows, columns = (n - n % scale for n in rgb.shape[:2])
            rgb = rgb[:rows, :columns]
            small = resize(rgb, 1 / scale)
            index.append({"name": name, "offset": offset, "rows": rows, "columns": columns})
            for plane in (rgb, small):
                values = np.rint(images.luma(plane, 255) * 65535).astype(np.uint16)
                offset += stream.write(values.tobytes()) // 2
    write_json(folder / "index.json", {"scale": scale, "images": index})


def _open(folder: Path, source: str, patch: int, fingerprint: str) -> Prepared:
    index = json.loads((folder / "index.json").read_text())
    scale = index["scale"]
    large = [i for i in index["images"] if min(i["rows"], i["columns"]) >= patch * scale]
    if len(large) < 2:
        raise MismatchError(
            f"{source} has {len(large)} images of at least {patch * scale}x{patch * scale} pixels "
            f"(of {len(index['images'])} in all); expected two or more"
        )
    planes = np.memmap(folder / "planes.bin", np.uint16, mode="r")
    usable: list[tuple[str, Planes]] = []
    for item in large:
        rows, columns, at = item["rows"], item["columns"], item["offset"]
        high = planes[at : at + rows * columns].reshape(rows, columns)
        at += rows * columns
        low = planes[at : at + rows * columns // scale**2].reshape(rows // scale, -1)
        usable.append((item["name"], (high, low)))
    stride = max(HOLD_OUT_EVERY, len(usable) // _LAST_HELD_OUT)
    held = usable[::stride]
    path = Path(source).expanduser()
    return Prepared(
        train=[pair for number, (_, pair) in enumerate(usable) if number % stride],
        held_out=[pair for _, pair in held],
        fingerprint=fingerprint,
        facts={
            "source": path.resolve().name if path.is_dir() else source,
            "images": len(usable) - len(held),
            "held_out": [name for name, _ in held],
            "sha256": fingerprint,
        },
    )
