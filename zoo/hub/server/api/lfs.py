"""Large files by git-lfs: the batch API, uploads to signed addresses, and downloads."""

import time
from typing import Any

from starlette.responses import Response

from zoo.hub.server.api.downloads import mirrored, require_intact, send_file
from zoo.hub.server.call import Call, Routes, answer, in_thread
from zoo.hub.server.common import SHA256, Refused, bad, object_of, size_of
from zoo.hub.server.store.accounts import sign, signed
from zoo.hub.server.store.hub import Hub, Row
from zoo.hub.server.store.objects import Upload, stamp_of

routes = Routes()
_MEDIA = {"Content-Type": "application/vnd.git-lfs+json"}
_PATTERNS = ("{namespace}/{name}.git/info/lfs", "{kind}/{namespace}/{name}.git/info/lfs")


def _object(value: Any) -> tuple[str, int]:
    item = object_of(value, "an object")
    oid, size = item.get("oid"), size_of(item.get("size"), "size")
    if not isinstance(oid, str) or not SHA256.fullmatch(oid):
        raise bad("oid must be a sha256 in lower-case hexadecimal digits")
    return oid, size


@routes.add("POST", *(f"{pattern}/objects/batch" for pattern in _PATTERNS))
async def batch(call: Call) -> Response:
    """Say where each object is uploaded to or downloaded from."""
    payload = await call.json()
    operation, objects = payload.get("operation"), payload.get("objects")
    if operation not in ("upload", "download") or not isinstance(objects, list):
        raise bad('expected "operation": "upload" or "download", and a list of objects')
    if len(objects) > 1000:
        raise Refused(413, "at most 1000 objects in one batch")

    def act() -> list[dict[str, Any]]:
        row = call.repo("write" if operation == "upload" else "read")
        one = _upload if operation == "upload" else _download
        return [one(call, row, *_object(item)) for item in objects]

    replies = await in_thread(act)
    body = {"transfer": "basic", "hash_algo": "sha256", "objects": replies}
    return answer(body, headers=dict(_MEDIA))


def _href(call: Call, row: Row, method: str, oid: str, size: int) -> dict[str, Any]:
    expires = int(time.time()) + call.hub.settings.signed_seconds
    signature = sign(call.hub.index.secret, method, row["id"], oid, size, expires)
    path = f"lfs/{row['id']}/{oid}/{size}/{expires}/{signature}"
    return {"href": f"{call.base}/{path}", "expires_in": call.hub.settings.signed_seconds}


def _upload(call: Call, row: Row, oid: str, size: int) -> dict[str, Any]:
    assert call.account is not None
    reply: dict[str, Any] = {"oid": oid, "size": size, "authenticated": True}
    if size > call.hub.settings.max_file_bytes:
        most = call.hub.settings.max_file_bytes
        return reply | {"error": {"code": 413, "message": f"at most {most} bytes a file"}}
    if call.hub.claim(row["id"], oid, call.account) == size:
        return reply  # no actions: it is here
    call.hub.require_quota(row["namespace"], size)
    verify = {"href": f"{call.base}/{call.name.url_path}.git/info/lfs/verify"}
    return reply | {"actions": {"upload": _href(call, row, "PUT", oid, size), "verify": verify}}


def _download(call: Call, row: Row, oid: str, size: int) -> dict[str, Any]:
    if call.hub.index.owned_size(row["id"], oid) != size:
        try:
            if not row["upstream"] or call.hub.mirror is None:
                raise Refused(404, "no such object in this repository")
            call.hub.mirror.fetch_named(row, oid, size, call.foreign)
        except Refused as refusal:
            missing = {"code": refusal.status, "message": refusal.message}
            return {"oid": oid, "size": size, "error": missing}
    action = {"download": _href(call, row, "GET", oid, size)}
    return {"oid": oid, "size": size, "authenticated": True, "actions": action}


@routes.add("POST", *(f"{pattern}/verify" for pattern in _PATTERNS))
async def verify(call: Call) -> Response:
    """Confirm that an object has arrived."""
    oid, size = _object(await call.json())

    def act() -> None:
        row = call.repo("write")
        if call.hub.index.owned_size(row["id"], oid) != size:
            raise Refused(404, "no such object in this repository")

    await in_thread(act)
    return answer({}, headers=dict(_MEDIA))


@routes.add("GET PUT", "lfs/{repo}/{oid}/{size}/{expires}/{signature}", identify=False)
async def transfer(call: Call) -> Response:
    """Take or give one object at a signed address; the signature stands for the token."""
    parameters = call.parameters
    method = "PUT" if call.request.method == "PUT" else "GET"
    parts = [parameters[key] for key in ("repo", "oid", "size", "expires")]
    if not signed(call.hub.index.secret, parameters["signature"], method, *parts):
        raise Refused(403, "the address is not one that this hub has signed")
    if int(parameters["expires"]) < time.time():
        raise Refused(403, "the address has expired; ask for a new one")
    repo, oid, size = int(parameters["repo"]), parameters["oid"], int(parameters["size"])
    call.found = repo
    if method == "GET":
        given_out: Response = await in_thread(_give, call, repo, oid, size)
        return given_out
    await receive(call, repo, oid, size)
    return Response(status_code=200)


def _give(call: Call, repo: int, oid: str, size: int) -> Response:
    fetch = call.hub.mirror.on_its_way(repo, oid) if call.hub.mirror else None
    if fetch is None and call.hub.index.owned_size(repo, oid) != size:
        raise Refused(404, "no such object in this repository")
    source, ranges = mirrored(call.hub, repo, oid, fetch)
    if fetch is None:
        require_intact(call.hub, oid, oid)
    headers = {"Content-Type": "application/octet-stream", "Content-Disposition": "attachment"}
    return send_file(call, source, size, oid, headers, ranges)


async def receive(call: Call, repo: int, oid: str, size: int) -> None:
    """Store the body as the object `oid` when it has that sha256 and size."""
    upload_of = call.hub.objects.upload(size)
    upload = await in_thread(upload_of.__enter__)
    try:
        async for piece in call.chunks(size):
            await in_thread(upload.write, piece)
        await in_thread(keep, call.hub, repo, upload, oid, size)
    finally:
        await in_thread(upload_of.__exit__, None, None, None)


def keep(hub: Hub, repo: int, upload: Upload, oid: str, size: int | None) -> None:
    """Make an upload an object of a repository, if it is what it was said to be."""
    if size is not None and upload.size != size:
        raise Refused(422, f"{upload.size} bytes came, {size} were announced")
    if upload.digest() != oid:
        raise Refused(422, f"the content has the sha256 {upload.digest()}, not {oid}")
    row = hub.index.one("SELECT namespace FROM repos WHERE id = ?", repo)
    if row is None:
        raise Refused(404, "the repository is gone", "RepoNotFound")
    hub.require_quota(row["namespace"], upload.size)
    target = hub.objects.path(oid)
    with hub.collecting:
        upload.move(target)
        hub.index.add_object(repo, oid, upload.size, stamp_of(target))
