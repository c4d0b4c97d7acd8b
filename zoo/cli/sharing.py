"""The command `zoo search bits`."""

from zoo import verbs as api
from zoo.cli.printing import Arguments, Command, add_ref, positive, print_json, print_table
from zoo.errors import MismatchError


def add(command: Command) -> None:
    """Add the command to the command line."""
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
