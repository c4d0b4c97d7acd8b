"""Information about repositories: one of them, and lists with filters."""

import hashlib
import json
from typing import Any

from starlette.responses import Response

from zoo.hub.server.api.repositories import iso
from zoo.hub.server.api.trees import files_facts
from zoo.hub.server.call import Call, Routes, answer, next_link
from zoo.hub.server.common import Refused, bad
from zoo.hub.server.store.hub import Row

routes = Routes()
# `expand` names what the client asks for, in its spelling; the ids come in any case.
_ALWAYS = {"_id", "id", "modelId"}
_SHORT = _ALWAYS | {"likes", "private", "downloads", "tags", "pipeline_tag", "library_name"}
_SHORT |= {"author", "createdAt", "lastModified", "gated", "sdk"}  # of a list that is not `full`

_WORDS = 100


def facts(call: Call, row: Row) -> dict[str, Any]:
    """Return what the index alone knows about a repository."""
    summary = json.loads(row["summary"])
    card, name = summary.get("card", {}), f"{row['namespace']}/{row['name']}"
    record = {
        "_id": hashlib.sha1(str(row["id"]).encode(), usedforsecurity=False).hexdigest()[:24],
        "id": name,
        "author": row["namespace"],
        "sha": row["head"],
        "private": bool(row["private"]),
        "gated": row["gated"] or False,
        "disabled": False,
        "downloads": row["downloads"],
        "downloadsAllTime": row["downloads"],
        "likes": 0,
        "createdAt": iso(row["created"]),
        "lastModified": iso(row["modified"]),
        "tags": [*summary.get("tags", []), *([row["sdk"]] if row["sdk"] else [])],
        "cardData": card,
    }
    if row["kind"] == "models":
        record |= {
            "modelId": name,
            "pipeline_tag": card.get("pipeline_tag"),
            "library_name": card.get("library_name"),
            "config": summary.get("config") or {},
        }
        if isinstance(card.get("model-index"), list):
            record["model-index"] = card["model-index"]
    if row["kind"] == "spaces":
        record["sdk"] = row["sdk"] or card.get("sdk")
        record["host"] = record["subdomain"] = None
    return record


@routes.repo("GET", "")
@routes.repo("GET", "/revision/{revision}")
def info(call: Call) -> Response:
    """Describe a repository at a revision."""
    row = call.repo()
    git = call.hub.git(row)
    sha = call.revision(row, call.parameters.get("revision", "refs/heads/main"))
    record = facts(call, row) | {"sha": sha, "lastModified": iso(git.revision(sha).time)}
    blobs, total = call.flag("blobs"), 0
    siblings: list[dict[str, Any]] = []
    for path, file in files_facts(call.hub, row, git.tree(sha)).items():
        sibling: dict[str, Any] = {"rfilename": path}
        total += file["size"]
        if blobs:
            sibling |= {"size": file["size"], "blobId": file["oid"]}
            if "lfs" in file:
                lfs = file["lfs"]
                sibling["lfs"] = {
                    "sha256": lfs["oid"],
                    "size": lfs["size"],
                    "pointerSize": lfs["pointerSize"],
                }
        siblings.append(sibling)
    record |= {"siblings": siblings, "usedStorage": total}
    return answer(_expanded(call, record))


def _expanded(call: Call, record: dict[str, Any]) -> dict[str, Any]:
    """Return only what `expand` asks for, if it asks."""
    wanted = set(call.request.query_params.getlist("expand"))
    wanted |= set(call.request.query_params.getlist("expand[]"))
    if not wanted:
        return record
    return {key: value for key, value in record.items() if key in wanted | _ALWAYS}


@routes.add("GET", "api/{kind}")
def repositories(call: Call) -> Response:
    """List the repositories that the caller may see and that pass every filter."""
    query = call.request.query_params
    filters = [part for text in query.getlist("filter") for part in text.split(",") if part]
    words = query.get("search", "").lower().split()
    if len(filters) > _WORDS or len(words) > _WORDS:
        raise bad(f"a search may have {_WORDS} filters and {_WORDS} words")
    kind = call.parameters["kind"]
    matches = []
    for row in call.hub.index.all("SELECT * FROM repos WHERE kind = ?", kind):
        if not call.hub.may_list(row, call.account):
            continue
        record = facts(call, row)
        if _passes(call, record, filters, words):
            matches.append(record)
    key = query.get("sort") or "lastModified"
    keys = {
        "lastModified": "lastModified",
        "last_modified": "lastModified",
        "createdAt": "createdAt",
        "created_at": "createdAt",
        "downloads": "downloads",
        "likes": "likes",
        "trendingScore": "downloads",
        "trending_score": "downloads",
    }
    if key not in keys:
        raise Refused(400, f"cannot sort by {key!r}; known: {', '.join(sorted(keys))}")
    matches.sort(
        key=lambda record: (record[keys[key]], record["id"]), reverse=query.get("direction") != "1"
    )
    skip, limit = call.number("cursor", 0, 10**9), call.number("limit", 1000, 1000) or 1000
    page = matches[skip : skip + limit]
    if not (call.flag("full") or call.flag("cardData")) and "expand" not in query:
        page = [{k: v for k, v in record.items() if k in _SHORT} for record in page]
    more = next_link(call, skip + limit) if len(matches) > skip + limit else None
    return answer([_expanded(call, record) for record in page], headers=more)


def _passes(call: Call, record: dict[str, Any], filters: list[str], words: list[str]) -> bool:
    query = call.request.query_params
    author, task = query.get("author"), query.get("pipeline_tag")
    text = f"{record['id']} {' '.join(record['tags'])}".lower()
    return (
        all(tag in record["tags"] for tag in filters)
        and all(word in text for word in words)
        and (author is None or record["author"].lower() == author.lower())
        and (task is None or record.get("pipeline_tag") == task)
        and ("gated" not in query or bool(record["gated"]) == call.flag("gated"))
    )
