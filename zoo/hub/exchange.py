"""Pull and push: repositories to verified folders, and checkpoints to one commit.

A repository is named `org/name`, and one that holds no model `datasets/org/name` or
`spaces/org/name`.
"""

import functools
import hashlib
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import HubError, MissingExtraError
from zoo.files import sha256
from zoo.hub import snapshots, where
from zoo.hub.safety import RemoteFile, choose
from zoo.hub.snapshots import Snapshot

if TYPE_CHECKING:
    from zoo.hub.client import Connection

log = logging.getLogger("zoo")

_SMALL_BYTES = 16 << 20


@contextmanager
def connected(place: where.Place, *, write: bool = False) -> Iterator["Connection"]:
    """Yield the hub; the embedded one runs as long as the block does.

    Raises:
        HubError: `write`, and no token is known.

    """
    from zoo.hub import client

    with client.suited(place):
        if place.folder is not None:
            try:
                from zoo.hub.server import embedded
            except ImportError as error:
                raise MissingExtraError.of(str(error.name), "hub") from error
            with embedded(place.folder) as (endpoint, its_token):
                yield client.Connection(place, endpoint, its_token)
            return
        token = client.user_token()
        if write and not token:
            raise HubError(
                f"a push to {place.endpoint} needs a token: {place.sign_in}; "
                "or push to the embedded hub of this machine: add --hub local"
            )
        yield client.Connection(place, str(place.endpoint), token)


def pull(repo: str, revision: str | None = None) -> Snapshot:
    """Bring a repository of a hub here, whole and verified, or find it in the cache.

    A cached commit is used without any request. A branch or tag is asked for; when the hub
    cannot be reached, the commit it last meant is used, with a warning.

    Args:
        repo: `org/name`, or with the kind before it.
        revision: a commit, branch or tag; None is main.

    Raises:
        HubError: not there, not allowed, not reachable, or the disk is full.
        UnsafeFileError: tampered with, hostile, or only pickles.

    """
    where.check_repo(repo)
    place = where.place()
    folder = snapshots.folder(place.label, repo)
    pinned = revision is not None and _is_commit(revision)
    if revision is not None and pinned and (snapshot := snapshots.find(folder, revision)):
        return snapshot
    from zoo.hub.client import UnreachableError

    try:
        with connected(place) as hub:
            commit = hub.commit_of(repo, revision)
            if pinned and commit != revision:
                raise HubError(f"{hub.endpoint} answered commit {commit} for {repo}@{revision}")
            snapshot = snapshots.find(folder, commit) or _fetch(hub, folder, repo, commit)
            if not pinned:
                snapshots.remember(folder, revision or "main", commit)
            return snapshot
    except UnreachableError as error:
        last = None if pinned else snapshots.recall(folder, revision or "main")
        snapshot = snapshots.find(folder, last) if last else None
        if snapshot is None:
            raise
        log.warning(
            "%s@%s is used as it was when the hub was last asked, commit %s (%s)",
            repo, revision or "main", snapshot.commit, error,
        )  # fmt: skip
        return snapshot


def look(repo: str, revision: str | None, names: Sequence[str]) -> tuple[Path, str]:
    """Return a folder with those of a repository's small files that there are, and its commit.

    What is fetched is verified and kept: a commit that was looked at costs no request. A whole
    snapshot that is here is the folder.

    Args:
        repo: `org/name`.
        revision: a commit, branch or tag; None is main.
        names: of the files.

    Raises:
        HubError, UnsafeFileError: see `pull`.

    """
    where.check_repo(repo)
    place = where.place()
    folder = snapshots.folder(place.label, repo)
    if revision is not None and _is_commit(revision) and (seen := snapshots.seen(folder, revision)):
        return seen, revision
    from zoo.hub.client import UnreachableError

    try:
        with connected(place) as hub:
            commit = hub.commit_of(repo, revision)
            seen = snapshots.seen(folder, commit) or _fetch_few(hub, folder, repo, commit, names)
            return seen, commit
    except UnreachableError:
        snapshot = pull(repo, revision)  # what it last meant, with a warning
        return snapshot.path, snapshot.commit


