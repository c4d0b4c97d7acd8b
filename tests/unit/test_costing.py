"""What the tab On-device cost computes, without a page."""

from pathlib import Path

import pytest

import zoo
from zoo.errors import MismatchError, UnsafeFileError

costing = pytest.importorskip("zoo.page.costing")
REF = "mlperf-tiny-ad"


@pytest.fixture(scope="module")
def counter():
    return costing.Pricelist()


def test_every_method_of_a_device_answers(counter) -> None:
    *_, last = counter.price(REF, ["ethos-u55-128"])
    found = {cost.method: cost.latency_ms for cost in last.found}
    own = {c.method: c.latency_ms for c in zoo.estimate(REF, ["ethos-u55-128"], method="all")}
    assert found == pytest.approx(own)
    assert last.left == 0
    table = costing.table(last)
    assert all(f">{method}<" in table for method in own)


def test_rows_come_one_by_one_and_are_known_the_second_time(counter, monkeypatch) -> None:
    seen = [(len(p.found), p.left) for p in counter.price(REF, ["stm32f746-216mhz-cmsisnn"])]
    assert seen[0] == (0, seen[0][1])
    assert seen[-1] == (seen[0][1], 0)
    monkeypatch.setattr(costing, "estimate", None)  # would fail
    *_, again = counter.price(REF, ["stm32f746-216mhz-cmsisnn"])
    assert len(again.found) == seen[-1][0]


@pytest.mark.parametrize(("ref", "names", "words"), [
    ("sesr-m99", ["ethos-u55-128"], "no network 'sesr-m99'"),
    (REF, ["ethos-u99"], "no device 'ethos-u99'"),
    (REF, [], "0 devices are chosen"),
    (REF, ["cpu"], "no device 'cpu'"),
])  # fmt: skip
def test_wrong_choices_are_refused(counter, ref: str, names: list[str], words: str) -> None:
    with pytest.raises(MismatchError, match=words):
        list(counter.price(ref, names))


def test_a_file_that_is_none_is_refused_once(counter, tmp_path: Path) -> None:
    file = tmp_path / "wrong.tflite"
    file.write_bytes(b"TFL3" * 20)
    with pytest.raises(UnsafeFileError):
        list(counter.price(file, ["ethos-u55-128"]))


def test_what_does_not_fit_says_so(counter) -> None:
    *_, last = counter.price("micronet-kws-l", ["stm32f446-180mhz-cmsisnn"])
    assert "data-label='Fits'>no<" in costing.table(last)
    assert "exceed" in costing.table(last)


def test_markup_in_a_name_is_text(counter) -> None:
    *_, last = counter.price(REF, ["ethos-u55-128"])
    last.ref = "<script>alert(1)</script>"
    assert "<script>" not in costing.table(last)


def test_what_fits_a_device_is_what_the_command_lists(counter) -> None:
    from zoo.verbs.fitting import fitting

    recipes = [r for r in costing.networks() if r.subtask == "anomaly-detection"]
    own = fitting("stm32f746-216mhz-cmsisnn", recipes)
    found = counter.fits("stm32f746-216mhz-cmsisnn", "anomaly-detection")
    assert [one.recipe.name for one in found] == [one.recipe.name for one in own] != []
    chart = costing.chart(found, "stm32f746-216mhz-cmsisnn")
    assert all(f"data-ref='{one.recipe.name}'" in chart for one in own)
