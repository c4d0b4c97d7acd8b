"""The command `zoo reliability`."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import verbs as api
from zoo.cli.compression import add_option, given
from zoo.cli.parser import Parser
from zoo.cli.printing import (
    Arguments,
    Command,
    add_ref,
    positive,
    print_json,
    print_table,
    targets,
)
from zoo.errors import MismatchError
from zoo.files import probe_file

if TYPE_CHECKING:
    from zoo.resilience.results import Reliability

_MOST_ROWS = 40
_WIDEST = 48  # letters of a cell; --json has them all


def add(command: Command, words: Sequence[str]) -> None:
    """Add the command to the command line.

    Args:
        command: adds one.
        words: the command line; they choose the analysis, whose flags are added.

    """
    sub: Any = command("reliability", _reliability, "what faults, noise or attacks do to a network")
    add_ref(sub)
    sub.add_argument(
        "--target", metavar="T", help="a device, e.g. ethos-u55-128, or its file"
    ).completer = targets
    sub.add_argument("--data", metavar="DIR", help="labelled inputs, laid out as for zoo evaluate")
    sub.add_argument(
        "--samples", type=positive, default=1000, metavar="N",
        help="at most so many inputs, evenly spread (default: %(default)s)",
    )  # fmt: skip
    sub.add_argument("--out", metavar="FILE", help="also write NAME.png, a picture, or NAME.json")
    sub.add_argument(
        "--record", metavar="NAME", help="also store the result in the checkpoint and its card"
    )
    sub.set_defaults(tables=[], set=[], preset=None)
    if words[:1] == ["reliability"]:
        _add_analysis(sub, words)


def _add_analysis(sub: Parser, words: Sequence[str]) -> None:
    """Add the flags of the analysis that the words choose, and list all of them in the help."""
    from zoo.registry.options import options
    from zoo.resilience import contract

    flags = {word.partition("=")[0] for word in words}
    name, listed = contract.DEFAULT, []
    for chooser, meant in contract.choices().items():
        flag = f"--{chooser.replace('_', '-')}"
        listed.append(f"  {flag:12}{contract.find(meant).SUMMARY}")
        if flag in flags:
            name = meant
    sub.formatter_class = argparse.RawDescriptionHelpFormatter
    default = f"  (none)      {contract.find(contract.DEFAULT).SUMMARY}"
    sub.epilog = "\n".join(["what is examined is chosen by a flag:", default, *listed])
    analysis = contract.find(name)
    group = sub.add_argument_group(f"options of {name}", analysis.SUMMARY)
    for option in options(analysis.Options):
        add_option(group, option)
    for other in contract.names():  # so that what goes with another one is refused in words
        for option in options(contract.find(other).Options):
            if not {*option.flags} & {*sub._option_string_actions}:
                add_option(sub, option, hidden=True)


def _reliability(args: Arguments) -> None:
    """Examine a network."""
    if args.out:  # before the work
        _check_out(Path(args.out).expanduser(), getattr(args, "option:state", None))
    found = api.reliability(
        args.ref, args.target, data=args.data, samples=args.samples, record=args.record,
        **given(args),
    )  # fmt: skip
    if args.out:
        found.save(Path(args.out))
    if args.json:
        print_json(found.to_json())
        return
    _print(found)


def _check_out(out: Path, state: str | None) -> None:
    if out.suffix.lower() not in (".png", ".json"):
        raise MismatchError(f"--out {out}: a result is saved as NAME.png or NAME.json")
    if state and Path(state).expanduser().resolve() == out.resolve():
        raise MismatchError(f"--out {out} is the file of --state, whose counts it would replace")
    probe_file(out)


def _print(found: "Reliability") -> None:
    print(found.text)
    for name, rows in found.tables.items():
        if rows:
            print(f"by {name}:" if not name[0].isupper() else f"{name}:")
            header = [key.replace("_", " ").upper() for key in rows[0]]
            print_table([header, *(_cells(row) for row in rows[:_MOST_ROWS])])
            if len(rows) > _MOST_ROWS:
                print(f"... and {len(rows) - _MOST_ROWS} more rows: see --json")
    for line in (*found.notes, *(f"assumed: {line}" for line in found.assumed)):
        print(line)


def _cells(row: Mapping[str, Any]) -> list[str]:
    """Return the values of a row as people read them."""
    made = []
    for value in row.values():
        if isinstance(value, float):
            made.append(f"{value:.4g}")
        else:
            text = "-" if value is None else str(value)
            # Layers of imported files have names of hundreds of letters, which differ at the end.
            made.append(text if len(text) <= _WIDEST else f"…{text[1 - _WIDEST :]}")
    return made
