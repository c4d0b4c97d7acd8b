"""One file from a hub: resumed by Range, verified by hash, and never half there.

huggingface_hub 2.4 neither resumes nor verifies. Here what has arrived stays in a partial file
named by the hash it must have; a cut connection or a killed process goes on where it stopped.
"""

import errno
import hashlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Protocol

from zoo.errors import HubError, UnsafeFileError
from zoo.files import sync
from zoo.hub.safety import RemoteFile

log = logging.getLogger("zoo")

# Tries in a row that bring not one new byte; each byte that arrives starts the count anew.
TRIES = 5
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 8.0


class CutError(Exception):
    """The connection ended early, or the hub is busy; `wait_s` if it said for how long."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class Body(Protocol):
    """An answer: where in the file it starts, and its bytes."""

    start: int

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes; raise `CutError` when the connection ends early."""


Open = Callable[[int], AbstractContextManager[Body]]


def fetch(open_at: Open, file: RemoteFile, part: Path, stop: threading.Event) -> str:
    """Bring `part` to the whole content of `file`; return its SHA-256.

    Args:
        open_at: opens the file at a byte offset; the answer says where it really starts.
        file: what is expected.
        part: the partial file; what it holds from an earlier try is kept.
        stop: when it is set, give up at the next bytes.

    Raises:
        UnsafeFileError: the content is not what was listed.
        HubError: the hub cannot be reached any more, or the disk is full; what arrived is kept.

    """
    resumed = part.exists() and part.stat().st_size > 0
    try:
        digest = _complete(open_at, file, part, stop)
        if digest is None and resumed:  # what was kept may be what was wrong: once from the start
            part.unlink()
            digest = _complete(open_at, file, part, stop)
    except OSError as error:
        if isinstance(error, HubError) or error.errno is None:
            raise
        kept = " (what arrived is kept; the same command goes on)" if _full(error) else ""
        raise HubError(f"cannot write {part.parent}: {error.strerror}{kept}") from error
    if digest is None:
        part.unlink(missing_ok=True)
        raise UnsafeFileError(
            f"{file.path} came with content other than the hub listed ({file.digest[:23]}…); "
            "it was thrown away: somebody on the way, or the hub's storage, changed it"
        )
    sync(part)
    return digest


def _full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _complete(open_at: Open, file: RemoteFile, part: Path, stop: threading.Event) -> str | None:
    """Fetch what is missing; return the SHA-256, or None if the content is wrong."""
    hashes = _Hashes(file)
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(part, flags, 0o600), "r+b") as stream:
        while block := stream.read(1 << 20):
            hashes.update(block)
        if hashes.count > file.bytes:
            return None
        tries, wait = 0, FIRST_WAIT_S
        while hashes.count < file.bytes:
            before = hashes.count
            try:
                _receive(open_at, file, stream, hashes, stop)
            except CutError as cut:
                tries = tries + 1 if hashes.count <= before else 1
                wait = FIRST_WAIT_S if tries == 1 else min(2 * wait, LONGEST_WAIT_S)
                if tries >= TRIES:
                    raise HubError(
                        f"{file.path}: {cut}; {hashes.count:,} of {file.bytes:,} bytes are here "
                        "and kept: the same command goes on"
                    ) from None
                pause = wait if cut.wait_s is None else cut.wait_s
                log.info("%s: %s; again in %.1f s", file.path, cut, pause)
                stop.wait(pause)
            if hashes.count > file.bytes:
                return None
    return hashes.verified()


def _receive(
    open_at: Open,
    file: RemoteFile,
    stream: BinaryIO,
    hashes: "_Hashes",
    stop: threading.Event,
) -> None:
    """Append what one request brings; `CutError` leaves file and hashes in step."""
    with open_at(hashes.count) as body:
        if body.start == 0 and hashes.count:  # the hub does not know Range: from the start
            stream.seek(0)
            stream.truncate()
            hashes.restart()
        elif body.start != hashes.count:
            raise CutError(f"the hub answered from byte {body.start}, not {hashes.count}")
        for chunk in body.chunks():
            if stop.is_set():
                raise HubError(f"{file.path}: stopped, because another file failed")
            stream.write(chunk)
            hashes.update(chunk)
            if hashes.count > file.bytes:  # never more on the disk than was listed
                return
    if hashes.count < file.bytes:
        raise CutError("the connection ended early")


class _Hashes:
    """The SHA-256 of what arrived so far, and git's id where that is what was listed."""

    def __init__(self, file: RemoteFile) -> None:
        self.file = file
        self.restart()

    def restart(self) -> None:
        self.count = 0
        self.sha256 = hashlib.sha256()
        self.git = None
        if self.file.sha256 is None:
            header = f"blob {self.file.bytes}\0".encode()
            self.git = hashlib.sha1(header, usedforsecurity=False)

    def update(self, block: bytes) -> None:
        self.count += len(block)
        self.sha256.update(block)
        if self.git is not None:
            self.git.update(block)

    def verified(self) -> str | None:
        actual = self.sha256.hexdigest() if self.git is None else self.git.hexdigest()
        expected = self.file.sha256 if self.git is None else self.file.git_sha1
        return self.sha256.hexdigest() if actual == expected else None
