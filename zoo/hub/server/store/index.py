"""The SQLite index of a store: accounts, repositories, who brought which large file, collections.

Content (files, history, branches, tags) is in git and in `objects/`; the index names it.
"""

import errno
import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SCHEMA = 2
_TABLES = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS users (
    name TEXT PRIMARY KEY COLLATE NOCASE, created REAL NOT NULL);
CREATE TABLE IF NOT EXISTS members (
    user TEXT NOT NULL COLLATE NOCASE, org TEXT NOT NULL COLLATE NOCASE,
    PRIMARY KEY (user, org));
CREATE TABLE IF NOT EXISTS tokens (
    hash TEXT PRIMARY KEY, label TEXT NOT NULL, user TEXT NOT NULL COLLATE NOCASE,
    role TEXT NOT NULL, created REAL NOT NULL, expires REAL);
CREATE TABLE IF NOT EXISTS repos (
    id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL,
    namespace TEXT NOT NULL COLLATE NOCASE, name TEXT NOT NULL COLLATE NOCASE,
    private INTEGER NOT NULL, gated TEXT NOT NULL DEFAULT '', sdk TEXT NOT NULL DEFAULT '',
    created REAL NOT NULL, downloads INTEGER NOT NULL DEFAULT 0, head TEXT NOT NULL,
    modified REAL NOT NULL, summary TEXT NOT NULL, upstream TEXT NOT NULL DEFAULT '',
    UNIQUE (kind, namespace, name));
CREATE TABLE IF NOT EXISTS revisions (
    repo INTEGER NOT NULL REFERENCES repos (id) ON DELETE CASCADE, name TEXT NOT NULL,
    kind TEXT NOT NULL, sha TEXT NOT NULL, asked REAL NOT NULL, PRIMARY KEY (repo, name));
CREATE TABLE IF NOT EXISTS admitted (
    repo INTEGER NOT NULL REFERENCES repos (id) ON DELETE CASCADE, token TEXT NOT NULL,
    asked REAL NOT NULL, PRIMARY KEY (repo, token));
CREATE TABLE IF NOT EXISTS objects (
    oid TEXT PRIMARY KEY, size INTEGER NOT NULL, stamp TEXT NOT NULL, sha1 TEXT);
CREATE TABLE IF NOT EXISTS owned (
    repo INTEGER NOT NULL REFERENCES repos (id) ON DELETE CASCADE, oid TEXT NOT NULL,
    created REAL NOT NULL, PRIMARY KEY (repo, oid));
CREATE INDEX IF NOT EXISTS owned_oid ON owned (oid);
CREATE TABLE IF NOT EXISTS granted (
    repo INTEGER NOT NULL REFERENCES repos (id) ON DELETE CASCADE,
    user TEXT NOT NULL COLLATE NOCASE, PRIMARY KEY (repo, user));
CREATE TABLE IF NOT EXISTS asked (
    repo INTEGER NOT NULL REFERENCES repos (id) ON DELETE CASCADE,
    user TEXT NOT NULL COLLATE NOCASE, status TEXT NOT NULL, changed REAL NOT NULL,
    PRIMARY KEY (repo, user));
CREATE TABLE IF NOT EXISTS moved (
    kind TEXT NOT NULL, namespace TEXT NOT NULL COLLATE NOCASE, name TEXT NOT NULL COLLATE NOCASE,
    repo INTEGER NOT NULL REFERENCES repos (id) ON DELETE CASCADE,
    PRIMARY KEY (kind, namespace, name));
