"""The hub itself: one folder, who may do what in it, and what a repository is made of.

```
index.sqlite        accounts, repositories, ownership of large files, collections
repos/<id>.git      one bare git repository each; renaming one changes the index alone
objects/            large files by sha256
xorbs/<user>/       chunks from Xet uploads
lock                held by the one server of the folder
```
"""

import contextlib
import json
import logging
import shutil
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dulwich.errors import NotGitRepository
from filelock import FileLock, Timeout

from zoo.errors import HubError
from zoo.hub.server.common import Name, Refused, Settings, bad, checked_name
from zoo.hub.server.store import cards
from zoo.hub.server.store.accounts import Account
from zoo.hub.server.store.git import Git
from zoo.hub.server.store.index import Index
from zoo.hub.server.store.kept import Kept
from zoo.hub.server.store.objects import Objects, disk_errors, stamp_of
from zoo.hub.server.store.touched import Touched

if TYPE_CHECKING:
    from zoo.hub.server.mirror.mirror import Mirror

log = logging.getLogger("zoo.hub")

_LARGE = """
7z arrow bin bin.* bz2 ckpt ftz gguf gz h5 joblib mlmodel model msgpack npy npz onnx ot parquet pb
pickle pkl pt pte pth rar safetensors tar tar.* tflite tgz vgf wasm xz zip zst
"""
ATTRIBUTES = "".join(f"*.{end} filter=lfs diff=lfs merge=lfs -text\n" for end in _LARGE.split())
_COUNTS = 100
_CARD_BYTES = 4 << 20  # of README.md and config.json; larger ones are not read

Row = sqlite3.Row


