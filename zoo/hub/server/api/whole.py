"""What changes a whole repository: copies, one commit in place of many, files for ever gone."""

import shutil
from typing import Any

from starlette.responses import Response

from zoo.hub.server.api.absent import refuse_running
from zoo.hub.server.api.repositories import iso
from zoo.hub.server.call import Call, Routes, answer, in_thread
from zoo.hub.server.common import SHA256, Name, Refused, bad, kind_of, object_of, text_of
from zoo.hub.server.store import rewriting
from zoo.hub.server.store.hub import Row, wants_private
from zoo.hub.server.store.objects import disk_errors

routes = Routes()
_MOST_FILES = 1000


@routes.repo("POST", "/super-squash/{revision}")
async def squash(call: Call) -> Response:
    """Put one commit in place of a branch's history; tags keep theirs."""
    payload = await call.json()
    branch = call.parameters["revision"].removeprefix("refs/heads/")
    message = text_of(payload.get("message") or f"Super-squash branch {branch!r}", "message")

    def act() -> None:
        row = call.repo("write")
        with call.hub.writing(row["id"]):
            git = call.hub.git(row)
            head = git.refs("heads").get(branch)
            if head is None:
                raise Refused(404, f"Invalid rev id: no branch {branch}", "RevisionNotFound")
            user = call.account.user if call.account else "?"
            rewriting.squash(git, branch, head, message, user)
            if branch == "main":
                call.hub.refresh(row["id"])

    await in_thread(act)
    return answer({})


# --- large files --------------------------------------------------------------------------------


@routes.repo("GET", "/lfs-files")
def large_files(call: Call) -> Response:
    """List every large file of any commit, each once, with where it was seen last."""
    row = call.repo("write")
    sql = (
        "SELECT oid, size, owned.created FROM owned JOIN objects USING (oid) WHERE repo = ? "
        "ORDER BY owned.created DESC"
    )
    owned = {one["oid"]: one for one in call.hub.index.all(sql, row["id"])}
    places = _places(call, row, set(owned))
    skip, limit = call.number("cursor", 0, 10**9), call.number("limit", 1000, 1000) or 1000
    items = [
        {
            "fileOid": oid,
            "oid": oid,
            "filename": places[oid][0],
            "ref": places[oid][1],
            "pushedAt": iso(one["created"]),
            "size": one["size"],
        }
        for oid, one in owned.items()
        if oid in places
    ]
    return answer(items[skip : skip + limit])


def _places(call: Call, row: Row, oids: set[str]) -> dict[str, tuple[str, str | None]]:
    """Return oid -> (path, branch) of large files; no branch for those of the past alone."""
    git = call.hub.git(row)
    places: dict[str, tuple[str, str | None]] = {}

    def look(sha: str, reference: str | None) -> None:
        tree = git.tree(sha)
        contents = git.contents(tree.values())
        for path, blob in tree.items():
            oid = contents[blob].oid
            if oid in oids and oid is not None:
                places.setdefault(oid, (path, reference))

    heads = git.refs("heads")
    for name in sorted(heads, key=lambda name: (name != "main", name)):
        look(heads[name], f"refs/heads/{name}")
    for sha in git.commits():
        if len(places) == len(oids):
            break
        look(sha, None)
    return places


@routes.repo("POST", "/lfs-files/batch")
async def delete_large(call: Call) -> Response:
    """Take large files away for good: from every commit that has them, or as content alone."""
    deletions = object_of((await call.json()).get("deletions"), "deletions")
    shas, rewrite = deletions.get("sha"), deletions.get("rewriteHistory", True)
    if not isinstance(shas, list) or not all(isinstance(sha, str) for sha in shas):
        raise bad('"sha" must be a list of texts')
    if not isinstance(rewrite, bool) or len(shas) > _MOST_FILES:
        raise bad(f'"rewriteHistory" must be true or false, and "sha" at most {_MOST_FILES}')

    def act() -> None:
        row = call.repo("write")
        with call.hub.writing(row["id"]):
            if rewrite:
                rewriting.without(call.hub.git(row), set(shas))
            with call.hub.index.write():
                for sha in shas:
                    sql = "DELETE FROM owned WHERE repo = ? AND oid = ?"
                    call.hub.index.run(sql, row["id"], sha)
            call.hub.refresh(row["id"])

    await in_thread(act)
    return answer({})


