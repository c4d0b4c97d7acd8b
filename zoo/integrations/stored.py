"""What all kinds of packed checkpoints check when transformers opens them."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from zoo.errors import MismatchError, UnsafeFileError, ZooError, newer
from zoo.quantization.packed import digest


class Checked(Protocol):
    """A layer that can say whether its stored integers mean something."""

    def check(self) -> None:
        """Raise a `ZooError` that says what is wrong."""


def check_version(given: object, known: int) -> None:
    """Refuse a layout that this version does not read.

    Raises:
        MismatchError: `given` is no version from 1 to `known`.

    """
    if type(given) is not int or not 1 <= given <= known:
        raise MismatchError(
            f"the checkpoint has format_version {given!r}; this zoo reads 1 to {known} ({newer()})"
        )


def check_layer(
    name: str, layer: Checked, tensors: Mapping[str, Tensor], written: str | None
) -> None:
    """Refuse damaged codes of a layer.

    Args:
        name: of the layer, for the message.
        layer: as it was loaded.
        tensors: its stored integers.
        written: their digest when they were written; None in older checkpoints.

    Raises:
        ZooError: the layer's own, or that its codes are others.

    """
    try:
        layer.check()
        if written not in (None, digest(dict(tensors))):
            raise UnsafeFileError("the codes are missing or not those that were written")
    except ZooError as error:
        raise type(error)(f"{name}: {error}; get the files again") from error
