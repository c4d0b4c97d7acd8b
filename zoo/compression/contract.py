"""What a compression method is: a module, and a frozen dataclass of its options.

A method is a file of `zoo.compression.methods` or of another room's folder `methods`, or what an
entry point of one of these groups names. Everything else about an option (a flag, a recipe's JSON,
a card's text, a check) comes from the dataclass: see `zoo.registry.options`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from zoo import extensions
from zoo.errors import MismatchError
from zoo.registry.compressed import Compressed


class Options(Protocol):
    """The options of a method: a frozen dataclass, each field with a default and a text.

    `__post_init__` refuses values that contradict each other.
    """

    @property
    def needs_data(self) -> bool:
        """Whether it learns from `data`."""
        ...

    @property
    def label(self) -> str:
        """What a result is named after, e.g. "gptvq-2d-2b"; lower-case words and hyphens."""
        ...

    @property
    def summary(self) -> str:
        """What was done, in a few words, e.g. "2 bits per weight by gptvq"."""
        ...


class Method(Protocol):
    """The module of a compression method.

    Attributes:
        SUMMARY: one line for people.
        PAPER: arXiv id of its paper.
        TAKES: "network", a checkpoint of the zoo; "classifier", one that tells labels apart;
            "language-model", a folder that transformers opens; or "both", the first and the last.
        DATA: what `data` is, for people; "" if the method takes none.
        TRAINS: whether it trains, under Accelerate.
        PRESETS: names for options that go together: `--method METHOD-NAME`, `--preset NAME`.
        Options: the dataclass.

    """

    SUMMARY: str
    PAPER: str
    TAKES: Literal["network", "classifier", "language-model", "both"]
    DATA: str
    TRAINS: bool
    PRESETS: Mapping[str, Mapping[str, Any]]
    Options: type[Any]

    def compress(
        self,
        source: Any,
        out: Path,
        options: Any,
        *,
        data: Path | None,
        test: Path | None,
        resume: bool,
        device: str | None,
    ) -> Compressed:
        """Make a model smaller.

        Args:
            source: a `Checkpoint`, or the folder of a language model, as `TAKES` says.
            out: the folder of the result, for what the method writes itself.
            options: an instance of `Options`.
            data: data to learn from, or None.
            test: data to measure the result on, or None.
            resume: continue from what is in `out`, with the same result.
            device: a torch device, or None.

        Returns:
            What is not yet in `out`: metrics, tensors, changes of the recipe.

        Raises:
            MismatchError: the model or the data cannot be used; the message says why.

        """
        ...


PARTS = {
    "SUMMARY": str, "PAPER": str, "TAKES": str, "DATA": str, "TRAINS": bool, "PRESETS": Mapping,
    "Options": type, "compress": Callable,
}  # fmt: skip


def takes(method: Method, kind: str) -> bool:
    """Return whether a method is for a "network" or for a "language-model"; a classifier is one."""
    return method.TAKES in (kind, "both") or (kind, method.TAKES) == ("network", "classifier")


def checked(name: str, method: Any) -> Method:
    """Return what an extension point offers as a method.

    Raises:
        MismatchError: a part is missing, or has another type.

    """
    what = f"compression method {name!r}"
    extensions.require(method, PARTS, what, "zoo.compression.contract")
    if not dataclasses.is_dataclass(method.Options):
        raise MismatchError(
            f"{what} has Options that are not a dataclass; see zoo.compression.contract"
        )
    if method.TAKES not in ("network", "classifier", "language-model", "both"):
        raise MismatchError(
            f"compression method {name!r} takes {method.TAKES!r}; expected network, classifier, "
            "language-model or both"
        )
    known: Method = method
    return known
