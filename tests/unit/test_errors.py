"""What an error tells to type must work where it is read: a checkout, a wheel, a copied folder."""

import importlib.metadata
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from zoo import errors
from zoo.errors import MissingExtraError

SOURCES = [p for p in Path(errors.__file__).parent.rglob("*.py") if p.name != "errors.py"]


def words_of(error: Exception) -> list[str]:
    """The words of the line that an error tells to type."""
    return shlex.split(str(error).partition("; type: ")[2])


def test_in_a_checkout_pip_takes_the_line(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As typed from another folder, but for what would need a network: packages, and `-e`'s."""
    monkeypatch.chdir(tmp_path)
    error = MissingExtraError.of("onnx", "export")
    assert str(error).startswith("onnx is not installed; type: ")
    words = words_of(error)
    assert words[:4] == [sys.executable, "-m", "pip", "install"]
    assert words[4:] == ["-c", f"{repository}/constraints.txt", "-e", f"{repository}[export]"]
    dry = ["--dry-run", "--no-index", "--no-deps", "--no-build-isolation", "--quiet"]
    words.remove("-e")
    done = subprocess.run([*words, *dry], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_in_a_checkout_the_line_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clone = tmp_path / "my clone"
    clone.mkdir()
    for name in ("pyproject.toml", "constraints.txt"):
        (clone / name).touch()
    monkeypatch.setattr(errors, "_ROOT", clone)
    monkeypatch.setattr(errors, "_PINS", clone / "constraints.txt")
    monkeypatch.setattr(sys, "executable", str(clone / ".venv/bin/python"))
    monkeypatch.chdir(clone)
    line = ".venv/bin/python -m pip install -c constraints.txt -e '.[hub]'"
    assert str(MissingExtraError.of("lz4", "hub")) == f"lz4 is not installed; type: {line}"
    assert errors.newer() == "type: git -C . pull"
    monkeypatch.chdir(tmp_path)
    line = "'my clone/.venv/bin/python' -m pip install -c 'my clone/constraints.txt' "
    assert errors.install("lm-eval") == f"{line}lm-eval"
    assert errors.newer() == "type: git -C 'my clone' pull"


@pytest.mark.parametrize("installed", [True, False], ids=["wheel", "copy"])
def test_elsewhere_the_line_names_what_the_extra_requires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    monkeypatch.chdir(tmp_path)  # not above the interpreter: its path is typed whole
    monkeypatch.setattr(errors, "_ROOT", tmp_path)  # as in site-packages: no pyproject.toml
    monkeypatch.setattr(errors, "_PINS", tmp_path / "constraints.txt")
    lines = ["torch>=2.9", "gradio<7,>=6.30; extra == 'serve'", "peft>=0.21; extra == 'serve'",
             "peft>=0.21; extra == 'adapters'"]  # fmt: skip

    def requires(name: str) -> list[str]:
        if not installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return lines

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    words = words_of(MissingExtraError.of("gradio", "serve"))
    wanted = ["gradio<7,>=6.30", "peft>=0.21"] if installed else ["gradio"]
    assert words == [sys.executable, "-m", "pip", "install", *wanted]
    assert "edge-zoo" not in MissingExtraError.of("gradio", "serve").args[0]
    assert errors.newer() == "install a newer wheel of edge-zoo"


def test_nobody_else_writes_such_a_line(repository: Path) -> None:
    """No other place in the code, the cards or the Space tells to install what is not published."""
    texts = [*SOURCES, *(repository / "cards").rglob("*.md"), repository / "README.md",
             *(repository / "spaces").rglob("*.*")]  # fmt: skip
    wrong = re.compile(r"pip install [^\n`]*edge-zoo")
    assert [path for path in texts if wrong.search(path.read_text(encoding="utf-8"))] == []
    assert [p for p in SOURCES if "pip install" in p.read_text(encoding="utf-8")] == []


def test_every_extra_that_an_error_names_exists(repository: Path) -> None:
    import tomllib

    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    calls = [re.findall(r'Error\.of\([^)]*\)?, "(\w+)"\)', p.read_text("utf-8")) for p in SOURCES]
    named = {extra for found in calls for extra in found}
    assert {"adapters", "hub", "serve", "train"} <= named <= set(project["optional-dependencies"])
