"""The command `zoo`: one subcommand per verb. Results go to stdout, progress to stderr."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from zoo.cli import adapter, compression, exchange, hub, listing, models, training, upkeep
from zoo.cli.printing import add_common
from zoo.errors import ZooError
from zoo.version import __version__

SUMMARY = "A Hub-integrated model zoo and adapter registry for efficient edge AI."


def _parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return the parser for a command line; the flags of some commands depend on its words."""
    parser = argparse.ArgumentParser(prog="zoo", description=SUMMARY)
    parser.add_argument("--version", action="version", version=f"zoo {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, act: Any, text: str, *, device: bool = False) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(name, help=text, description=text)
        sub.set_defaults(act=act)
        add_common(sub)
        if name not in ("train", "export", "card", "serve", "compress", "import"):
            sub.add_argument("--json", action="store_true", help="print the result as JSON")
        if device:
            sub.add_argument("--device", default="cpu", help="a torch device (default: cpu)")
            sub.add_argument("--dtype", help="run in this type, e.g. bfloat16")
        return sub

    for group in (listing, training, exchange, hub, adapter):
        group.add(command)
    models.add(command, words)
    compression.add(command, words)
    upkeep.add(command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, 1 for an error, 2 for wrong usage."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    try:
        args = _parser(words).parse_args(words)
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
        print(f"zoo: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
