"""The command `zoo hub`: serve a hub of one's own, make tokens for it, tidy it up."""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

from zoo.cli.printing import Arguments, add_action, print_table
from zoo.errors import MissingExtraError
from zoo.hub import where


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    actions = command("hub", _none, "a hub of your own: serve, token, gc").add_subparsers(
        required=True, metavar="ACTION"
    )
    sub = add_action(actions, "serve", _serve, "serve a folder to every Hub tool", json=False)
    _folder(sub)
    sub.add_argument("--host", default="127.0.0.1", help="default: this machine only")
    sub.add_argument("--port", type=int, default=7870)
    sub.add_argument("--public-url", metavar="URL", help="what clients call it behind a proxy")
    sub.add_argument("--host-name", metavar="NAME", action="append", default=[],
                     help="another name that clients call it by; addresses need none")  # fmt: skip
    sub.add_argument("--upstream", metavar="URL", help="another hub to mirror what is asked for")
    sub.add_argument("--quota", type=float, metavar="GB", help="large files of each namespace")
    tokens = actions.add_parser("token", help="make, list and revoke tokens").add_subparsers(
        required=True, metavar="ACTION"
    )
    sub = add_action(
        tokens, "list", _tokens, "who has which token; the tokens themselves are not kept"
    )
    _folder(sub)
    sub.add_argument("--user", help="only this one's")
    sub = add_action(tokens, "revoke", _revoke, "make a token worthless, at once")
    _folder(sub)
    sub.add_argument("id", metavar="ID", help="as zoo hub token list shows it, or the token")
    sub = add_action(tokens, "create", _token, "make a token; it is shown once")
    _folder(sub)
    sub.add_argument("--user", required=True, help="its user; created if new")
    sub.add_argument("--role", choices=["read", "write", "admin"], default="write")
    sub.add_argument("--org", action="append", default=[], help="a team that the user belongs to")
    sub.add_argument("--name", default="token", help="what to call it")
    sub.add_argument("--days", type=float, help="how long it is valid; default: forever")
    sub = add_action(
        actions, "gc", _collect, "remove large files that nothing refers to; check all"
    )
    _folder(sub)
    sub.add_argument("--check", action="store_true", help="also hash every large file again")
    sub.add_argument("--hours", type=float, default=24, help="keep younger ones; default: 24")


def _folder(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--dir", type=Path, default=where.local_folder(), help="the hub's folder; default: that "
        "of --hub local",
    )  # fmt: skip


def _none(args: Arguments) -> None:
    """Stand in for an action; the parser insists on one."""


def _serve(args: Arguments) -> None:
    try:
        from zoo.hub import server
    except ImportError as error:
        raise MissingExtraError.of(str(error.name), "hub") from error
    quota = None if args.quota is None else int(args.quota * 1e9)
    upstream = None if args.upstream is None else where.endpoint(args.upstream, "--upstream")
    settings = server.Settings(
        public_url=args.public_url,
        host_names=tuple(args.host_name),
        quota_bytes=quota,
        upstream=upstream,
    )
    server.serve(args.dir, host=args.host, port=args.port, settings=settings)


def _token(args: Arguments) -> None:
    try:
        from zoo.hub import server
    except ImportError as error:
        raise MissingExtraError.of(str(error.name), "hub") from error
    token = server.token(
        args.dir,
        args.user,
        role=args.role,
        label=args.name,
        orgs=tuple(args.org),
        days=args.days,
    )
    print(json.dumps({"token": token, "user": args.user}) if args.json else token)


def _tokens(args: Arguments) -> None:
    try:
        from zoo.hub import server
    except ImportError as error:
        raise MissingExtraError.of(str(error.name), "hub") from error
    found = server.tokens(args.dir, args.user)
    if args.json:
        print(json.dumps([vars(made) for made in found]))
        return
    rows = [("ID", "USER", "ROLE", "NAME", "MADE", "UNTIL")]
    rows += [
        (made.id, made.user, made.role, made.label, _day(made.created), _day(made.expires))
        for made in found
    ]
    print_table(rows)


def _day(seconds: float | None) -> str:
    return "for ever" if seconds is None else time.strftime("%Y-%m-%d", time.gmtime(seconds))


def _revoke(args: Arguments) -> None:
    try:
        from zoo.hub import server
    except ImportError as error:
        raise MissingExtraError.of(str(error.name), "hub") from error
    made = server.revoke(args.dir, args.id)
    print(json.dumps(vars(made)) if args.json else f"revoked {made.id} of {made.user}")


def _collect(args: Arguments) -> None:
    try:
        from zoo.hub import server
    except ImportError as error:
        raise MissingExtraError.of(str(error.name), "hub") from error
    collected = server.collect(args.dir, hours=args.hours, check=args.check)
    if args.json:
        print(json.dumps(vars(collected)))
        return
    print(f"removed {collected.removed} large files, {collected.removed_bytes / 1e6:.1f} MB")
    if args.check:
        print(f"checked {collected.checked}; damaged: {', '.join(collected.damaged) or 'none'}")
