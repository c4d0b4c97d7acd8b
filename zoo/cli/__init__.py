"""The command `zoo`: one subcommand per verb. Results go to stdout, progress to stderr."""

import argparse
import io
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.cli import (
    adapter,
    comparing,
    compression,
    costs,
    examining,
    exchange,
    hub,
    listing,
    models,
    predicting,
    searching,
    target,
    training,
    upkeep,
)
from zoo.cli.completion import complete
from zoo.cli.parser import Parser
from zoo.cli.printing import add_common
from zoo.errors import ZooError
from zoo.version import __version__

SUMMARY = "A Hub-integrated model zoo and adapter registry for efficient edge AI."


def _parser(words: Sequence[str] = ()) -> Parser:
    """Return the parser for a command line; the flags of some commands depend on its words."""
    parser = Parser(prog="zoo", description=SUMMARY)
    parser.add_argument("--version", action="version", version=f"zoo {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, act: Any, text: str, *, device: bool = False) -> Parser:
        sub = subparsers.add_parser(name, help=text, description=text)
        sub.set_defaults(act=act)
        add_common(sub)
        if name not in ("train", "export", "card", "serve", "compress", "import", "completion"):
            sub.add_argument("--json", action="store_true", help="print the result as JSON")
        if device:
            sub.add_argument("--device", default="cpu", help="a torch device (default: cpu)")
            sub.add_argument("--dtype", help="run in this type, e.g. bfloat16")
        return sub

    for group in (listing, training, exchange, hub, adapter, predicting, comparing):
        group.add(command)
    models.add(command)
    costs.add(command, words)
    compression.add(command, words)
    searching.add(command, words)
    examining.add(command, words)
    target.add(command)
    upkeep.add(command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, 1 for an error, 2 for wrong usage."""
    words = list(sys.argv[1:] if argv is None else argv)
    _open_streams()
    debug, args = "--debug" in words, argparse.Namespace()
    try:
        args = _parsed(words)
        debug = args.debug
        logging.basicConfig(level=logging.INFO if args.verbose else logging.WARNING)
        if args.threads:
            os.environ["OMP_NUM_THREADS"] = str(args.threads)  # read when torch is imported
        if args.hub:
            os.environ["ZOO_HUB"] = args.hub  # as if the user had set it: every verb reads it there
        args.act(args)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has gone: `zoo list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ZooError, OSError) as error:  # OSError: a full disk, a file that may not be read
        if debug:
            raise
        print(f"zoo: {_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if hasattr(args, "resume"):
            again = shlex.join(["zoo", *(word for word in words if word != "--resume"), "--resume"])
            print(f"zoo: interrupted; to go on, type: {again}", file=sys.stderr)
        return 130
    return 0


def _open_streams() -> None:
    """Let what a closed stream should get go nowhere, and write names as they are, UTF-8 or not."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # zoo list >&-
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")


def _parsed(words: Sequence[str]) -> argparse.Namespace:
    """Return what the words say; wrong ones end the process with 2."""
    parser = _parser(words)
    if words and words[0].startswith("-") and words[0] not in ("-h", "--help", "--version"):
        parser.error(f"{words[0]} stands after the command, e.g. zoo list {words[0]}")
    if "_ARGCOMPLETE" in os.environ:  # a shell asks for completions
        complete(_parser(shlex.split(os.environ.get("COMP_LINE", ""))[1:]))
    args = parser.parse_args(words)
    for name in ("out", "data", "test", "base", "option:state", "option:areas"):
        if getattr(args, name, None) == "":  # often a variable that is not set
            parser.error(f"{name.removeprefix('option:')} is empty; expected a name")
    return args


def _line(error: Exception) -> str:
    """Return an error as one line; the system's own without their numbers."""
    text = str(error)
    if isinstance(error, OSError) and not isinstance(error, ZooError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(text.split())
