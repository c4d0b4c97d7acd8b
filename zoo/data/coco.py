"""Pictures with boxes: folders as COCO lays them out, and data sets of the Hub.

```
DATA/annotations/instances_train2017.json   DATA/train2017/000000000009.jpg    as COCO has it
DATA/annotations/instances_train.json       DATA/train/1.jpg                   or images/train/1.jpg
DATA/train/_annotations.coco.json           DATA/train/1.jpg                   as Roboflow exports
DATA/annotations.json                       DATA/1.jpg                         one set, no splits
```

A file has `images` (`id`, `file_name`), `categories` (`id`, `name`) and `annotations` (`image_id`,
`category_id`, `bbox` as left, top, width, height in pixels). Ids may have gaps; labels are numbered
from 0 in the order of the categories' ids.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.errors import HubError, MismatchError, MissingExtraError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scene:
    """A picture and the boxes in it, as its annotations have them.

    Attributes:
        name: the picture's file name.
        source: its path, or its bytes.
        boxes: `(n, 4)`: left, top, width, height in pixels.
        labels: `(n,)`: numbers of the boxes' labels.
        areas: `(n,)`: in square pixels; of the object, where the annotations say it.
        crowd: `(n,)`: whether a box is around many objects that were not told apart.
        size: width and height in pixels, where the annotations say them.

    """

    name: str
    source: Path | bytes
    boxes: Floats
    labels: NDArray[np.int64]
    areas: Floats
    crowd: NDArray[np.bool_]
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Scenes:
    """Pictures with boxes.

    Attributes:
        labels: the categories' names in the order of their ids.
        scenes: the pictures in the order of their ids.

    """

    labels: tuple[str, ...]
    scenes: tuple[Scene, ...]

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.scenes)

    def digest(self) -> str:
        """Return the SHA-256 over labels, names, boxes and the contents of the pictures."""
        found = hashlib.sha256(json.dumps(self.labels).encode())
        for scene in self.scenes:
            content = scene.source.read_bytes() if isinstance(scene.source, Path) else scene.source
            found.update(f"\0{scene.name}\0{len(content)}\0".encode())
            found.update(content)
            for array in (scene.boxes, scene.labels, scene.crowd):
                found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()


def find(folder: Path, *splits: str) -> tuple[Path, list[Path]] | None:
    """Return the annotations of the first of these splits that a folder has, and where to look.

    "" stands for a folder without splits. The result's second part are the folders in which the
    pictures may lie.

    Raises:
        MismatchError: there is no such folder, or several files could be meant.

    """
    if not folder.is_dir():
        raise MismatchError(f"no such folder: {folder}")
    for split in splits:
        patterns = (
            (
                f"annotations/instances_{split}*.json",
                f"{split}*/*.json",
                f"annotations/{split}.json",
            )
            if split
            else ("annotations/*.json", "*.json")
        )
        for pattern in patterns:
            files = [file for file in sorted(folder.glob(pattern)) if file.name[0] != "."]
            if len(files) > 1:
                names = ", ".join(str(file.relative_to(folder)) for file in files[:4])
                raise MismatchError(f"{folder} has {names}; expected one {pattern}")
            if files:
                own = files[0].stem.removeprefix("instances_")
                places = ("images", own, f"images/{own}", *filter(None, (split, f"images/{split}")))
                return files[0], [folder, files[0].parent, *(folder / name for name in places)]
    return None


def read(folder: Path, *splits: str) -> Scenes:
    """Return the pictures of the first of these splits that a folder has, or of one without.

    Raises:
        MismatchError: there are none, or they cannot be used; the message says why.

    """
    found = find(folder, *splits, "")
    if found is None:
        raise MismatchError(
            f"{folder} has no annotations; expected COCO's layout, e.g. "
            f"annotations/instances_{splits[0]}.json and {splits[0]}/*.jpg"
        )
    return read_file(*found)


def read_file(path: Path, folders: Sequence[Path]) -> Scenes:
    """Return the pictures of one file of annotations.

    Args:
        path: the file.
        folders: where the pictures may lie.

    Raises:
        MismatchError: it is no such file, or a picture is missing.

    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise MismatchError(f"{path} cannot be read: {error}") from error
    except ValueError as error:
        raise MismatchError(f"{path} is not JSON ({error}); expected COCO's annotations") from error
    parts = ("images", "categories", "annotations")
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in parts):
        raise MismatchError(f"{path} has no lists {', '.join(parts)}, as COCO's annotations have")
    try:
        return _scenes(path, content, folders)
    except MismatchError:  # it is a ValueError, and says what is wrong
        raise
    except KeyError as error:
        raise MismatchError(f"{path}: one of its entries has no {error}, as COCO's have") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise MismatchError(
            f"{path} is not as COCO's annotations are: {type(error).__name__} {error}"
        ) from error


