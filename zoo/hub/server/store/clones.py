"""Which objects a clone or a fetch needs, and the pack that holds them.

Ids are their 20 bytes. Work ends when the client goes, and when it takes more than its budget.
"""

import hashlib
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from zoo.hub.server.budget import Budget
from zoo.hub.server.store.stored import COMMIT, TREE, Stored

_ENTRY = re.compile(rb"(\d{5,6}) [^\0]+\0(.{20})", re.DOTALL)
_PARENT = re.compile(rb"^parent ([0-9a-f]{40})$", re.MULTILINE)
_FOLDER, _MODULE = (b"40000", b"040000"), b"160000"
_KNOWN_TREES = 16  # commits of the client whose files are looked at; more are sent twice
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


class FilterError(ValueError):
    """This is not a filter that is known here."""


@dataclass(frozen=True)
class Filter:
    """What a clone leaves out, to ask for it when it is needed.

    Attributes:
        bytes: files of this size and larger; None for none of them.
        depth: folders and files this deep, the top being 0; None for none of them.

    """

    bytes: int | None = None
    depth: int | None = None

    @classmethod
    def parsed(cls, text: str) -> "Filter":
        """Return the filter that git spells so.

        Raises:
            FilterError: there is none.

        """
        if text.startswith("combine:"):
            parts = [cls.parsed(part) for part in text.removeprefix("combine:").split("+")]
            sizes = [part.bytes for part in parts if part.bytes is not None]
            depths = [part.depth for part in parts if part.depth is not None]
            return cls(min(sizes, default=None), min(depths, default=None))
        if text == "blob:none":
            return cls(bytes=0)
        if match := re.fullmatch(r"blob:limit=(\d{1,15})([kmg]?)", text):
            return cls(bytes=int(match[1]) * _UNITS[match[2]])
        if match := re.fullmatch(r"tree:(\d{1,9})", text):
            return cls(depth=int(match[1]))
        raise FilterError(f"no filter {text[:60]!r}; there are blob:none, blob:limit and tree")


@dataclass
class Wish:
    """What a client asks for, and what it has already.

    Attributes:
        wants: ids of commits and tags, or of what was left out before.
        haves: commits that it has; those that are not here count for nothing.
        shallow: commits whose parents it does not have.
        deepen: how many commits it wants, from each that it asks for; None for all of them.
        filter: what to leave out.
        tags: tags by what they mark; they go along with it.

    """

    wants: set[bytes] = field(default_factory=set)
    haves: set[bytes] = field(default_factory=set)
    shallow: set[bytes] = field(default_factory=set)
    deepen: int | None = None
    filter: Filter = field(default_factory=Filter)
    tags: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def key(self) -> str | None:
        """What names the pack of a client that has nothing yet; None for all others."""
        if self.haves or self.shallow:
            return None
        text = f"{sorted(self.wants)} {self.deepen} {self.filter} {sorted(self.tags.items())}"
        return hashlib.sha256(text.encode()).hexdigest()


def parents_of(content: bytes) -> list[bytes]:
    """Return the parents that the content of a commit names."""
    head = content.partition(b"\n\n")[0]
    return [bytes.fromhex(sha.decode()) for sha in _PARENT.findall(head)]


