"""Figures in a row of cards, as HTML: what the tabs show below their outputs."""

import html
from collections.abc import Iterable


def figures(rows: Iterable[tuple[str, str, str]]) -> str:
    """Return one card for each figure: its title, its value, and how it is known."""
    body = "".join(
        f"<div><dt>{html.escape(title)}</dt><dd><b>{html.escape(value)}</b>"
        f"<span>{html.escape(words)}</span></dd></div>"
        for title, value, words in rows
    )
    return f'<dl class="zoo-facts">{body}</dl>'
