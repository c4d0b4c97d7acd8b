"""What the Reliability tab shows: flips that are the engine's, hidden ones, and rates."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.errors import MismatchError, MissingWeightsError
from zoo.page import flipped, flipping
from zoo.page.flipping import EACH, REGISTERS, Flip, Rig, faults
from zoo.resilience.faults import BITS
from zoo.resilience.faults import flipped as with_bit
from zoo.runtime.integer import IntegerNetwork

WORDS, PICTURES = "mlperf-tiny-kws.fsdd-int8", "mlperf-tiny-ic.cifar10-int8"


@pytest.fixture(scope="module")
def rig() -> Rig:
    return Rig()


def flips(rig: Rig, ref: str, register: str, count: int = 12) -> list[Flip]:
    """Flips here and there."""
    dice, mounted = np.random.default_rng(0), rig.mounted(ref)
    return [
        rig.flip(
            ref, dice.choice(mounted.examples), dice.choice(mounted.layers), register,
            int(dice.integers(BITS[register])), int(dice.integers(1000)),
        )
        for _ in range(count)
    ]  # fmt: skip


def test_networks_of_integers_alone_are_offered(rig: Rig) -> None:
    assert {WORDS, PICTURES} <= set(rig.shelf)
    assert all(ref.endswith("-int8") for ref in rig.shelf)
    assert not [ref for ref in rig.shelf if "sesr" in ref or "detector" in ref]


@pytest.mark.parametrize("ref", [WORDS, PICTURES])
def test_the_clean_answer_is_that_of_the_command(rig: Rig, ref: str) -> None:
    files = flipping.files(rig.shelf[ref])
    for example, file in files.items():
        found = rig.flip(ref, example, rig.mounted(ref).layers[0], "weight", 0, 0)
        assert found.before == pytest.approx(dict(zoo.run(ref, file).best), abs=1e-6)


@pytest.mark.parametrize("ref", [WORDS, PICTURES])
def test_the_first_example_is_one_that_is_answered_rightly(rig: Rig, ref: str) -> None:
    mounted = rig.mounted(ref)
    likely = zoo.run(ref, flipping.files(rig.shelf[ref])[mounted.first]).best[0][0]
    assert mounted.first.startswith(likely)
    wrong = dataclasses.replace(mounted, examples=tuple("xyz"[: len(mounted.examples)]))
    assert wrong.first == "x"  # where no name tells


@pytest.mark.parametrize("register", REGISTERS)
@pytest.mark.parametrize("ref", [WORDS, PICTURES])
def test_a_flip_shown_is_what_the_engine_computes(rig: Rig, ref: str, register: str) -> None:
    mounted = rig.mounted(ref)
    engine, found = mounted.engine, flips(rig, ref, register)
    network = IntegerNetwork(engine.graph)
    for one in found:
        where, sample = mounted.layers.index(one.layer), mounted.examples.index(one.example)
        layer = engine.layers[where]
        # The rest of the network, computed anew from the map that is shown.
        clean = network.record(_stored(rig, ref)[sample : sample + 1])
        name = layer.op.outputs[0]
        assert np.array_equal(clean[name][0].numpy(), one.clean)
        made = torch.from_numpy(one.faulty).to(clean[name].dtype)[None]
        answer = network.run_from(layer.step + 1, clean | {name: made})[0]
        assert mounted.likely(answer) == pytest.approx(one.after, abs=1e-7)
        signed = register == "accumulator" or layer.signed[REGISTERS.index(register)]
        held = np.array([one.held])
        assert with_bit(held, np.int64(one.bit), BITS[register], signed=signed)[0] == one.made
        assert one.changed <= one.reached
        if not one.changed:
            assert one.after == one.before
    assert {bool(one.changed) for one in found} == {True, False}


def _stored(rig: Rig, ref: str) -> torch.Tensor:
    """The examples as the device stores them, each given to the network by hand."""
    mounted = rig.mounted(ref)
    return mounted.engine.recorded[mounted.engine.graph.inputs[0]]


def test_the_outcome_of_a_trial_is_that_of_the_trace(rig: Rig) -> None:
    """What the heat map counts and what is shown are one computation."""
    mounted = rig.mounted(WORDS)
    plan, dice = mounted.plan("accumulator"), np.random.default_rng(1)
    for number in range(8):
        cell = plan.cells[int(dice.integers(len(plan.cells)))]
        found = rig.flip(WORDS, "two", mounted.layers[cell.layer], "accumulator", cell.bit, number)
        site = np.random.default_rng(number).integers(0, plan.sites(cell), 1)
        drawn = flipping.drawn([plan.cells.index(cell)], [mounted.examples.index("two")], site)
        outcome = plan.tried(drawn)[0]
        assert bool(outcome.masked[0]) == (found.changed == 0)
        assert mounted.network.labels[int(outcome.answer[0])] == found.answers[1]


def test_the_same_place_is_the_same_flip(rig: Rig) -> None:
    layer = rig.mounted(WORDS).layers[2]
    first, again, other = (
        rig.flip(WORDS, "seven", layer, "activation", 7, place) for place in (3, 3, 4)
    )
    assert np.array_equal(first.faulty, again.faulty)
    assert not np.array_equal(first.faulty, other.faulty)


def test_a_hidden_flip_is_said_to_change_nothing(rig: Rig) -> None:
    layer = rig.mounted(WORDS).layers[0]
    found = rig.flip(WORDS, "seven", layer, "accumulator", 0, 0)
    hidden = dataclasses.replace(found, faulty=found.clean, after=found.before)
    assert "nothing changed" in flipped.words(hidden)
    assert "nothing changed" in flipped.maps(hidden)
    low, high = float(found.clean.min()), float(found.clean.max())
    picture = flipped.drawn(hidden.maps[1], (low, high), hidden.maps[0] != hidden.maps[1])
    assert picture.tobytes() == flipped.drawn(hidden.maps[0], (low, high)).tobytes()


def test_what_changed_is_framed_and_nothing_else() -> None:
    values = np.zeros((4, 5))
    marked = np.zeros((4, 5), bool)
    marked[2, 3] = True
    plain, framed = (flipped.drawn(values, (0, 1), m) for m in (None, marked))
    zoom = plain.width // 5
    apart = (np.asarray(plain) != np.asarray(framed)).any(-1)
    assert apart[2 * zoom : 3 * zoom, 3 * zoom : 4 * zoom].any()
    apart[2 * zoom : 3 * zoom, 3 * zoom : 4 * zoom] = False
    assert not apart.any()
    assert isinstance(plain, Image.Image)


def test_rates_fill_layer_by_layer(rig: Rig) -> None:
    mounted = rig.mounted(WORDS)
    stages = list(rig.rates(WORDS, "weight"))
    assert [int((x.tried > 0).any(1).sum()) for x in stages] == list(range(len(mounted.layers) + 1))
    last = stages[-1]
    assert (last.tried == EACH).all()
    assert last.tried.sum() == faults(mounted, "weight") == last.whole
    assert (last.turned <= last.tried).all()
    assert np.array_equal(list(rig.rates(WORDS, "weight"))[-1].turned, last.turned)
    text = flipped.heat(stages[1])
    assert text.count("<td></td>") == (len(mounted.layers) - 1) * 8  # nothing that was not tried
    assert f"{8 * EACH:,} of {last.whole:,} flips tried" in text


def test_what_is_wrong_is_said_in_words(rig: Rig) -> None:
    layer = rig.mounted(WORDS).layers[0]
    good = {"ref": WORDS, "example": "seven", "layer": layer, "register": "weight", "bit": 7}
    for wrong, message in (
        ({"ref": "x"}, "there is no network 'x'"),
        ({"ref": None}, "there is no network None"),
        ({"example": "cat"}, "there is no example 'cat'; take seven, two"),
        ({"layer": ["a"]}, "there is no layer"),
        ({"register": "cache"}, "take activation, weight, accumulator"),
        ({"bit": 8}, "the bit is 8; expected 0 to 7"),
        ({"bit": 1.5}, "expected a whole number"),
        ({"bit": "one"}, "expected a number"),
        ({"place": -1}, "the place is -1"),
        ({"place": float("nan")}, "the place is nan"),
    ):
        with pytest.raises(MismatchError, match=message):
            rig.flip(**({"place": 0} | good | wrong))
    assert rig.flip(**good, place=None).bit == 7
    with pytest.raises(MismatchError, match="there is no register"):
        next(rig.rates(WORDS, "all"))


def test_without_weights(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr("zoo.registry.catalogue.WEIGHTS", tmp_path)
    with pytest.raises(MissingWeightsError, match="int8"):
        Rig()
