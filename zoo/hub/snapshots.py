"""Where pulled repositories lie: `ZOO_CACHE/hub/<hub>--<org>--<name>/<commit>/`.

A commit's folder appears by one rename when every file in it was verified, so it is whole or
absent. Beside it: `.parts` (files on their way, named by hash), `.lock`, `.revisions.json`.
"""

import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zoo import cache
from zoo.errors import HubError, MismatchError, UnsafeFileError
from zoo.files import replacing_folder, sha256, write_json
from zoo.hub.safety import RECORD, RemoteFile, check_listing

log = logging.getLogger("zoo")

FORMAT_VERSION = 1
THREADS = 4
Fetch = Callable[[RemoteFile, Path, threading.Event], str]


@dataclass(frozen=True)
class Snapshot:
    """A repository at one commit, on this machine, verified.

    Attributes:
        path: the folder.
        hub: which hub it came from, e.g. "huggingface.co" or "local".
        repo: its id there.
        commit: 40 hexadecimal digits.
        files: path -> {"sha256": ..., "bytes": ...}.
        left_out: files of the repository of kinds that are not fetched.

    """

    path: Path
    hub: str
    repo: str
    commit: str
    files: Mapping[str, Mapping[str, Any]]
    left_out: Sequence[str]

    def verify(self) -> None:
        """Read every file and compare it with the record.

        Raises:
            UnsafeFileError: one was changed, is gone, or was added.

        """
        there = {
            path.relative_to(self.path).as_posix()
            for path in self.path.rglob("*")
            if not path.is_dir() or path.is_symlink()
        }
        for name in sorted(there ^ {*self.files, RECORD}):
            raise UnsafeFileError(f"{name} was {'added' if name in there else 'removed'}")
        for name, expected in self.files.items():
            path = self.path / name
            if path.is_symlink() or path.stat().st_size != expected["bytes"]:
                raise UnsafeFileError(f"{name} was replaced")
            if sha256(path) != expected["sha256"]:
                raise UnsafeFileError(f"{name} was changed: its sha256 differs")


def folder(hub: str, repo: str) -> Path:
    """Return the cache folder of a repository of a hub."""
    return cache.root() / "hub" / f"{hub}--{repo.replace('/', '--')}"


def find(folder: Path, commit: str) -> Snapshot | None:
    """Return the snapshot of a commit if it is here, every file of it verified again.

    Raises:
        UnsafeFileError: a file is not what was fetched; the folder is removed, so that the same
            command fetches it again.

    """
    path = folder / commit
    if not path.is_dir():
        return None
    try:
        snapshot = _read(path)
        snapshot.verify()
    except (UnsafeFileError, KeyError, TypeError, ValueError, OSError) as error:
        if not path.is_dir():  # pruned while it was read
            return None
        shutil.rmtree(path)
        raise UnsafeFileError(
            f"{path} is not what was fetched ({error}); it was removed from the cache: the same "
            "command fetches it again"
        ) from error
    with suppress(OSError):
        os.utime(folder)  # `zoo cache list` shows how long it was not used
    return snapshot


def seen(folder: Path, commit: str) -> Path | None:
    """Return where the small files of a commit are: its snapshot, or what was looked at of it."""
    for path in (folder / commit, looked_at(folder, commit)):
        if path.is_dir():
            return path
    return None


def looked_at(folder: Path, commit: str) -> Path:
    """Return the folder of a commit's small files."""
    return folder / f"few-{commit}"


@contextmanager
def looking(folder: Path, commit: str) -> Iterator[Path]:
    """Yield a folder for a commit's small files; it appears when the block ends well."""
    with replacing_folder(looked_at(folder, commit)) as temporary:
        yield temporary


def _read(path: Path) -> Snapshot:
    record = json.loads((path / RECORD).read_text(encoding="utf-8"))
    if record["format_version"] != FORMAT_VERSION or record["commit"] != path.name:
        raise ValueError(f"{RECORD} is of another commit or format")
    check_listing(list(record["files"]))
    fields = ("hub", "repo", "commit", "files", "left_out")
    return Snapshot(path, *(record[key] for key in fields))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a repository's cache folder for this process alone; others wait."""
    from filelock import FileLock

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HubError(f"cannot write {folder}: {error.strerror or error}") from error
    with FileLock(folder / ".lock"):
        yield


