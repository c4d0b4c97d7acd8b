"""Members of extension points that are not what they must be: one line each, no traceback."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from zoo import extensions
from zoo.cli import main
from zoo.errors import MismatchError
from zoo.registry import catalogue

Install = Callable[..., None]
Captured = pytest.CaptureFixture[str]
RECIPE = """
from zoo import Recipe, Train
def recipe(**fields):
    return Recipe(**{"name": "acme-one", "summary": "s", "task": "t", "subtask": "t",
        "model": "acme:Net", "args": {}, "input_shape": (1, 16), "preprocessing": {},
        "make": Train(steps=1, batch_size=1, lr=1e-3), "default_tag": "own", "paper": "1",
        **fields})
"""
ESTIMATOR = """
import dataclasses
from zoo.cost.estimators import roofline
SUMMARY, Options, refusal = "s", roofline.Options, roofline.refusal
def estimate(subject, target, options):
    cost = roofline.estimate(subject, target, options)
    return {}
"""
METHOD = '''
from dataclasses import dataclass
SUMMARY, PAPER, TAKES, DATA, TRAINS, PRESETS = "s", "1", "network", "", False, {{}}
@dataclass(frozen=True, kw_only=True)
class Options:
    """How.

    Attributes:
        {name}: it.

    """

    {name}: {hint}
    needs_data, label, summary = False, "acme", "s"
def {function}(source, out, options, **others):
    return 7
'''


def method(name: str = "count", hint: str = "int = 1", function: str = "compress") -> str:
    return METHOD.format(name=name, hint=hint, function=function)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Give a function that installs a package of one module, for one test."""

    def forget() -> None:
        sys.modules.pop("acme", None)
        importlib.invalidate_caches()
        extensions.members.cache_clear()
        catalogue.all_recipes.cache_clear()

    def put(point: str, code: str, name: str = "acme") -> None:
        (tmp_path / "acme.py").write_text(code)
        info = tmp_path / "acme-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{point}]\n{name} = acme\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        forget()

    monkeypatch.chdir(tmp_path)
    yield put
    monkeypatch.undo()
    forget()


def one_line(capsys: Captured, words: tuple[str, ...], *parts: str) -> None:
    """Run a command, which must fail with one line that has these parts."""
    assert main(words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("zoo: ")
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    ("code", "part"),
    [
        ("", "expected zoo.Recipes, or a module with RECIPES"),
        ("RECIPES = None", "holds None; expected zoo.Recipes"),
        ("RECIPES = (1 / 0 for _ in 'a')", "cannot be loaded: ZeroDivisionError"),
        (f"{RECIPE}RECIPES = (recipe(make={{'steps': 1}}),)", "acme-one.make is {'steps': 1}"),
    ],
    ids=["no RECIPES", "None", "raises late", "make is a dict"],
)
@pytest.mark.parametrize("words", [("list",), ("compress", "x", "--out", "y")], ids=["list", "mk"])
def test_recipes(
    install: Install, capsys: Captured, code: str, part: str, words: tuple[str, ...]
) -> None:
    install("zoo.recipes", code)
    one_line(capsys, words, "entry point acme (acme)", part)


@pytest.mark.parametrize(
    ("code", "part"),
    [
        ("", "has no SUMMARY that is a str"),
        (ESTIMATOR.replace("refusal", "refuse", 1), "has no refusal that is a function"),
        (ESTIMATOR, "returned {}; expected a Cost"),
        (ESTIMATOR.replace("{}", "dataclasses.replace(cost, latency_ms=float('nan'))"), "nan as"),
        (ESTIMATOR.replace("{}", "dataclasses.replace(cost, energy_mj=-1.0)"), "-1.0 as energy_mj"),
    ],
    ids=["empty", "no refusal", "no cost", "nan", "negative"],
)
def test_an_estimator(install: Install, capsys: Captured, code: str, part: str) -> None:
    install("zoo.cost.estimators", code)
    words = ("estimate", "sesr-m3-x2", "--target", "ethos-u55-256", "--method", "acme")
    one_line(capsys, words, "estimator 'acme'", part)


@pytest.mark.parametrize(
    ("code", "part"),
    [
        (method(function="squeeze"), "has no compress that is a function"),
        (method(), "returned 7; expected a Compressed"),
        (method(hint="int"), "Options.count has no default"),
        (method(hint='int = "two"'), "the default of Options.count is 'two'; expected int"),
        (method(hint='int = "2"'), "the default of Options.count is '2', which"),
        (method(name="device", hint='str = ""'), "option 'device' of method 'acme'"),
    ],
    ids=["no function", "no result", "no default", "default", "text", "taken flag"],
)
def test_a_compression_method(install: Install, capsys: Captured, code: str, part: str) -> None:
    install("zoo.compression.methods", code)
    words = ("compress", "sesr-m3-x2", "--method", "acme", "--out", "out")
    one_line(capsys, words, part)


@pytest.mark.parametrize(
    ("code", "part"),
    [
        ("ORDER, REQUIRES, CSS, build = 1, {}, '', print", "has no TITLE that is a str"),
        ("TITLE, ORDER, REQUIRES, CSS, build = 't', 'x', {}, '', print", "no ORDER that is a int"),
        ("TITLE, ORDER, REQUIRES, CSS, build = 't', 1, {}, '', [].pop", "cannot be built: Type"),
    ],
    ids=["no title", "order", "raises"],
)
def test_a_tab(install: Install, code: str, part: str) -> None:
    pytest.importorskip("gradio")
    from zoo.page import app

    install("zoo.page.tabs", code)
    with pytest.raises(MismatchError, match=f"^tab 'acme' .*{part}"):
        app.build()


def test_a_name_that_is_no_name(install: Install) -> None:
    install("zoo.page.tabs", "", name="a/b c")
    with pytest.raises(MismatchError, match=r"^entry point 'a/b c' \(acme\) of zoo.page.tabs"):
        extensions.names("zoo.page.tabs")


@pytest.mark.parametrize(
    ("point", "module", "finder", "part"),
    [
        ("zoo.adapters.methods", "zoo.adapters.methods.contract", "method", "budget"),
        ("zoo.quantization.grids", "zoo.quantization.grids", "find", "make"),
        ("zoo.quantization.solvers", "zoo.quantization.solvers", "find", "solve"),
    ],
)
def test_a_member_without_its_function(
    install: Install, point: str, module: str, finder: str, part: str
) -> None:
    install(point, "")
    with pytest.raises(
        MismatchError, match=f"'acme' has no {part} that is a function; see {point}"
    ):
        getattr(importlib.import_module(module), finder)("acme")


def test_a_package_of_a_package_that_is_not_there() -> None:
    from zoo.page.tabs.contract import missing

    assert "no_such.part is not installed" in missing({"no_such.part": ""})
