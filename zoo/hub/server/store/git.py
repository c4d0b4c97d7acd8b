"""One bare git repository: revisions, trees, history, and commits that are durable.

Objects are flushed to the disk before a reference names them (`packing`), so a kill at any moment
leaves the old commit or the new one. `git clone`, `git fsck` and `git gc` work on the folder as on
any other.
"""

import os
import re
import tempfile
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from dulwich.objects import Blob, Commit, ObjectID, ShaFile, Tag, Tree
from dulwich.refs import Ref, check_ref_format
from dulwich.repo import Repo

from zoo.files import sync
from zoo.hub.server.common import SHA1, Refused, bad
from zoo.hub.server.store import packing
from zoo.hub.server.store.listings import Listings
from zoo.hub.server.store.objects import disk_errors
from zoo.hub.server.store.packing import Batch, Repacked, repack
from zoo.hub.server.store.stored import Stored

FILE, FOLDER = 0o100644, 0o040000
_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:ext-[^\n]*\n)*"
    rb"oid sha256:([0-9a-f]{64})\nsize (\d{1,18})\n"
)
_POINTER_LIMIT = 1024
_SHORT = re.compile(r"[0-9a-f]{5,39}")
_CONFIG = b"[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n"


def pointer(oid: str, size: int) -> bytes:
    """Return the text that git keeps in place of a large file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n".encode()


@dataclass(frozen=True)
class Content:
    """What a blob is: its size, and, where its text is a pointer, the large file it names."""

    size: int
    oid: str | None = None
    oid_size: int = 0


# A blob never changes under its id, so what was read once holds for every repository.
_CONTENTS = 100_000
_contents: dict[str, Content] = {}
_contents_lock = threading.Lock()


@dataclass(frozen=True)
class Revision:
    """One commit, as the history shows it."""

    sha: str
    title: str
    message: str
    author: str
    time: float


class Git:
    """The repository in one folder. Reading is safe from any thread; callers serialise writes."""

    def __init__(self, path: Path, temporary: Path) -> None:
        self.path = path
        self._temporary = temporary

    @classmethod
    def create(cls, path: Path, temporary: Path) -> "Git":
        """Make an empty repository."""
        git = cls(path, temporary)
        with disk_errors():
            for folder in ("objects/info", "objects/pack", "refs/heads", "refs/tags"):
                (path / folder).mkdir(parents=True)
            git._write(path / "config", _CONFIG)
            git._write(path / "HEAD", b"ref: refs/heads/main\n")
            for made in (path / "objects", path / "refs", path, path.parent):
                sync(made)
        return git

    @contextmanager
    def open(self) -> Iterator[Repo]:
        """Yield dulwich's view of the repository."""
        repo = Repo(str(self.path))
        try:
            yield repo
        finally:
            repo.close()

    # --- references ----------------------------------------------------------------------------

    def refs(self, folder: str) -> dict[str, str]:
        """Return name -> id of `heads` or `tags` (for an annotated tag, of the tag object)."""
        found: dict[str, str] = {}
        top = self.path / "refs" / folder
        for place, _, files in os.walk(top):
            for file in map(Path(place).joinpath, files):
                with suppress(FileNotFoundError, UnicodeDecodeError):  # just deleted; half written
                    if SHA1.fullmatch(sha := file.read_text("ascii").strip()):
                        found[file.relative_to(top).as_posix()] = sha
        # After the loose ones, which git removes when they are in here.
        with suppress(FileNotFoundError):
            lines = (self.path / "packed-refs").read_text("utf-8", "surrogateescape").splitlines()
            for sha, _, name in (line.partition(" ") for line in lines):
                if SHA1.fullmatch(sha) and name.startswith(f"refs/{folder}/"):
                    found.setdefault(name.removeprefix(f"refs/{folder}/"), sha)
        return dict(sorted(found.items()))

    def marked(self, folder: str) -> dict[str, str]:
        """Return name -> commit of `heads` or `tags`."""
        with Stored(self.path) as stored:
            found = self.refs(folder).items()
            return {name: stored.chain(bytes.fromhex(sha))[-1].hex() for name, sha in found}

    def resolve(self, revision: str) -> str | None:
        """Return the commit that a branch, a tag or 40 hexadecimal digits name."""
        with self.open() as repo:
            store = repo.object_store
            sha: ObjectID | None = None
            if SHA1.fullmatch(revision.lower()):
                sha = _id(revision.lower())
            else:
                for prefix in ("refs/heads/", "refs/tags/", ""):
                    name = _ref_name(f"{prefix}{revision}")
                    if name.startswith(b"refs/") and check_ref_format(name):
                        found_ref = repo.refs.read_ref(name)
                        if found_ref:
                            sha = ObjectID(found_ref)
                            break
                else:
                    sha = _by_prefix(repo, revision.lower())
            for _ in range(5):
                if sha is None or sha not in store:
                    return None
                stored = store[sha]
                if isinstance(stored, Commit):
                    return stored.id.decode()
                if not isinstance(stored, Tag):
                    return None
                sha = stored.object[1]
        return None

    def set_ref(self, name: str, sha: str) -> None:
        """Point `refs/...` at `sha`, durably, in one step."""
        target = self._ref(name)
        with disk_errors():
            try:
                new = [folder for folder in target.parents if not folder.exists()]
                target.parent.mkdir(parents=True, exist_ok=True)
                for folder in new:
                    sync(folder.parent)
                self._write(target, f"{sha}\n".encode())
            except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
                raise Refused(409, f"{name} clashes with another reference") from error

    def delete_ref(self, name: str) -> None:
        """Remove `refs/...`."""
        with self.open() as repo:
            repo.refs.remove_if_equals(_ref_name(name), None)
        sync(self._ref(name).parent)

    def _ref(self, name: str) -> Path:
        if not check_ref_format(_ref_name(name)) or len(name.encode()) > 255 or "\\" in name:
            raise bad(f"{name!r} is not a name that git allows")
        return self.path / name

    def _write(self, target: Path, data: bytes) -> None:
        handle, name = tempfile.mkstemp(dir=self._temporary)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            Path(name).replace(target)
            sync(target.parent)
        finally:
            Path(name).unlink(missing_ok=True)

    def clean(self) -> None:
        """Remove what a killed process left: locks and half packs; nothing else is running."""
        for lock in [*self.path.glob("*.lock"), *(self.path / "refs").rglob("*.lock")]:
            lock.unlink(missing_ok=True)
        packing.clean(self.path)

    # --- reading -------------------------------------------------------------------------------

    def tree(self, commit: str) -> Mapping[str, str]:
        """Return path -> blob id of every file in a commit."""
        return _listings.get(self.path, self._tree_id(commit)).files

    def _tree_id(self, commit: str) -> str:
        with self.open() as repo:
            stored = repo.object_store[_id(commit)]
            assert isinstance(stored, Commit)
            tree: bytes = stored.tree
            return tree.decode()

    def folders(self, commit: str) -> Mapping[str, str]:
        """Return path -> tree id of every folder in a commit."""
        return _listings.get(self.path, self._tree_id(commit)).folders

    def blob(self, sha: str) -> bytes:
        """Return the content of a blob (a small file, or a pointer).

        Raises:
            Refused: 500; it is gone, or no longer what its id says.

        """
        data: bytes | None = None
        with self.open() as repo, suppress(KeyError, zlib.error, OSError, ValueError):
            data = repo.object_store.get_raw(_id(sha))[1]
        if data is None or Blob.from_string(data).id.decode() != sha:
            raise Refused(500, f"object {sha} was damaged on the hub's disk", "DamagedFile")
        return data

    def content(self, sha: str) -> Content:
        """Return the size of a blob, and the large file that it may point at."""
        return self.contents([sha])[sha]

    def contents(self, shas: Iterable[str]) -> dict[str, Content]:
        """Return the same for many blobs, opening the repository once."""
        wanted = set(shas)
        with _contents_lock:
            contents = {sha: _contents[sha] for sha in wanted if sha in _contents}
        if missing := wanted - contents.keys():
            with Stored(self.path) as stored:
                new = {sha: _content(stored, bytes.fromhex(sha)) for sha in missing}
            with _contents_lock:
                if len(_contents) > _CONTENTS:
                    _contents.clear()
                _contents.update(new)
            contents |= new
        return contents

    def revision(self, sha: str) -> Revision:
        """Return the facts of one commit."""
        with self.open() as repo:
            return revision_of(repo.object_store[_id(sha)])

    def history(self, sha: str, limit: int) -> list[Revision]:
        """Return commits from `sha` back, newest first."""
        revisions: list[Revision] = []
        with self.open() as repo:
            at: ObjectID | None = _id(sha)
            while at and len(revisions) < limit:
                commit = repo.object_store[at]
                assert isinstance(commit, Commit)
                revisions.append(revision_of(commit))
                at = commit.parents[0] if commit.parents else None
        return revisions

    # --- writing -------------------------------------------------------------------------------

    def commits(self) -> Iterator[str]:
        """Give every commit that a branch or a tag leads to, in no order."""
        with self.open() as repo:
            todo, seen = list(repo.refs.as_dict().values()), set()
            while todo:
                sha = todo.pop()
                if sha in seen:
                    continue
                seen.add(sha)
                stored = repo.object_store[sha]
                if isinstance(stored, Tag):
                    todo.append(stored.object[1])
                elif isinstance(stored, Commit):
                    todo += stored.parents
                    yield sha.decode()

    @contextmanager
    def batch(self) -> Iterator[Batch]:
        """Yield the objects of a commit on their way; what is not published is forgotten."""
        batch = Batch(self.path, self._temporary)
        try:
            yield batch
        finally:
            batch.close()

    def commit(
        self,
        batch: Batch,
        files: Mapping[str, str],
        parents: list[str],
        message: str,
        author: str,
    ) -> str:
        """Publish a batch with the trees and the commit of `files` (path -> blob id).

        No reference names the commit yet.
        """
        commit = Commit()
        commit.tree = _id(_add_tree(batch, files))
        commit.parents = [_id(parent) for parent in parents]
        name = re.sub(r"[<>\n\0]", "", author)
        commit.author = commit.committer = f"{name} <{name}@users.noreply>".encode()
        commit.author_time = commit.commit_time = int(time.time())
        commit.author_timezone = commit.commit_timezone = 0
        commit.encoding = b"UTF-8"
        commit.message = message.replace("\0", "").encode()
        sha = batch.add(commit)
        batch.publish()
        return sha

    def add_tree(self, batch: Batch, files: Mapping[str, str]) -> str:
        """Add the folders of `files` (path -> blob id) to a batch; return the id of the top."""
        return _add_tree(batch, files)

    def add_tag(self, name: str, commit: str, message: str, author: str) -> None:
        """Make an annotated tag, or a plain one when there is no message."""
        sha = commit
        if message:
            tag = Tag()
            tag.name, tag.message = name.encode(), message.replace("\0", "").encode()
            tag.tagger = f"{author} <{author}@users.noreply>".encode()
            tag.tag_time, tag.tag_timezone = int(time.time()), 0
            tag.object = (Commit, _id(commit))
            with self.batch() as batch:
                sha = batch.add(tag)
                batch.publish()
        self.set_ref(f"refs/tags/{name}", sha)

    def repack(self, limit: float) -> Repacked:
        """Gather the objects in one pack; see `packing.repack`."""
        with disk_errors():
            return repack(self.path, self._temporary, limit)