def build(
    folder: Path,
    hub: str,
    repo: str,
    commit: str,
    files: Sequence[RemoteFile],
    left_out: Sequence[str],
    fetch: Fetch,
) -> Snapshot:
    """Fetch what is missing of a commit and make its folder. Call it under `locked`."""
    path, parts = folder / commit, folder / ".parts"
    try:
        for orphan in folder.glob(f".{commit}-*"):  # of a killed process: the lock is ours
            shutil.rmtree(orphan)
        parts.mkdir(exist_ok=True)
        _require_room(parts, files)
        digests = _fetch_all(folder, parts, files, fetch)
        with replacing_folder(path) as temporary:
            for file in files:
                target = temporary / file.path
                target.parent.mkdir(parents=True, exist_ok=True)
                _link(parts / file.digest, target)
            record = {
                "format_version": FORMAT_VERSION,
                "hub": hub,
                "repo": repo,
                "commit": commit,
                "fetched": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "files": {
                    file.path: {"sha256": digests[file.digest], "bytes": file.bytes}
                    for file in files
                },
                "left_out": list(left_out),
            }
            write_json(temporary / RECORD, record)
    except OSError as error:
        if isinstance(error, HubError):
            raise
        raise HubError(
            f"cannot write {path}: {error.strerror or error} (what arrived is kept)"
        ) from error
    for file in files:
        (parts / file.digest).unlink(missing_ok=True)
    return _read(path)


def _fetch_all(
    folder: Path, parts: Path, files: Sequence[RemoteFile], fetch: Fetch
) -> dict[str, str]:
    """Bring every file into `parts`; return digest -> SHA-256."""
    wanted = {file.digest: file for file in files}
    ours = _of_other_commits(folder)
    stop = threading.Event()

    def bring(file: RemoteFile) -> str:
        part = parts / file.digest
        if not part.exists() and file.sha256 in ours:  # `fetch` verifies it like any other
            shutil.copyfile(ours[file.sha256], part)
        return fetch(file, part, stop)

    pool = ThreadPoolExecutor(max_workers=min(THREADS, max(len(wanted), 1)))
    try:
        return dict(zip(wanted, pool.map(bring, wanted.values()), strict=True))
    finally:  # after a failure, or Ctrl+C, the others stop at their next bytes
        stop.set()
        pool.shutdown(cancel_futures=True)


def _of_other_commits(folder: Path) -> dict[str, Path]:
    """Return SHA-256 -> file of what other commits of the repository hold here."""
    files = {}
    for record in folder.glob(f"*/{RECORD}"):
        with suppress(KeyError, TypeError, ValueError, OSError, UnsafeFileError):
            snapshot = _read(record.parent)
            for name, facts in snapshot.files.items():
                if (snapshot.path / name).is_file():
                    files[facts["sha256"]] = snapshot.path / name
    return files


def _require_room(parts: Path, files: Sequence[RemoteFile]) -> None:
    here = sum(part.stat().st_size for part in parts.iterdir())
    missing = sum({file.digest: file.bytes for file in files}.values()) - here
    free = shutil.disk_usage(parts).free
    if missing > free:
        raise HubError(
            f"{missing:,} bytes must be fetched into {parts.parent} and {free:,} are free there; "
            "make room (zoo cache list, zoo cache prune), or set ZOO_CACHE to a larger disk"
        )


def _link(part: Path, target: Path) -> None:
    """Give a verified file its name: a second name of the same bytes, or else a copy."""
    try:
        target.hardlink_to(part)
    except OSError:  # this file system has no hard links
        shutil.copyfile(part, target)


def copy(snapshot: Snapshot, out: Path) -> Path:
    """Copy a snapshot into the new folder `out`, whole or not at all; return `out`.

    Raises:
        MismatchError: something is there already, or it cannot be written.

    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise MismatchError(f"{out} is there already; name a new folder, or remove that one")
    try:
        with replacing_folder(out) as temporary:
            for name in (*snapshot.files, RECORD):
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(snapshot.path / name, temporary / name)
            replace(snapshot, path=temporary).verify()
    except OSError as error:
        raise HubError(f"cannot write {out}: {error.strerror or error}") from error
    return out


def remember(folder: Path, revision: str, commit: str) -> None:
    """Note which commit a branch or tag meant, for when the hub cannot be asked."""
    known = _revisions(folder)
    if known.get(revision) != commit:
        try:
            write_json(folder / ".revisions.json", {**known, revision: commit})
        except OSError as error:  # a full disk; the commit itself is here, whole
            log.warning("cannot note which commit %s is: %s", revision, error.strerror or error)


def recall(folder: Path, revision: str) -> str | None:
    """Return the commit that a branch or tag meant when the hub was last asked."""
    commit = _revisions(folder).get(revision)
    return commit if commit and (folder / commit).is_dir() else None


def _revisions(folder: Path) -> dict[str, str]:
    try:
        value = json.loads((folder / ".revisions.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {k: v for k, v in value.items() if isinstance(v, str)} if isinstance(value, dict) else {}
