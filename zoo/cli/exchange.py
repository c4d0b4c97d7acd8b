"""The commands `zoo pull` and `zoo push`."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoo import verbs as api
from zoo.cli.printing import Arguments


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
