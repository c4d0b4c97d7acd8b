"""A mirror: what this hub lacks is asked of another one, checked, and kept.

A repository that is here for its own sake is never asked for. Of a mirrored one, a commit that was
fetched costs no further request; a branch or a tag is asked for again each time, and means what
it last meant while the upstream cannot be reached. It is read-only here.

The token that a visitor shows is their own for the upstream, and is forwarded to it when this hub
does not know it; a token of this hub is never sent anywhere. What the upstream does not show to
everybody is shown here only to those whom the upstream let in, each asked for by their own token.
"""

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zoo.hub.client import UnreachableError
from zoo.hub.safety import RemoteFile
from zoo.hub.server.common import SHA1, Name, Refused, checked_name
from zoo.hub.server.mirror.following import Fetch
from zoo.hub.server.mirror.upstream import Upstream
from zoo.hub.server.store.accounts import hashed
from zoo.hub.server.store.git import Git
from zoo.hub.server.store.hub import Hub, Row
from zoo.hub.server.store.objects import disk_errors, place, stamp_of

log = logging.getLogger("zoo.hub")

_FRESH_S = 2.0  # before a branch is asked for again: one client asks several times
_ADMITTED_S = 300.0
_DOWN_S = 10.0  # before an upstream that did not answer is asked again


