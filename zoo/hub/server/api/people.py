"""Users and teams as others see them, what they keep here, and who may read what is gated."""

import hashlib
import time
from typing import Any

from starlette.responses import Response

from zoo.hub.server.api.repositories import iso
from zoo.hub.server.call import Call, Routes, answer, in_thread
from zoo.hub.server.common import Refused, bad, text_of
from zoo.hub.server.store.hub import Row

routes = Routes()
STATUSES = ("pending", "accepted", "rejected")


# --- users and teams --------------------------------------------------------------------------


def _counts(call: Call, namespace: str) -> dict[str, int]:
    counts = {"models": 0, "datasets": 0, "spaces": 0}
    for row in call.hub.index.all("SELECT * FROM repos WHERE namespace = ?", namespace):
        counts[row["kind"]] += call.hub.may_list(row, call.account)
    return {f"num{kind.capitalize()}": count for kind, count in counts.items()}


def _team(name: str) -> dict[str, Any]:
    return {"type": "org", "name": name, "fullname": name, "avatarUrl": ""}


@routes.add("GET", "api/users/{user}/overview")
def user_overview(call: Call) -> Response:
    """Describe a user: name, teams, and how much of theirs the caller may see."""
    row = call.hub.index.one("SELECT * FROM users WHERE name = ?", call.parameters["user"])
    if row is None:
        raise Refused(404, f"no user {call.parameters['user']}; see zoo hub token list")
    orgs = call.hub.index.all("SELECT org FROM members WHERE user = ? ORDER BY org", row["name"])
    facts = {"type": "user", "user": row["name"], "fullname": row["name"], "avatarUrl": ""}
    facts |= {"isPro": False, "createdAt": iso(row["created"])}
    facts["orgs"] = [_team(org["org"]) for org in orgs]
    return answer(facts | _counts(call, row["name"]))


def _members(call: Call) -> tuple[str, list[Row]]:
    sql = "SELECT user, org FROM members WHERE org = ? ORDER BY user"
    members = call.hub.index.all(sql, call.parameters["team"])
    if not members:
        raise Refused(404, f"no team {call.parameters['team']}")
    return members[0]["org"], members


@routes.add("GET", "api/organizations/{team}/overview")
def team_overview(call: Call) -> Response:
    """Describe a team."""
    name, members = _members(call)
    return answer({**_team(name), "numUsers": len(members), **_counts(call, name)})


@routes.add("GET", "api/organizations/{team}/members")
def team_members(call: Call) -> Response:
    """List who is in a team."""
    _, members = _members(call)
    return answer([
        {"type": "user", "user": row["user"], "fullname": row["user"], "avatarUrl": ""}
        for row in members
    ])  # fmt: skip


@routes.add("GET", "api/settings/repositories", "api/organizations/{team}/settings/repositories")
def storage(call: Call) -> Response:
    """List what an owner keeps here, the largest first."""
    if call.account is None:
        raise Refused(401, "this list needs a token")
    owner = call.parameters.get("team", call.account.user)
    if not call.account.owns(owner):
        raise Refused(403, f"{call.account.user} is not in {owner}")
    sql = (
        "SELECT repos.*, coalesce(sum(objects.size), 0) AS used FROM repos LEFT JOIN owned ON "
        "owned.repo = repos.id LEFT JOIN objects USING (oid) WHERE namespace = ? AND upstream = '' "
        "GROUP BY repos.id ORDER BY used DESC, repos.id"
    )
    rows = call.hub.index.all(sql, owner)
    total = sum(row["used"] for row in rows) or 1
    return answer([
        {
            "id": f"{row['namespace']}/{row['name']}",
            "type": row["kind"][:-1],
            "updatedAt": iso(row["modified"]),
            "visibility": "private" if row["private"] else "public",
            "storage": row["used"],
            "storagePercent": round(100 * row["used"] / total, 2),
        }
        for row in rows
    ])  # fmt: skip


# --- access to gated repositories ---------------------------------------------------------------


def _request_id(repo: int, user: str) -> str:
    text = f"{repo} {user.lower()}"
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()[:24]


def _requests(call: Call, row: Row) -> list[tuple[str, str, float]]:
    """Return (user, status, when) of all who were ever let in or kept out."""
    sql = (
        "SELECT user, status, changed FROM asked WHERE repo = ? UNION SELECT user, 'accepted', ? "
        "FROM granted WHERE repo = ? AND user NOT IN (SELECT user FROM asked WHERE repo = ?)"
    )
    found = call.hub.index.all(sql, row["id"], row["created"], row["id"], row["id"])
    return [(one["user"], one["status"], one["changed"]) for one in found]


@routes.repo("GET", "/user-access-request/{status}")
def requests(call: Call) -> Response:
    """List who may read a gated repository, or may no more, or not yet."""
    if call.parameters["status"] not in STATUSES:
        raise Refused(404, f"no such list; there are {', '.join(STATUSES)}")
    row = call.repo("write")
    return answer([
        {
            "requestId": _request_id(row["id"], user),
            "user": {"user": user, "fullname": user},
            "status": status,
            "timestamp": iso(changed),
        }
        for user, status, changed in _requests(call, row)
        if status == call.parameters["status"]
    ])  # fmt: skip


@routes.repo("POST", "/user-access-request/grant")
async def grant(call: Call) -> Response:
    """Let a user read a gated repository."""
    user = text_of((await call.json()).get("user"), "user", 100)
    await in_thread(_decide, call, user, None, "accepted")
    return answer({})


@routes.repo("POST", "/user-access-request/handle")
async def handle(call: Call) -> Response:
    """Let a user in, keep one out, or take back what was decided."""
    payload = await call.json()
    if payload.get("status") not in STATUSES:
        raise bad(f'"status" must be one of {", ".join(STATUSES)}')
    user, asked = payload.get("user"), payload.get("requestId")
    if (user is None) == (asked is None):
        raise bad('give "user" or "requestId"')
    name = None if user is None else text_of(user, "user", 100)
    of_request = None if asked is None else text_of(asked, "requestId", 100)
    await in_thread(_decide, call, name, of_request, payload["status"])
    return answer({})


def _decide(call: Call, user: str | None, request: str | None, status: str) -> None:
    row, index = call.repo("write"), call.hub.index
    with index.write():
        known = {name.lower(): (name, said) for name, said, _ in _requests(call, row)}
        if user is None:
            names = [name for name, _ in known.values() if _request_id(row["id"], name) == request]
            user = names[0] if names else None
        found = index.one("SELECT name FROM users WHERE name = ?", user)
        if user is None or found is None:
            raise Refused(404, f"no user {user}" if user else "no such request")
        if known.get(user.lower(), ("", "pending"))[1] == status:
            raise bad(f"{found['name']} is {status} already")
        sql = "INSERT OR REPLACE INTO asked VALUES (?, ?, ?, ?)"
        index.run(sql, row["id"], found["name"], status, time.time())
        if status == "accepted":
            index.run("INSERT OR IGNORE INTO granted VALUES (?, ?)", row["id"], found["name"])
        else:
            sql = "DELETE FROM granted WHERE repo = ? AND user = ?"
            index.run(sql, row["id"], found["name"])
