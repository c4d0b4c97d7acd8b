"""The command `zoo search`."""

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zoo import verbs as api
from zoo.cli.printing import Arguments, Command, positive, print_json, print_table, targets
from zoo.errors import MismatchError

if TYPE_CHECKING:
    from zoo.verbs.searching import Architecture, Search

_LIMITS = (
    ("sram", "sram_bytes", "SIZE", "working memory, e.g. 64KB (KB: 1000 bytes, KiB: 1024)"),
    ("flash", "flash_bytes", "SIZE", "what is stored, e.g. 128KB"),
    ("macs", "macs", "COUNT", "multiply-accumulates, e.g. 10M"),
    ("latency", "latency_ms", "TIME", "of one inference on the target, e.g. 5ms"),
)
_GOALS = {**{name: quantity for name, quantity, *_ in _LIMITS}, "resiliency": "flip_rate"}


def add(command: Command, words: Sequence[str]) -> None:
    """Add the command to the command line.

    Args:
        command: adds one.
        words: the command line; only for `zoo search` are the spaces listed.

    """
    if words[:1] == ["search"] and words[1:2] in (["bits"], ["shares"]):
        from zoo.cli import sharing

        sharing.add(command, words[1])
        return
    sub = command("search", _search, "find an architecture within limits")
    sub.add_argument(
        "space", metavar="SPACE",
        help="what may be chosen, e.g. micronet-kws; or bits REF or shares NAME, see: zoo search "
        "bits --help, zoo search shares --help",
    )  # fmt: skip
    sub.add_argument(
        "--out", required=True, metavar="DIR",
        help="the folder of the search; or NAME.json, the recipe file of a greedy one",
    )  # fmt: skip
    sub.add_argument("--target", help="a device (default: any with TFLite Micro)").completer = (  # type: ignore[attr-defined]
        targets
    )
    for name, _, kind, text in _LIMITS:
        sub.add_argument(f"--max-{name}", metavar=kind, help=text)
    sub.add_argument("--data", help="what candidates learn: a folder, or a Hub data set id")
    sub.add_argument("--by", default="auto", help="how to search, see below (default: %(default)s)")
    sub.add_argument("--trials", type=positive, default=24, help="candidates (default: 24)")
    sub.add_argument("--steps", type=positive, default=100, help="of their training (100)")
    sub.add_argument("--objective", default="trained", help="or a proxy: no training")
    sub.add_argument("--filter", default="", help="a proxy: the best of --draws proposals is tried")
    sub.add_argument("--draws", type=positive, default=4, help="proposals for each trial (4)")
    sub.add_argument(
        "--against", default="macs", choices=_GOALS,
        help="the front's other goal; resiliency: few faults that turn the answer",
    )  # fmt: skip
    sub.add_argument("--faults", type=positive, help="for resiliency, of each candidate (20000)")
    sub.add_argument("--work", metavar="COUNT", help="training MACs to spend, e.g. 500G")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument(
        "--resume", action="store_true", help="go on with the search in --out, or join"
    )
    sub.add_argument("--method", default="auto", help="of the latency: auto, roofline, vela, ...")
    sub.add_argument("--device", choices=["cpu"], help="do not use an accelerator")
    sub.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE",
        help="an option of the space, by.KEY=VALUE of the searcher, train.KEY=VALUE of training",
    )  # fmt: skip
    if words[:1] == ["search"]:
        _list_members(sub)


def _list_members(sub: argparse.ArgumentParser) -> None:
    """List spaces and searchers, with their options, and proxies in the help."""
    from zoo.nas.searchers import contract as searchers
    from zoo.nas.spaces import contract as spaces
    from zoo.registry.options import options

    sub.formatter_class = argparse.RawDescriptionHelpFormatter
    lines = []
    for point, title, before in ((spaces, "spaces", ""), (searchers, "--by", "by.")):
        lines.append(f"{title}, with their options:")
        for name in point.names():
            member = point.find(name)
            lines.append(f"  {name:14}{member.SUMMARY}")
            lines += [f"    {before}{o.name:12}{o.text}" for o in options(member.Options)]
    lines.append("  greedy        without training; needs NAME.json as --out, and --max-latency")
    lines.append("proxies: capacity, macs, naswot, synflow")
    sub.epilog = "\n".join(lines)


def _search(args: Arguments) -> None:
    """Search."""
    from zoo.nas.limits import amount

    options: dict[str, str] = {}
    for text in args.set:
        key, equals, value = text.partition("=")
        if not equals:
            raise MismatchError(f"--set {text!r}; expected KEY=VALUE, e.g. --set base=ran-e-32-ib")
        options[key] = value
    limits = {
        f"max_{quantity}": amount(text, quantity)
        for name, quantity, *_ in _LIMITS
        if (text := getattr(args, f"max_{name}")) is not None
    }
    by, training = _under(options, "by."), _under(options, "train.")
    own: dict[str, Any] = {k: v for k, v in options.items() if not k.startswith(("by.", "train."))}
    found = api.search(
        args.space,
        args.out,
        target=args.target,
        **limits,
        method=args.method,
        by=args.by,
        by_options=by,
        training=training,
        data=args.data,
        trials=args.trials,
        steps=args.steps,
        objective=args.objective,
        filter=args.filter,
        draws=args.draws,
        against=_GOALS[args.against],
        faults=args.faults,
        work=None if args.work is None else amount(args.work, "macs"),
        seed=args.seed,
        resume=args.resume,
        device=args.device,
        **own,
    )
    _print(found, args.json)


def _under(options: Mapping[str, str], prefix: str) -> dict[str, Any]:
    """Return the options under a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in options.items() if k.startswith(prefix)}


def _print(found: "Architecture | Search", as_json: bool) -> None:
    if as_json:
        print_json(found.to_json())
        return
    if hasattr(found, "rows"):
        print_table(found.rows)
    print(found.text)
