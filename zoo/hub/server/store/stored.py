"""Git objects as they lie on the disk: what they are, and their bytes as git sends them.

The packs that a hub writes hold whole objects, each deflated. Such an object goes into a clone's
pack as it is, and its kind and size are known from its first bytes.
"""

import functools
import mmap
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from dulwich.object_format import DEFAULT_OBJECT_FORMAT
from dulwich.objects import ObjectID
from dulwich.pack import load_pack_index
from dulwich.repo import Repo

COMMIT, TREE, BLOB, TAG = 1, 2, 3, 4
_KINDS = {b"commit": COMMIT, b"tree": TREE, b"blob": BLOB, b"tag": TAG}
_FAST = 1  # of zlib
_TAGS = 5  # of tags of tags
_TRAILER = 20  # bytes of checksum after the last object of a pack
_LOOSE = re.compile(r"[0-9a-f]{38}")
_HEADER = re.compile(rb"(commit|tree|blob|tag) (\d{1,18})\0")


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
        return sha in self._loose or any(sha in places for _, places in self._packs)

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

    def packed(self, sha: bytes) -> bytes:
        """Return an object as a pack holds it: kind and size, and the deflated content.

        Raises:
            KeyError: there is none.

        """
        data = self._as_packed(sha)
        if data is not None and data[0] >> 4 & 7 in _KINDS.values():
            return bytes(data)
        kind, content = self.read(sha)
        size = len(content)
        head, size = [kind << 4 | size & 15], size >> 4
        while size:
            head[-1] |= 128
            head.append(size & 127)
            size >>= 7
        return bytes(head) + zlib.compress(content, _FAST)

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
        for pack, places in self._packs:
            if sha in places:
                if pack not in self._open:
                    with Path(pack).open("rb") as stream:
                        self._open[pack] = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
                start, end = places[sha]
                return memoryview(self._open[pack][start:end])
        return None


def _header_end(data: memoryview) -> int:
    at = 0
    while data[at] & 128:
        at += 1
    return at + 1


# A pack never changes under its name, so this cache needs no invalidation.
@functools.lru_cache(maxsize=512)
def _packed(index: str) -> tuple[str, Mapping[bytes, tuple[int, int]]]:
    """Return the file of a pack, and where in it each object begins and ends."""
    pack = index.removesuffix(".idx") + ".pack"
    loaded = load_pack_index(index, DEFAULT_OBJECT_FORMAT)
    try:
        entries = sorted((offset, bytes(sha)) for sha, offset, _ in loaded.iterentries())
    finally:
        loaded.close()
    ends = [offset for offset, _ in entries[1:]] + [Path(pack).stat().st_size - _TRAILER]
    return pack, {sha: (start, end) for (start, sha), end in zip(entries, ends, strict=True)}
