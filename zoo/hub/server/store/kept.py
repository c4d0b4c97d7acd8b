"""Packs that were made for clones, kept for the next ones; the oldest goes when they are many."""

import contextlib
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

_MOST_BYTES = 1 << 30
_MOST_SHARE = 4  # no pack takes more than this part of it


class Kept:
    """Packs by what was asked for.

    Args:
        folder: where temporary files go; one hub's, which empties it when it starts.

    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: OrderedDict[tuple[str, str], tuple[Path, int]] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    @contextmanager
    def pack(self, repo: Path, name: str | None) -> Iterator[tuple[IO[bytes], bool]]:
        """Yield a file at its beginning, and whether it is to be written; it is kept then.

        Args:
            repo: the folder of the repository.
            name: what the pack goes by; None for one that nobody will ask for again.

        """
        key = (str(repo), name or "")
        with self._lock:
            found = None
            if name is not None and key in self._files:
                self._files.move_to_end(key)
                found = self._files[key][0].open("rb")
        if found is not None:
            with found:
                yield found, False
            return
        path, size = None, _MOST_BYTES
        try:
            with cast(
                IO[bytes], tempfile.NamedTemporaryFile(dir=self._folder, delete=False)
            ) as new:
                path = Path(new.name)
                yield new, True
                size = new.seek(0, 2)
        finally:
            if path is not None and (name is None or not self._keep(key, path, size)):
                path.unlink()

    def _keep(self, key: tuple[str, str], path: Path, size: int) -> bool:
        with self._lock:
            if key in self._files or size > _MOST_BYTES // _MOST_SHARE:
                return False
            self._files[key] = path, size
            self._size += size
            while self._size > _MOST_BYTES:
                self._remove(*self._files.popitem(last=False)[1])
            return True

    def _remove(self, path: Path, size: int) -> None:
        self._size -= size
        with contextlib.suppress(OSError):  # on Windows, somebody is reading it
            path.unlink()

    def close(self) -> None:
        """Remove them all."""
        with self._lock:
            while self._files:
                self._remove(*self._files.popitem()[1])
