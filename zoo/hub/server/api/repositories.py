"""Accounts and repositories: whoami, create, delete, move, settings, branches, tags, history."""

import datetime
from typing import Any

from starlette.responses import PlainTextResponse, Response

from zoo.hub.server.api.absent import refuse_running
from zoo.hub.server.call import Call, Routes, answer, in_thread, next_link
from zoo.hub.server.common import SHA1, Name, Refused, bad, checked_reference, kind_of, text_of
from zoo.hub.server.store import cards
from zoo.hub.server.store.hub import wants_private

routes = Routes()


def iso(seconds: float) -> str:
    """Return a time as the client parses it."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03}Z"


@routes.add("GET", "health", identify=False)
def health(call: Call) -> Response:
    """Say that the server is up."""
    return PlainTextResponse("ok\n")


@routes.add("GET", "api/whoami-v2")
def whoami(call: Call) -> Response:
    """Say who a token belongs to."""
    account = call.account
    if account is None:
        raise Refused(401, "Invalid credentials in Authorization header")
    orgs = [{"type": "org", "id": name, "name": name, "fullname": name} for name in account.orgs]
    token = {"displayName": account.label, "role": "read" if account.role == "read" else "write"}
    me = {"type": "user", "id": account.user, "name": account.user, "fullname": account.user}
    return answer({**me, "orgs": orgs, "auth": {"type": "access_token", "accessToken": token}})


@routes.add("POST", "api/validate-yaml", identify=False)
async def validate_yaml(call: Call) -> Response:
    """Check the front matter of a README; always JSON, for the client reads its lists."""
    payload = await call.json(5 << 20)
    content = text_of(payload.get("content"), "content", 4 << 20)
    kind = kind_of(payload.get("repoType"))
    try:
        data = await in_thread(cards.front_matter, content)
        problems = cards.problems(data, kind)
    except ValueError as error:
        data, problems = {}, [str(error)]
    warnings = []
    if not data and not problems:
        warnings = [{"message": "empty or missing yaml metadata in repo card"}]
    errors = [{"message": message} for message in problems]
    return answer({"errors": errors, "warnings": warnings}, 400 if errors else 200)


def _named(call: Call, payload: dict[str, Any]) -> Name:
    """Return the repository that a create or delete body names."""
    name = text_of(payload.get("name"), "name", 200)
    namespace = payload.get("organization")
    if namespace is None and "/" in name:
        namespace, _, name = name.partition("/")
    if namespace is None:
        if call.account is None:
            raise Refused(401, "writing needs a token")
        namespace = call.account.user
    return Name(kind_of(payload.get("type")), text_of(namespace, "organization", 200), name)


@routes.add("POST", "api/repos/create")
async def create(call: Call) -> Response:
    """Make a repository."""
    payload = await call.json()
    name = _named(call, payload)
    refuse_running(payload)
    sdk = text_of(payload.get("sdk") or "", "sdk", 40)
    url = f"{call.base}/{name.url_path}"
    private = wants_private(payload, False)
    try:
        await in_thread(lambda: call.hub.create(name, call.account, private=private, sdk=sdk))
    except Refused as refusal:
        if refusal.status == 409:
            refusal.body["url"] = url
        raise
    return answer({"url": url, "name": name.id, "id": name.id})


@routes.add("DELETE", "api/repos/delete")
async def delete(call: Call) -> Response:
    """Remove a repository."""
    name = _named(call, await call.json())
    await in_thread(call.hub.delete, name, call.account)
    return answer({})


@routes.add("POST", "api/repos/move")
async def move(call: Call) -> Response:
    """Rename a repository."""
    payload = await call.json()
    kind = kind_of(payload.get("type"))
    pair = []
    for key in ("fromRepo", "toRepo"):
        namespace, slash, name = text_of(payload.get(key), key, 200).partition("/")
        if not slash:
            raise bad(f"{key} must be namespace/name")
        pair.append(Name(kind, namespace, name))
    await in_thread(call.hub.move, *pair, call.account)
    return answer({})


@routes.repo("PUT", "/settings")
async def settings(call: Call) -> Response:
    """Change visibility and gating."""
    change = await call.json()
    await in_thread(call.hub.configure, call.name, call.account, change)
    return answer(change)


@routes.repo("GET", "/auth-check")
def auth_check(call: Call) -> Response:
    """Say whether the files may be read."""
    call.repo("read")
    return answer({})


@routes.repo("GET", "/auth-check/write")
def auth_check_write(call: Call) -> Response:
    """Say whether the repository may be written."""
    call.repo("write")
    return answer({})


# --- references and history -------------------------------------------------------------------


@routes.repo("GET", "/refs")
def refs(call: Call) -> Response:
    """List branches and tags with their commits."""
    row = call.repo()
    git = call.hub.git(row)
    references: dict[str, Any] = {"converts": []}
    if row["upstream"] and call.hub.mirror:
        known = call.hub.mirror.references(row, call.foreign)
    else:
        known = [
            (kind, name, commit)
            for kind, folder in (("branch", "heads"), ("tag", "tags"))
            for name, commit in git.marked(folder).items()
        ]
    for kind, key, folder in (("branch", "branches", "heads"), ("tag", "tags", "tags")):
        references[key] = [
            {"name": name, "ref": f"refs/{folder}/{name}", "targetCommit": sha}
            for its_kind, name, sha in known
            if its_kind == kind
        ]
    if call.flag("include_prs"):
        references["pullRequests"] = []
    return answer(references)


@routes.repo("POST DELETE", "/branch/{branch}")
async def branch(call: Call) -> Response:
    """Make or remove a branch."""
    payload = await call.json()
    name = call.parameters["branch"]

    def act() -> None:
        row = call.repo("write")
        git = call.hub.git(row)
        with call.hub.writing(row["id"]):
            exists = name in git.refs("heads")
            if call.request.method == "DELETE":
                if name == "main":
                    raise Refused(
                        403, "Cannot delete refs/heads/main, the branch that all reads default to"
                    )
                if not exists:
                    raise Refused(404, f"Invalid rev id: no branch {name}", "RevisionNotFound")
                git.delete_ref(f"refs/heads/{name}")
                return
            checked_reference(name, "branch")
            if exists:
                raise Refused(409, f"Reference refs/heads/{name} already exists")
            start = text_of(payload.get("startingPoint") or "main", "startingPoint", 255)
            git.set_ref(f"refs/heads/{name}", call.revision(row, start))

    await in_thread(act)
    return answer({})


@routes.repo("POST DELETE", "/tag/{revision}")
async def tag(call: Call) -> Response:
    """Tag a revision, or remove a tag."""
    payload = await call.json()

    def act() -> None:
        row = call.repo("write")
        git = call.hub.git(row)
        with call.hub.writing(row["id"]):
            if call.request.method == "DELETE":
                name = call.parameters["revision"]
                if name not in git.refs("tags"):
                    raise Refused(404, f"no tag {name}", "RevisionNotFound")
                git.delete_ref(f"refs/tags/{name}")
                return
            commit = call.revision(row, call.parameters["revision"])
            name = checked_reference(payload.get("tag"), "tag")
            message = text_of(payload.get("message") or "", "message")
            if name in git.refs("tags"):
                raise Refused(409, f"the tag {name} exists already")
            git.add_tag(name, commit, message, call.account.user if call.account else "?")

    await in_thread(act)
    return answer({})


@routes.repo("GET", "/commits/{revision}")
def commits(call: Call) -> Response:
    """List commits, newest first."""
    row = call.repo()
    limit = call.number("limit", 50, 1000) or 50
    sha = call.revision(row, call.parameters["revision"])
    if at := call.request.query_params.get("cursor"):  # the commit that the page begins with
        if not SHA1.fullmatch(at):
            raise bad("cursor must be one of ours")
        sha = call.revision(row, at)
    history = call.hub.git(row).history(sha, limit + 1)
    items = [
        {
            "id": revision.sha,
            "title": revision.title,
            "message": revision.message,
            "date": iso(revision.time),
            "authors": [{"user": revision.author}],
        }
        for revision in history[:limit]
    ]
    more = next_link(call, history[limit].sha) if len(history) > limit else None
    return answer(items, headers=more)
