"""Files stay under 400 lines, and functions under 50 without their docstring."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

FILE_LINES, FUNCTION_LINES = 400, 50


def sources(root: Path) -> list[Path]:
    return sorted(p for part in ("zoo", "tests", "benchmarks") for p in (root / part).rglob("*.py"))


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the end; the docstring does not count."""
    lines = (function.end_lineno or 0) - function.lineno + 1
    first = function.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        lines -= (first.end_lineno or 0) - first.lineno + 1
    return lines


def too_long(text: str) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and length(node) > FUNCTION_LINES
        ):
            yield node.name, length(node)


def test_no_file_is_longer_than_one_idea(repository: Path):
    lengths = {
        str(p.relative_to(repository)): len(p.read_text("utf-8").splitlines())
        for p in sources(repository)
    }
    assert len(lengths) > 300
    assert {name: lines for name, lines in lengths.items() if lines > FILE_LINES} == {}


def test_no_function_is_longer_than_a_screen(repository: Path):
    found = {
        f"{p.relative_to(repository)}:{name}": lines
        for p in sources(repository)
        for name, lines in too_long(p.read_text("utf-8"))
    }
    assert found == {}


@pytest.mark.parametrize(("lines", "counted"), [(49, 0), (50, 1)])
def test_the_docstring_does_not_count(lines: int, counted: int):
    body = "\n".join("    pass" for _ in range(lines))
    text = f'def f():\n    """Some.\n\n    More.\n    """\n{body}\n'
    assert len(list(too_long(text))) == counted
