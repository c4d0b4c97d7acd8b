"""The tab Zoo, without a page: what is found, and its card."""

import pytest

from zoo import registry
from zoo.adapters import registry as adapters
from zoo.errors import MismatchError, UnknownNameError

shelving = pytest.importorskip("zoo.page.shelving")
ALL = ("", shelving.ANY, shelving.ANY, False, False)


@pytest.fixture(scope="module")
def everything():
    return shelving.entries()


def test_all_that_there_is_is_there_once(everything) -> None:
    names = [entry.name for entry in everything]
    assert sorted(names) == sorted([*registry.names(), *adapters.names()])
    assert shelving.matching(everything, *ALL) == everything
    assert all(entry.kind in shelving.KINDS for entry in everything)


@pytest.mark.parametrize(("wanted", "within", "without"), [
    (("X2 sesr", shelving.ANY, shelving.ANY, False, False), "sesr-m5-x2", "sesr-m5-x4"),
    (("", "adapter", shelving.ANY, False, False), "looks-oil", "looks"),
    (("", shelving.ANY, "keyword-spotting", False, False), "micronet-kws-s", "sesr-m5-x2"),
    (("sesr", shelving.ANY, shelving.ANY, True, False), "sesr-m5-x2", "sesr-m11-x4"),
    (("", "network", shelving.ANY, False, True), "looks", "micronet-kws-l"),
])  # fmt: skip
def test_words_and_ticks_narrow_it(everything, wanted, within: str, without: str) -> None:
    found = [entry.name for entry in shelving.matching(everything, *wanted)]
    assert within in found
    assert without not in found
    table = shelving.table(shelving.matching(everything, *wanted), len(everything))
    assert f"{len(found)} of {len(everything)}" in table
    assert table.count("data-ref") == len(found)


def test_nothing_found_says_what_to_do(everything) -> None:
    found = shelving.matching(everything, "no such thing", *ALL[1:])
    assert found == []
    assert "take a word" in shelving.table(found, len(everything))


@pytest.mark.parametrize(("kind", "task", "said"), [
    ("nope", "any", "there is no kind 'nope'; take any, network"),
    ("any", "nope", "there is no task 'nope'; take any, "),
    (3, "any", "there is no kind 3"),
    ("any", None, "there is no task None"),
])  # fmt: skip
def test_a_kind_or_task_that_is_not_there_is_no_empty_table(everything, kind, task, said) -> None:
    with pytest.raises(MismatchError, match=said):
        shelving.matching(everything, "", kind, task, False, False)


def test_each_has_a_card(everything) -> None:
    for entry in everything:
        text = shelving.card(entry.name)
        assert text.startswith("# "), entry.name
        assert "```" in text, entry.name
    with pytest.raises(UnknownNameError):
        shelving.card("sesr-m99")
