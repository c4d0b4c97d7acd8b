"""Figures in a row of cards, as HTML: what the tabs show below their outputs."""

import html
from collections.abc import Iterable

import torch


def figures(rows: Iterable[tuple[str, str, str]]) -> str:
    """Return one card for each figure: its title, its value, and how it is known."""
    body = "".join(
        f"<div><dt>{html.escape(title)}</dt><dd><b>{html.escape(value)}</b>"
        f"<span>{html.escape(words)}</span></dd></div>"
        for title, value, words in rows
    )
    return f'<dl class="zoo-facts">{body}</dl>'


def progress(done: int, total: int) -> str:
    """Return the HTML that says how far a picture is."""
    words = f"Tile {done:,} of {total:,}" if done < total else "Writing the pictures"
    return (
        f"<p class='zoo-progress' role='status'><progress max='{total}' value='{done}' "
        f"aria-label='tiles done'></progress> {words}…</p>"
    )


def threads() -> str:
    """Return how many threads PyTorch computes with: "1 thread", "2 threads"."""
    count = torch.get_num_threads()
    return f"{count} thread{'s' * (count != 1)}"


def longer(times: float) -> str:
    """Return how much longer something takes: "2.5 times as long", "just as long"."""
    words = f"{times:.3g}"
    return "just as long" if words == "1" else f"{words} times as long"


def duration(milliseconds: float) -> str:
    """Return a time for people, in three digits: "41.2 ms", "1.93 s", "2.1 min"."""
    if milliseconds < 1000:
        return f"{milliseconds:.3g} ms" if milliseconds < 100 else f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1000
    return f"{seconds:.3g} s" if seconds < 100 else f"{seconds / 60:.1f} min"
