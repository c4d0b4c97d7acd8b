"""The contract of every cost estimator: a new one is tested by being there."""

import contextlib
import dataclasses
import inspect
import json
import shutil

import pytest
import torch
from torch import nn

from zoo import cost
from zoo.cost.pricing import estimator, methods
from zoo.errors import MismatchError
from zoo.graph.lower import lower
from zoo.quantization.int8.post_training import quantize_graph

NAMES = methods()
SHAPE = (1, 3, 16, 16)
WORDS = ("exact", "measured", "estimated", "paper")


@pytest.fixture(scope="module")
def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()


def require(name: str) -> None:
    """Skip a test that wants what an estimator needs, where it cannot be had."""
    if name == "vela":
        pytest.importorskip("ethosu.vela")
    if name == "simulated" and not (shutil.which("valgrind") and shutil.which("cc")):
        pytest.skip("needs valgrind and a C compiler")


def accepted(name: str) -> list[str]:
    """The targets that an estimator takes, the first of each family."""
    taken = [t for t in cost.target_names() if estimator(name).refusal(cost.target(t)) is None]
    return list({target[:7]: target for target in reversed(taken)}.values())


def test_there_are_several():
    assert {"measured", "roofline", "vela"} <= set(NAMES)
    assert "contract" not in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_is(name: str):
    chosen = estimator(name)
    assert chosen.SUMMARY.strip() == chosen.SUMMARY
    assert dataclasses.is_dataclass(chosen.Options)
    with pytest.raises(dataclasses.FrozenInstanceError):
        chosen.Options().anything = 1
    assert inspect.getdoc(chosen.Options)


@pytest.mark.parametrize("name", NAMES)
def test_every_target_is_taken_or_refused_in_words(name: str):
    reasons = [estimator(name).refusal(cost.target(t)) for t in cost.target_names()]
    assert None in reasons
    for target_name, reason in zip(cost.target_names(), reasons, strict=True):
        if reason is not None:
            with pytest.raises(MismatchError, match=target_name):
                cost.estimate(
                    nn.Identity().eval(), cost.target(target_name), method=name, input_shape=SHAPE
                )
            break


@pytest.mark.parametrize("name", NAMES)
def test_its_cost_is_whole_and_says_how_it_was_obtained(name: str, module: nn.Module):
    require(name)
    for target in accepted(name):
        priced = cost.estimate(module, cost.target(target), method=name, input_shape=SHAPE)
        assert (priced.method, priced.target, priced.input_shape) == (name, target, SHAPE)
        assert priced.macs == (3 * 9 * 8 + 8 * 4) * 16 * 16
        assert priced.latency_ms > 0
        assert all(how.split()[0] in WORDS for how in priced.obtained.values())
        json.dumps(priced.to_json(), allow_nan=False)
        assert target in str(priced)


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_is_costed_or_refused_in_words(name: str, module: nn.Module):
    require(name)
    graph = lower(module, SHAPE)
    names = [tensor.name for tensor in graph.tensors.values() if not tensor.is_parameter]
    integers = quantize_graph(graph, dict.fromkeys(names, (-1.0, 1.0)))
    target = cost.target(accepted(name)[0])
    with contextlib.suppress(MismatchError):  # measuring needs a module to run
        assert cost.estimate(integers, target, method=name).macs
        return
    with pytest.raises(MismatchError, match="give the module"):
        cost.estimate(integers, target, method=name)


@pytest.mark.parametrize("name", NAMES)
def test_an_option_it_does_not_have_is_named(name: str, module: nn.Module):
    target = cost.target(accepted(name)[0])
    with pytest.raises(MismatchError, match="sharpness"):
        cost.estimate(module, target, method=name, input_shape=SHAPE, sharpness=3)
