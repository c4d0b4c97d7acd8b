"""Markdown from strangers as HTML that runs nothing, in bounded time, space and output.

The parser is plain Python and has inputs for which it takes much longer than others. So each of
its rules asks, before it works, whether the time is over or the visitor has gone.
"""

import html
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import OptionsDict

from zoo.hub.server.budget import Budget, OverError

MOST_CHARACTERS = 64 * 1024  # of Markdown: twenty screens, a tenth of a second
_MOST_OUTPUT = 2 << 20  # a reference may be used a thousand times: output is not bounded by input
_CPU_S = 0.25
_CACHE_CHARACTERS = 16 << 20
_ABSOLUTE = re.compile(r"[a-z][a-z0-9+.-]*:|/", re.IGNORECASE)

_asked = threading.local()  # has the budget of the rendering that a thread is at


def _within(rule: Callable[..., Any]) -> Callable[..., Any]:
    """Return a rule of the parser that first looks whether it may still work."""

    def checked(*arguments: Any) -> Any:
        _asked.budget.check()
        return rule(*arguments)

    return checked


class _Renderer(RendererHTML):
    """The library's renderer, piece by piece, so that it can stop."""

    def render(
        self, tokens: Sequence[Token], options: OptionsDict, env: MutableMapping[str, Any]
    ) -> str:
        """Return the HTML of a whole text."""
        pieces, size = [], 0
        for i, token in enumerate(tokens):
            inside = token.type == "inline"
            for j in range(len(token.children or [])) if inside else (i,):
                _asked.budget.check()
                among = (token.children or []) if inside else tokens
                rule = self.rules.get(among[j].type)
                made = (
                    rule(among, j, options, env)
                    if rule
                    else self.renderToken(among, j, options, env)
                )
                pieces.append(made)
                size += len(made)
                if size > _MOST_OUTPUT:
                    raise OverError
        return "".join(pieces)


def _table_open(renderer: RendererHTML, tokens: Sequence[Token], at: int, *_: Any) -> str:
    return '<div class="wide"><table>'


def _table_close(renderer: RendererHTML, tokens: Sequence[Token], at: int, *_: Any) -> str:
    return "</table></div>"


def _parser() -> MarkdownIt:
    made = MarkdownIt("commonmark", {"html": False}, renderer_cls=_Renderer).enable("table")
    made.add_render_rule("table_open", _table_open)
    made.add_render_rule("table_close", _table_close)
    for ruler in (made.block.ruler, made.inline.ruler, made.inline.ruler2):
        for rule in ruler.__rules__:
            rule.fn = _within(rule.fn)
        ruler.__cache__ = None  # compiled anew when it is next used
    return made


_markdown = _parser()


def render(text: str, files: str, budget: Budget) -> str:
    """Return Markdown as HTML; pictures of the repository are found below the address `files`.

    Raises:
        OverError: it takes more than the budget has, or gives too much.

    """
    _asked.budget = budget
    tokens = _markdown.parse(text)
    for token in tokens:
        for child in token.children or []:
            source = str(child.attrs.get("src", ""))
            if child.type == "image" and not _ABSOLUTE.match(source):
                child.attrs["src"] = files + source.removeprefix("./")
    return str(_markdown.renderer.render(tokens, _markdown.options, {}))


class Cards:
    """What was rendered, by the blob it was rendered from and the address of its files."""

    def __init__(self) -> None:
        self._made: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def get(self, key: tuple[str, str]) -> str | None:
        """Return what was made."""
        with self._lock:
            if key in self._made:
                self._made.move_to_end(key)
            return self._made.get(key)

    def keep(self, key: tuple[str, str], shown: str) -> None:
        """Keep what was made, in place of what was asked for the longest time ago."""
        with self._lock:
            self._size += len(shown) - len(self._made.pop(key, ""))
            self._made[key] = shown
            while self._size > _CACHE_CHARACTERS:
                self._size -= len(self._made.popitem(last=False)[1])


def shown(text: str, files: str, source: str, gone: threading.Event) -> str:
    """Return a card for people: as far as it goes, and as plain text where it does not go.

    Args:
        text: the Markdown.
        files: the address that the repository's pictures lie under.
        source: the address of the whole text.
        gone: set when the visitor no longer waits; `GoneError` is raised then.

    """
    whole = len(text) <= MOST_CHARACTERS
    if not whole:
        end = text.rfind("\n", MOST_CHARACTERS // 2, MOST_CHARACTERS)
        text = text[: end if end > 0 else MOST_CHARACTERS]
    link = f'<a href="{html.escape(source)}">the whole text</a>'
    more = "" if whole else f"<p class=dim>The rest is too long to be shown here: {link}.</p>"
    try:
        return render(text, files, Budget(_CPU_S, gone)) + more
    except (OverError, RecursionError):
        said = f"<p class=dim>Not shown as a page, for that takes too long: {link}.</p>"
        return f"{said}<pre>{html.escape(text)}</pre>"
