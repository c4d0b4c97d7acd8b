"""Garbage collection: large files that no commit of any branch, tag or history refers to."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from zoo.errors import HubError
from zoo.hub.server.store.git import Git
from zoo.hub.server.store.hub import Hub

# A client remembers for weeks which chunks it has sent, and then does not send them again.
_XORB_DAYS = 60


@dataclass
class Collected:
    """What a collection did."""

    removed: int = 0
    removed_bytes: int = 0
    packed: int = 0  # git objects that were gathered
    dropped: int = 0  # git objects that no branch or tag led to
    checked: int = 0
    damaged: list[str] = field(default_factory=list)


def collect(folder: Path, *, hours: float = 24, check: bool = False) -> Collected:
    """Remove what is not referred to and is older than `hours`: an upload may await its commit.

    The server of the folder must not be running.

    Args:
        folder: the hub's folder.
        hours: how old an unused object must be.
        check: also hash every object again; damaged ones are set aside.

    Raises:
        HubError: a server is running on the folder.

    """
    hub = Hub(folder)
    try:
        return collect_in(hub, hours, check)
    finally:
        hub.close()


def collect_in(hub: Hub, hours: float, check: bool) -> Collected:
    """Do the work of `collect` on an open hub."""
    collected, limit = Collected(), time.time() - hours * 3600
    with hub.collecting:
        for row in hub.index.all("SELECT * FROM repos"):
            with hub.writing(row["id"]):
                git = hub.git(row)
                try:
                    used = referred(git)
                except KeyError as error:
                    gone = error.args[0].decode()
                    text = f"{git.path} is damaged: object {gone} is missing"
                    raise HubError(text) from None
                sql = "SELECT oid FROM owned WHERE repo = ? AND created < ?"
                for owned in hub.index.all(sql, row["id"], limit):
                    if owned["oid"] not in used:
                        hub.index.run(
                            "DELETE FROM owned WHERE repo = ? AND oid = ?", row["id"], owned["oid"]
                        )
                packed = git.repack(limit)
                collected.packed += packed.kept
                collected.dropped += packed.dropped
        _remove(hub, limit, collected)
        _remove_xorbs(hub, collected)
        for oid in list(hub.objects.oids()) if check else []:
            collected.checked += 1
            if not hub.objects.verify(oid):
                collected.damaged.append(oid)
    return collected


def _remove(hub: Hub, limit: float, collected: Collected) -> None:
    """Remove the files that no repository owns, and those that were never recorded."""
    for oid in list(hub.objects.oids()):
        path = hub.objects.path(oid)
        facts = path.stat()
        if hub.index.one("SELECT 1 FROM owned WHERE oid = ?", oid) or facts.st_mtime >= limit:
            continue
        # The row goes first: a row without its file would look like a damaged object.
        hub.index.run("DELETE FROM objects WHERE oid = ?", oid)
        path.unlink()
        collected.removed += 1
        collected.removed_bytes += facts.st_size


def _remove_xorbs(hub: Hub, collected: Collected) -> None:
    """Remove the Xet chunks that no upload has used for a while; files do not need them."""
    limit = time.time() - _XORB_DAYS * 86400
    for path in list((hub.root / "xorbs").glob("*/??/*")):
        facts = path.stat()
        if facts.st_mtime < limit:
            path.unlink()
            collected.removed_bytes += facts.st_size


def referred(git: Git) -> set[str]:
    """Return the large files that any commit reachable from a branch or a tag refers to."""
    oids: set[str] = set()
    seen_blobs: set[str] = set()
    for commit in git.commits():
        seen_blobs |= set(git.tree(commit).values())
    for content in git.contents(seen_blobs).values():
        if content.oid:
            oids.add(content.oid)
    return oids
