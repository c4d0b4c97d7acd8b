"""The walk-throughs of the guide, done: one more recipe, and a family in a package of its own."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from zoo.models.sesr import SESR
from zoo.registry.recipe import Recipe

ACME = Path(__file__).parent / "acme-zoo"


@pytest.fixture(scope="module")
def text() -> str:
    return (Path(__file__).parents[2] / "docs/extend/family.md").read_text(encoding="utf-8")


def blocks(text: str, language: str, section: str) -> list[str]:
    """The fenced blocks of a language in a section, without their indentation."""
    part = text.partition(f"# {section}\n")[2].partition("\n## ")[0]
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", part, re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", code, flags=re.MULTILINE) for indent, code in found]


def test_one_more_size_is_one_row_and_its_golden_lines(text: str, repository: Path):
    (row,) = blocks(text, "python", "One more size of a family")
    (golden,) = blocks(text, "toml", "One more size of a family")
    source = (repository / "zoo/recipes/sesr.py").read_text(encoding="utf-8")
    place = re.search(r'^    _Size\("m11".*\n', source, re.MULTILINE)
    assert place is not None
    names: dict[str, object] = {"__name__": "zoo.recipes.more"}
    changed = source[: place.start()] + f"    {row.strip()},\n" + source[place.start() :]
    module = type(sys)("zoo.recipes.more")
    sys.modules[module.__name__] = module  # where dataclasses look their fields up
    try:
        exec(compile(changed, "more.py", "exec"), vars(module))
    finally:
        del sys.modules[module.__name__]
    names = {recipe.name: recipe for recipe in vars(module)["RECIPES"]}
    typed = tomllib.loads(golden)
    assert set(typed) == {"sesr-m9-x2", "sesr-m9-x4"}
    for name, counts in typed.items():
        recipe = names[name]
        assert isinstance(recipe, Recipe)
        assert recipe.train.steps >= 10_000
        network = SESR(**recipe.args)
        weights = sum(m.weight.numel() for m in network.modules() if hasattr(m, "kernel_size"))
        assert weights == counts["weights"]
        _, _, height, width = recipe.input_shape
        assert round(weights * height * width / 1e9, 2) == counts["gmacs_to_720p"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which the package acme-zoo is installed."""
    folder = tmp_path_factory.mktemp("site")
    project = tomllib.loads((ACME / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (folder / "acme_zoo").symlink_to(ACME / "acme_zoo")
    info = folder / f"acme_zoo-{project['version']}.dist-info"
    info.mkdir()
    facts = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(facts)
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in members.items())
        for group, members in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(groups))
    paths = [str(folder), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


@pytest.fixture(scope="module")
def python(installed: dict[str, str], tmp_path_factory: pytest.TempPathFactory):
    """Run Python with the package installed, all in one folder with its data."""
    folder = tmp_path_factory.mktemp("work")

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, *words], cwd=folder, env=installed, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("-c", "from pathlib import Path; from acme_zoo.trend import trial; trial(Path('data'))")
    return run


def test_a_family_in_a_package_of_its_own(text: str, python):
    (block,) = blocks(text, "sh", "A task of your own")
    commands = [line.partition(" |")[0] for line in block.splitlines() if line.startswith("zoo ")]
    words = [line.replace("'", "").replace("runs/", "").split() for line in commands]
    assert [line[:2] for line in words][:2] == [["zoo", "list"], ["zoo", "train"]]
    said = [python("-m", *line) for line in words]
    listed, trained, judged, ran, cost, _, card = said
    assert "acme-trend" in listed
    assert "held out: accuracy" in trained
    assert float(re.search(r"accuracy: (\S+)", judged)[1]) > 0.9
    assert ran.strip() == "rising"
    assert "(estimated, compute-bound)" in cost
    assert "zoo compress" in card
    assert "--method acme-rounding --places 2" in card


@pytest.mark.slow
def test_its_tab_is_on_the_page(python):
    code = (
        "from zoo.page import app; page = app.build(); "
        "print([b['props'].get('label') for b in page.config['components'] if b['type'] == "
        "'tabitem'])"
    )
    assert "'Trend'" in python("-c", code)


@pytest.mark.slow
def test_the_battery_of_tasks_tries_its_task(python, repository: Path):
    battery = str(repository / "tests/battery/test_tasks.py")
    said = python("-m", "pytest", battery, "-q", "-k", "acme", "-p", "no:cacheprovider",
                  f"--rootdir={repository}", "-c", str(repository / "pyproject.toml"))  # fmt: skip
    assert int(re.search(r"(\d+) passed", said)[1]) >= 5