def _fetch_few(
    hub: "Connection", folder: Path, repo: str, commit: str, names: Sequence[str]
) -> Path:
    from zoo.hub import download

    small = [f for f in hub.tree(repo, commit) if f.path in names and f.bytes <= _SMALL_BYTES]
    never = threading.Event()
    with snapshots.locked(folder):
        if seen := snapshots.seen(folder, commit):  # another process was faster
            return seen
        with snapshots.looking(folder, commit) as place:
            for file in small:
                opened = functools.partial(hub.opened, repo, commit, file)
                download.fetch(opened, file, place / file.path, never)
    return snapshots.looked_at(folder, commit)


def _is_commit(revision: str) -> bool:
    return len(revision) == 40 and not set(revision) - set("0123456789abcdef")


def _fetch(hub: "Connection", folder: Path, repo: str, commit: str) -> Snapshot:
    from zoo.hub import download

    files, left_out = choose(hub.tree(repo, commit), repo, opaque=where.split(repo)[0] != "models")
    for name in left_out:
        log.info("%s: %s is left out: neither weights in a safe format nor text", repo, name)

    def fetch(file: RemoteFile, part: Path, stop: threading.Event) -> str:
        return download.fetch(lambda start: hub.opened(repo, commit, file, start), file, part, stop)

    with snapshots.locked(folder):
        if snapshot := snapshots.find(folder, commit):  # another process was faster
            return snapshot
        return snapshots.build(folder, hub.place.label, repo, commit, files, left_out, fetch)


def members(name: str) -> list[str]:
    """Return the repositories of a collection `owner/slug`, with the prefix of their kind."""
    with connected(where.place()) as hub:
        return hub.collection(name)


def push(
    repo: str,
    files: Mapping[str, bytes | Path],
    *,
    private: bool,
    message: str,
    replaces: tuple[str, ...] = (".safetensors", ".safetensors.index.json"),
    sdk: str | None = None,
    collection: str | None = None,
) -> str:
    """Make `repo` hold `files`, in one commit, or in none if it does already.

    Files of the repository that end in one of `replaces` and that are not pushed again are
    deleted: the shards of an earlier version would be loaded with the new ones. All others stay,
    and so do the hub's own, whose names begin with a dot.

    Args:
        repo: `org/name`, or with the kind before it.
        files: path -> content.
        private: who may see a repository, or a collection, that is made here.
        message: of the commit.
        replaces: endings.
        sdk: what runs a Space that is made here.
        collection: title of a collection of the same owner that gets the repository.

    Returns:
        The address of the commit.

    """
    where.check_repo(repo)
    from zoo.hub import writing

    with connected(where.place(), write=True) as hub:
        parent = hub.head(repo) or writing.create(hub, repo, private=private, sdk=sdk)
        there = {file.path: file for file in hub.tree(repo, parent)}
        stale = [
            path
            for path in there
            if path not in files and path.endswith(replaces) and not path.startswith(".")
        ]
        changed = {
            name: content
            for name, content in files.items()
            if name not in there or not _same(there[name], content)
        }
        commit = parent
        if changed or stale:
            commit = writing.commit(hub, repo, parent, changed, stale, message)
        if collection is not None:
            writing.collect(hub, repo, collection, private=private)
        base = hub.place.endpoint or "local:"
        return f"{base}/{repo}/commit/{commit}"


def _same(there: RemoteFile, content: bytes | Path) -> bool:
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    if size != there.bytes:
        return False
    if there.sha256:
        ours = (
            hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else sha256(content)
        )
        return ours == there.sha256
    data = content if isinstance(content, bytes) else content.read_bytes()
    git = hashlib.sha1(f"blob {size}\0".encode() + data, usedforsecurity=False)
    return git.hexdigest() == there.git_sha1
