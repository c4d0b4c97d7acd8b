"""Refs: three forms, and nothing guessed."""

from pathlib import Path

import pytest

from zoo.errors import MismatchError
from zoo.registry.refs import NameRef, PathRef, RepoRef, parse


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("sesr-m5-x2", NameRef("sesr-m5-x2")),
        ("sesr-m5-x2.bsds", NameRef("sesr-m5-x2", "bsds")),
        ("kws.speech-commands", NameRef("kws", "speech-commands")),
        ("org/repo", RepoRef("org/repo")),
        ("Org/Repo_1.0", RepoRef("Org/Repo_1.0")),
        ("org/repo@main", RepoRef("org/repo", "main")),
        ("org/repo@refs/pr/1", RepoRef("org/repo", "refs/pr/1")),
        ("./~root", PathRef(Path("~root"))),
        ("./runs/a", PathRef(Path("runs/a"))),
        ("../a", PathRef(Path("../a"))),
        ("/a/b", PathRef(Path("/a/b"))),
        ("./sesr-m5-x2", PathRef(Path("sesr-m5-x2"))),
        ("C:\\runs", PathRef(Path("C:\\runs"))),
        (".\\runs", PathRef(Path(".\\runs"))),
    ],
)
def test_each_form_is_read_as_itself(text, ref):
    assert parse(text) == ref


def test_a_path_object_is_a_path_whatever_it_is_called():
    assert parse(Path("sesr-m5-x2")) == PathRef(Path("sesr-m5-x2"))


def test_a_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    monkeypatch.setenv("USERPROFILE", "/somewhere")
    assert parse("~/a") == PathRef(Path("/somewhere/a"))


def test_the_home_of_a_user_who_does_not_exist_is_refused():
    with pytest.raises(MismatchError, match="'~no-such-user/a' is not a path"):
        parse("~no-such-user/a")


@pytest.mark.parametrize(
    "text",
    ["", " ", "Sésr", "sesr.", ".sesr", "a b", "a/b/c", "org/", "/".join("ab") + "@", "ü/ö", "a\n"],
)
def test_what_fits_no_form_is_refused_with_the_grammar(text):
    with pytest.raises(MismatchError, match="is not a ref; expected name"):
        parse(text)


@pytest.mark.parametrize("thing", [3, None, ["looks-oil"], ("looks-oil", 0.5), {"looks-oil"}])
def test_what_is_no_text_is_refused_with_the_grammar(thing):
    with pytest.raises(MismatchError, match="is not a ref; expected name"):
        parse(thing)


@pytest.mark.parametrize("text", ["runs/sesr", "runs/sesr@main"])
def test_a_repository_that_could_be_a_folder_is_refused_and_both_are_named(
    text, tmp_path, monkeypatch
):
    (tmp_path / "runs" / "sesr").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MismatchError, match=r"reads as a Hub repository.* write \./runs/sesr for"):
        parse(text)
    assert parse("./runs/sesr") == PathRef(Path("runs/sesr"))


def test_capitals_are_shown_the_lower_case():
    with pytest.raises(MismatchError, match=r"type sesr-m5-x2\.bsds"):
        parse("SESR-M5-x2.BSDS")