CREATE TABLE IF NOT EXISTS changes (
    repo INTEGER NOT NULL REFERENCES repos (id) ON DELETE CASCADE, sha TEXT NOT NULL,
    parent TEXT NOT NULL, paths BLOB NOT NULL, PRIMARY KEY (repo, sha)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS collections (
    slug TEXT PRIMARY KEY, namespace TEXT NOT NULL COLLATE NOCASE, private INTEGER NOT NULL,
    updated REAL NOT NULL, data TEXT NOT NULL);
"""


class Index:
    """One connection, used by one thread at a time; every write is durable when it returns."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        path.chmod(0o600)  # it holds the key that signs upload addresses
        self._db.row_factory = sqlite3.Row
        for setting in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            self._db.execute(f"PRAGMA {setting}")
        self._db.execute("PRAGMA busy_timeout=10000")  # `zoo hub token` writes while we serve
        self._db.executescript(_TABLES)
        with self.write():
            self._db.execute(
                "INSERT OR IGNORE INTO meta VALUES ('secret', ?), ('schema', ?)",
                (secrets.token_hex(32), str(SCHEMA)),
            )
        version = int(self.one("SELECT value FROM meta WHERE key = 'schema'")["value"])  # type: ignore[index]
        if version == 1:  # before mirrors
            with self.write():
                self._db.execute("ALTER TABLE repos ADD COLUMN upstream TEXT NOT NULL DEFAULT ''")
                self._db.execute("UPDATE meta SET value = '2' WHERE key = 'schema'")
            version = SCHEMA
        if version != SCHEMA:
            raise ValueError(f"{path} has format {version}; this zoo reads {SCHEMA}")
        row = self.one("SELECT value FROM meta WHERE key = 'secret'")
        self.secret = bytes.fromhex(row["value"]) if row else b""

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    @contextmanager
    def write(self) -> Iterator[None]:
        """Make the statements inside one transaction: all of them happen, or none."""
        with self._lock:
            self._execute("BEGIN IMMEDIATE")
            try:
                yield
                self._execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk ends it by itself
                    self._db.execute("ROLLBACK")
                raise

    def _execute(self, sql: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        """Execute a statement that writes; a full disk gives the same answer as elsewhere."""
        try:
            return self._db.execute(sql, values)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise OSError(errno.ENOSPC, str(error)) from error
            raise

    def run(self, sql: str, *values: Any) -> int:
        """Execute one statement; return the id of the row it made, if it made one."""
        with self._lock:
            return self._execute(sql, values).lastrowid or 0

    def one(self, sql: str, *values: Any) -> sqlite3.Row | None:
        """Return the first row of a query, if there is one."""
        with self._lock:
            row: sqlite3.Row | None = self._db.execute(sql, values).fetchone()
            return row

    def all(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        """Return the rows of a query."""
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    # --- objects -------------------------------------------------------------------------------

    def add_object(self, repo: int, oid: str, size: int, stamp: str) -> None:
        """Record that the object is on the disk, and that `repo` brought it."""
        with self.write():
            self.run(
                "INSERT INTO objects (oid, size, stamp) VALUES (?, ?, ?) "
                "ON CONFLICT (oid) DO UPDATE SET stamp = excluded.stamp",
                oid,
                size,
                stamp,
            )
            self.own(repo, oid)

    def own(self, repo: int, oid: str) -> None:
        """Record that `repo` may refer to the object."""
        self.run("INSERT OR REPLACE INTO owned VALUES (?, ?, ?)", repo, oid, time.time())

    def owned_size(self, repo: int, oid: str) -> int | None:
        """Return the size of an object that belongs to `repo`, or None."""
        row = self.one(
            "SELECT size FROM objects JOIN owned USING (oid) WHERE repo = ? AND oid = ?", repo, oid
        )
        return row["size"] if row else None

    def used(self, namespace: str) -> int:
        """Return the bytes of the large files of a namespace, each counted once."""
        row = self.one(
            "SELECT coalesce(sum(size), 0) AS used FROM objects WHERE oid IN (SELECT oid FROM "
            "owned JOIN repos ON repos.id = owned.repo WHERE namespace = ?)",
            namespace,
        )
        return row["used"] if row else 0

    # --- repositories --------------------------------------------------------------------------

    def repo(self, kind: str, namespace: str, name: str) -> sqlite3.Row | None:
        """Return a repository's row; names are compared without regard to case."""
        return self.one(
            "SELECT * FROM repos WHERE kind = ? AND namespace = ? AND name = ?",
            kind,
            namespace,
            name,
        )

    def set_head(self, repo: int, head: str, modified: float, summary: dict[str, Any]) -> None:
        """Record the newest commit of `main` and what lists and searches need of it."""
        text = json.dumps(summary, ensure_ascii=False, allow_nan=False)
        self.run(
            "UPDATE repos SET head = ?, modified = ?, summary = ? WHERE id = ?",
            head,
            modified,
            text,
            repo,
        )


def is_orphan(error: Exception) -> bool:
    """Say whether a row could not be written for its repository is not there any more."""
    code = getattr(error, "sqlite_errorname", "")
    return isinstance(error, sqlite3.IntegrityError) and code == "SQLITE_CONSTRAINT_FOREIGNKEY"
