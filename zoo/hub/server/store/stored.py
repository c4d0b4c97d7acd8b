"""Git objects as they lie on the disk: what they are, and their bytes as git sends them.

The packs that a hub writes hold whole objects, each deflated. Such an object goes into a clone's
pack as it is, and its kind and size are known from its first bytes.
"""

import functools
import mmap
import re
import zlib
from bisect import bisect_left
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from dulwich.object_format import DEFAULT_OBJECT_FORMAT
from dulwich.objects import ObjectID
from dulwich.pack import load_pack_index
from dulwich.repo import Repo

COMMIT, TREE, BLOB, TAG = 1, 2, 3, 4
_DIFFERENCE = 7  # from the object that is named after it; in 6, by how far back it lies
_KINDS = {b"commit": COMMIT, b"tree": TREE, b"blob": BLOB, b"tag": TAG}
_FAST = 1  # of zlib
_TAGS = 5  # of tags of tags
_TRAILER = 20  # bytes of checksum after the last object of a pack
_LOOSE = re.compile(r"[0-9a-f]{38}")
_HEADER = re.compile(rb"(commit|tree|blob|tag) (\d{1,18})\0")


@dataclass(frozen=True)
class _Pack:
    """A file, where in it each object begins and ends, and all of them in their order."""

    file: str
    places: Mapping[bytes, tuple[int, int]]
    starts: list[int]
    ids: list[bytes]


class Stored:
    """The objects that a repository holds at one moment; ids are their 20 bytes.

    Args:
        path: the folder of the repository.

    """

    def __init__(self, path: Path) -> None:
        self._folder = path / "objects"
        self._repo = Repo(str(path))
        self._open: dict[str, mmap.mmap] = {}
        self._packs = [_packed(str(file)) for file in sorted(self._folder.glob("pack/*.idx"))]

    def __enter__(self) -> "Stored":
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the files."""
        for opened in self._open.values():
            opened.close()
        self._repo.close()

    @functools.cached_property
    def _loose(self) -> set[bytes]:
        """Those that are in no pack: ten thousand may be asked for that are not here."""
        return {
            bytes.fromhex(folder.name + file.name)
            for folder in self._folder.glob("[0-9a-f][0-9a-f]")
            for file in folder.iterdir()
            if _LOOSE.fullmatch(file.name)
        }

    def __contains__(self, sha: bytes) -> bool:
        """Say whether there is such an object."""
        return sha in self._loose or any(sha in pack.places for pack in self._packs)

    def kind_and_size(self, sha: bytes) -> tuple[int, int]:
        """Return the kind of an object and the size of its content, which is not read.

        Raises:
            KeyError: there is none.

        """
        data = self._as_packed(sha)
        if data is not None and (kind := data[0] >> 4 & 7) in _KINDS.values():
            size, shift, at = data[0] & 15, 4, 0
            while data[at] & 128:
                at += 1
                size |= (data[at] & 127) << shift
                shift += 7
            return kind, size
        if data is None:
            head = zlib.decompressobj().decompress(self._file(sha), 64)
            if match := _HEADER.match(head):
                return _KINDS[match[1]], int(match[2])
        kind, content = self.read(sha)
        return kind, len(content)

    def read(self, sha: bytes) -> tuple[int, bytes]:
        """Return the kind of an object and its content.

        Raises:
            KeyError: there is none.

        """
        data = self._as_packed(sha)
        if data is not None and (kind := data[0] >> 4 & 7) in _KINDS.values():
            return kind, zlib.decompressobj().decompress(data[_header_end(data) :])
        if data is None:
            whole = zlib.decompress(self._file(sha))
            if match := _HEADER.match(whole):
                return _KINDS[match[1]], whole[match.end() :]
        kind, content = self._repo.object_store.get_raw(ObjectID(sha.hex().encode()))
        return int(kind), bytes(content)

    def packed(self, sha: bytes, among: Collection[bytes] = ()) -> bytes:
        """Return an object as a pack holds it: kind and size, and the deflated content.

        Args:
            sha: its id.
            among: what else the pack holds; where git keeps the object as the difference from one
                of these, it is given as that.

        Raises:
            KeyError: there is none.

        """
        data = self._as_packed(sha)
        if data is not None and data[0] >> 4 & 7 in _KINDS.values():
            return bytes(data)
        if data is not None:
            end = _header_end(data)
            base, rest = self._base(sha, data[end:])
            if base in among:
                head = bytes([data[0] & 143 | _DIFFERENCE << 4]) + bytes(data[1:end])
                return head + base + bytes(data[end + rest :])
        kind, content = self.read(sha)
        size = len(content)
        head_bytes, size = [kind << 4 | size & 15], size >> 4
        while size:
            head_bytes[-1] |= 128
            head_bytes.append(size & 127)
            size >>= 7
        return bytes(head_bytes) + zlib.compress(content, _FAST)

    def _base(self, sha: bytes, data: memoryview) -> tuple[bytes, int]:
        """Return what an object is the difference from, and how many bytes say so."""
        pack = next(pack for pack in self._packs if sha in pack.places)
        start = pack.places[sha][0]
        if self._mmap(pack.file)[start] >> 4 & 7 == _DIFFERENCE:
            return bytes(data[:20]), 20
        back, at = data[0] & 127, 0
        while data[at] & 128:  # as git counts back, so that no distance has two spellings
            at += 1
            back = (back + 1 << 7) | data[at] & 127
        return pack.ids[bisect_left(pack.starts, start - back)], at + 1

    def chain(self, sha: bytes) -> list[bytes]:
        """Return a tag, what it marks, and so on to what is no tag."""
        found = [sha]
        while len(found) < _TAGS and self.kind_and_size(found[-1])[0] == TAG:
            found.append(bytes.fromhex(self.read(found[-1])[1][7:47].decode()))
        return found

    def _file(self, sha: bytes) -> bytes:
        name = sha.hex()
        try:
            return (self._folder / name[:2] / name[2:]).read_bytes()
        except FileNotFoundError:
            raise KeyError(name.encode()) from None

    def _as_packed(self, sha: bytes) -> memoryview | None:
        """Return what a pack has of an object (perhaps a difference); None for a loose one."""
        for pack in self._packs:
            if sha in pack.places:
                start, end = pack.places[sha]
                return memoryview(self._mmap(pack.file)[start:end])
        return None

    def _mmap(self, pack: str) -> mmap.mmap:
        if pack not in self._open:
            with Path(pack).open("rb") as stream:
                self._open[pack] = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        return self._open[pack]


def _header_end(data: memoryview) -> int:
    at = 0
    while data[at] & 128:
        at += 1
    return at + 1


# A pack never changes under its name, so this cache needs no invalidation.
@functools.lru_cache(maxsize=512)
def _packed(index: str) -> _Pack:
    """Return where in a pack each object lies."""
    pack = index.removesuffix(".idx") + ".pack"
    loaded = load_pack_index(index, DEFAULT_OBJECT_FORMAT)
    try:
        entries = sorted((offset, bytes(sha)) for sha, offset, _ in loaded.iterentries())
    finally:
        loaded.close()
    ends = [offset for offset, _ in entries[1:]] + [Path(pack).stat().st_size - _TRAILER]
    places = {sha: (start, end) for (start, sha), end in zip(entries, ends, strict=True)}
    return _Pack(pack, places, [start for start, _ in entries], [sha for _, sha in entries])
