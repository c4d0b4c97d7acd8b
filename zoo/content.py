"""Where the published content is: adapters, cards and spaces, in a wheel or in a checkout."""

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path


def content(kind: str) -> Traversable:
    """Return the folder `kind` ("adapters", "cards" or "spaces").

    A wheel carries it as `zoo/_content/<kind>`; a checkout has it at its top level.
    """
    packaged = files("zoo") / "_content" / kind
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[1] / kind
