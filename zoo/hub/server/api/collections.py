"""Collections: named lists of repositories."""

import json
import re
import secrets
import time
from collections.abc import Callable
from typing import Any

from starlette.responses import Response

from zoo.hub.server.api.repositories import iso
from zoo.hub.server.call import Call, Routes, answer, in_thread
from zoo.hub.server.common import Name, Refused, bad, kind_of, object_of, text_of
from zoo.hub.server.store.hub import Hub, Row

routes = Routes()
_ID_DIGITS = 24
_MOST_ITEMS = 500  # each is looked up whenever a collection is shown
_ONE = "api/collections/{namespace}/{slug}"


def _row(call: Call, *, write: bool = False) -> Row:
    slug = f"{call.parameters['namespace']}/{call.parameters['slug']}"
    # Its words follow the title; what it is found by are the last digits.
    digits = slug.rpartition("-")[2]
    sql = "SELECT * FROM collections WHERE namespace = ? AND substr(slug, ?) = ?"
    namespace, from_end = call.parameters["namespace"], -len(digits) - 1
    row = None
    if len(digits) == _ID_DIGITS:
        row = call.hub.index.one(sql, namespace, from_end, f"-{digits}")
    mine = row is not None and call.account is not None and call.account.owns(row["namespace"])
    if row is None or (row["private"] and not mine):
        raise Refused(404 if call.account else 401, f"no collection {slug}")
    if write:
        call.hub.require_write(call.account, row["namespace"])
    return row


def _facts(call: Call, row: Row) -> dict[str, Any]:
    """Return a collection, without the repositories that the caller may not know of."""
    data = json.loads(row["data"])
    items: list[dict[str, Any]] = []
    for entry in data["items"]:
        namespace, _, name = entry["id"].partition("/")
        repo = call.hub.index.repo(kind_of(entry["type"]), namespace, name)
        if repo is not None and call.hub.may_list(repo, call.account):
            note = {"note": {"text": entry["note"]}} if entry.get("note") else {}
            items.append({**entry, "position": len(items), **note})
            if not note:
                items[-1].pop("note", None)
    owner = {"type": "user", "name": row["namespace"], "fullname": row["namespace"]}
    return {
        "slug": row["slug"],
        "title": data["title"],
        "description": data.get("description"),
        "owner": owner,
        "items": items,
        "lastUpdated": iso(row["updated"]),
        "position": 0,
        "private": bool(row["private"]),
        "theme": data.get("theme") or "blue",
        "upvotes": 0,
    }


def _save(call: Call, row: Row, data: dict[str, Any], private: bool | None = None) -> None:
    call.hub.index.run(
        "UPDATE collections SET data = ?, updated = ?, private = ? WHERE slug = ?",
        json.dumps(data, ensure_ascii=False),
        time.time(),
        row["private"] if private is None else private,
        row["slug"],
    )


def _slug(namespace: str, title: str, digits: str) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:60] or "collection"
    return f"{namespace}/{words}-{digits}"


def alone(hub: Hub, act: Callable[[], Any]) -> Any:
    """Do what reads and then writes a collection, with no other writer in between."""
    with hub.index.write():
        return act()