@routes.repo("POST", "/lfs-files/duplicate")
async def share_large(call: Call) -> Response:
    """Let another repository of the caller use large files of this one, which it may read."""
    payload = await call.json()
    target, files = object_of(payload.get("target"), "target"), payload.get("files")
    kind = kind_of(target.get("type"))
    namespace, _, name = text_of(target.get("name"), "name", 200).partition("/")
    if not isinstance(files, list) or len(files) > _MOST_FILES:
        raise bad(f'"files" must be a list of at most {_MOST_FILES}')

    def act() -> dict[str, Any]:
        source = call.repo("read")
        there = call.hub.find(Name(kind, namespace, name), call.account, "write")
        done: list[dict[str, str]] = []
        failed: list[dict[str, str]] = []
        for file in files:
            sha = object_of(file, "a file").get("sha256")
            if not isinstance(sha, str) or not SHA256.fullmatch(sha):
                raise bad('"sha256" must be one')
            size = call.hub.index.owned_size(source["id"], sha)
            if size is None or not call.hub.intact(sha):
                failed.append({"sha256": sha, "error": "it is not a large file of the source"})
                continue
            if call.hub.index.owned_size(there["id"], sha) is None:
                call.hub.require_quota(there["namespace"], size)
            call.hub.index.own(there["id"], sha)
            done.append({"sha256": sha})
        return {"success": done, "failed": failed}

    return answer(await in_thread(act))


# --- copies -------------------------------------------------------------------------------------


@routes.repo("POST", "/duplicate")
async def duplicate(call: Call) -> Response:
    """Make a repository of the caller with the history, branches and tags of this one."""
    payload = await call.json()
    refuse_running(payload)
    text = text_of(payload.get("repository"), "repository", 200)
    namespace, slash, name = text.partition("/")
    if not slash:
        raise bad('"repository" must be namespace/name')
    new = Name(call.parameters["kind"], namespace, name)
    url = f"{call.base}/{new.url_path}"
    try:
        await in_thread(_duplicate, call, new, payload)
    except Refused as refusal:
        if refusal.status == 409:
            refusal.body["url"] = url
        raise
    return answer({"url": url, "name": new.id, "id": new.id})


def _duplicate(call: Call, new: Name, payload: dict[str, Any]) -> None:
    hub, source = call.hub, call.repo("read")
    if source["upstream"]:
        raise bad(
            f"{call.name.id} is a mirror, and not all of it is here: zoo pull and zoo push it"
        )
    private = wants_private(payload, bool(source["private"]))
    sql = "SELECT oid, size FROM owned JOIN objects USING (oid) WHERE repo = ?"
    files = hub.index.all(sql, source["id"])
    hub.require_write(call.account, new.namespace)
    hub.require_quota(new.namespace, sum(file["size"] for file in files))
    row = hub.create(new, call.account, private=private, sdk=source["sdk"])
    here, there = hub.git(source), hub.git(row)
    with hub.writing(source["id"]), hub.writing(row["id"]), disk_errors():
        for folder in ("objects", "refs/heads", "refs/tags"):
            shutil.copytree(here.path / folder, there.path / folder, dirs_exist_ok=True)
        packed = here.path / "packed-refs"
        if packed.exists():
            shutil.copy2(packed, there.path / "packed-refs")
        with hub.index.write():
            for file in files:
                hub.index.own(row["id"], file["oid"])
        hub.refresh(row["id"])
