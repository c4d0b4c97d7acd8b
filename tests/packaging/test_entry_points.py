"""Recipes of third-party packages, found through the entry-point group `zoo.recipes`."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Install = Callable[..., None]
MODULE = """
import dataclasses
from zoo.recipes import sesr

RECIPES = tuple(
    dataclasses.replace(sesr.RECIPES[0], name=name, model="acme.nets:Tiny") for name in {names}
)
"""


@pytest.fixture
def installed(tmp_path: Path) -> Install:
    """Give a function that puts a package `acme` with the given recipe names on the path."""

    def install(*names: str, value: str = "acme.recipes") -> None:
        package = tmp_path / "acme"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "recipes.py").write_text(MODULE.format(names=names) + "WRONG = (1,)\n")
        info = tmp_path / "acme-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[zoo.recipes]\nacme = {value}\n")

    return install


def python(code: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Run `code` in a new interpreter that also finds what lies in `path`."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("value", ["acme.recipes", "acme.recipes:RECIPES"], ids=["module", "tuple"])
def test_recipes_are_listed_among_our_own(installed: Install, tmp_path: Path, value: str) -> None:
    installed("acme-tiny", "acme-small", value=value)
    code = "import zoo.registry as r; print(*r.names(), r.find('acme-tiny').model)"
    done = python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    *names, model = done.stdout.split()
    assert names[:2] == ["acme-small", "acme-tiny"]
    assert "sesr-m3-x2" in names[2:]
    assert model == "acme.nets:Tiny"


def test_their_models_join_those_that_a_checkpoint_may_name(
    installed: Install, tmp_path: Path
) -> None:
    installed("acme-tiny")
    done = python("import zoo.registry as r; print(*r.importable_models())", tmp_path)
    foreign = [name for name in done.stdout.split() if not name.startswith("zoo.models.")]
    assert foreign == ["acme.nets"]


def test_a_name_that_is_taken_is_an_error_that_names_both(
    installed: Install, tmp_path: Path
) -> None:
    installed("sesr-m5-x2")
    done = python("import zoo.registry as r; r.names()", tmp_path)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("zoo.errors.MismatchError: recipe 'sesr-m5-x2' is defined by")
    assert "zoo.recipes.sesr" in last
    assert "entry point acme (acme.recipes)" in last


def test_an_entry_point_without_recipes_is_an_error_that_names_it(
    installed: Install, tmp_path: Path
) -> None:
    installed("acme-tiny", value="acme.recipes:WRONG")
    done = python("import zoo.registry as r; r.names()", tmp_path)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("zoo.errors.MismatchError: entry point acme (acme.recipes:WRONG)")