class Walk:
    """The objects that one wish needs.

    Args:
        stored: the repository.
        wish: of the client.
        budget: how long to go on.

    """

    def __init__(self, stored: Stored, wish: Wish, budget: Budget) -> None:
        self._stored, self.wish, self._budget = stored, wish, budget
        self._commits: dict[bytes, tuple[bytes, list[bytes]]] = {}
        self._seen: set[bytes] = set()
        self._walked: set[tuple[bytes, int]] = set()
        self._tags: set[bytes] = set()
        self._tips: list[bytes] = []
        self._others: list[tuple[int, bytes]] = []
        for sha in wish.wants:
            *tags, marked = stored.chain(sha)
            kind = stored.kind_and_size(marked)[0]
            self._tags |= set(tags)
            if kind == COMMIT:
                self._tips.append(marked)
            else:
                self._others.append((kind, marked))
        self.new_shallow: set[bytes] = set()
        self.unshallow: set[bytes] = set()
        self._ends = wish.shallow
        if wish.deepen is not None:
            self._cut(wish.deepen)

    def _commit(self, sha: bytes) -> tuple[bytes, list[bytes]]:
        """Return the tree and the parents of a commit."""
        if sha not in self._commits:
            self._budget.check()
            content = self._stored.read(sha)[1]
            self._commits[sha] = bytes.fromhex(content[5:45].decode()), parents_of(content)
        return self._commits[sha]

    def _cut(self, depth: int) -> None:
        """Find the commits after which a shallow history ends."""
        ends, inside, level = set(), set(), set(self._tips)
        for at in range(1, depth + 1):
            inside |= level
            before = {sha: self._commit(sha)[1] for sha in level}
            if at == depth:
                ends = {sha for sha, parents in before.items() if parents}
            level = {parent for parents in before.values() for parent in parents} - inside
            if not level:
                break
        self._ends = ends
        self.new_shallow = ends - self.wish.shallow
        self.unshallow = (self.wish.shallow & inside) - ends

    def _history(self, tips: Iterable[bytes], ends: set[bytes]) -> set[bytes]:
        seen, todo = set(), list(tips)
        while todo:
            sha = todo.pop()
            if sha not in seen:
                seen.add(sha)
                todo += [] if sha in ends else self._commit(sha)[1]
        return seen

    def objects(self) -> Iterator[bytes]:
        """Yield what to send, each once: tags and commits, then folders and files."""
        here = {sha for sha in self.wish.haves if sha in self._stored}
        known = {sha for sha in here if self._stored.kind_and_size(sha)[0] == COMMIT}
        have = self._history(known, self.wish.shallow)
        new = self._history(self._tips, self._ends) - have
        along = {tag for marked, tag in self.wish.tags.items() if marked in new}
        yield from (self._tags | along) - here
        yield from new
        for kind, sha in self._others:  # what is asked for by its id is never left out
            if kind == TREE:
                yield from self._below(sha, wanted=True)
            elif sha not in self._seen:
                self._seen.add(sha)
                yield sha
        # What changed is found by leaving out the files of the commits that it was changed from.
        edge = {parent for sha in new for parent in self._commit(sha)[1]} & have
        for sha in sorted(edge | known)[:_KNOWN_TREES]:
            for _ in self._below(self._commit(sha)[0]):
                pass
        for sha in new:
            yield from self._below(self._commit(sha)[0])

    def _below(self, tree: bytes, *, wanted: bool = False) -> Iterator[bytes]:
        """Yield a folder and what is in it, but for what was seen or is left out."""
        most, limit = self.wish.filter.depth, self.wish.filter.bytes
        todo = [(tree, 0)]
        while todo:
            sha, depth = todo.pop()
            mark = (sha, depth if most is not None else 0)
            if mark in self._walked or (most is not None and depth >= most and not wanted):
                continue
            self._budget.check()
            content = self._stored.read(sha)[1]
            if sha not in self._seen:
                yield sha
            self._walked.add(mark)
            self._seen.add(sha)
            wanted = False
            if most is not None and depth + 1 >= most:
                continue
            for mode, child in _ENTRY.findall(content):
                if mode in _FOLDER:
                    todo.append((child, depth + 1))
                elif child not in self._seen and mode != _MODULE:
                    self._seen.add(child)
                    if limit is None or self._stored.kind_and_size(child)[1] < limit:
                        yield child

    def write_pack(self, write: Callable[[bytes], object]) -> None:
        """Write the pack of the objects, as they lie on the disk where they lie there whole."""
        objects, digest = list(self.objects()), hashlib.sha1(usedforsecurity=False)
        head = b"PACK" + struct.pack(">II", 2, len(objects))
        digest.update(head)
        write(head)
        among = frozenset(objects)
        for sha in objects:
            self._budget.check()
            data = self._stored.packed(sha, among)
            digest.update(data)
            write(data)
        write(digest.digest())
