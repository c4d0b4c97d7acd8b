"""The registry: found by being there, no name twice, near misses shown."""

import dataclasses
from types import SimpleNamespace

import pytest

import zoo
from zoo import registry
from zoo.errors import MismatchError, UnknownNameError
from zoo.registry import all_recipes, find, importable_models, names, shipped_tags


class Point(SimpleNamespace):
    """An entry point of an installed package."""

    name, value = "theirs", "their_package.recipes"

    def load(self):
        return self.content


@pytest.fixture
def installed(monkeypatch):
    """Let packages with these recipes be installed."""

    def install(*contents):
        points = [Point(content=content) for content in contents]
        monkeypatch.setattr("importlib.metadata.entry_points", lambda group: points)
        all_recipes.cache_clear()

    yield install
    monkeypatch.undo()
    all_recipes.cache_clear()


def test_all_eleven_sesr_are_there_in_name_order():
    found = names("sesr-*")
    ten = [f"sesr-{m}-x{s}" for m in ("m3", "m5", "m7", "m11", "xl") for s in (2, 4)]
    # m7 before m11
    assert [name for name in found if "relu" not in name] == ["sesr-m2-x2", *ten]
    assert [find(name).name for name in found] == found
    assert names("sesr-m[35]-x2") == ["sesr-m3-x2", "sesr-m5-x2"]
    assert names("nothing-*") == []
    assert names() == list(all_recipes())
    assert zoo.find("sesr-m5-x2") is find("sesr-m5-x2")


def test_the_registry_cannot_be_changed_by_accident():
    with pytest.raises(TypeError):
        all_recipes()["mine"] = find("sesr-m5-x2")


@pytest.mark.parametrize(
    ("name", "guess"),
    [("sesr-m5-x3", "sesr-m5-x2"), ("sesrm5x2", "sesr-m5-x2"), ("sesr-xl", "sesr-xl-x")],
)
def test_a_near_miss_is_shown(name, guess):
    with pytest.raises(UnknownNameError) as caught:
        find(name)
    assert f"unknown recipe {name!r}; did you mean" in str(caught.value)
    assert guess in str(caught.value)
    assert "zoo list" in str(caught.value)


def test_a_name_like_nothing_gets_no_guess():
    with pytest.raises(LookupError, match="unknown recipe 'qqqq' "):
        find("qqqq")


@pytest.mark.parametrize("as_module", [False, True], ids=["tuple", "module"])
def test_an_installed_package_adds_recipes_and_their_models(installed, as_module):
    theirs = dataclasses.replace(
        find("sesr-m5-x2"), name="their-net", model="their_package.nets:Net"
    )
    installed(SimpleNamespace(RECIPES=(theirs,)) if as_module else (theirs,))
    assert find("their-net") is theirs
    assert theirs.family == "nets"
    assert "their_package.nets" in importable_models()
    assert "sesr-m5-x2" in names()


def test_a_name_defined_twice_is_an_error_that_names_both(installed):
    installed((find("sesr-m5-x2"),))
    with pytest.raises(MismatchError) as caught:
        names()
    for part in ("'sesr-m5-x2'", "zoo.recipes.sesr", "entry point theirs (their_package.recipes)"):
        assert part in str(caught.value)


def test_an_entry_point_that_holds_no_recipes_is_named(installed):
    installed(("a string",))
    with pytest.raises(MismatchError, match=r"entry point theirs .* holds 'a string'"):
        names()


def test_only_complete_folders_count_as_shipped(tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.registry.catalogue.WEIGHTS", tmp_path)
    assert shipped_tags("sesr-m5-x2") == []
    for name in ("sesr-m5-x2.b", "sesr-m5-x2.a", "sesr-m5-x22.c", "sesr-m5-x2.unfinished"):
        (tmp_path / name).mkdir()
        if not name.endswith("unfinished"):
            (tmp_path / name / "config.json").write_text("{}")
    assert shipped_tags("sesr-m5-x2") == ["a", "b"]


def test_an_entry_point_that_cannot_be_imported_is_named(monkeypatch):
    def load():
        raise ImportError("No module named 'their_missing_piece'")

    point = SimpleNamespace(name="theirs", value="their_package.recipes", load=load)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: (point,))
    registry.all_recipes.cache_clear()
    try:
        with pytest.raises(
            MismatchError, match=r"entry point theirs .*their_missing_piece.*uninst"
        ):
            names()
    finally:
        registry.all_recipes.cache_clear()
