"""The commands `zoo search bits` and `zoo search shares`."""

from zoo import verbs as api
from zoo.cli.printing import (
    Arguments,
    Command,
    add_ref,
    names,
    positive,
    print_json,
    print_table,
)
from zoo.errors import MismatchError


def add(command: Command, what: str) -> None:
    """Add the command to the command line.

    Args:
        command: adds one.
        what: is shared out, "bits" or "shares".

    """
    {"bits": _add_bits, "shares": _add_filters}[what](command)


def _add_bits(command: Command) -> None:
    sub = command("search", _share, "share bits out between the layers of a trained network")
    sub.add_argument("what", choices=["bits"], help="in the place of a space")
    add_ref(sub)
    sub.add_argument(
        "--data", required=True, help="a folder of inputs; a text, for language models"
    )
    sub.add_argument("--out", required=True, metavar="DIR", help="the folder of the result")
    sub.add_argument(
        "--bits", type=float, default=4.0,
        help="budget: the storage of so many bits for every layer (default: 4)",
    )  # fmt: skip
    sub.add_argument(
        "--choices", default="2,3,4,6,8", help="what a layer may have (default: %(default)s)"
    )
    sub.add_argument(
        "--by", default="allocate",
        help="whose choice is written: allocate, uniform, random, tpe, nsga2 or clustered "
        "(default: %(default)s)",
    )  # fmt: skip
    sub.add_argument("--trials", type=positive, default=24, help="of each search (default: 24)")
    sub.add_argument("--windows", type=positive, default=8, help="of a text; half are held out")
    sub.add_argument("--length", type=positive, default=256, help="of a window, in tokens")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--resume", action="store_true", help="go on with the searches in --out")


def _add_filters(command: Command) -> None:
    sub = command("search", _share_filters, "share the real filters of a hybrid network out")
    sub.add_argument("what", choices=["shares"], help="in the place of a space")
    named = sub.add_argument(
        "name", metavar="NAME", help="a recipe with hybrid filter banks: mobilenet-v1-025-hybrid"
    )
    named.completer = names  # type: ignore[attr-defined]
    sub.add_argument(
        "--from", dest="init", required=True, metavar="REF",
        help="the trained network of real filters",
    )  # fmt: skip
    sub.add_argument("--data", required=True, help="a folder of inputs, or a Hub data set id")
    sub.add_argument("--out", required=True, metavar="NAME.json", help="the recipe file")
    sub.add_argument(
        "--alpha", type=float, default=0.5,
        help="budget: the bytes of this share of real filters in every layer (default: 0.5)",
    )  # fmt: skip
    sub.add_argument("--inputs", type=positive, default=64, help="how many are seen (default: 64)")
    sub.add_argument("--seed", type=int, default=0)


def _share_filters(args: Arguments) -> None:
    """Share out real filters."""
    found = api.search_shares(
        args.name, args.out, init=args.init, data=args.data, alpha=args.alpha, inputs=args.inputs,
        seed=args.seed,
    )  # fmt: skip
    if args.json:
        print_json(found.to_json())
        return
    print_table(found.rows)
    print(found.text)


def _share(args: Arguments) -> None:
    """Share out bits."""
    try:
        choices = [int(word) for word in args.choices.split(",")]
    except ValueError:
        raise MismatchError(f"--choices {args.choices!r}; expected e.g. 2,3,4,6,8") from None
    found = api.search_bits(
        args.ref,
        args.out,
        data=args.data,
        bits=args.bits,
        choices=choices,
        by=args.by,
        trials=args.trials,
        windows=args.windows,
        length=args.length,
        seed=args.seed,
        resume=args.resume,
    )
    if args.json:
        print_json(found.to_json())
        return
    print_table(found.rows)
    print(found.text)
