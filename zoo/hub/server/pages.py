"""The plain web pages: a list of repositories, a rendered card, a tree of files.

Cards come from strangers. Markdown is rendered without raw HTML and without schemes that run
anything, and the pages allow no script at all.
"""

import datetime
import html
import json
import re
from urllib.parse import quote

from markdown_it import MarkdownIt
from starlette.responses import HTMLResponse, Response

from zoo.hub.server import cards
from zoo.hub.server.call import KINDS, Call, Routes
from zoo.hub.server.common import Refused
from zoo.hub.server.trees import files_facts

routes = Routes()
_CSP = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#8882;--link:#06c}
@media(prefers-color-scheme:dark){:root{--link:#6bf}}
body{font:16px/1.55 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:1rem}
a{color:var(--link);text-decoration:none}a:hover{text-decoration:underline}
header{display:flex;gap:1.2rem;align-items:baseline;border-bottom:1px solid var(--line);
padding-bottom:.6rem;margin-bottom:1rem;flex-wrap:wrap}header b{font-size:1.2rem}
input{font:inherit;padding:.25rem .5rem;border:1px solid var(--line);border-radius:.3rem}
table{border-collapse:collapse;width:100%;display:block;overflow-x:auto}
th,td{text-align:left;padding:.35rem .7rem .35rem 0;border-bottom:1px solid var(--soft)}
td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
pre{background:var(--soft);padding:.8rem;border-radius:.4rem;overflow-x:auto}
code{font-size:.9em}.tag{background:var(--soft);border-radius:1rem;padding:.05rem .6rem;
font-size:.8rem;margin-right:.3rem;white-space:nowrap}img{max-width:100%}.dim{opacity:.7}
"""
_ABSOLUTE = re.compile(r"[a-z][a-z0-9+.-]*:|/", re.IGNORECASE)
_markdown = MarkdownIt("commonmark", {"html": False}).enable("table")


def _page(title: str, body: str) -> Response:
    nav = "".join(f'<a href="/{kind}">{kind}</a>' for kind in KINDS)
    text = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<style>{_STYLE}</style><header><b><a href="/">zoo hub</a></b>{nav}</header>{body}</html>'
    )
    headers = {"Content-Security-Policy": _CSP, "Cache-Control": "no-store"}
    return HTMLResponse(text, headers=headers)


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _tags(tags: list[str]) -> str:
    return "".join(f'<span class="tag">{html.escape(tag)}</span>' for tag in tags)


@routes.add("GET", "", "{kind}")
def listing(call: Call) -> Response:
    """List what the caller may see; a search narrows it."""
    kind, query = call.parameters["kind"], call.request.query_params.get("search", "")[:200]
    words, rows = query.lower().split(), []
    for row in call.hub.index.all(
        "SELECT * FROM repos WHERE kind = ? ORDER BY modified DESC LIMIT 10000", kind
    ):
        name, tags = f"{row['namespace']}/{row['name']}", json.loads(row["summary"]).get("tags", [])
        text = f"{name} {' '.join(tags)}".lower()
        if not call.hub.may_list(row, call.account) or not all(word in text for word in words):
            continue
        prefix = "" if kind == "models" else f"{kind}/"
        day = datetime.datetime.fromtimestamp(row["modified"], datetime.UTC).strftime("%Y-%m-%d")
        rows.append(
            f'<tr><td><a href="/{prefix}{quote(name)}">{html.escape(name)}</a></td>'
            f"<td>{_tags(tags[:6])}</td><td class=n>{day}</td></tr>"
        )
    form = (
        f'<form><input type="search" name="search" value="{html.escape(query)}" '
        f'placeholder="search {kind}" aria-label="search {kind}"></form>'
    )
    table = "".join(rows[:500])
    head = f"<tr><th>{kind}</th><th>tags</th><th>changed</th></tr>"
    empty = f"<p>No {kind} here that you may see.</p>"
    return _page(f"{kind} - zoo hub", form + (f"<table>{head}{table}</table>" if rows else empty))


def _title(call: Call, sha: str) -> str:
    path, name = call.name.url_path, html.escape(call.name.id)
    revision = quote(call.parameters.get("revision", "main"), safe="")
    return (
        f'<h1><a href="/{quote(path)}">{name}</a></h1><p><a href="/{quote(path)}">card</a> · '
        f'<a href="/{quote(path)}/tree/{revision}">files</a> · '
        f'<span class="dim">commit <code>{sha[:10]}</code></span></p>'
    )


@routes.page("GET", "")
def card(call: Call) -> Response:
    """Show the card."""
    row = call.repo()
    sha = call.revision(row, "refs/heads/main")
    readme = call.hub.text(row, call.hub.git(row).tree(sha).get("README.md"))
    files = f"/{quote(call.name.url_path)}/resolve/main/"
    body = (
        render(cards.body(readme), files) if readme else "<p class=dim>There is no README.md.</p>"
    )
    tags = _tags(json.loads(row["summary"]).get("tags", []))
    return _page(call.name.id, f"{_title(call, sha)}<p>{tags}</p>{body}")


def render(text: str, files: str) -> str:
    """Return Markdown from a stranger as HTML that runs nothing.

    Pictures of the repository are found below the address `files`.
    """
    tokens = _markdown.parse(text)
    for token in tokens:
        for child in token.children or []:
            source = str(child.attrs.get("src", ""))
            if child.type == "image" and not _ABSOLUTE.match(source):
                child.attrs["src"] = files + source.removeprefix("./")
    return str(_markdown.renderer.render(tokens, _markdown.options, {}))


@routes.page("GET", "/tree/{revision}")
@routes.page("GET", "/tree/{revision}/*path")
@routes.page("GET", "/blob/{revision}/*path")
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
    revision = quote(call.parameters["revision"], safe="")
    base = f"/{quote(call.name.url_path)}"
    rows = []
    if folder:
        up = quote(folder.rpartition("/")[0])
        rows.append(f'<tr><td><a href="{base}/tree/{revision}/{up}">..</a></td><td></td></tr>')
    for name in sorted(f for f in folders if f.startswith(start) and "/" not in f[len(start) :]):
        link = f'<a href="{base}/tree/{revision}/{quote(name)}">{html.escape(name)}/</a>'
        rows.append(f"<tr><td>{link}</td><td></td></tr>")
    here = {p: b for p, b in files.items() if p.startswith(start) and "/" not in p[len(start) :]}
    for name, item in files_facts(call.hub, row, here).items():
        shown = html.escape(name[len(start) :])
        link = f'<a href="{base}/resolve/{revision}/{quote(name)}">{shown}</a>'
        rows.append(f'<tr><td>{link}</td><td class="n">{_size(item["size"])}</td></tr>')
    table = f"<table><tr><th>file</th><th>size</th></tr>{''.join(rows)}</table>"
    return _page(f"{call.name.id} files", _title(call, sha) + table)
