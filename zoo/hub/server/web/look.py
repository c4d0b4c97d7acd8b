"""What the web pages share: their frame, their style, and how sizes, days and tags are shown."""

import datetime
import html
from collections.abc import Iterable

from starlette.responses import HTMLResponse, Response

from zoo.hub.server.call import KINDS, Call

# No script at all, nothing from elsewhere, and no page of another site around ours.
_CSP = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect "
    "width='16' height='16' rx='4' fill='%230e7c66'/%3E%3Cpath d='M4 4h8L6 12h6' fill='none' "
    "stroke='white' stroke-width='2'/%3E%3C/svg%3E"
)
_STYLE = """
:root{color-scheme:light dark;--page:#fff;--text:#1d2228;--dim:#626c78;--line:#dfe3e8;
--soft:#f3f5f7;--link:#0b62c4;--accent:#0e7c66}
@media(prefers-color-scheme:dark){:root{--page:#14171b;--text:#e4e7eb;--dim:#98a2ae;
--line:#2c333b;--soft:#1d2227;--link:#6cb2ff;--accent:#4ccfb0}}
*{box-sizing:border-box}
body{font:16px/1.6 system-ui,-apple-system,"Segoe UI",sans-serif;margin:0;color:var(--text);
background:var(--page)}
a{color:var(--link);text-decoration:none}a:hover{text-decoration:underline}
:focus-visible{outline:2px solid var(--link);outline-offset:2px;border-radius:.2rem}
header{border-bottom:1px solid var(--line);background:var(--soft)}
header>div,main{max-width:72rem;margin:0 auto;padding:.7rem 1.2rem}
header>div{display:flex;gap:.4rem 1.3rem;align-items:center;flex-wrap:wrap}
header .logo{font-weight:700;font-size:1.15rem;color:var(--text)}
header .logo em{color:var(--accent);font-style:normal}
header nav{display:flex;gap:1.1rem}header .here{color:var(--text);font-weight:600}
header form{flex:1 1 12rem;max-width:24rem;margin-left:auto}
input{font:inherit;font-size:.95rem;width:100%;padding:.32rem .75rem;color:inherit;
border:1px solid var(--line);border-radius:1rem;background:var(--page)}
main{padding-top:1.4rem;padding-bottom:4rem}
h1,h2,h3{line-height:1.25;margin:1.6em 0 .6em}h1{font-size:1.75rem}h2{font-size:1.3rem}
.title{margin:0 0 .7rem;font-size:1.6rem;overflow-wrap:anywhere}
.title a{color:var(--text)}.title .dim{font-weight:400}
.dim{color:var(--dim)}.small{font-size:.875rem}
.tags{display:flex;flex-wrap:wrap;gap:.3rem;margin:.5rem 0 0}
.tag,.badge{background:var(--soft);border:1px solid var(--line);border-radius:1rem;
padding:0 .6rem;font-size:.8rem;color:var(--text);overflow-wrap:anywhere}
.badge{color:var(--accent);border-color:var(--accent);font-weight:400;vertical-align:middle}
.list{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,26rem),1fr));gap:.8rem}
.item{border:1px solid var(--line);border-radius:.6rem;padding:.8rem 1rem;min-width:0}
.item:hover{border-color:var(--link)}.item b{overflow-wrap:anywhere}
.tabs{display:flex;gap:1.4rem;border-bottom:1px solid var(--line);margin:1.1rem 0 1.4rem}
.tabs a{padding:.35rem 0;color:var(--dim);border-bottom:2px solid transparent}
.tabs .here{color:var(--text);border-color:var(--accent);font-weight:600}
.columns{display:grid;grid-template-columns:minmax(0,1fr) 19rem;gap:2.4rem}
@media(max-width:60rem){.columns{grid-template-columns:minmax(0,1fr);gap:1.2rem}}
aside h2{font-size:.95rem;margin:0 0 .5rem}aside section{margin-bottom:1.6rem}
dl{display:grid;grid-template-columns:auto 1fr;gap:.15rem 1rem;margin:0}
dt{color:var(--dim)}dd{margin:0;text-align:right;overflow-wrap:anywhere}
.wide{overflow-x:auto;margin:1rem 0}table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.42rem .9rem .42rem 0;border-bottom:1px solid var(--line);
vertical-align:top}th{font-size:.875rem;color:var(--dim);font-weight:600}
th:last-child,td:last-child{padding-right:0}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.files{border:1px solid var(--line);border-radius:.6rem;padding:0 1rem}
.files tr:last-child td{border:0}.files .what{max-width:22rem;color:var(--dim)}
@media(max-width:40rem){.files .what{display:none}}
pre{background:var(--soft);border:1px solid var(--line);border-radius:.5rem;
padding:.8rem 1rem;overflow-x:auto;line-height:1.45}
code{font:.875em ui-monospace,"SF Mono",Menlo,Consolas,monospace;overflow-wrap:anywhere}
pre code{overflow-wrap:normal}article{overflow-wrap:break-word}
article>:first-child{margin-top:0}img{max-width:100%}
blockquote{margin:1rem 0;padding-left:1rem;border-left:3px solid var(--line);color:var(--dim)}
"""


def page(call: Call, title: str, body: str, *, query: str = "", status: int = 200) -> Response:
    """Return a page with the head that all of them have."""
    kind = call.parameters.get("kind", "models")
    links = "".join(
        f'<a href="/{name}"{" class=here" if name == kind else ""}>{name}</a>' for name in KINDS
    )
    if call.account:
        who = f'<span class="dim small">{html.escape(call.account.user)}</span>'
    else:
        who = '<a class="small" href="/login">sign in</a>'
    text = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<link rel="icon" href="{ICON}"><style>{_STYLE}</style>'
        '<header><div><a class="logo" href="/">zoo <em>hub</em></a>'
        f'<nav>{links}</nav><form action="/{kind}"><input type="search" name="search" '
        f'value="{html.escape(query)}" placeholder="search {kind}" aria-label="search {kind}">'
        f"</form>{who}</div></header><main>{body}</main></html>"
    )
    headers = {"Content-Security-Policy": _CSP, "Cache-Control": "no-store"}
    return HTMLResponse(text, status, headers)


def size(count: float) -> str:
    """Return a number of bytes for people."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def day(seconds: float) -> str:
    """Return a time as its day."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d")


def tags(names: Iterable[str]) -> str:
    """Return tags in a row that wraps."""
    shown = "".join(f'<span class="tag">{html.escape(name)}</span>' for name in names)
    return f'<div class="tags">{shown}</div>' if shown else ""


def link(address: str, text: str) -> str:
    """Return a link to a quoted path of this hub; `text` is not HTML yet."""
    return f'<a href="{html.escape(address)}">{html.escape(text)}</a>'
