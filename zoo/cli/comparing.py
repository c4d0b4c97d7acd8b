"""The command `zoo compare`."""

from zoo import verbs as api
from zoo.cli.printing import REF, Arguments, Command, names, print_json, print_table, targets


def add(command: Command) -> None:
    """Add the command to the command line."""
    sub = command("compare", _compare, "show models of one task side by side: which none beats")
    sub.add_argument("refs", nargs="+", metavar="REF", help=f"two or more: {REF}").completer = names  # type: ignore[attr-defined]
    sub.add_argument(
        "--target", metavar="T", help="device whose times are compared (default: ethos-u55-256; "
        "of language models galaxy-s24-executorch)",
    ).completer = targets  # type: ignore[attr-defined]  # fmt: skip
    sub.add_argument("--method", default="auto", help="how times are found, see zoo estimate")
    sub.add_argument("--metric", metavar="KEY", help="e.g. accuracy; default: the first in common")
    sub.add_argument(
        "--data", metavar="DATA", help="measure all on it now; default: what is recorded"
    )
    sub.add_argument("--out", metavar="FILE.png", help="also draw a picture")


def _compare(args: Arguments) -> None:
    found = api.compare(
        args.refs, target=args.target, method=args.method, metric=args.metric, data=args.data,
        out=args.out,
    )  # fmt: skip
    if args.json:
        print_json(found.to_json())
        return
    head, *rows = found.rows
    print_table([[text if "," in text else text.upper() for text in head], *rows])
    for note in found.notes:
        print(note)