class Hub:
    """The store of one server. All methods may be called from any thread."""

    def __init__(
        self, root: Path, settings: Settings | None = None, wait_seconds: float = 0
    ) -> None:
        self.root = root
        self.settings = settings or Settings()
        with disk_errors():
            (root / "repos").mkdir(parents=True, exist_ok=True)
        self._folder_lock = FileLock(root / "lock")
        try:
            self._folder_lock.acquire(timeout=wait_seconds)
        except Timeout:
            raise HubError(f"another server is running on {root}; stop it first") from None
        self.index = Index(root / "index.sqlite")
        self.objects = Objects(root)
        self.packs = Kept(self.objects.temporary)
        self.touched = Touched(self.index)
        self._locks: dict[int, threading.RLock] = {}
        self._lock = threading.Lock()
        self.collecting = threading.RLock()  # held while objects come or go
        self.mirror: Mirror | None = None  # of another hub; set by who serves
        self._downloads: Counter[int] = Counter()
        self._recover()

    def close(self) -> None:
        """Let another process serve the folder."""
        if self.mirror:
            self.mirror.close()
        self.flush_downloads()
        self.packs.close()
        self.index.close()
        self._folder_lock.release()

    def _recover(self) -> None:
        """Put right what a kill can leave: temporary files, locks, and an index that lags."""
        self.objects.clean()
        rows = {row["id"]: row for row in self.index.all("SELECT * FROM repos")}
        for folder in (self.root / "repos").iterdir():
            if folder.name.removesuffix(".git") not in {str(key) for key in rows}:
                shutil.rmtree(folder, ignore_errors=True)  # never in the index, or deleted
        for row in rows.values():
            git = self.git(row)
            try:
                git.clean()
                if git.resolve("refs/heads/main") != row["head"]:
                    self.refresh(row["id"])
            except (NotGitRepository, OSError) as error:  # all others are served meanwhile
                name = f"{row['namespace']}/{row['name']}"
                log.error("%s cannot be read: put %s back (%s)", name, git.path, error)

    def git(self, row: Row) -> Git:
        """Return the git repository of a row."""
        return Git(self.root / "repos" / f"{row['id']}.git", self.objects.temporary)

    @contextmanager
    def writing(self, repo: int) -> Iterator[None]:
        """Hold the lock of one repository."""
        with self._lock:
            lock = self._locks.setdefault(repo, threading.RLock())
        with lock:
            yield

    # --- finding -------------------------------------------------------------------------------

    def may_write(self, row: Row, account: Account | None) -> bool:
        """Return whether the namespace of a repository is the account's own, or its team's."""
        if row["upstream"]:
            return False
        return account is not None and account.owns(row["namespace"])

    def may_list(self, row: Row, account: Account | None) -> bool:
        """Return whether the account may know that the repository exists."""
        return not row["private"] or self.may_write(row, account)

    def may_read(self, row: Row, account: Account | None) -> bool:
        """Return whether the account may read the files."""
        if self.may_write(row, account):
            return True
        if row["private"] or not row["gated"]:
            return not row["private"]
        sql = "SELECT 1 FROM granted WHERE repo = ? AND user = ?"
        return account is not None and self.index.one(sql, row["id"], account.user) is not None

    def find(self, name: Name, account: Account | None, need: str = "list") -> Row:
        """Return the row of a repository that the account may `list`, `read` or `write`.

        Raises:
            Refused: 401 or 404 RepoNotFound (a private one is no different from none), 403.

        """
        row = self.index.repo(name.kind, name.namespace, name.name)
        if row is None or not self.may_list(row, account):
            status = 404 if account or not name.namespace else 401
            raise Refused(status, f"repository {name.id} not found", "RepoNotFound")
        if need == "read" and not self.may_read(row, account):
            status = 403 if account else 401
            message = (
                f"Access to {name.kind[:-1]} {name.id} is restricted and you are not in the "
                "authorized list: ask its owner"
            )
            raise Refused(status, message, "GatedRepo")
        if need == "write":
            if row["upstream"]:
                text = f"{name.id} mirrors {row['upstream']}: push there, or by another name here"
                raise Refused(403, text)
            if account is None:
                raise Refused(401, "writing needs a token")
            self.require_write(account, row["namespace"])
        return row

    def require_write(self, account: Account | None, namespace: str) -> Account:
        """Return the account when it may write in `namespace`."""
        if account is None:
            raise Refused(401, "writing needs a token")
        if not account.owns(namespace):
            raise Refused(403, f"{account.user} may not write in the namespace {namespace}")
        if account.role == "read":
            raise Refused(403, "this token may only read; make one with --role write")
        return account

    def revision(self, row: Row, revision: str) -> str:
        """Return the commit that `revision` names in a repository."""
        sha = self.git(row).resolve(revision)
        if sha is None:
            raise Refused(404, f"revision {revision!r} not found", "RevisionNotFound")
        return sha

    # --- repositories --------------------------------------------------------------------------

    def create(self, name: Name, account: Account | None, *, private: bool, sdk: str = "") -> Row:
        """Make a repository whose first commit holds `.gitattributes`."""
        account = self.require_write(account, name.namespace)
        checked_name(name.namespace, "namespace")
        checked_name(name.name, "repository name")
        with self.writing(0):  # one creation at a time
            if self.index.repo(name.kind, name.namespace, name.name):
                raise Refused(409, f"you already created this repository: {name.id}")
            with disk_errors(), self.index.write():
                now = time.time()
                repo = self.index.run(
                    "INSERT INTO repos (kind, namespace, name, private, sdk, created, head, "
                    "modified, summary) VALUES (?, ?, ?, ?, ?, ?, '', ?, '{}')",
                    *(name.kind, name.namespace, name.name, private, sdk, now, now),
                )
                folder = self.root / "repos" / f"{repo}.git"
                shutil.rmtree(folder, ignore_errors=True)
                git = Git.create(folder, self.objects.temporary)
                with git.batch() as batch:
                    files = {".gitattributes": batch.add_blob(ATTRIBUTES.encode())}
                    if name.kind == "spaces":  # without one, the Hub does not know how to run it
                        card = cards.of_space(name.name, sdk or "static")
                        files["README.md"] = batch.add_blob(card.encode())
                    sha = git.commit(batch, files, [], "initial commit", account.user)
                git.set_ref("refs/heads/main", sha)
                self.refresh(repo)
        return self.find(name, account)

    def refresh(self, repo: int, differ: tuple[str, str, set[str]] | None = None) -> None:
        """Bring the index up to the newest commit of `main`.

        Args:
            repo: the row of the repository.
            differ: a new commit, its parent, and the paths in which they differ.

        """
        row = self.index.one("SELECT * FROM repos WHERE id = ?", repo)
        if row is None:
            return
        git = self.git(row)
        head = git.resolve("refs/heads/main")
        if head is None:  # killed before its first commit
            return
        files = git.tree(head)
        try:
            data = cards.front_matter(self.text(row, files.get("README.md")) or "")
        except ValueError:
            data = {}
        config = {}
        with contextlib.suppress(ValueError, RecursionError):
            settings = json.loads(self.text(row, files.get("config.json")) or "{}")
            keys = ("architectures", "model_type", "quantization_config")
            if isinstance(settings, dict):
                config = {key: settings[key] for key in keys if key in settings}
                json.dumps(config, allow_nan=False)
        summary = {"card": data, "config": config, "tags": cards.tags(data, list(files))}
        with self.index.write() if differ else contextlib.nullcontext():  # one flush for both
            if differ:
                self.touched.note(repo, *differ)
            self.index.set_head(repo, head, git.revision(head).time, summary)

    def text(self, row: Row, blob: str | None) -> str | None:
        """Return a small text file of a repository by its blob id; None when it is not one."""
        if blob is None:
            return None
        git = self.git(row)
        if git.content(blob).size > _CARD_BYTES:
            return None
        return git.blob(blob).decode(errors="replace")

    def delete(self, name: Name, account: Account | None) -> None:
        """Remove a repository; its large files go with the next garbage collection.

        Only an admin may remove a mirrored one.
        """
        row = self.index.repo(name.kind, name.namespace, name.name)
        if row is None or not row["upstream"] or account is None or account.role != "admin":
            row = self.find(name, account, "write")
        with self.writing(row["id"]):
            self.index.run("DELETE FROM repos WHERE id = ?", row["id"])
            shutil.rmtree(self.root / "repos" / f"{row['id']}.git", ignore_errors=True)

    def move(self, old: Name, new: Name, account: Account | None) -> None:
        """Give a repository another name or namespace."""
        row = self.find(old, account, "write")
        self.require_write(account, new.namespace)
        checked_name(new.namespace, "namespace")
        checked_name(new.name, "repository name")
        try:
            sql = "UPDATE repos SET namespace = ?, name = ? WHERE id = ?"
            with self.writing(0):  # names are given one at a time
                self.index.run(sql, new.namespace, new.name, row["id"])
        except sqlite3.IntegrityError:
            kind = new.kind[:-1]
            raise Refused(409, f"A {kind} repository called {new.id} already exists") from None
        with self.index.write():  # the old name leads to the new one until it is taken again
            sql = "INSERT OR REPLACE INTO moved VALUES (?, ?, ?, ?)"
            self.index.run(sql, old.kind, old.namespace, old.name, row["id"])
            self.index.run("DELETE FROM moved WHERE kind = ? AND namespace = ? AND name = ?",
                           new.kind, new.namespace, new.name)  # fmt: skip

    def moved(self, name: Name, account: Account | None) -> Name | None:
        """Return what a repository is called now, if it had this name and the account may know."""
        sql = (
            "SELECT repos.* FROM moved JOIN repos ON repos.id = moved.repo WHERE moved.kind = ? "
            "AND moved.namespace = ? AND moved.name = ?"
        )
        row = self.index.one(sql, name.kind, name.namespace, name.name)
        if row is None or not self.may_list(row, account):
            return None
        return Name(row["kind"], row["namespace"], row["name"])

    def configure(self, name: Name, account: Account | None, change: Mapping[str, Any]) -> None:
        """Change who may see (`visibility`, `private`) and who may read (`gated`)."""
        row = self.find(name, account, "write")
        private = wants_private(change, bool(row["private"]))
        gated = change.get("gated", row["gated"] or False)
        if gated not in ("auto", "manual", False):
            raise bad('"gated" must be "auto", "manual" or false')
        sql = "UPDATE repos SET private = ?, gated = ? WHERE id = ?"
        self.index.run(sql, private, gated or "", row["id"])

    # --- large files ---------------------------------------------------------------------------

    def claim(self, repo: int, oid: str, account: Account) -> int | None:
        """Return the size of an object that `repo` may use, or None.

        It may use what was uploaded to it, and what the account can read in another repository.
        Naming the sha256 of a private file of someone else gains nothing, not even the
        knowledge that it exists.
        """
        size = self.index.owned_size(repo, oid)
        if size is None:
            sql = "SELECT repos.* FROM repos JOIN owned ON owned.repo = repos.id WHERE oid = ?"
            if not any(self.may_read(row, account) for row in self.index.all(sql, oid)):
                return None
            self.index.own(repo, oid)
            size = self.index.owned_size(repo, oid)
        return size if size is not None and self.intact(oid) else None

    def intact(self, oid: str) -> bool:
        """Return whether the object still has its sha256.

        A file that nobody wrote to since it was last hashed is not hashed again.
        """
        row = self.index.one("SELECT stamp FROM objects WHERE oid = ?", oid)
        try:
            stamp = stamp_of(self.objects.path(oid))
        except FileNotFoundError:
            return False
        if row is not None and row["stamp"] == stamp:
            return True
        if not self.objects.verify(oid):
            log.error("object %s was damaged on the disk; it is set aside", oid)
            return False
        self.index.run("UPDATE objects SET stamp = ? WHERE oid = ?", stamp, oid)
        return True

    def count_download(self, repo: int) -> None:
        """Count a download; written now and then, for a count is not worth a flush each time."""
        with self._lock:
            self._downloads[repo] += 1
            due = self._downloads.total() >= _COUNTS
        if due:
            self.flush_downloads()

    def flush_downloads(self) -> None:
        """Write the downloads counted so far to the index."""
        with self._lock:
            counts, self._downloads = self._downloads, Counter()
        if counts:
            with self.index.write():
                for repo, count in counts.items():
                    sql = "UPDATE repos SET downloads = downloads + ? WHERE id = ?"
                    self.index.run(sql, count, repo)

    def require_quota(self, namespace: str, more: int) -> None:
        """Refuse what would not fit the namespace's quota."""
        quota = self.settings.quota_bytes
        if quota is not None and self.index.used(namespace) + more > quota:
            message = f"{more} bytes more than the quota of {quota} bytes of {namespace} allows"
            raise Refused(413, message)


def wants_private(change: Mapping[str, Any], default: bool) -> bool:
    """Return the privacy that a request asks for, in the old spelling or the new."""
    visibility, private = change.get("visibility"), change.get("private")
    if visibility is not None:
        if visibility not in ("public", "private"):
            raise bad('"visibility" must be "public" or "private"')
        return bool(visibility == "private")
    if private is not None and not isinstance(private, bool):
        raise bad('"private" must be true or false')
    return default if private is None else private