def _add_tree(batch: Batch, files: Mapping[str, str]) -> str:
    tree = Tree()
    folders: dict[str, dict[str, str]] = {}
    for path, sha in files.items():
        head, slash, rest = path.partition("/")
        if slash:
            folders.setdefault(head, {})[rest] = sha
        else:
            tree.add(head.encode(), FILE, _id(sha))
    for name, inside in folders.items():
        tree.add(name.encode(), FOLDER, _id(_add_tree(batch, inside)))
    return batch.add(tree)


def _by_prefix(repo: Repo, text: str) -> ObjectID | None:
    """Return the one commit whose id begins so; the client takes five digits for a commit."""
    if not _SHORT.fullmatch(text):
        return None
    found = set(islice(repo.object_store.iter_prefix(text.encode()), 100))
    commits = [sha for sha in found if isinstance(repo.object_store[sha], Commit)]
    return commits[0] if len(commits) == 1 else None


def _ref_name(name: str) -> Ref:
    return Ref(name.encode())


def _id(sha: str) -> ObjectID:
    return ObjectID(sha.encode())


def revision_of(commit: ShaFile) -> Revision:
    """Return the facts of a commit."""
    assert isinstance(commit, Commit)
    title, _, message = commit.message.decode(errors="replace").partition("\n")
    author = commit.author.decode(errors="replace").partition(" <")[0]
    return Revision(commit.id.decode(), title, message.strip("\n"), author, commit.commit_time)


def _content(stored: Stored, sha: bytes) -> Content:
    size = stored.kind_and_size(sha)[1]
    match = _POINTER.fullmatch(stored.read(sha)[1]) if size <= _POINTER_LIMIT else None
    return Content(size, match[1].decode(), int(match[2])) if match else Content(size)


_listings = Listings()
