"""Writing git objects so that a kill or a power cut leaves all of a commit's, or none it needs.

A few objects become loose ones, many become one pack: a thousand files are then three flushes to
the disk, not three thousand. Either way nothing is in the repository before it is durable.
"""

import hashlib
import os
import tempfile
from dataclasses import dataclass
from io import BufferedRandom
from pathlib import Path

from dulwich.gc import find_reachable_objects
from dulwich.object_format import DEFAULT_OBJECT_FORMAT
from dulwich.objects import Blob, ObjectID, ShaFile
from dulwich.pack import write_pack_header, write_pack_index_v2, write_pack_object
from dulwich.repo import Repo

from zoo.errors import HubError
from zoo.files import sync
from zoo.hub.server.common import MIB
from zoo.hub.server.store.objects import disk_errors

_LOOSE = 12  # objects; more of them become a pack
_LOOSE_BYTES = 4 * MIB
_FAST = 1  # of zlib: what is kept here is small, and mostly text


class Batch:
    """The objects of one commit on their way in.

    They are collected apart, which needs no lock, and published under the repository's lock. So
    what another batch finds there, and does not write again, is durable before that other batch
    is published.
    """

    def __init__(self, path: Path, temporary: Path) -> None:
        self._path, self.temporary = path, temporary
        self._repo = Repo(str(path))
        self._seen: set[ObjectID] = set()
        self._held: list[ShaFile] = []
        self._held_bytes = 0
        self._pack: _Pack | None = None

    def add_blob(self, data: bytes) -> str:
        """Take a small file or a pointer; return its id."""
        return self.add(Blob.from_string(data))

    def add(self, item: ShaFile) -> str:
        """Take one object, unless the repository has it; return its id."""
        if item.id not in self._seen:
            self._seen.add(item.id)
            if item.id not in self._repo.object_store:
                self._keep(item)
        return item.id.decode()

    def _keep(self, item: ShaFile) -> None:
        with disk_errors():
            if self._pack is None:
                self._held.append(item)
                self._held_bytes += item.raw_length()
                if len(self._held) <= _LOOSE and self._held_bytes <= _LOOSE_BYTES:
                    return
                self._pack = _Pack(self.temporary)
                for held in self._held:
                    self._pack.add(held)
                self._held.clear()
            else:
                self._pack.add(item)

    def publish(self) -> None:
        """Make every object part of the repository, durably. Hold the repository's lock."""
        with disk_errors():
            if self._pack is not None:
                self._pack.publish(self._path)
            elif self._held:
                _write_loose(self._path, self.temporary, self._held)
        self._held, self._pack = [], None

    def close(self) -> None:
        """Forget what was not published."""
        if self._pack is not None:
            self._pack.close()
        self._repo.close()


def _write_loose(path: Path, temporary: Path, items: list[ShaFile]) -> None:
    """Write loose objects; they get their names only when all of them are on the disk."""
    ready: list[tuple[Path, Path]] = []
    try:
        for item in items:
            handle, name = tempfile.mkstemp(dir=temporary)
            sha = item.id.decode()
            ready.append((Path(name), path / "objects" / sha[:2] / sha[2:]))
            with os.fdopen(handle, "wb") as stream:
                stream.write(item.as_legacy_object(_FAST))
                stream.flush()
                os.fsync(stream.fileno())
        for written, target in ready:
            target.parent.mkdir(exist_ok=True)
            written.replace(target)
        for folder in {target.parent for _, target in ready} | {path / "objects"}:
            sync(folder)
    finally:
        for written, _ in ready:
            written.unlink(missing_ok=True)


class _Pack:
    """A pack without deltas, written as its objects come; memory holds only their ids."""

    def __init__(self, temporary: Path) -> None:
        self._files = [_temporary_file(temporary) for _ in range(2)]
        self._entries: list[tuple[bytes, int, int | None]] = []
        write_pack_header(self._stream.write, 0)  # the count is known at the end

    @property
    def _stream(self) -> BufferedRandom:
        return self._files[0][0]

    def add(self, item: ShaFile) -> None:
        """Append one object."""
        at = self._stream.tell()
        check = write_pack_object(
            self._stream.write,
            item.type_num,
            item.as_raw_chunks(),
            DEFAULT_OBJECT_FORMAT,
            compression_level=_FAST,
        )
        self._entries.append((bytes.fromhex(item.id.decode()), at, check))

    def publish(self, path: Path) -> str:
        """Give pack and index their names, durably; return the name they share.

        The index comes last: git does not see a pack without one.
        """
        try:
            self._stream.seek(0)
            write_pack_header(self._stream.write, len(self._entries))
            self._stream.seek(0)
            digest = hashlib.file_digest(
                self._stream, lambda: hashlib.sha1(usedforsecurity=False)
            ).digest()
            self._stream.write(digest)
            write_pack_index_v2(self._files[1][0], sorted(self._entries), digest)
            folder = path / "objects" / "pack"
            for (stream, file), suffix in zip(self._files, (".pack", ".idx"), strict=True):
                stream.flush()
                os.fsync(stream.fileno())
                stream.close()
                file.replace(folder / f"pack-{digest.hex()}{suffix}")
            sync(folder)
            return f"pack-{digest.hex()}"
        finally:
            self.close()

    def close(self) -> None:
        """Remove what was not published."""
        for stream, file in self._files:
            stream.close()
            file.unlink(missing_ok=True)


def _temporary_file(folder: Path) -> tuple[BufferedRandom, Path]:
    handle, name = tempfile.mkstemp(dir=folder)
    return os.fdopen(handle, "w+b"), Path(name)


@dataclass
class Repacked:
    """How many objects lie in the one pack now, and how many nothing refers to any more."""

    kept: int = 0
    dropped: int = 0


def clean(path: Path) -> None:
    """Remove the packs of a server that was killed between a pack's name and its index's."""
    for pack in (path / "objects" / "pack").glob("*.pack"):
        if not pack.with_suffix(".idx").exists():
            pack.unlink()


def repack(path: Path, temporary: Path, limit: float) -> Repacked:
    """Gather all objects in one pack. Nothing else may use the repository.

    Objects that no branch or tag leads to are left out (of a commit that was never acknowledged,
    or of a deleted branch) when they were written before `limit`, in seconds since 1970.

    Raises:
        HubError: an object that a branch or tag leads to is missing; nothing was changed.

    """
    repo, folder, counts = Repo(str(path)), path / "objects", Repacked()
    try:
        store = repo.object_store
        reachable = find_reachable_objects(store, repo.refs)
        files = [*folder.glob("??/*"), *folder.glob("pack/*.pack")]
        young = any(file.stat().st_mtime >= limit for file in files)
        everything = set(store)
        kept = reachable | everything if young else reachable
        if missing := kept - everything:
            raise HubError(f"{path} is damaged: object {min(missing).decode()} is missing")
        counts.dropped = len(everything - kept)
        if not counts.dropped and len(files) <= 1:
            return counts
        counts.kept = len(kept)
        pack = _Pack(temporary)
        try:
            for sha in sorted(kept):
                pack.add(store[sha])
            name = pack.publish(path)
        finally:
            pack.close()
    finally:
        repo.close()
    for file in files:
        if file.stem != name:
            file.with_suffix(".idx").unlink(missing_ok=True)
            file.unlink()
    sync(folder / "pack")
    return counts
