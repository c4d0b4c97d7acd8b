"""The web pages: lists of repositories, rendered cards, trees of files, history.

Cards come from strangers. Markdown is rendered without raw HTML and without schemes that run
anything (`rendering`), and the pages allow no script at all. All of them are made by the threads of
one small pool, so that programs are answered however many pages are asked for.
"""

import html
import json
from collections.abc import Iterator
from itertools import islice
from urllib.parse import quote

from starlette.responses import RedirectResponse, Response

from zoo.hub.server.api.trees import LOOK_BACK_S, files_facts
from zoo.hub.server.budget import Budget
from zoo.hub.server.call import Call, Routes
from zoo.hub.server.common import Refused
from zoo.hub.server.store import cards
from zoo.hub.server.store.hub import Row
from zoo.hub.server.web.look import day, link, page, size, tags
from zoo.hub.server.web.rendering import Cards, shown

routes = Routes()
_MOST = 500  # of rows on a page
_cards = Cards()


@routes.add("GET", "login")
def login(call: Call) -> Response:
    """Let the browser ask for a token, as the password of any name, to show private ones too."""
    if call.account is None:
        headers = {"WWW-Authenticate": 'Basic realm="zoo hub: a token as the password"'}
        raise Refused(401, "sign in with a token as the password", headers=headers)
    return RedirectResponse("/", 303)


@routes.add("GET", "", "{kind}", pool="pages")
def listing(call: Call) -> Response:
    """List what the caller may see; a search narrows it."""
    kind, query = call.parameters["kind"], call.request.query_params.get("search", "")[:200]
    found = _found(call, kind, query.lower().split())
    items = [_item(row) for row in islice(found, _MOST + 1)]
    more = f"<p class=dim>The newest {_MOST}; search for others.</p>" if len(items) > _MOST else ""
    empty = f"<p class=dim>No {kind} here that you may see.</p>"
    if call.account is None:
        empty += "<p class=dim>Private ones show up when you sign in.</p>"
    body = f'<div class="list">{"".join(items[:_MOST])}</div>{more}' if items else empty
    return page(call, f"{kind} - zoo hub", body, query=query)


def _found(call: Call, kind: str, words: list[str]) -> Iterator[Row]:
    sql = "SELECT * FROM repos WHERE kind = ? ORDER BY modified DESC LIMIT 10000"
    for row in call.hub.index.all(sql, kind):
        names = json.loads(row["summary"]).get("tags", [])
        text = f"{row['namespace']}/{row['name']} {' '.join(names)}".lower()
        if call.hub.may_list(row, call.account) and all(word in text for word in words):
            yield row


def _item(row: Row) -> str:
    summary, name = json.loads(row["summary"]), f"{row['namespace']}/{row['name']}"
    card = summary.get("card", {})
    prefix = "" if row["kind"] == "models" else f"{row['kind']}/"
    facts = [card.get("pipeline_tag"), card.get("library_name"), row["sdk"]]
    facts += [f"changed {day(row['modified'])}"]
    facts += [f"{row['downloads']} downloads"] if row["downloads"] else []
    known = {card.get("pipeline_tag"), card.get("library_name")}
    rest = [tag for tag in summary.get("tags", []) if tag not in known]
    said = " · ".join(html.escape(str(fact)) for fact in facts if fact)
    return (
        f'<div class="item"><b>{link(f"/{prefix}{quote(name)}", name)}</b>{_badges(row)}'
        f'<div class="dim small">{said}</div>{tags(rest[:6])}</div>'
    )


def _badges(row: Row) -> str:
    said = [("private", row["private"]), ("gated", row["gated"]), ("mirror", row["upstream"])]
    return "".join(f' <span class="badge">{name}</span>' for name, is_so in said if is_so)


def _frame(call: Call, row: Row, tab: str, body: str) -> Response:
    """Return a page of one repository: its title, and the tabs card, files, history."""
    path = f"/{quote(call.name.url_path)}"
    tail = quote(call.parameters.get("revision", "main"), safe="")
    addresses = {
        "card": path, "files": f"{path}/tree/{tail}", "history": f"{path}/commits/{tail}",
    }  # fmt: skip
    tabs = "".join(
        f'<a href="{address}"{" class=here" if name == tab else ""}>{name}</a>'
        for name, address in addresses.items()
    )
    owner, name = html.escape(call.name.namespace), link(path, call.name.name)
    title = f'<h1 class="title"><span class="dim">{owner}/</span>{name}{_badges(row)}</h1>'
    names = tags(json.loads(row["summary"]).get("tags", []))
    whole = f'{title}{names}<nav class="tabs">{tabs}</nav>{body}'
    return page(call, f"{call.name.id} - zoo hub", whole)


@routes.page("GET", "", pool="pages")
def card(call: Call) -> Response:
    """Show the card, and beside it how to get the files."""
    row = call.repo()
    sha = call.revision(row, "refs/heads/main")
    text = _card(call, row, call.hub.git(row).tree(sha).get("README.md"))
    aside = f"<aside>{_use(call)}{_facts(call, row, sha)}</aside>"
    return _frame(call, row, "card", f'<div class="columns"><article>{text}</article>{aside}</div>')


