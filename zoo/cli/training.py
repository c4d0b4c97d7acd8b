"""The command `zoo train`."""

import os

from zoo import verbs as api
from zoo.cli.printing import Arguments, Command, names
from zoo.errors import MismatchError


def add(command: Command) -> None:
    """Add the command to the command line."""
    sub = command("train", _train, "train a recipe under Accelerate")
    named = sub.add_argument("name", metavar="NAME", help="a recipe: zoo list")
    named.completer = names  # type: ignore[attr-defined]
    sub.add_argument("--out", required=True, metavar="DIR", help="the run folder")
    sub.add_argument("--data", required=True, help="a folder, or a Hub data set id")
    sub.add_argument("--data-license", metavar="TEXT", help="its licence, for the card")
    sub.add_argument(
        "--from",
        dest="init",
        metavar="REF",
        help="start from these weights; none: from random ones",
    )
    sub.add_argument("--resume", action="store_true", help="continue the run in --out")
    sub.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE",
        help="a setting, train.lr=1e-3, or an argument of the network, args.width=32",
    )  # fmt: skip
    sub.add_argument("--seed", type=int)
    sub.add_argument("--tracker", metavar="NAME", help='e.g. "tensorboard"')
    sub.add_argument("--device", choices=["cpu"], help="do not use an accelerator")


def _train(args: Arguments) -> None:
    """Train a recipe."""
    settings = dict(_setting(text) for text in args.set)
    if args.seed is not None:
        settings["train.seed"] = args.seed
    result = api.train(
        args.name,
        args.out,
        data=args.data,
        init=args.init,
        resume=args.resume,
        data_license=args.data_license,
        tracker=args.tracker,
        device=args.device,
        **settings,
    )
    if int(os.environ.get("RANK", "0")) == 0:  # under `accelerate launch`, one process speaks
        score = ", ".join(f"{k} {v:.6g}" for k, v in result.metrics["held_out"].items())
        print(f"{result.path}  held out: {score}")


def _setting(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise MismatchError(f"--set {text!r}; expected KEY=VALUE, e.g. --set train.lr=1e-3")
    return key if key.startswith("args.") else f"train.{key.removeprefix('train.')}", value
