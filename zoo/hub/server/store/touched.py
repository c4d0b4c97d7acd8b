"""Which commit last changed a path: an index of what each commit changed, and the walk along it.

What a commit changed never changes, so it is written once: with the commit, or, for commits that
came another way (a mirror's, an older hub's), when somebody first asks.
"""

import functools
import json
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from dulwich.objects import Commit, ObjectID, Tree
from dulwich.repo import Repo

from zoo.hub.server.budget import Budget, OverError
from zoo.hub.server.store.git import FOLDER, Git, Revision, revision_of
from zoo.hub.server.store.index import Index

_WALKS = 256  # kept, with how far they got


@dataclass
class _Walk:
    """A search for the last change of some paths, from a commit back."""

    at: str | None
    missing: set[str]
    found: dict[str, str] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> set[str]:
    """Return the paths that differ between two trees of files, and the folders above them."""
    differ = {path for path, blob in after.items() if before.get(path) != blob}
    differ |= before.keys() - after.keys()
    for path in list(differ):
        while path := path.rpartition("/")[0]:
            if path in differ:
                break
            differ.add(path)
    return differ


class Touched:
    """The index of changes of all repositories of a hub."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._walks: OrderedDict[tuple[int, str, str], _Walk] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, repo: int, sha: str, parent: str | None, paths: Iterable[str]) -> None:
        """Write down what a commit changed."""
        data = zlib.compress(json.dumps(sorted(paths)).encode(), 1)
        sql = "INSERT OR REPLACE INTO changes VALUES (?, ?, ?, ?)"
        self._index.run(sql, repo, sha, parent or "", data)

    def last(
        self, repo: int, git: Git, sha: str, folder: str | None, paths: set[str], budget: Budget
    ) -> dict[str, Revision]:
        """Return path -> commit for as many paths as the budget lasts; the next call goes on.

        Args:
            repo: the row of the repository.
            git: the repository.
            sha: the commit to look back from, along first parents.
            folder: the paths are all that is directly in this folder; None: they are any.
            paths: what to find; all must be in the commit.
            budget: how long to go on.

        """
        walk = self._begun(repo, sha, folder, paths)
        with walk.lock, git.open() as opened:
            folders = _Folders(opened, budget)
            new: list[tuple[str, str | None, set[str]]] = []
            try:
                self._go(walk, repo, folders, new)
            except OverError:
                pass  # what was not found is not shown yet
            finally:
                if new:
                    with self._index.write():
                        for commit, parent, differ in new:
                            self.note(repo, commit, parent, differ)
            made = {
                sha: revision_of(opened.object_store[_id(sha)]) for sha in set(walk.found.values())
            }
            return {path: made[sha] for path, sha in walk.found.items()}

    def _begun(self, repo: int, sha: str, folder: str | None, paths: set[str]) -> _Walk:
        walk = _Walk(sha, set(paths))
        if folder is None:
            return walk
        with self._lock:
            walk = self._walks.setdefault((repo, sha, folder), walk)
            self._walks.move_to_end((repo, sha, folder))
            if len(self._walks) > _WALKS:
                self._walks.popitem(last=False)
        return walk

    def _go(
        self,
        walk: _Walk,
        repo: int,
        folders: "_Folders",
        new: list[tuple[str, str | None, set[str]]],
    ) -> None:
        while walk.at and walk.missing:
            folders.budget.require()
            sql = "SELECT parent, paths FROM changes WHERE repo = ? AND sha = ?"
            row = self._index.one(sql, repo, walk.at)
            if row is None:
                parent, differ = folders.differences(walk.at)
                new.append((walk.at, parent, differ))
            else:
                parent, differ = (
                    row["parent"] or None,
                    set(json.loads(zlib.decompress(row["paths"]))),
                )
            for path in walk.missing & differ:
                walk.found[path] = walk.at
            walk.missing -= differ
            walk.at = parent


class _Folders:
    """The folders of a repository; those read last are kept, for the next commit has them too."""

    def __init__(self, repo: Repo, budget: Budget) -> None:
        self._repo, self.budget = repo, budget
        self._read = functools.lru_cache(maxsize=64)(self._entries)

    def differences(self, sha: str) -> tuple[str | None, set[str]]:
        """Return the first parent of a commit, and the paths in which it differs from it."""
        commit = self._repo.object_store[_id(sha)]
        assert isinstance(commit, Commit)
        parent = commit.parents[0] if commit.parents else None
        before = None
        if parent is not None:
            older = self._repo.object_store[parent]
            assert isinstance(older, Commit)
            before = older.tree
        return parent.decode() if parent else None, set(self._compare(before, commit.tree, ""))

    def _compare(
        self, before: ObjectID | None, after: ObjectID | None, prefix: str
    ) -> Iterator[str]:
        """Yield what differs between two folders; equal folders are not looked into."""
        self.budget.check()
        old, new = self._read(before), self._read(after)
        for name in {name for name, _ in old.items() ^ new.items()}:
            path = prefix + name.decode(errors="surrogateescape")
            yield path
            items = (old.get(name), new.get(name))
            inside = [item[1] if item and item[0] == FOLDER else None for item in items]
            if any(inside):
                yield from self._compare(inside[0], inside[1], f"{path}/")

    def _entries(self, sha: ObjectID | None) -> dict[bytes, tuple[int, ObjectID]]:
        if sha is None:
            return {}
        tree = self._repo.object_store[sha]
        assert isinstance(tree, Tree)
        return {entry.path: (entry.mode, entry.sha) for entry in tree.items()}


def _id(sha: str) -> ObjectID:
    return ObjectID(sha.encode())
