"""Writing a repository: which way each file travels (preupload), and commits."""

import base64
import binascii
import fnmatch
import hashlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response

from zoo.hub.server.call import Call, Routes, answer, in_thread, parse_object
from zoo.hub.server.common import (
    SHA1,
    SHA256,
    Refused,
    bad,
    checked_path,
    folded,
    object_of,
    size_of,
    text_of,
)
from zoo.hub.server.store.git import pointer
from zoo.hub.server.store.hub import Hub, Row
from zoo.hub.server.store.ignoring import Ignored
from zoo.hub.server.store.packing import Batch
from zoo.hub.server.store.touched import changed

routes = Routes()


# --- preupload --------------------------------------------------------------------------------


@routes.repo("POST", "/preupload/{revision}")
async def preupload(call: Call) -> Response:
    """Say of each file whether it travels inside the commit or apart, and what is there now."""
    _refuse_pull_request(call)
    payload = await call.json()
    files = payload.get("files")
    if not isinstance(files, list):
        raise bad('"files" must be a list')
    return answer({"files": await in_thread(_preupload, call, files, payload.get("gitIgnore"))})


def _refuse_pull_request(call: Call) -> None:
    if call.flag("create_pr"):  # said before the first byte of a file is sent
        raise bad("this hub has no pull requests: commit to a branch (revision=...), not create_pr")


def _preupload(call: Call, files: list[Any], ignore: Any) -> list[dict[str, Any]]:
    hub, row = call.hub, call.repo("write")
    git = hub.git(row)
    tree = git.tree(hub.revision(row, call.parameters["revision"]))
    large = large_patterns(hub.text(row, tree.get(".gitattributes")) or "")
    if not isinstance(ignore, str):
        ignore = hub.text(row, tree.get(".gitignore")) or ""
    sizes = {}
    for file in files:
        file = object_of(file, "a file")
        sizes[checked_path(file.get("path"))] = size_of(file.get("size"), "size")
    ignored = Ignored(ignore).among(sizes)
    modes = []
    for path, size in sizes.items():
        mode = "lfs" if is_large(hub, path, size, large) else "regular"
        modes.append(
            {
                "path": path,
                "uploadMode": mode,
                "shouldIgnore": path in ignored,
                "oid": content_id(hub, row, tree[path], mode) if path in tree else None,
            }
        )
    return modes


def large_patterns(attributes: str) -> list[str]:
    """Return the patterns that `.gitattributes` gives to LFS."""
    lines = (line.split() for line in attributes.splitlines())
    return [words[0] for words in lines if words[1:] and "filter=lfs" in words[1:]]


def is_large(hub: Hub, path: str, size: int, patterns: list[str]) -> bool:
    """Return whether a file travels and is kept apart from git."""
    if size <= hub.settings.inline_bytes or path == "README.md":
        return False
    name = path.rpartition("/")[2]
    return size > hub.settings.lfs_threshold or any(
        fnmatch.fnmatchcase(path if "/" in pattern else name, pattern) for pattern in patterns
    )


def content_id(hub: Hub, row: Row, blob: str, mode: str) -> str | None:
    """Return the id that the client computes for the content there is, in the mode it will use.

    It sees by that whether its file is new: a sha256 for `lfs`, git's id of the *content* for
    `regular`, even where the server keeps the file the other way.
    """
    git = hub.git(row)
    content = git.content(blob)
    owned = content.oid and hub.index.owned_size(row["id"], content.oid) is not None
    if not owned or content.oid is None:
        return blob if mode == "regular" else hashlib.sha256(git.blob(blob)).hexdigest()
    if not hub.intact(content.oid):
        return None  # so that the client sends it again
    if mode == "lfs":
        return content.oid
    row = hub.index.one("SELECT sha1 FROM objects WHERE oid = ?", content.oid) or row
    if not row["sha1"]:
        sha1 = hub.objects.git_sha1(content.oid)
        hub.index.run("UPDATE objects SET sha1 = ? WHERE oid = ?", sha1, content.oid)
        return sha1
    return str(row["sha1"])


