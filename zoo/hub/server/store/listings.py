"""All files and folders of a commit by their paths; those that were asked for last are kept."""

import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from zoo.hub.server.common import Refused
from zoo.hub.server.store.stored import Stored

_ENTRY = re.compile(rb"(\d{5,6}) ([^\0]+)\0(.{20})", re.DOTALL)
_FOLDER = (b"40000", b"040000")
_MOST_FILES = 1_000_000
_MOST_FOLDERS = 50_000  # a few hundred objects can stand for millions of them
_KEPT = 256 << 20  # bytes, about
_EACH = 250  # bytes of an entry, besides its path


@dataclass(frozen=True)
class Listing:
    """The content of a tree: path -> id of every file, and of every folder, both in order."""

    files: Mapping[str, str]
    folders: Mapping[str, str]

    @property
    def bytes(self) -> int:
        """How much memory it takes, about."""
        return sum(len(path) + _EACH for part in (self.files, self.folders) for path in part)


class Listings:
    """Trees never change under their id, so what is kept needs no invalidation."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], tuple[Listing, int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, path: Path, tree: str) -> Listing:
        """Return what is in a tree of the repository at a path.

        Raises:
            Refused: 413; it is too much.

        """
        key = (str(path), tree)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
        listing = _read(path, tree)
        size = listing.bytes
        with self._lock:
            if key not in self._kept:
                self._kept[key] = listing, size
                self._bytes += size
            while self._bytes > _KEPT and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1][1]
        return listing


def _read(path: Path, tree: str) -> Listing:
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    with Stored(path) as stored:
        todo = [("", bytes.fromhex(tree))]
        while todo:
            prefix, sha = todo.pop()
            for mode, name, child in _ENTRY.findall(stored.read(sha)[1]):
                full = prefix + name.decode(errors="surrogateescape")
                if mode in _FOLDER:
                    todo.append((f"{full}/", child))
                    folders[full] = child.hex()
                else:
                    files[full] = child.hex()
            if len(files) > _MOST_FILES or len(folders) > _MOST_FOLDERS:
                raise Refused(
                    413,
                    f"this commit has more than {_MOST_FILES} files or {_MOST_FOLDERS} folders: "
                    "git clone it",
                )
    return Listing(dict(sorted(files.items())), dict(sorted(folders.items())))
