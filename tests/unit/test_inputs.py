"""A loaded network refuses what its recipe does not describe, and is a plain module otherwise."""

import copy
import dataclasses
import io

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

import zoo
from zoo.adapters import Switcher
from zoo.artifacts import adapters as adapter_refs
from zoo.artifacts.inputs import InputCheck, checked
from zoo.errors import MismatchError
from zoo.graph.trace import trace

NAME = "sesr-m3-x2"
REFS = (NAME, "sesr-m5-x2.bsds-int8")
GOOD = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(0))
BAD = {
    "bytes": ((GOOD * 255).to(torch.uint8), r"torch.uint8 \(1, 1, 12, 12\); .* x.float\(\) / 255"),
    "counts": ((GOOD * 255).long(), "torch.int64"),
    "switches": (GOOD > 0.5, "torch.bool"),
    "bytes-as-floats": (GOOD * 255, r"values from \S+ to 25\S+; .* in \[0, 1\]: see .* zoo show"),
    "signed": (GOOD * 2 - 1, r"values from -0\.9\S* to 0\.9"),
    "not-a-number": (GOOD / 0 * 0, "values from nan to nan"),
    "colour": (
        GOOD.expand(1, 3, 12, 12),
        r"\(1, 3, 12, 12\); expected .* \(N, 1, H, W\) .*: it has 3 channels, not 1",
    ),
    "array": (np.zeros((1, 1, 12, 12), np.float32), "is a ndarray; .* torch.from_numpy"),
    "row": (GOOD.flatten()[:1], r"torch.float32 \(1,\); .* it has 1 dimensions, not 4"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("ref", REFS)
def test_a_wrong_input_is_one_clear_line(ref: str, case: str) -> None:
    x, message = BAD[case]
    model = zoo.load(ref)
    for call in (lambda: model(x), lambda: model(y=x) if ref == NAME else model(x=x)):
        with pytest.raises(MismatchError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(f"the input of {ref.split('.')[0]} is ")


@pytest.mark.parametrize("load", [{"adapter": "sesr-m5-x2-text"}, {"pretrained": False}])
def test_however_it_was_loaded(load: dict[str, object]) -> None:
    model = zoo.load("sesr-m5-x2", **load)  # type: ignore[arg-type]
    model(GOOD)
    with pytest.raises(MismatchError, match="float tensor"):
        model(GOOD.byte())


def test_types_of_floats() -> None:
    model = zoo.load(NAME)
    with pytest.raises(MismatchError, match=r"torch.float64 .*: type x.to\(torch.float32\)"):
        model(GOOD.double())
    zoo.load(NAME, dtype="float64")(GOOD.double())
    zoo.load(NAME).bfloat16()(GOOD.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        model(GOOD.bfloat16())
    zoo.load(REFS[1])(GOOD.double())  # rounds whatever it is given


def test_good_inputs_give_what_the_plain_network_gives() -> None:
    model, plain = zoo.load(NAME), zoo.load(NAME)
    plain._forward_pre_hooks.clear()
    for x in (GOOD, GOOD + 0.2, torch.zeros(0, 1, 8, 8)):
        with torch.no_grad():
            assert torch.equal(model(x), plain(x))
    assert list(model.state_dict()) == list(plain.state_dict())


def test_copies_and_pickles_keep_the_check() -> None:
    model = zoo.load(NAME)
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    for other in (copy.deepcopy(model), torch.load(stream, weights_only=False)):
        assert torch.equal(other(GOOD), model(GOOD))
        with pytest.raises(MismatchError):
            other(GOOD * 255)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_tracers_do_not_see_it() -> None:
    model = zoo.load(NAME)
    plain = copy.deepcopy(model)
    plain._forward_pre_hooks.clear()
    assert trace(model, (1, 1, 12, 12)) == trace(plain, (1, 1, 12, 12))
    for strict in (False, True):
        exported, other = (
            torch.export.export(m, (GOOD,), strict=strict).graph_module.code for m in (model, plain)
        )
        assert exported == other
    assert "aminmax" not in str(torch.jit.trace(model, (GOOD,)).graph)
    model.to("meta")(GOOD.to("meta"))


def test_it_compiles_whole_and_types_are_still_checked() -> None:
    model = zoo.load(NAME)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.equal(compiled(GOOD), model(GOOD))
    with pytest.raises((MismatchError, RuntimeError)):
        compiled(GOOD.byte())


def test_adapters_are_switched_as_before() -> None:
    model = zoo.load("sesr-m5-x2")
    before = model(GOOD)
    switcher = Switcher(model)
    switcher.register("text", adapter_refs.adapter("sesr-m5-x2-text"))
    switcher.activate("text")
    assert torch.equal(model(GOOD), zoo.load("sesr-m5-x2", adapter="sesr-m5-x2-text")(GOOD))
    with pytest.raises(MismatchError):
        model(GOOD.byte())
    switcher.deactivate()
    assert torch.equal(model(GOOD), before)


def test_where_values_cannot_be_read_the_range_is_left_open() -> None:
    check, module = InputCheck("a", (1, 1, 8, 8), (0.0, 1.0)), nn.Identity()
    check(module, (torch.empty(1, 1, 8, 8, device="meta"),), {})
    with FakeTensorMode():
        check(module, (torch.full((1, 1, 8, 8), 255.0),), {})
    torch.func.vmap(lambda x: check(module, (x,), {}) or x)(GOOD[None])
    assert not check.looked
    check(module, (GOOD,), {})
    assert check.looked


def test_a_recipe_without_a_range_is_not_checked() -> None:
    recipe = zoo.find(NAME)
    for preprocessing, hooks in (({"range": [0, 1]}, 1), ({"channel": "y"}, 0)):
        changed = dataclasses.replace(recipe, preprocessing=preprocessing)
        assert len(checked(nn.Identity(), changed)._forward_pre_hooks) == hooks
    for wrong in ("wide", [0, 1, 2], [None, 1], 5):
        with pytest.raises(MismatchError, match=r"preprocessing.range .* expected two numbers"):
            checked(nn.Identity(), dataclasses.replace(recipe, preprocessing={"range": wrong}))
