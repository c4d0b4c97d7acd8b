"""Large files by their sha256: written once, whole, and checked again when the disk changed them.

```
objects/ab/cd/<sha256>      the content
tmp/                        uploads under way; emptied when a server starts
damaged/                    what no longer has its sha256, kept for inspection
```
"""

import contextlib
import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from zoo.files import sync
from zoo.hub.server.common import MIB, Refused


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turn a full disk into an answer that says so; nothing has been acknowledged then."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            message = f"the hub's disk is full ({os.strerror(error.errno or 0)}); nothing was kept"
            raise Refused(507, message) from error
        raise


def stamp_of(path: Path) -> str:
    """Return what changes whenever a file's content is written: size, times and inode.

    The change time cannot be set back by a program, so equal stamps mean untouched content.
    """
    facts = path.stat()
    return f"{facts.st_size}.{facts.st_mtime_ns}.{facts.st_ctime_ns}.{facts.st_ino}"


def place(source: Path, target: Path) -> None:
    """Give a file that is on the disk its name, durably."""
    target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)
    for folder in (target.parent, *target.parent.parents[:2]):
        sync(folder)


class Upload:
    """A file on its way in: bytes are hashed as they are written to a temporary file."""

    def __init__(self, folder: Path, limit: int) -> None:
        handle, name = tempfile.mkstemp(dir=folder)
        self.path = Path(name)
        self._stream: BinaryIO = os.fdopen(handle, "wb", buffering=0)
        self._hash = hashlib.sha256()
        self._limit = limit
        self.size = 0

    def write(self, data: bytes) -> None:
        """Append `data`."""
        self.size += len(data)
        if self.size > self._limit:
            raise Refused(413, f"more than the {self._limit} bytes that are allowed here")
        self._hash.update(data)
        with disk_errors():
            view = memoryview(data)
            while view:  # an unbuffered write may be short
                view = view[self._stream.write(view) :]

    def digest(self) -> str:
        """Return the sha256 of what was written."""
        return self._hash.hexdigest()

    def move(self, target: Path) -> None:
        """Make the file durable at `target`, in one step."""
        with disk_errors():
            os.fsync(self._stream.fileno())
            self._stream.close()
            place(self.path, target)

    def close(self) -> None:
        """Remove what was not moved."""
        self._stream.close()
        self.path.unlink(missing_ok=True)


class Objects:
    """The content-addressed files of one store."""

    def __init__(self, root: Path) -> None:
        self.root = root / "objects"
        self.temporary = root / "tmp"
        self.damaged = root / "damaged"
        for folder in (self.root, self.temporary):
            folder.mkdir(parents=True, exist_ok=True)

    def clean(self) -> None:
        """Remove the uploads that a stopped server left behind."""
        for path in self.temporary.iterdir():
            with contextlib.suppress(OSError):
                path.unlink()

    def path(self, oid: str) -> Path:
        """Return where the object `oid` lies."""
        return self.root / oid[:2] / oid[2:4] / oid

    @contextmanager
    def upload(self, limit: int) -> Iterator[Upload]:
        """Yield an upload; what is not moved by then is removed."""
        with disk_errors():
            upload = Upload(self.temporary, limit)
        try:
            yield upload
        finally:
            upload.close()

    def verify(self, oid: str) -> bool:
        """Hash the object again; a wrong one is set aside, so that it can be uploaded anew."""
        path = self.path(oid)
        with path.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() == oid:
                return True
        self.damaged.mkdir(exist_ok=True)
        path.replace(self.damaged / oid)
        return False

    def read(self, oid: str, start: int, length: int) -> Iterator[bytes]:
        """Yield `length` bytes from `start`, at most 1 MiB at a time."""
        with self.path(oid).open("rb", buffering=0) as stream:
            stream.seek(start)
            while length:
                data = stream.read(min(length, MIB))
                if not data:
                    return
                length -= len(data)
                yield data

    def git_sha1(self, oid: str) -> str:
        """Return the id that git would give the content as a blob."""
        path = self.path(oid)
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        with path.open("rb") as stream:
            while data := stream.read(MIB):
                digest.update(data)
        return digest.hexdigest()

    def oids(self) -> Iterator[str]:
        """Yield every object on the disk."""
        for path in self.root.glob("??/??/*"):
            yield path.name