class Mirror:
    """The other hub, and what of it is here. All methods may be called from any thread."""

    def __init__(self, hub: Hub, endpoint: str) -> None:
        self.hub, self.upstream = hub, Upstream(endpoint)
        self._locks: dict[str, threading.RLock] = {}
        self._lock = threading.Lock()
        self._fetches: dict[tuple[int, str], Fetch] = {}
        self._doubtful: set[tuple[int, str]] = set()
        self._down_until = 0.0
        (hub.root / "parts").mkdir(exist_ok=True)

    def close(self) -> None:
        """Stop what is on its way; it goes on from there next time."""
        for fetch in list(self._fetches.values()):
            fetch.stop.set()
            fetch.join()

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Let one thread at a time ask about one repository; the others find its answer."""
        with self._lock:
            lock = self._locks.setdefault(name.lower(), threading.RLock())
        with lock:
            yield

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Ask the upstream, unless it was silent just now."""
        if time.monotonic() < self._down_until:
            raise UnreachableError(f"{self.upstream.endpoint} did not answer a moment ago")
        try:
            yield
        except UnreachableError as error:
            log.warning("%s", error)
            self._down_until = time.monotonic() + _DOWN_S
            raise

    # --- repositories ----------------------------------------------------------------------------

    def row(self, name: Name, token: str | None, need: str) -> Row | None:
        """Return the row of a mirrored repository that the visitor may `list` or `read`.

        None for a repository of this hub.

        Raises:
            Refused: as the upstream refuses, or 502 when it cannot be asked.

        """
        row = self.hub.index.repo(name.kind, name.namespace, name.name)
        if row is None:
            with self._alone(name.url_path):
                row = self.hub.index.repo(name.kind, name.namespace, name.name)
                row = row or self._adopt(name, token)
        if not row["upstream"]:
            return None
        if row["private"] or (need == "read" and row["gated"]):
            self._admit(row, name, token)
        return row

    def _adopt(self, name: Name, token: str | None) -> Row:
        """Make the row and the empty repository of one that the upstream has."""
        if name.namespace:  # older names have none: gpt2
            checked_name(name.namespace, "namespace")
        checked_name(name.name, "repository name")
        try:
            with self._asking():
                facts = self.upstream.facts(name.url_path, token)
        except UnreachableError as error:
            raise Refused(502, f"{name.id} is not here, and {error}") from None
        sdk = facts.get("sdk")
        try:
            with disk_errors(), self.hub.index.write():
                now = time.time()
                repo = self.hub.index.run(
                    "INSERT INTO repos (kind, namespace, name, private, gated, sdk, created, head, "
                    "modified, summary, upstream) VALUES (?, ?, ?, ?, ?, ?, ?, '', ?, '{}', ?)",
                    *(name.kind, name.namespace, name.name, *_openness(facts)),
                    *(sdk if isinstance(sdk, str) else "", now, now, self.upstream.endpoint),
                )
                Git.create(self.hub.root / "repos" / f"{repo}.git", self.hub.objects.temporary)
        except sqlite3.IntegrityError:
            pass  # made here in the meantime
        row = self.hub.index.repo(name.kind, name.namespace, name.name)
        assert row is not None
        return row

    def _admit(self, row: Row, name: Name, token: str | None) -> None:
        """Refuse whom the upstream does not let read; while it is silent, whom it never did."""
        digest, now = hashed(token or ""), time.time()
        sql = "SELECT asked FROM admitted WHERE repo = ? AND token = ?"
        seen = self.hub.index.one(sql, row["id"], digest)
        if seen is not None and 0 <= now - seen["asked"] < _ADMITTED_S:
            return
        try:
            with self._asking():
                self.upstream.require_access(name.url_path, token)
        except UnreachableError:
            if seen is not None:
                return
            status = 404 if token else 401
            raise Refused(status, f"repository {name.id} not found", "RepoNotFound") from None
        except Refused as refusal:
            if refusal.status in (401, 403, 404):
                sql = "DELETE FROM admitted WHERE repo = ? AND token = ?"
                self.hub.index.run(sql, row["id"], digest)
            raise
        self.hub.index.run(
            "INSERT OR REPLACE INTO admitted VALUES (?, ?, ?)", row["id"], digest, now
        )

    # --- revisions -------------------------------------------------------------------------------

    def revision(self, row: Row, revision: str, token: str | None) -> str:
        """Return the commit that a revision names, once it is here."""
        name = _name(row)
        revision = revision.removeprefix("refs/heads/")
        git = self.hub.git(row)
        if SHA1.fullmatch(revision):
            if git.resolve(revision) is None:
                self._bring(row, revision, token)
            return revision
        with self._alone(name.url_path):
            sql = "SELECT * FROM revisions WHERE repo = ? AND name = ?"
            known = self.hub.index.one(sql, row["id"], revision)
            if known is not None and 0 <= time.time() - known["asked"] < _FRESH_S:
                return str(known["sha"])
            try:
                with self._asking():
                    about = f"/revision/{revision.replace('/', '%2F')}"
                    facts = self.upstream.facts(name.url_path, token, about)
                sha = str(facts.get("sha"))
                if not SHA1.fullmatch(sha):
                    raise Refused(502, "the upstream failed: it named no commit")
                self._bring(row, sha, token)
            except UnreachableError as error:
                if known is None:
                    raise Refused(502, f"{name.id}@{revision} is not here, and {error}") from None
                return str(known["sha"])
            sql = (
                "INSERT INTO revisions VALUES (?, ?, 'branch', ?, ?) ON CONFLICT (repo, name) DO "
                "UPDATE SET sha = excluded.sha, asked = excluded.asked"
            )
            self.hub.index.run(sql, row["id"], revision, sha, time.time())
            sql = "UPDATE repos SET private = ?, gated = ? WHERE id = ?"
            self.hub.index.run(sql, *_openness(facts), row["id"])
            if revision == "main" and git.refs("heads").get("main") != sha:
                git.set_ref("refs/heads/main", sha)
                self.hub.refresh(row["id"])
            return sha

    def _bring(self, row: Row, sha: str, token: str | None) -> None:
        """Fetch a commit with its history, unless it is here; keep it by a reference."""
        name, git = _name(row), self.hub.git(row)
        with self._alone(name.url_path):
            if git.resolve(sha) is not None:
                return
            try:
                with self._asking(), git.batch() as batch, git.open() as have:
                    self.upstream.history(name.url_path, sha, token, have, batch)
                    with self.hub.writing(row["id"]):
                        batch.publish()
                        git.set_ref(f"refs/mirror/{sha}", sha)
            except UnreachableError as error:
                raise Refused(502, f"{name.id}@{sha} is not here, and {error}") from None

    def references(self, row: Row, token: str | None) -> list[tuple[str, str, str]]:
        """Return (kind, name, commit) of the upstream's branches and tags, or of those known."""
        try:
            with self._asking():
                facts = self.upstream.facts(_name(row).url_path, token, "/refs")
        except UnreachableError:
            sql = "SELECT kind, name, sha FROM revisions WHERE repo = ? ORDER BY name"
            rows = self.hub.index.all(sql, row["id"])
            return [(reference["kind"], reference["name"], reference["sha"]) for reference in rows]
        known = []
        for kind, key in (("branch", "branches"), ("tag", "tags")):
            items = facts.get(key)
            for reference in items if isinstance(items, list) else []:
                name, sha = str(reference.get("name")), str(reference.get("targetCommit"))
                if SHA1.fullmatch(sha):
                    known.append((kind, name, sha))
                    sql = "UPDATE revisions SET kind = ? WHERE repo = ? AND name = ?"
                    self.hub.index.run(sql, kind, row["id"], name)
        return known

    # --- large files -----------------------------------------------------------------------------

    def fetch(
        self, row: Row, commit: str, path: str, oid: str, size: int, token: str | None
    ) -> Fetch | None:
        """Return a large file on its way, one for all who ask; None when it is here, whole."""
        key = (int(row["id"]), oid)
        if self.hub.index.owned_size(row["id"], oid) == size and self.hub.intact(oid):
            return None
        with self._lock:
            fetch = self._fetches.get(key)
            self._note_doubt(key, fetch)
            if fetch is None or fetch.over:
                part = self.hub.root / "parts" / f"{row['id']}-{oid}"
                file = RemoteFile(path, size, sha256=oid)

                def bring(fetch: Fetch) -> Path:
                    try:
                        with self._asking():
                            self.upstream.large(_name(row).url_path, commit, file, token, fetch)
                    except UnreachableError as error:
                        raise Refused(502, f"{path!r} is not here, and {error}") from None
                    return self._keep(row, fetch, oid)

                fetch = self._fetches[key] = Fetch(part, size, bring)
            return fetch

    def fetch_named(self, row: Row, oid: str, size: int, token: str | None) -> Fetch | None:
        """Do what `fetch` does for a large file whose path is not given.

        Raises:
            Refused: 404, no revision that is here has such a file.

        """
        git = self.hub.git(row)
        sql = "SELECT DISTINCT sha FROM revisions WHERE repo = ?"
        for revision in self.hub.index.all(sql, row["id"]):
            tree = git.tree(revision["sha"])
            contents = git.contents(tree.values())
            for path, blob in tree.items():
                if (contents[blob].oid, contents[blob].oid_size) == (oid, size):
                    return self.fetch(row, revision["sha"], path, oid, size, token)
        raise Refused(404, "no such object in this repository")

    def on_its_way(self, repo: int, oid: str) -> Fetch | None:
        """Return the fetch of a large file that somebody began."""
        return self._fetches.get((repo, oid))

    def _keep(self, row: Row, fetch: Fetch, oid: str) -> Path:
        """Make a file that came whole an object of its repository."""
        target = self.hub.objects.path(oid)
        with disk_errors(), self.hub.collecting:
            place(fetch.part, target)
            self.hub.index.add_object(row["id"], oid, fetch.size, stamp_of(target))
        return target

    def is_doubtful(self, repo: int, fetch: Fetch | None, oid: str) -> bool:
        """Say whether other bytes of this file may have been given out than those it has."""
        self._note_doubt((repo, oid), fetch)
        return (repo, oid) in self._doubtful

    def _note_doubt(self, key: tuple[int, str], fetch: Fetch | None) -> None:
        if fetch and (fetch.epoch or (fetch.error and not fetch.part.exists())):
            self._doubtful.add(key)


def _name(row: Row) -> Name:
    return Name(row["kind"], row["namespace"], row["name"])


def _openness(facts: dict[str, Any]) -> tuple[bool, str]:
    """Return (private, gated); what is not said is taken to be closed."""
    gated = facts.get("gated", "auto")
    return facts.get("private") is not False, gated if isinstance(gated, str) else ""
