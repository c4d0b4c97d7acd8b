"""Writing files so that a reader sees the old content or the new, never a mixture."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zoo.errors import MismatchError

_UMASK = os.umask(0)  # reading it means setting it, for the whole process: once, at import
os.umask(_UMASK)
_MODE = 0o666 & ~_UMASK  # mkstemp makes private files; the zoo's files get the user's usual mode


def check_name(path: Path) -> Path:
    """Return a path whose name every library can open.

    Raises:
        MismatchError: it is not UTF-8, which safetensors does not open.

    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise MismatchError(
            f"{str(path)!r} has a name that is not UTF-8, and weights are not read or written "
            "there; rename it"
        ) from error
    return path


def given(path: Path, kind: str) -> None:
    """Refuse a file or folder, as `kind` calls it, that is not there.

    Raises:
        MismatchError: it is not.

    """
    try:
        there = path.expanduser().exists()
    except OSError as error:  # a name too long, a folder that may not be read
        raise MismatchError(f"no such {kind}: {str(path)[:200]} ({error.strerror})") from error
    if not there:
        raise MismatchError(f"no such {kind}: {path}")


def given_folder(path: Path) -> None:
    """Refuse a folder that is not there, or is a file.

    Raises:
        MismatchError: it is.

    """
    given(path, "folder")
    if not path.is_dir():
        raise MismatchError(f"{path} is a file; expected the folder of all of them")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Flush a file or a folder's entry table to disk (folders: where the system can)."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; on success it replaces `path`.

    The temporary file keeps the suffix of `path`, so that writers that rely on it (Pillow, OpenCV)
    write the right format. On an exception the temporary file is removed.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent
        )
    except OSError as error:
        raise MismatchError(f"cannot write {path}: {error.strerror or error}") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        sync(temporary)
        temporary.chmod(_MODE)
        try:
            temporary.replace(path)
        except OSError as error:  # a folder is in its place
            raise MismatchError(f"cannot write {path}: {error.strerror or error}") from error
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def probe(folder: Path) -> None:
    """Make `folder` if needed, and check that files can be written there.

    Called before long work, so that a wrong path does not cost its result.

    Raises:
        MismatchError: nothing can be written there.

    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise MismatchError(f"cannot write into {folder}: {error.strerror or error}") from error


def probe_file(path: Path) -> None:
    """Check that `path` can be written, and make its folder if needed; see `probe`.

    Raises:
        MismatchError: it is a folder, or nothing can be written beside it.

    """
    if path.is_dir():
        raise MismatchError(f"cannot write {path}: it is a folder; expected a file name")
    probe(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` atomically as indented JSON (no NaN, no infinity)."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in `path`.

    Raises:
        MismatchError: it cannot be read, is not valid JSON, or holds something other than an
            object.

    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise MismatchError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise MismatchError(f"{path} holds {type(value).__name__}; expected an object")
    return value


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder next to `path`; on success it is renamed to `path`.

    `path` must not exist yet: a folder, unlike a file, cannot be replaced in one step.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    except OSError as error:
        raise MismatchError(
            f"cannot write {path}: {error.strerror or error}; choose a folder in another place"
        ) from error
    try:
        yield temporary
        for file in sorted(temporary.rglob("*")):
            sync(file)
        sync(temporary)
        temporary.rename(path)
        sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
