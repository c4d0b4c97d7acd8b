"""What a network that hears costs on top: its front end, on every target."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

import zoo
from zoo import cost, registry
from zoo.cost.hearing import with_front_end
from zoo.cost.target import FLOATS
from zoo.data import frontends
from zoo.deploy.front_end import counted, write_front_end

RESULT = Path(__file__).parents[2] / "benchmarks/results/front_end_cycles.json"
HEARING = [n for n, r in registry.all_recipes().items() if "front_end" in r.preprocessing]
NPU, M4, M7 = "ethos-u55-256", "stm32f446-180mhz-cmsisnn", "stm32f746-216mhz-cmsisnn"


@pytest.mark.parametrize("name", HEARING)
def test_every_network_that_hears_has_the_row_of_its_c_source(name: str, tmp_path: Path) -> None:
    facts = zoo.find(name).preprocessing
    front = frontends.named(facts["front_end"])
    file = write_front_end(front, tmp_path / "fe.h")
    found = zoo.estimate(name, M4).front_end
    assert found is not None
    assert (found.name, found.table_bytes) == (front.name, file.flash_bytes)
    assert found.operations == found.frames * file.operations
    if "samples" in facts:
        assert front(torch.zeros(1, facts["samples"])).shape[2] == found.frames
    levelled = zoo.find(name).subtask == "keyword-spotting"  # by the clip's largest sample
    kept = 2 * (facts["samples"] if levelled else front.window)
    features = 4 * found.frames * front.width
    assert found.memory_bytes == file.ram_bytes + 4 * front.window + features + kept


@pytest.mark.parametrize("name", [n for n in cost.target_names() if n != "cpu"])
def test_the_time_is_an_interval_where_the_target_has_rates(name: str) -> None:
    target, found = cost.target(name), zoo.estimate("micronet-kws-s", name).front_end
    assert found is not None
    if FLOATS[0] not in target.numbers:
        assert found.latency_ms is None
        assert "not known" in found.obtained["latency_ms"]
        assert "time not known here" in str(found)
        return
    assert found.latency_ms is not None
    slow, fast = (found.operations / target.numbers[f].value for f in FLOATS)
    clock_khz = target.numbers["clock_hz"].value / 1e3
    assert found.latency_ms == pytest.approx((fast / clock_khz, slow / clock_khz))
    assert found.obtained["latency_ms"].startswith("estimated (")
    is_assumed = target.numbers[FLOATS[1]].confidence == "assumed"
    assert ("assumed" in found.obtained["latency_ms"]) == is_assumed


def test_on_the_cpu_at_hand_it_is_run_and_timed() -> None:
    found = zoo.estimate("micronet-kws-s", "cpu").front_end
    assert found is not None
    assert found.latency_ms is not None
    assert 0 < found.latency_ms[0] <= found.latency_ms[1]
    assert found.obtained["latency_ms"].startswith("measured")


def test_rates_of_cortex_m4_hold_what_was_counted() -> None:
    record = json.loads(RESULT.read_text())
    least, most = (cost.target(M4).numbers[name].value for name in FLOATS)
    assert least == pytest.approx(record["least_per_cycle"], abs=5e-4)
    assert most == pytest.approx(record["most_per_cycle"], abs=5e-4)
    assert set(record["front_ends"]) == set(frontends.FRONT_ENDS)
    for name, found in record["front_ends"].items():  # of the source as it is now
        front = frontends.named(name)
        frame = found["counted"]["operations"]
        assert frame == counted(front).operations
        for level in ("Os", "O2"):
            interval = found[level]["least_cycles"], found[level]["most_cycles"]
            assert frame / most * 0.999 <= interval[0] <= interval[1] <= frame / least * 1.001


def test_the_front_end_has_to_fit_beside_the_network() -> None:
    alone = zoo.estimate("micronet-kws-s", M7)
    front = alone.front_end
    assert front is not None
    assert alone.fits
    for number, own, more, word in (
        ("sram_bytes", alone.peak_activation_bytes, front.memory_bytes, "SRAM"),
        ("flash_bytes", alone.weight_bytes, front.table_bytes, "FLASH"),
    ):
        for short in (0, 1):
            device = cost.target(M7)
            size = dataclasses.replace(device.numbers[number], value=own + more - short)
            device = dataclasses.replace(device, numbers={**device.numbers, number: size})
            bare = dataclasses.replace(alone, front_end=None)
            facts = zoo.find("micronet-kws-s").preprocessing
            found = with_front_end(bare, facts, device)
            assert bool(found.fits) == (not short)
            assert len(found.fits.reasons) == short
            assert not short or f"of {word} by 1 B" in found.fits.reasons[0]


def test_it_is_in_json_and_in_a_notebook_and_only_of_what_hears() -> None:
    found = zoo.estimate("mlperf-tiny-sww", M4)
    row = json.loads(json.dumps(found.to_json()))["front_end"]
    assert found.front_end is not None
    assert row["latency_ms"] == list(found.front_end.latency_ms)
    assert "operations of log-mel-wake-word" in found._repr_html_()
    assert found.details[0].startswith("front end log-mel-wake-word: 30 frames, ")
    assert zoo.estimate("mlperf-tiny-ic", M4).front_end is None
    assert zoo.estimate("mlperf-tiny-ic", M4).to_json()["front_end"] is None
    assert zoo.estimate("micronet-kws-s", NPU).to_json()["front_end"]["latency_ms"] is None
