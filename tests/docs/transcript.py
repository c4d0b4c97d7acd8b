"""The README and the guide, read as what a reader would type.

Fenced blocks are steps, played from top to bottom in one folder that looks like a fresh clone:

- `sh` is run by bash, `python` by this interpreter, all of a page in one namespace;
- `text` right after one of them is everything that it prints. `…` stands for anything in a line, a
  line of `…` for any lines; whole numbers must be equal, others within 2 %;
- any other language needs `<!-- file: PATH -->` above it, and is written there.

A comment above a block says what differs: `<!-- slow -->` (played in `make test-slow` alone),
`<!-- not run: why -->`, `<!-- background: PORT -->` (a server; played until it answers there),
`<!-- slow, background: PORT -->` (both).
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(
    r"(?:^ *<!-- (?P<comment>[^\n]*?) -->\n(?:\n)?)?"
    r"^(?P<indent> *)```(?P<language>[a-z]*)\n(?P<code>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)
_NUMBER = re.compile(r"\d+(?:,\d{3})+(?!\d)|\d+\.\d+(?:e[-+]?\d+)?|\d+e[-+]\d+|\d+")


@dataclass(frozen=True)
class Step:
    """A block of a page.

    Attributes:
        line: of the page, where the block starts.
        said: what it prints; None where the page does not show it.
        not_run: why it is not; empty if it is.
        port: of the server that it starts; None for what ends by itself.
        file: where it is written to; empty for what is run.

    """

    line: int
    language: str
    code: str
    said: str | None = None
    slow: bool = False
    not_run: str = ""
    port: int | None = None
    file: str = ""


def pages() -> list[Path]:
    """Return the README and all pages of the guide."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def steps(text: str) -> list[Step]:
    """Return the blocks of a page in order."""
    found: list[Step] = []
    end = 0
    for block in _BLOCK.finditer(text):
        code = re.sub(rf"^{block['indent']}", "", block["code"], flags=re.MULTILINE)
        step = Step(text[: block.start("language")].count("\n") + 1, block["language"], code)
        if step.language == "text" and found and not text[end : block.start()].strip():
            found[-1] = replace(found[-1], said=code)
        else:
            found.append(_as_told(step, block["comment"] or ""))
        end = block.end()
    return found


def _as_told(step: Step, comment: str) -> Step:
    kind, _, value = comment.removeprefix("slow, ").partition(": ")
    step = replace(step, slow=comment.startswith("slow, "))
    if kind == "slow":
        return replace(step, slow=True)
    if kind == "not run" and value:
        return replace(step, not_run=value)
    if kind == "background":
        return replace(step, port=int(value))
    if kind == "file" and value:
        return replace(step, file=value)
    return step


def differs(expected: str, printed: str) -> str | None:
    """Return how a block's output differs from the page; None if it does not."""
    pattern, numbers = "", []
    for line in expected.rstrip("\n").splitlines(keepends=True):
        if line.strip() == "…":
            pattern += r"(?:[^\n]*\n)*?"
            continue
        end = 0
        for number in _NUMBER.finditer(line):
            pattern += _literal(line[end : number.start()]) + f"({_NUMBER.pattern})"
            numbers.append(number[0])
            end = number.end()
        pattern += _literal(line[end:])
    match = re.fullmatch(pattern.rstrip("\n") + r"\n?", printed)
    if match is None:
        return f"expected:\n{expected}\nprinted:\n{printed}"
    for typed, seen in zip(numbers, match.groups(), strict=True):
        if not _same(typed, seen):
            return f"{typed} on the page, {seen} printed:\n{printed}"
    return None


def _literal(text: str) -> str:
    return "[^\n]*?".join(re.escape(part) for part in text.split("…"))


def _same(typed: str, seen: str) -> bool:
    if typed.replace(",", "").isdigit():  # a count
        return typed == seen
    return abs(float(typed) - float(seen)) <= 0.02 * abs(float(typed))