def _card(call: Call, row: Row, blob: str | None) -> str:
    """Return the card as HTML; what was made of a blob once is kept."""
    files = f"/{quote(call.name.url_path)}/resolve/main/"
    made = _cards.get((blob or "", files))
    if made is None:
        readme = call.hub.text(row, blob)
        if not readme or blob is None:
            return "<p class=dim>There is no README.md.</p>"
        made = shown(cards.body(readme), files, f"{files}README.md", call.gone)
        _cards.keep((blob, files), made)
    return made


def _use(call: Call) -> str:
    path = html.escape(call.name.url_path)
    lines = [f"zoo pull {path}", f"git clone {html.escape(call.base)}/{path}"]
    return f"<section><h2>Get it</h2><pre><code>{chr(10).join(lines)}</code></pre></section>"


def _facts(call: Call, row: Row, sha: str) -> str:
    data = json.loads(row["summary"]).get("card", {})
    files = files_facts(call.hub, row, call.hub.git(row).tree(sha))
    base = ", ".join(cards.strings(data.get("base_model")))
    facts = {
        "task": data.get("pipeline_tag"),
        "library": data.get("library_name"),
        "licence": data.get("license_name") or ", ".join(cards.strings(data.get("license"))),
        data.get("base_model_relation") or "base model": f"of {base}" if base else None,
        "files": f"{len(files)}, {size(sum(file['size'] for file in files.values()))}",
        "downloads": row["downloads"] or None,
        "changed": day(row["modified"]),
        "commit": sha[:10],
    }
    rows = "".join(
        f"<dt>{html.escape(str(key))}</dt><dd>{html.escape(str(value))}</dd>"
        for key, value in facts.items()
        if value
    )
    return f'<section class="small"><h2>Facts</h2><dl>{rows}</dl></section>'


@routes.page("GET", "/tree/{revision}", pool="pages")
@routes.page("GET", "/tree/{revision}/*path", pool="pages")
@routes.page("GET", "/blob/{revision}/*path", pool="pages")
def tree(call: Call) -> Response:
    """Show a folder, or for a file the folder that it is in."""
    row, path = call.repo(), call.parameters.get("path", "").strip("/")
    sha = call.revision(row, call.parameters["revision"])
    git = call.hub.git(row)
    files, folders = git.tree(sha), git.folders(sha)
    folder = path.rpartition("/")[0] if path in files else path
    if folder and folder not in folders:
        raise Refused(404, f"no folder {folder!r}", "EntryNotFound")
    start = f"{folder}/" if folder else ""
    inside = sorted(f for f in folders if f.startswith(start) and "/" not in f[len(start) :])
    here = {p: b for p, b in files.items() if p.startswith(start) and "/" not in p[len(start) :]}
    changes = {}
    if len(inside) + len(here) <= _MOST:
        budget, paths = Budget(LOOK_BACK_S, call.gone), {*inside, *here}
        changes = call.hub.touched.last(row["id"], git, sha, folder, paths, budget)

    def line(path: str, address: str, name: str, amount: str = "", mark: str = "") -> str:
        change = changes.get(path)
        title = html.escape(change.title) if change else ""
        when = day(change.time) if change else ""
        return (
            f"<tr><td>{link(address, name)}{mark}</td><td class=what>{title}</td>"
            f'<td class="n dim">{when}</td><td class="n">{amount}</td></tr>'
        )

    revision = quote(call.parameters["revision"], safe="")
    base = f"/{quote(call.name.url_path)}"
    rows = []
    if folder:
        up = f"{base}/tree/{revision}/{quote(folder.rpartition('/')[0])}".rstrip("/")
        rows.append(f'<tr><td colspan="4">{link(up, "..")}</td></tr>')
    for name in inside:
        address = f"{base}/tree/{revision}/{quote(name)}"
        rows.append(line(name, address, name[len(start) :] + "/"))
    for name, file in files_facts(call.hub, row, here).items():
        mark = ' <span class="tag">lfs</span>' if "lfs" in file else ""
        address = f"{base}/resolve/{revision}/{quote(name)}"
        rows.append(line(name, address, name[len(start) :], size(file["size"]), mark))
    where = html.escape(f"{folder}/" if folder else "")
    said = f"<p class=dim>{where} at commit <code>{sha[:10]}</code></p>"
    return _frame(
        call, row, "files", f'{said}<div class="files wide"><table>{"".join(rows)}</table></div>'
    )


@routes.page("GET", "/commits/{revision}", pool="pages")
def history(call: Call) -> Response:
    """Show the newest commits of a revision."""
    row = call.repo()
    sha = call.revision(row, call.parameters["revision"])
    rows = "".join(
        f"<tr><td>{link(f'/{quote(call.name.url_path)}/tree/{commit.sha}', commit.sha[:10])}</td>"
        f"<td>{html.escape(commit.title)}</td><td class=what>{html.escape(commit.author)}</td>"
        f'<td class="n dim">{day(commit.time)}</td></tr>'
        for commit in call.hub.git(row).history(sha, _MOST)
    )
    return _frame(call, row, "history", f'<div class="files wide"><table>{rows}</table></div>')


def refused(call: Call, refusal: Refused) -> Response:
    """Show a person why there is nothing to see."""
    said = {401: "Not here, or not for everybody", 403: "Not for you", 404: "Not here"}
    title = said.get(refusal.status, f"Refused ({refusal.status})")
    more = ""
    if refusal.status == 401:
        more = '<p>If it is yours, <a href="/login">sign in</a> with a token as the password.</p>'
    body = f'<h1 class="title">{title}</h1><p>{html.escape(refusal.message)}</p>{more}'
    return page(call, title, body, status=refusal.status)
