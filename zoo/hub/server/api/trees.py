"""Listing files: trees, single paths, and what a commit changed last."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from starlette.responses import Response

from zoo.hub.server.api.repositories import iso
from zoo.hub.server.budget import Budget
from zoo.hub.server.call import Call, Routes, answer, in_thread, next_link, parse_object
from zoo.hub.server.common import Refused, bad
from zoo.hub.server.store.hub import Hub, Row

routes = Routes()
_MOST_PATHS = 20_000  # asked about at once
LOOK_BACK_S = 0.25  # of the processor, at the commits that are not in the index yet


def files_facts(hub: Hub, row: Row, files: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return what the client is told about each file; `files` maps paths to blob ids.

    Text that looks like a pointer is one only for a large file that belongs to the repository:
    otherwise it would open the private files of others. (Those of a mirrored repository are fetched
    for it from its upstream, never taken from others.)
    """
    contents = hub.git(row).contents(files.values())
    by_path = {}
    for path, blob in files.items():
        content = contents[blob]
        entry = {"type": "file", "path": path, "oid": blob, "size": content.size}
        if content.oid and (
            row["upstream"] or hub.index.owned_size(row["id"], content.oid) == content.oid_size
        ):
            entry["size"] = content.oid_size
            entry["lfs"] = {
                "oid": content.oid,
                "size": content.oid_size,
                "pointerSize": content.size,
            }
        by_path[path] = entry
    return by_path


def _entries(call: Call, row: Row, sha: str, paths: list[str]) -> list[dict[str, Any]]:
    """Return the facts of files and folders; those that do not exist are left out."""
    git = call.hub.git(row)
    tree, folders = git.tree(sha), git.folders(sha)
    files = files_facts(call.hub, row, {path: tree[path] for path in paths if path in tree})
    entries = []
    for path in paths:
        if path in files:
            entries.append(files[path])
        elif path in folders:
            entries.append({"type": "directory", "path": path, "oid": folders[path], "size": 0})
    return entries


def _with_commits(call: Call, row: Row, sha: str, entries: list[dict[str, Any]]) -> None:
    git, paths = call.hub.git(row), {entry["path"] for entry in entries}
    changes = call.hub.touched.last(row["id"], git, sha, None, paths, Budget(LOOK_BACK_S))
    for entry in entries:
        if (change := changes.get(entry["path"])) is not None:
            date = iso(change.time)
            entry["lastCommit"] = {"id": change.sha, "title": change.title, "date": date}


@routes.repo("GET", "/tree/{revision}")
@routes.repo("GET", "/tree/{revision}/*path")
def tree(call: Call) -> Response:
    """List a folder, or everything below it, in pages."""
    row = call.repo()
    sha = call.revision(row, call.parameters["revision"])
    git = call.hub.git(row)
    folder = call.parameters.get("path", "").strip("/")
    folders = git.folders(sha)
    if folder and folder not in folders:
        headers = {"X-Repo-Commit": sha}
        raise Refused(404, f"no folder {folder!r}", "EntryNotFound", headers=headers)
    start = f"{folder}/" if folder else ""
    names = [path for path in (*folders, *git.tree(sha)) if path.startswith(start)]
    if not call.flag("recursive"):
        names = [path for path in names if "/" not in path[len(start) :]]
    names.sort()
    most = 100 if call.flag("expand") else 1000
    skip, limit = call.number("cursor", 0, 10**9), call.number("limit", most, most) or most
    entries = _entries(call, row, sha, names[skip : skip + limit])
    if call.flag("expand"):
        _with_commits(call, row, sha, entries)
    more = next_link(call, skip + limit) if len(names) > skip + limit else None
    return answer(entries, headers=more)


@routes.repo("POST", "/paths-info/{revision}")
async def paths_info(call: Call) -> Response:
    """Describe the paths of a form, which the client sends repeated."""
    data = await call.body()
    if call.request.headers.get("content-type", "").startswith("application/json"):
        payload = parse_object(data)
        paths, expand = payload.get("paths", []), bool(payload.get("expand"))
        if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
            raise bad('"paths" must be a list of texts')
        if len(paths) > _MOST_PATHS:
            raise bad(f'"paths" may hold {_MOST_PATHS}; ask in parts')
    else:
        try:
            pairs = parse_qsl(data.decode(), max_num_fields=_MOST_PATHS)
        except ValueError:
            raise bad(f"this is not a form of at most {_MOST_PATHS} fields") from None
        paths = [value for key, value in pairs if key == "paths"]
        expand = ("expand", "true") in [(key, value.lower()) for key, value in pairs]

    def act() -> list[dict[str, Any]]:
        row = call.repo()
        sha = call.revision(row, call.parameters["revision"])
        entries = _entries(call, row, sha, [path.strip("/") for path in paths])
        if expand:
            _with_commits(call, row, sha, entries)
        for entry in entries:  # by it, the client has large files copied on the server
            if "lfs" in entry and not row["upstream"]:
                entry["xetHash"] = entry["lfs"]["oid"]
        return entries

    return answer(await in_thread(act))
