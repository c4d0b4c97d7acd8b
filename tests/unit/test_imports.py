"""Imports point one way: no circle of modules, imports inside functions included."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import zoo

ROOT = Path(zoo.__file__).parent.parent
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "zoo").rglob("*.py")
}


def imported(node: ast.AST) -> Iterator[str]:
    """The names that a module imports when it runs: not those for type checkers alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from imported(child)


def edges() -> dict[str, set[str]]:
    found = {}
    for module, path in MODULES.items():
        names = imported(ast.parse(path.read_text(encoding="utf-8")))
        homes = (name if name in MODULES else name.rpartition(".")[0] for name in names)
        found[module] = {home for home in homes if home in MODULES and home != module}
    return found


def test_no_module_imports_itself_through_others() -> None:
    below = edges()
    assert below["zoo.cli"] > {"zoo.api", "zoo.commands"}
    graphlib.TopologicalSorter(below).prepare()  # a CycleError names the circle
