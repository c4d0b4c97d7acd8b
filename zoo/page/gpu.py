"""A GPU for the length of a call, on Spaces that lend one (ZeroGPU); everywhere else nothing.

There the package `spaces` is installed, and a Space without a function that asks for a GPU is not
started. What the page shows is about small networks on processors, so only large pictures ask.
"""

import functools
from collections.abc import Callable
from importlib import import_module
from typing import Any

SECONDS = 60  # the longest call, which counts against a visitor's minutes of the day


def lent(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that is called with the `device` it may use: "cuda" where one is lent.

    A function that yields must yield its result, too: the call runs in a process of its own, and
    what it changes in memory stays there.
    """
    try:
        door = import_module("spaces").GPU
    except (ImportError, AttributeError):  # or a folder of that name, such as this repository's
        return functools.partial(function, device="cpu")
    return door(duration=SECONDS)(functools.partial(function, device="cuda"))
