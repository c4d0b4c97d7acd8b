"""Texts by name: files, folders, known sets, data sets of the Hub, and what is said otherwise."""

import gzip
import types

import pytest

import zoo.cache
from zoo.data.texts import NAMES, text_file
from zoo.errors import HubError, MismatchError, MissingExtraError, UnknownNameError

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def on_the_hub(monkeypatch):
    """Return a function that lets the Hub have these rows; it lists what was asked for."""
    import huggingface_hub

    asked = []

    def put(rows):
        table = datasets.Dataset.from_dict(rows)
        monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: None)
        monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: asked.append((a, k)) or table)
        return asked

    return put


def test_a_file_is_itself_and_a_folder_is_its_texts(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("one\n")
    assert text_file(file) == file
    assert text_file("a.txt").read_text() == "one\n"
    (tmp_path / "more" / "deep").mkdir(parents=True)
    (tmp_path / "more" / "b.md").write_text("# two")
    (tmp_path / "more" / "deep" / "c.txt.gz").write_bytes(gzip.compress("drei ß\n\n".encode()))
    (tmp_path / "more" / "model.bin").write_bytes(b"\xff")
    whole = text_file("more")
    assert whole.read_text(encoding="utf-8") == "# two\n\ndrei ß\n"
    assert whole.name == "more"
    assert text_file(tmp_path / "more") == whole
    (tmp_path / "more" / "b.md").write_text("# three")
    assert text_file("more") != whole  # another text, another file
    assert [entry.kind for entry in zoo.cache.entries()] == ["texts", "texts"]


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_set_by_name_is_fetched_once(on_the_hub, name):
    asked = on_the_hub({"text": ["first", "", "third ß"]})
    known = NAMES[name]
    file = text_file(name)
    assert file.read_text(encoding="utf-8") == "first\n\n\n\nthird ß\n\n"
    assert text_file(name) == file
    judged = text_file(name, test=True)
    assert asked == [
        ((known.repo, known.config), {"split": split, "streaming": True})
        for split in (known.train, known.test)
    ]
    assert (file.name, judged.name) == (f"{name}.{known.train}", f"{name}.{known.test}")


@pytest.mark.parametrize(
    ("source", "call"),
    [
        ("me/words", ("me/words", None, "train")),
        ("me/words:small", ("me/words", "small", "train")),
        ("me/words:small:dev", ("me/words", "small", "dev")),
        ("me/words::dev", ("me/words", None, "dev")),
    ],
)
def test_any_data_set_of_the_hub(on_the_hub, source, call):
    asked = on_the_hub({"id": [1, 2], "content": ["a", "b"]})
    assert text_file(source).read_text() == "a\n\nb\n\n"
    assert asked == [(call[:2], {"split": call[2], "streaming": True})]


def test_a_huge_set_is_read_as_far_as_needed(on_the_hub, monkeypatch):
    monkeypatch.setattr("zoo.data.texts.MOST", 10)
    on_the_hub({"text": ["12345678"] * 100})
    assert text_file("c4").read_text().count("12345678") == 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"image": [1]}, r"columns \['image'\]; expected text in one of text, content"),
        ({"text": []}, "holds no text"),
        ({"text": ["", ""]}, "holds no text"),
    ],
)
def test_sets_without_text(on_the_hub, rows, message):
    on_the_hub(rows)
    with pytest.raises(MismatchError, match=message):
        text_file("me/words")
    with pytest.raises(MismatchError, match=message):  # nothing half written is taken for a text
        text_file("me/words")


def test_without_a_network_the_line_says_what_to_type(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=r"'Salesforce/wikitext' cannot .*--data ./FILE.txt"):
        text_file("wikitext2")


def test_without_the_package(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "datasets", types.ModuleType("datasets"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match="datasets"):
        text_file("wikitext2")


def test_what_is_nowhere(tmp_path):
    with pytest.raises(UnknownNameError, match=r"unknown text 'wikitext'; did you mean wikitext2"):
        text_file("wikitext")
    with pytest.raises(UnknownNameError, match="expected a text file, a folder of them"):
        text_file("a/b/c")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MismatchError, match="holds no text"):
        text_file("empty")
    assert text_file("gone.txt").name == "gone.txt"  # whoever reads it says that it is not there
