"""The commands that bring from a hub and to it: `zoo pull`, `zoo push`, `zoo space`."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoo import verbs as api
from zoo.cli.printing import Arguments, add_action


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands to the command line."""
    sub = command("pull", _pull, "bring a Hub repository, or a collection, here, verified")
    sub.add_argument(
        "repository",
        metavar="REPOSITORY",
        help="ORG/NAME[@REVISION], datasets/ORG/NAME, spaces/ORG/NAME or collections/OWNER/SLUG",
    )
    sub.add_argument("--out", metavar="DIR", help="also copy it into this new folder")
    sub = command("push", _push, "publish a checkpoint, in one commit with its card")
    sub.add_argument("item", metavar="DIR", help="a checkpoint folder, or name[.tag]")
    sub.add_argument(
        "repository", metavar="REPOSITORY", help="ORG/NAME, spaces/ORG/NAME or datasets/ORG/NAME"
    )
    sub.add_argument("--public", action="store_true", help="make a new repository public")
    sub.add_argument("--message", metavar="TEXT", help="of the commit")
    sub.add_argument("--collection", metavar="TITLE", help="add it to this collection of ORG")
    actions = command("space", _none, "the demo page as a Space: build, push").add_subparsers(
        required=True, metavar="ACTION"
    )
    sub = add_action(actions, "build", _build, "write the folder of the Space: a page on its own")
    sub.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    _with_model(sub)
    sub = add_action(
        actions, "push", _push_space, "make a hub's Space hold the page, in one commit"
    )
    sub.add_argument("repository", metavar="ORG/NAME", help="the Space; created if it is missing")
    sub.add_argument("--public", action="store_true", help="make a new Space public")
    _with_model(sub)


def _push(args: Arguments) -> None:
    url = api.push(
        args.item,
        args.repository,
        private=not args.public,
        message=args.message,
        collection=args.collection,
    )
    print(json.dumps({"commit": url}) if args.json else url)


def _pull(args: Arguments) -> None:
    from zoo.hub.safety import RECORD

    records = []
    for pulled in api.pull_all(args.repository, args.out).values():
        path = pulled if isinstance(pulled, Path) else pulled.path
        record: dict[str, Any] = json.loads((path / RECORD).read_text(encoding="utf-8"))
        records.append({**record, "path": str(path)})
    if args.json:
        whole = records if args.repository.startswith("collections/") else records[0]
        print(json.dumps(whole, indent=2, ensure_ascii=False))
        return
    for record in records:
        size = sum(file["bytes"] for file in record["files"].values())
        files = len(record["files"])
        print(f"{record['path']}  commit {record['commit']}, {files} files, {size:,} bytes")
        if left_out := [name for name in record["left_out"] if name != ".gitattributes"]:
            print(f"left out, neither safe weights nor text: {', '.join(left_out)}")


def _none(args: Arguments) -> None:
    """Stand in for an action; the parser insists on one."""


def _with_model(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--no-model", action="store_true",
        help="without SmolLM2-135M, 98 MB; it goes along where it is installed",
    )  # fmt: skip


def _build(args: Arguments) -> None:
    """Write the folder."""
    from zoo.page import hosting

    lacks = hosting.assemble(args.out, language_model=not args.no_model)
    files = [file for file in args.out.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    if args.json:
        found = {"path": str(args.out), "files": len(files), "bytes": size, "lacks": lacks}
        print(json.dumps(found))
        return
    print(f"{args.out}  {len(files)} files, {size:,} bytes")
    for sentence in lacks:
        print(sentence)


def _push_space(args: Arguments) -> None:
    """Push the folder."""
    from zoo.page import hosting

    address, files = hosting.publish(
        args.repository, private=not args.public, language_model=not args.no_model
    )
    print(json.dumps({"commit": address, "files": files}) if args.json else address)
