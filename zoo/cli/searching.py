"""The command `zoo search`."""

import argparse
from collections.abc import Sequence

from zoo import verbs as api
from zoo.cli.printing import Arguments, Command, print_json, targets
from zoo.errors import MismatchError


def add(command: Command, words: Sequence[str]) -> None:
    """Add the command to the command line.

    Args:
        command: adds one.
        words: the command line; only for `zoo search` are the spaces listed.

    """
    sub = command("search", _search, "find an architecture within a latency")
    sub.add_argument("space", metavar="SPACE", help="what may be chosen, e.g. ran-e")
    sub.add_argument("--out", required=True, metavar="NAME.json", help="the recipe file to write")
    sub.add_argument(
        "--target", default="ethos-u55-256", help="a device (default: %(default)s)"
    ).completer = targets  # type: ignore[attr-defined]
    sub.add_argument(
        "--max-latency", required=True, type=_milliseconds, metavar="MS", help="e.g. 5 or 5ms"
    )
    sub.add_argument("--method", default="auto", help="auto, roofline, vela or measured")
    sub.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="an option of the space"
    )
    if words[:1] == ["search"]:
        _list_spaces(sub)


def _list_spaces(sub: argparse.ArgumentParser) -> None:
    """List the spaces, and their options, in the help."""
    from zoo.nas.spaces import contract
    from zoo.registry.options import options

    sub.formatter_class = argparse.RawDescriptionHelpFormatter
    lines = ["spaces, with their options:"]
    for name in contract.names():
        space = contract.find(name)
        lines.append(f"  {name:12}{space.SUMMARY}")
        lines += [f"    {option.name:10}{option.text}" for option in options(space.Options)]
    sub.epilog = "\n".join(lines)


def _milliseconds(text: str) -> float:
    try:
        return float(text.removesuffix("ms"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time in ms, e.g. 5ms") from None


def _search(args: Arguments) -> None:
    """Search."""
    options: dict[str, str] = {}
    for text in args.set:
        key, equals, value = text.partition("=")
        if not equals:
            raise MismatchError(f"--set {text!r}; expected KEY=VALUE, e.g. --set base=ran-e-32-ib")
        options[key] = value
    found = api.search(
        args.space,
        args.out,
        target=args.target,
        max_latency_ms=args.max_latency,
        method=args.method,
        **options,
    )
    if args.json:
        print_json(found.to_json())
    else:
        print(found.text)
