"""A filter of one's own: a function in a file that the user names, made into pairs."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from zoo.data import images
from zoo.errors import MismatchError
from zoo.files import replacing_folder
from zoo.tasks.picture.material import AFTER, BEFORE, Pixels, rgb

Change = Callable[[Pixels], Any]


def from_file(place: str) -> Change:
    """Return the function of "FILE.py:function", executing that file.

    For what a user has typed, and nothing else: no recipe, adapter or repository may say it.

    Raises:
        MismatchError: not of that form, no such file, it fails, or it has no such function.

    """
    file, colon, name = place.rpartition(":")
    path = Path(file).expanduser()
    if not colon or path.suffix != ".py" or not path.is_file():
        raise MismatchError(f"--filter {place!r}; expected a file and a function: ./mine.py:sepia")
    spec = importlib.util.spec_from_file_location(f"own_filter_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's file raises
        raise MismatchError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise MismatchError(f"{path} has no function {name!r} that takes a picture")
    change: Change = function
    return change


def make_pairs(photos: Path, change: Change, out: Path) -> Path:
    """Write a folder of pairs: photographs, and what a function makes of them.

    Args:
        photos: a folder of pictures.
        change: from `(H, W, 3)` of uint8, RGB, to the same shape and type.
        out: the folder to make, whole or not at all.

    Raises:
        MismatchError: no pictures, or the function fails or gives something else.

    """
    with replacing_folder(out) as folder:
        for part in (BEFORE, AFTER):
            (folder / part).mkdir()
        for path in images.find(photos):
            before = rgb(path)
            try:
                after = np.asarray(change(before.copy()))
            except Exception as error:  # whatever the user's function raises
                raise MismatchError(f"the filter fails on {path.name}: {error}") from error
            if after.shape != before.shape or after.dtype != np.uint8:
                raise MismatchError(
                    f"the filter makes {after.dtype} {after.shape} of {path.name}; expected uint8 "
                    f"{before.shape}"
                )
            for part, pixels in ((BEFORE, before), (AFTER, after)):
                Image.fromarray(pixels).save(folder / part / f"{path.stem}.png")
    return out