# --- commit -----------------------------------------------------------------------------------


@dataclass
class Change:
    """A commit as its body describes it; the batch has the content of its small files."""

    batch: Batch
    summary: str = ""
    description: str = ""
    parent: str | None = None
    operations: list[tuple[str, dict[str, Any]]] = field(default_factory=list)


@routes.repo("POST", "/commit/{revision}")
async def commit(call: Call) -> Response:
    """Apply the operations of an NDJSON body as one commit."""
    _refuse_pull_request(call)
    row = await in_thread(call.repo, "write")
    batch_of = call.hub.git(row).batch()
    batch = await in_thread(batch_of.__enter__)
    try:
        change = await _read(call, batch)
        sha = await in_thread(_apply, call, row["id"], change)
    finally:
        await in_thread(batch_of.__exit__, None, None, None)
    url = f"{call.base}/{call.name.url_path}/commit/{sha}"
    body = {"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""}
    return answer(body)


async def _lines(call: Call) -> AsyncIterator[bytes]:
    """Yield the lines of the body. Memory is bounded by the longest line that is allowed."""
    settings = call.hub.settings
    most = settings.max_inline_bytes * 4 // 3 + 65536
    held = bytearray()
    async for piece in call.chunks(settings.max_commit_bytes):
        held += piece
        *lines, rest = held.split(b"\n") if b"\n" in piece else [held]
        held = bytearray(rest)
        for line in lines:
            if line.strip():
                yield bytes(line)
        if len(held) > most:
            raise Refused(413, f"one line of a commit may have {most} bytes; use LFS")
    if held.strip():
        yield bytes(held)


async def _read(call: Call, batch: Batch) -> Change:
    """Read the body, passing each file's content on as it comes."""
    change, seen = Change(batch), False
    async for line in _lines(call):
        entry = parse_object(line)
        key, value = entry.get("key"), object_of(entry.get("value"), "value")
        if key == "header":
            change.summary = text_of(value.get("summary"), "summary")
            change.description = text_of(value.get("description") or "", "description", 65536)
            parent = value.get("parentCommit")
            if parent is not None and not SHA1.fullmatch(text_of(parent, "parentCommit")):
                raise bad("parentCommit must be 40 hexadecimal digits")
            change.parent, seen = parent, True
            continue
        if len(change.operations) >= call.hub.settings.max_operations:
            most = call.hub.settings.max_operations
            raise Refused(413, f"a commit may have {most} operations")
        if key == "file":
            value = {
                "path": value.get("path"),
                "blob": await in_thread(_inline, call, batch, value),
            }
        change.operations.append((text_of(key, "key", 40), value))
    if not seen:
        raise bad("the commit has no header")
    return change


def _inline(call: Call, batch: Batch, value: dict[str, Any]) -> str:
    checked_path(value.get("path"))
    content = value.get("content")
    if not isinstance(content, str) or value.get("encoding", "base64") not in ("base64", "utf-8"):
        raise bad('"content" must be text in base64 (or "encoding": "utf-8")')
    try:
        if value.get("encoding") == "utf-8":
            data = content.encode()
        else:
            data = base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        raise bad(f"the content of {value.get('path')!r} is not valid") from None
    if len(data) > call.hub.settings.max_inline_bytes:
        raise Refused(413, f"{value['path']!r} is too large for a commit's body; use LFS")
    return batch.add_blob(data)


def _apply(call: Call, repo: int, change: Change) -> str:
    """Make the commit; between finding the parent and moving the branch nobody else writes."""
    hub, branch = call.hub, call.parameters["revision"].removeprefix("refs/heads/")
    with hub.writing(repo):
        row = call.repo("write")  # again: it may have been deleted or moved meanwhile
        if row["id"] != repo:
            raise Refused(404, "the repository is gone", "RepoNotFound")
        git = hub.git(row)
        head = git.refs("heads").get(branch)
        if head is None:
            raise Refused(404, f"no branch {branch!r}", "RevisionNotFound")
        if change.parent not in (None, head):
            text = (
                "The branch was updated since you opened this page. Please refresh and try again."
            )
            raise Refused(412, f"{text} ({branch} is at {head} now, not at {change.parent})")
        before = git.tree(head)
        after = dict(before)
        for key, value in change.operations:
            _operate(call, row, change.batch, after, key, value)
        if len(after) > len(before):
            _check_size(call, after)
        _check_clashes(before, after)
        if after == before:
            return str(head)
        message = f"{change.summary}\n\n{change.description}".strip() + "\n"
        user = call.account.user if call.account else "?"
        sha = git.commit(change.batch, after, [head], message, user)
        git.set_ref(f"refs/heads/{branch}", sha)
        differ = (sha, head, changed(before, after))
        if branch == "main":
            hub.refresh(repo, differ)
        else:
            hub.touched.note(repo, *differ)
    return sha


def _operate(
    call: Call, row: Row, batch: Batch, files: dict[str, str], key: str, value: dict[str, Any]
) -> None:
    if key == "file":
        files[checked_path(value["path"])] = value["blob"]
    elif key == "lfsFile":
        _add_large(call, row, batch, files, value)
    elif key == "copyFile":
        _copy(call, row, files, value)
    elif key in ("deletedFile", "deletedFolder"):
        _delete(files, value, folder=key == "deletedFolder")
    else:
        raise bad(f"unknown operation {key[:40]!r}")


def _add_large(
    call: Call, row: Row, batch: Batch, files: dict[str, str], value: dict[str, Any]
) -> None:
    path, oid = checked_path(value.get("path")), value.get("oid")
    if not isinstance(oid, str) or not SHA256.fullmatch(oid):
        raise bad(f"the oid of {path!r} is not a sha256")
    assert call.account is not None
    size = call.hub.claim(row["id"], oid, call.account)
    if size is None:
        raise bad(f"the content of {path!r} ({oid}) was not uploaded to this repository")
    if value.get("size") not in (None, size):
        raise bad(f"{path!r} has {size} bytes, not {value.get('size')!r}")
    files[path] = batch.add_blob(pointer(oid, size))


def _copy(call: Call, row: Row, files: dict[str, str], value: dict[str, Any]) -> None:
    hub, source = call.hub, checked_path(value.get("srcPath"))
    revision = value.get("srcRevision")
    tree: Mapping[str, str] = files
    if revision:
        tree = hub.git(row).tree(hub.revision(row, text_of(revision, "srcRevision")))
    if source not in tree:
        raise Refused(404, f"no file {source!r}", "EntryNotFound")
    files[checked_path(value.get("path"))] = tree[source]


def _delete(files: dict[str, str], value: dict[str, Any], *, folder: bool) -> None:
    path = text_of(value.get("path"), "path", 2000).rstrip("/")
    inside = [name for name in files if name.startswith(f"{path}/")]
    gone = [path] if path in files and not folder else inside
    if not gone:
        raise Refused(404, f"there is no {path!r} to delete", "EntryNotFound")
    for name in gone:
        del files[name]


def _check_size(call: Call, files: dict[str, str]) -> None:
    """Refuse so many files and folders that every look at them would take long."""
    settings, folders = call.hub.settings, set[str]()
    if len(files) > settings.max_files:
        raise Refused(413, f"a commit may hold {settings.max_files} files, not {len(files)}")
    for path in files:
        while (path := path.rpartition("/")[0]) and path not in folders:
            folders.add(path)
        if len(folders) > settings.max_folders:
            raise Refused(413, f"a commit may hold {settings.max_folders} folders, not more")


def _check_clashes(before: Any, after: dict[str, str]) -> None:
    """Refuse new paths that some file system could not hold beside the others."""
    if after.keys() <= before.keys():
        return
    spelled: dict[str, str] = {}
    seen: set[str] = set()
    for path in after:
        part = path
        while part and part not in seen:
            seen.add(part)
            if spelled.setdefault(folded(part), part) != part:
                raise bad(f"{part!r} and {spelled[folded(part)]!r} differ in case only")
            part = part.rpartition("/")[0]
            if part in after:
                raise bad(f"{part!r} cannot be a file and a folder")
