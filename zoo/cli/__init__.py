"""The command `zoo`: one subcommand per verb. Results go to stdout, progress to stderr."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from zoo.cli import adapter, compression, exchange, hub
from zoo.cli import models as commands
from zoo.errors import ZooError
from zoo.version import __version__

SUMMARY = "A Hub-integrated model zoo and adapter registry for efficient edge AI."


def _parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return the parser for a command line; what some commands take depends on its words."""
    parser = argparse.ArgumentParser(prog="zoo", description=SUMMARY)
    parser.add_argument("--version", action="version", version=f"zoo {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, act: Any, text: str, *, device: bool = False) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(name, help=text, description=text)
        sub.set_defaults(act=act)
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        sub.add_argument("-v", "--verbose", action="store_true", help="log what is done")
        sub.add_argument("--threads", type=_positive, help="processor threads to use")
        sub.add_argument(
            "--hub", metavar="WHERE", help="local (a hub in a folder of yours), or an address"
        )
        if name not in ("train", "export", "card", "serve", "compress", "import"):
            sub.add_argument("--json", action="store_true", help="print the result as JSON")
        if device:
            sub.add_argument("--device", default="cpu", help="a torch device (default: cpu)")
            sub.add_argument("--dtype", help="run in this type, e.g. bfloat16")
        return sub

    ref = {"metavar": "REF", "help": "name[.tag], org/repo[@revision], or a folder: ./DIR"}
    sub = command("list", commands.list_recipes, "list the recipes")
    sub.add_argument("pattern", nargs="?", default="*", help='e.g. "sesr-*-x2"')
    sub.add_argument("--family")
    sub.add_argument("--task")
    sub = command("show", commands.show, "show a recipe, its weights and their licence")
    sub.add_argument("ref", **ref)  # type: ignore[arg-type]
    sub = command("run", commands.run, "run a model on a picture or a prompt", device=True)
    sub.add_argument("ref", **ref)  # type: ignore[arg-type]
    sub.add_argument("source", help="a picture file; for a language model: a prompt")
    sub.add_argument("--out", help="where the result goes; the suffix chooses the format")
    _add_train(command("train", commands.train, "train a recipe under Accelerate"))
    sub = command(
        "evaluate", commands.evaluate, "measure a model on pictures or a text", device=True
    )
    sub.add_argument("ref", **ref)  # type: ignore[arg-type]
    sub.add_argument(
        "--data", required=True, metavar="DIR", help="originals, or *_HR/*_LR pairs; or a text file"
    )
    sub.add_argument("--length", type=_positive, help="of a language model's windows, in tokens")
    sub.add_argument("--stride", type=_positive, help="from window to window; default: --length")
    sub.add_argument("--windows", type=_positive, help="at most so many; default: all")
    sub.add_argument("--tasks", metavar="T,T", help="tasks of lm-eval too: names or .yaml files")
    sub.add_argument("--limit", type=_positive, metavar="N", help="examples of each task")
    sub.add_argument("--record", metavar="NAME", help="also store the result in the checkpoint")
    sub = command("estimate", commands.estimate, "estimate what a model costs on a device")
    sub.add_argument("ref", **ref)  # type: ignore[arg-type]
    sub.add_argument("--target", default="ethos-u55-256", metavar="T[,T2]")
    sub.add_argument("--method", default="auto", help="auto, roofline, vela or measured")
    sub.add_argument("--shape", metavar="N,C,H,W", help="input shape; default: the recipe's")
    sub = command("export", commands.export, "write a deployable file")
    sub.add_argument("ref", **ref)  # type: ignore[arg-type]
    sub.add_argument("--format", default="onnx", help="onnx, tflite or c")
    sub.add_argument("--int8", action="store_true", help="quantize to int8")
    sub.add_argument(
        "--int16", action="store_true", help="int16 activations, int8 weights (tflite)"
    )
    sub.add_argument("--npu", action="store_true", help="only operators that Ethos-U has (tflite)")
    sub.add_argument("--data", metavar="DIR", help="inputs that integers learn their ranges from")
    sub.add_argument("--shape", metavar="N,C,H,W", help="input shape; default: the recipe's")
    sub.add_argument("--out", metavar="FILE")
    sub = command("card", commands.card, "render the model card")
    sub.add_argument("ref", **ref)  # type: ignore[arg-type]
    sub.add_argument("--out", metavar="FILE", help="write there instead of to stdout")
    sub.add_argument("--check", action="store_true", help="check the README.md that is there")
    for group in (exchange, hub, adapter):
        group.add(command)
    compression.add(command, words)
    sub = command("serve", commands.serve, "serve the demo page on this machine")
    sub.add_argument("--port", type=int, help="default: 7860, or the next free one")
    sub.add_argument("--open", action="store_true", help="open it in the browser")
    sub = command("cache", commands.cache, "list or prune what was prepared and kept")
    sub.add_argument("action", choices=["list", "prune"])
    sub.add_argument("--unused-days", type=float, default=0.0, help="prune only what is older")
    command("env", commands.env, "show versions and settings, for a bug report")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _add_train(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("name", metavar="NAME", help="a recipe: zoo list")
    sub.add_argument("--out", required=True, metavar="DIR", help="the run folder")
    sub.add_argument("--data", required=True, help="a folder, or a Hub data set id")
    sub.add_argument("--data-license", metavar="TEXT", help="its licence, for the card")
    sub.add_argument("--from", dest="init", metavar="REF", help="start from these weights, or none")
    sub.add_argument("--resume", action="store_true", help="go on with the run in --out")
    sub.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    sub.add_argument("--seed", type=int)
    sub.add_argument("--tracker", metavar="NAME", help='e.g. "tensorboard"')
    sub.add_argument("--device", choices=["cpu"], help="leave an accelerator alone")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, 1 for an error, 2 for wrong usage."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = _parser(words).parse_args(words)
    logging.basicConfig(level=logging.INFO if args.verbose else logging.WARNING)
    if args.threads:
        os.environ["OMP_NUM_THREADS"] = str(args.threads)  # read when torch is imported
    if args.hub:
        os.environ["ZOO_HUB"] = args.hub  # as if the user had set it: every verb reads it there
    try:
        args.act(args)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has gone: `zoo list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ZooError, OSError) as error:  # OSError: a full disk, a file that may not be read
        if args.debug:
            raise
        print(f"zoo: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
