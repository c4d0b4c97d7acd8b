"""What the commands share: arguments, and how results are printed."""

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any

from zoo.errors import MismatchError

Arguments = argparse.Namespace
Command = Callable[..., argparse.ArgumentParser]  # adds a command: its name, act and text
REF = "name[.tag], org/repo[@revision], or a folder: ./DIR"


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows as left-aligned columns, a line each on a terminal; the first is the header."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    most = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        line = "  ".join(cells).rstrip()
        print(line if most is None or len(line) <= most else f"{line[: most - 1]}…")


def shape_of(text: str) -> tuple[int, ...]:
    """Return the numbers of --shape.

    Raises:
        MismatchError: it is no list of whole numbers.

    """
    try:
        shape = tuple(int(part) for part in text.split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise MismatchError(f"--shape {text!r}; expected whole numbers, e.g. --shape 1,1,360,640")
    return shape


def names(**_: Any) -> list[str]:
    """Return what a shell offers in the place of a model: the recipes."""
    from zoo import registry

    return registry.names()


def adapters(**_: Any) -> list[str]:
    """Return what a shell offers in the place of an adapter: the named ones."""
    from zoo.adapters import registry

    return registry.names()


def targets(**_: Any) -> list[str]:
    """Return what a shell offers in the place of a target."""
    from zoo.cost.target import target_names

    return list(target_names())


def add_ref(sub: argparse.ArgumentParser) -> None:
    """Let a command take the ref of a model."""
    sub.add_argument("ref", metavar="REF", help=REF).completer = names  # type: ignore[attr-defined]


def add_common(sub: argparse.ArgumentParser, **default: Any) -> None:
    """Add the flags that all commands have; `default` is theirs where it is not argparse's."""
    sub.add_argument(
        "--debug", action="store_true", help="show the traceback of an error", **default
    )
    sub.add_argument("-v", "--verbose", action="store_true", help="log what is done", **default)
    sub.add_argument("--threads", type=positive, help="processor threads to use", **default)
    sub.add_argument(
        "--hub",
        metavar="WHERE",
        help="local (a hub in a folder of yours), or an address",
        **default,
    )


def add_action(
    actions: Any, name: str, act: Any, text: str, *, json: bool = True
) -> argparse.ArgumentParser:
    """Add an action of a command; what was typed before the action stays."""
    sub: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text)
    sub.set_defaults(act=act)
    add_common(sub, default=argparse.SUPPRESS)
    if json:
        sub.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS,
            help="print the result as JSON",
        )  # fmt: skip
    return sub


def positive(text: str) -> int:
    """Read a positive whole number."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)