@routes.add("POST", "api/collections")
async def create(call: Call) -> Response:
    """Make a collection."""
    payload = await call.json()
    title = text_of(payload.get("title"), "title", 200)
    namespace = text_of(payload.get("namespace"), "namespace", 100)
    data: dict[str, Any] = {"title": title, "items": []}
    if payload.get("description"):
        data["description"] = text_of(payload["description"], "description", 2000)

    def act() -> dict[str, Any]:
        call.hub.require_write(call.account, namespace)
        sql = "SELECT * FROM collections WHERE namespace = ?"
        for other in call.hub.index.all(sql, namespace):
            if json.loads(other["data"])["title"] == title:
                raise Refused(409, "there is one of that title", body={"slug": other["slug"]})
        slug = _slug(namespace, title, secrets.token_hex(_ID_DIGITS // 2))
        call.hub.index.run(
            "INSERT INTO collections VALUES (?, ?, ?, ?, ?)",
            *(slug, namespace, payload.get("private") is True, time.time(), json.dumps(data)),
        )
        row = call.hub.index.one("SELECT * FROM collections WHERE slug = ?", slug)
        assert row is not None
        return _facts(call, row)

    return answer(await in_thread(alone, call.hub, act))


@routes.add("GET", "api/collections")
def listing(call: Call) -> Response:
    """List the collections of an owner, or all that the caller may see."""
    query = call.request.query_params
    owners = [name.lower() for name in query.getlist("owner")]
    wanted = [name.partition("/")[2] for name in query.getlist("item")]
    matches = []
    for row in call.hub.index.all("SELECT * FROM collections ORDER BY updated DESC"):
        mine = call.account is not None and call.account.owns(row["namespace"])
        if (row["private"] and not mine) or (owners and row["namespace"].lower() not in owners):
            continue
        collection = _facts(call, row)
        if not wanted or {entry["id"] for entry in collection["items"]} & set(wanted):
            collection.pop("position")  # in a list, the client counts itself
            matches.append(collection)
    return answer(matches[: call.number("limit", 100, 1000)])


@routes.add("GET", _ONE)
def one(call: Call) -> Response:
    """Return a collection."""
    return answer(_facts(call, _row(call)))


@routes.add("PATCH DELETE", _ONE)
async def change(call: Call) -> Response:
    """Change or remove a collection."""
    payload = await call.json()

    def act() -> dict[str, Any]:
        row = _row(call, write=True)
        if call.request.method == "DELETE":
            call.hub.index.run("DELETE FROM collections WHERE slug = ?", row["slug"])
            return {}
        data = json.loads(row["data"])
        for key in ("title", "description", "theme"):
            if payload.get(key) is not None:
                data[key] = text_of(payload[key], key, 2000)
        private = payload.get("private")
        if private not in (None, True, False):
            raise bad('"private" must be true or false')
        _save(call, row, data, private)
        slug = _slug(row["namespace"], data["title"], row["slug"].rpartition("-")[2])
        call.hub.index.run("UPDATE collections SET slug = ? WHERE slug = ?", slug, row["slug"])
        return {"success": True, "data": _facts(call, _row(call))}

    return answer(await in_thread(alone, call.hub, act))


@routes.add("POST", _ONE + "/items")
async def add(call: Call) -> Response:
    """Add a repository to a collection."""
    payload = await call.json()
    item = object_of(payload.get("item"), "item")
    kind = kind_of(item.get("type"))
    namespace, _, name = text_of(item.get("id"), "id", 200).partition("/")
    note = text_of(payload.get("note") or "", "note", 2000)

    def act() -> dict[str, Any]:
        row = _row(call, write=True)
        repository = call.hub.find(Name(kind, namespace, name), call.account)
        data = json.loads(row["data"])
        entry = {
            "_id": secrets.token_hex(12),
            "id": f"{repository['namespace']}/{repository['name']}",
            "type": item.get("type") or "model",
            "note": note,
        }
        if any((e["id"], e["type"]) == (entry["id"], entry["type"]) for e in data["items"]):
            raise Refused(409, f"{entry['id']} is in the collection already")
        if len(data["items"]) >= _MOST_ITEMS:
            raise Refused(413, f"a collection may hold {_MOST_ITEMS} items")
        data["items"].append(entry)
        _save(call, row, data)
        return _facts(call, _row(call))

    return answer(await in_thread(alone, call.hub, act))


def _place(position: Any, most: int) -> int:
    if isinstance(position, bool) or not isinstance(position, int):
        raise bad(f'"position" must be a whole number, from 0 to {most}')
    return max(0, min(position, most))


@routes.add("PATCH DELETE", _ONE + "/items/{item}")
async def change_item(call: Call) -> Response:
    """Change the note of an item or its place, or remove it."""
    payload = await call.json()

    def act() -> None:
        row = _row(call, write=True)
        data = json.loads(row["data"])
        items = [item for item in data["items"] if item["_id"] == call.parameters["item"]]
        if not items:
            raise Refused(404, "no such item")
        rest = [item for item in data["items"] if item is not items[0]]
        if call.request.method == "DELETE":
            data["items"] = rest
        else:
            if payload.get("note") is not None:
                items[0]["note"] = text_of(payload["note"], "note", 2000)
            if payload.get("position") is not None:
                rest.insert(_place(payload["position"], len(rest)), items[0])
                data["items"] = rest
        _save(call, row, data)

    await in_thread(alone, call.hub, act)
    return answer({"success": True})