def _scenes(path: Path, content: Mapping[str, Any], folders: Sequence[Path]) -> Scenes:
    categories = _by_id(path, content["categories"], "categories")
    pictures = _by_id(path, content["images"], "images")
    numbers = {key: number for number, key in enumerate(categories)}
    labels = tuple(str(category["name"]) for category in categories.values())
    if len(set(labels)) < len(labels) or not labels:
        raise MismatchError(f"{path} has the categories {', '.join(labels)}; expected names, once")
    boxes: dict[Any, list[Mapping[str, Any]]] = {key: [] for key in pictures}
    for annotation in content["annotations"]:
        for key, known in (("image_id", boxes), ("category_id", numbers)):
            if annotation[key] not in known:
                raise MismatchError(
                    f"{path}: annotation {annotation.get('id')} has {key} {annotation[key]}, which "
                    f"is none of its {'images' if key == 'image_id' else 'categories'}"
                )
        boxes[annotation["image_id"]].append(annotation)
    missing = [p["file_name"] for p in pictures.values() if _place(p["file_name"], folders) is None]
    if missing:
        raise MismatchError(
            f"{path}: {len(missing)} of {len(pictures)} pictures are missing, e.g. {missing[0]}; "
            f"expected in {folders[-1]}"
        )
    return Scenes(labels, tuple(_scene(path, p, boxes[key], numbers, folders)
                                for key, p in pictures.items()))  # fmt: skip


def _by_id(path: Path, items: Sequence[Mapping[str, Any]], kind: str) -> dict[Any, Any]:
    """Return items by their ids, in the order of these."""
    ordered = sorted(items, key=lambda item: (isinstance(item["id"], str), item["id"]))
    found = {item["id"]: item for item in ordered}
    if len(found) < len(items):
        raise MismatchError(f"{path}: several of the {kind} have the same id")
    return found


def _place(name: str, folders: Sequence[Path]) -> Path | None:
    """Return where a picture lies: below one of the folders, and never elsewhere."""
    parts = Path(name).parts
    if Path(name).is_absolute() or ".." in parts:
        raise MismatchError(f"the picture {name!r} lies outside of the data; expected a file name")
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _scene(
    path: Path,
    picture: Mapping[str, Any],
    annotations: Sequence[Mapping[str, Any]],
    numbers: Mapping[Any, int],
    folders: Sequence[Path],
) -> Scene:
    place = _place(picture["file_name"], folders)
    assert place is not None
    given = [a["bbox"] for a in annotations]
    fits = all(isinstance(box, list) and len(box) == 4 for box in given)
    boxes = np.array(given if fits else [math.nan], np.float64).reshape(-1, 4 if fits else 1)
    if not np.isfinite(boxes).all():
        raise MismatchError(
            f"{path}: a box of {picture['file_name']} is not four numbers: left, top, width, height"
        )
    areas = np.array([a.get("area", math.nan) for a in annotations], np.float64)
    own = boxes[:, 2] * boxes[:, 3]
    sized = "width" in picture and "height" in picture
    return Scene(
        name=str(picture["file_name"]),
        source=place,
        boxes=boxes,
        labels=np.array([numbers[a["category_id"]] for a in annotations], np.int64),
        areas=np.where(np.isnan(areas), own, areas),
        crowd=np.array([bool(a.get("iscrowd", 0)) for a in annotations], np.bool_),
        size=(int(picture["width"]), int(picture["height"])) if sized else None,
    )


def from_hub(source: str, split: str) -> Scenes | None:
    """Return a split of a data set on the Hub; None if it has no such split.

    It has the columns `image` and `objects`, with the lists `bbox` (left, top, width, height) and
    `category`, whose names the data set knows.

    Raises:
        HubError: it cannot be loaded.
        MismatchError: it has other columns.
        MissingExtraError: a data set needs `datasets`, which is not installed.

    """
    try:
        import datasets
    except ImportError:
        raise MissingExtraError.of("datasets", "train") from None
    datasets.disable_progress_bars()
    try:
        splits = datasets.load_dataset(source)
    except Exception as error:  # it raises many errors without a common base
        raise HubError(f"data set {source!r} cannot be loaded: {error}") from error
    if split not in splits:
        return None
    rows = splits[split]
    if not {"image", "objects"} <= set(rows.column_names):
        raise MismatchError(
            f"data set {source!r} has columns {rows.column_names}; expected image and objects"
        )
    feature = rows.features["objects"]
    kinds = feature["category"] if isinstance(feature, dict) else feature.feature["category"]
    names = getattr(getattr(kinds, "feature", kinds), "names", None)
    if names is None:
        raise MismatchError(f"data set {source!r} does not name its categories")
    rows = rows.cast_column("image", datasets.Image(decode=False))
    return Scenes(tuple(names), tuple(_row(number, row) for number, row in enumerate(rows)))


def _row(number: int, row: Mapping[str, Any]) -> Scene:
    image, objects = row["image"], row["objects"]
    boxes = np.array(objects["bbox"], np.float64).reshape(-1, 4)
    return Scene(
        name=Path(image["path"]).name if image["path"] else f"{number:07d}",
        source=image["bytes"] or Path(image["path"]),
        boxes=boxes,
        labels=np.array(objects["category"], np.int64),
        areas=boxes[:, 2] * boxes[:, 3],
        crowd=np.zeros(len(boxes), np.bool_),
    )
