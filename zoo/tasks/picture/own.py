"""A filter of one's own: a function in a file that the user names, made into pairs."""

import hashlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from zoo.data import images
from zoo.errors import MismatchError
from zoo.files import read_json, replacing_folder, sha256, write_json
from zoo.tasks.picture.material import AFTER, BEFORE, Pixels, by_stem, holds_pairs, rgb

Change = Callable[[Pixels], Any]
_MADE_BY = "filter.json"  # in a folder of pairs: what made them, and of what


def from_file(place: str) -> Change:
    """Return the function of "FILE.py:function", executing that file.

    The file may import others that lie beside it. For what a user has typed, and nothing else: no
    recipe, adapter or repository may say it.

    Raises:
        MismatchError: not of that form, no such file, it fails, or it has no such function.

    """
    if not isinstance(place, str):
        raise MismatchError(
            f"the filter is a {type(place).__name__}; expected the text FILE.py:function"
        )
    file, colon, name = place.rpartition(":")
    path = Path(file).expanduser()
    if not colon or path.suffix != ".py" or not path.is_file():
        raise MismatchError(f"--filter {place!r}; expected a file and a function: ./mine.py:sepia")
    name_of_module = f"own_filter_{path.stem}"
    spec = importlib.util.spec_from_file_location(name_of_module, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name_of_module] = module  # where dataclasses and pickles look
    beside = str(path.resolve().parent)
    if beside not in sys.path:
        sys.path.append(beside)  # last: a file called random.py hides nobody's random
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's file raises
        del sys.modules[name_of_module]
        raise MismatchError(f"{path} cannot be run: {_reason(error)}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise MismatchError(f"{path} has no function {name!r} that takes a picture")
    change: Change = function
    return change


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def check_goal(source: Path, look: str) -> None:
    """Refuse photographs that come with nothing to learn: a look of them would change nothing.

    Raises:
        MismatchError: the folder holds no pairs, and there is no filter.

    """
    if source.is_dir() and not holds_pairs(source) and not look:
        raise MismatchError(
            f"{source} has no folders {BEFORE} and {AFTER}, and no filter says what its pictures "
            "shall become; give such pairs, --filter FILE.py:function, or --set "
            "train.options.filter=NAME"
        )


def pairs_by(place: str, photos: Path, out: Path, *, resume: bool) -> Path:
    """Return the folder of pairs that the function of "FILE.py:function" makes of photographs.

    A run that goes on takes the pairs that it began with: a filter may draw at random.

    Args:
        place: see `from_file`.
        photos: a folder of pictures.
        out: the folder; one that was made before is made anew, unless `resume`.
        resume: take what is there.

    Raises:
        MismatchError: see `from_file` and `make_pairs`; `out` is somebody else's; or, with
            `resume`, it was made by another filter, or of other photographs.

    """
    change = from_file(place)
    digest = hashlib.sha256()
    for path in images.find(photos):
        digest.update(os.fsencode(path.name) + f"\0{sha256(path)}\0".encode())
    file, _, name = place.rpartition(":")
    facts = {
        "function": name,
        "file_sha256": sha256(Path(file).expanduser()),
        "photos_sha256": digest.hexdigest(),
    }
    if out.exists():
        if not (out / _MADE_BY).is_file():
            raise MismatchError(
                f"{out} is not a folder that --filter made; rename it, or give another --out"
            )
        if not resume:
            shutil.rmtree(out)
        elif (known := read_json(out / _MADE_BY)) != facts:
            other = [key for key, value in facts.items() if known.get(key) != value]
            raise MismatchError(
                f"{out} was made by another filter or of other photographs ({', '.join(other)} "
                "differ); resume with the same, or start in another folder"
            )
        else:
            return out
    return make_pairs(photos, change, out, facts)


def make_pairs(
    photos: Path, change: Change, out: Path, facts: Mapping[str, Any] | None = None
) -> Path:
    """Write a folder of pairs: photographs, and what a function makes of them.

    Args:
        photos: a folder of pictures.
        change: from `(H, W, 3)` of uint8, RGB, to the same shape and type.
        out: the folder to make, whole or not at all.
        facts: JSON to keep in it, about what made them.

    Raises:
        MismatchError: no pictures or two of one name, or the function fails or gives something
            else.

    """
    with replacing_folder(out) as folder:
        for part in (BEFORE, AFTER):
            (folder / part).mkdir()
        for path in by_stem(photos).values():
            before = rgb(path)
            try:
                after = np.asarray(change(before.copy()))
            except (Exception, SystemExit) as error:  # whatever the user's function raises
                raise MismatchError(f"the filter fails on {path.name}: {_reason(error)}") from error
            if after.shape != before.shape or after.dtype != np.uint8:
                raise MismatchError(
                    f"the filter makes {after.dtype} {after.shape} of {path.name}; expected uint8 "
                    f"{before.shape}: np.clip(result, 0, 255).astype(np.uint8), in three colours"
                )
            for part, pixels in ((BEFORE, before), (AFTER, after)):
                Image.fromarray(pixels).save(folder / part / f"{path.stem}.png")
        write_json(folder / _MADE_BY, dict(facts or {}))
    return out
