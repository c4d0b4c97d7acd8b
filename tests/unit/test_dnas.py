"""The parts of the differentiable engine, each against what it must equal."""

import dataclasses
import itertools
import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import zoo
from zoo import cost
from zoo.cost.deployed import integer, seeded
from zoo.cost.learned import model
from zoo.cost.learned.features import passes_of
from zoo.errors import MismatchError
from zoo.graph.lower import lower
from zoo.models.forms import training_form
from zoo.nas.dnas import regularisers, selection
from zoo.nas.dnas.costs import Costs
from zoo.nas.dnas.latency import Latency
from zoo.nas.dnas.samplers import SAMPLERS, softmax
from zoo.nas.dnas.splits import Splits, part
from zoo.nas.dnas.supernet import Networks, Supernet, one_hot
from zoo.nas.dnas.ways import Way
from zoo.nas.searchers import dnas
from zoo.nas.spaces import contract
from zoo.registry.checkpoint import build

SMALL: dict[str, dict[str, Any]] = {
    "micronet-kws": {"step": 12, "widest": 60, "pairs": (2, 3, 4)},
    "micronet-ad": {"step": 12, "widest": 60},
    "micronet-vww": {},
    "sesr": {},
    "vit-tiny": {},
    "ran-e": {"keep": tuple(range(2, len(zoo.find("ran-e-ib").args["blocks"])))},
}


def question(name: str) -> Networks:
    space = contract.find(name)
    options = space.Options(**SMALL[name])
    return Networks(space, options, contract.decided(space, options))


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_gives_shares_with_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    logits = torch.tensor([[1.0, 0.0, -1.0], [0.0, 0.0, 2.0]], requires_grad=True)
    weights = SAMPLERS[name](logits, 0.7)
    assert torch.allclose(weights.sum(-1), torch.ones(2))
    (weights * torch.tensor([1.0, 2.0, 4.0])).sum().backward()
    assert logits.grad is not None
    assert (logits.grad != 0).all()


@pytest.mark.parametrize("name", ["straight-through", "binary-gate"])
def test_hard_samples_come_as_often_as_their_probability(name: str) -> None:
    torch.manual_seed(0)
    logits = torch.tensor([1.0, 0.0, -1.0]).expand(20000, 3)
    drawn = SAMPLERS[name](logits, 1.0)
    assert torch.allclose(drawn, drawn.round(), atol=1e-6)
    assert ((drawn > 0.5).sum(-1) == 1).all()
    assert torch.allclose(drawn.mean(0), torch.softmax(logits[0], -1), atol=0.015)


def test_regularisers_are_what_they_say() -> None:
    cost = torch.tensor(50.0, requires_grad=True)
    assert float(regularisers.two_sided(cost, 100.0).detach()) == pytest.approx(np.log(2))
    assert float(regularisers.one_sided(cost, 100.0).detach()) == 0
    assert float(regularisers.one_sided(cost, 25.0).detach()) == pytest.approx(np.log(2))
    assert float(regularisers.indecision(torch.zeros(4, 6))) == pytest.approx(1)
    assert float(regularisers.indecision(torch.eye(6) * 99)) == pytest.approx(0, abs=1e-6)
    soft = regularisers.sharpened(torch.tensor([1.0, 0.0]), 0.0)
    sharp = regularisers.sharpened(torch.tensor([1.0, 0.0]), 1.0)
    assert soft[0] == pytest.approx(1 / (1 + np.exp(-1)))
    assert sharp[0] == pytest.approx(1 / (1 + np.exp(-1 / 0.15)))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 4), st.floats(0.05, 1.2))
def test_a_selection_fits_and_leaves_no_room(
    seed: int, rows: int, options: int, share: float
) -> None:
    dice = np.random.default_rng(seed)
    wishes = dice.normal(size=(rows, options))
    sizes = dice.integers(1, 100, (rows, options)).astype(float)
    budget = share * float(sizes.max(1).sum())
    taken = selection.within(wishes, sizes, budget)
    every = [np.array(o) for o in itertools.product(range(options), repeat=rows)]
    totals = {tuple(o): float(sizes[np.arange(rows), o].sum()) for o in every}
    total = totals[tuple(taken)]
    fits = [o for o in every if totals[tuple(o)] <= budget]
    if not fits:
        assert total == min(totals.values())
        return
    assert total <= budget
    for row, option in itertools.product(range(rows), range(options)):
        larger = taken.copy()
        larger[row] = option
        assert not total < totals[tuple(larger)] <= budget  # no single option still fits
    favourites = wishes.argmax(1)
    if totals[tuple(favourites)] == budget:
        assert (taken == favourites).all()


def test_perturbation_takes_what_is_missed_most() -> None:
    def merit(weights: Any) -> float:  # the second option of both is what matters, not the wish
        return float(3 * weights[0][1] + 2 * weights[1][1] * weights[0][1])

    logits = [torch.tensor([2.0, 0.0, 0.0]), torch.tensor([1.0, 0.5])]
    assert selection.by_perturbation(logits, merit) == [1, 1]


def own_sram(graph: Any) -> int:
    """The most bytes of activations that live at one time, from the graph's lifetimes."""
    spans = graph.lifetimes.items()
    live = [[n for n, (a, b) in spans if a <= m <= b] for m in range(len(graph.ops))]
    return max(sum(graph.tensors[n].bytes("int8") for n in names) for names in live)


@pytest.mark.parametrize("name", SMALL)
def test_costs_of_whole_weights_are_those_of_the_chosen_network(name: str) -> None:
    asked, dice = question(name), random.Random(name)
    costs = Costs(asked)
    for _ in range(2):
        options = [dice.randrange(len(d.values)) for d in asked.open]
        chosen = {d.name: d.values[k] for d, k in zip(asked.open, options, strict=True)}
        recipe = asked.recipe(**chosen)
        graph = lower(build(recipe).eval(), (1, *recipe.input_shape[1:]))
        weights = {
            d.name: one_hot(k, torch.zeros(len(d.values)))
            for d, k in zip(asked.open, options, strict=True)
        }
        found = costs(weights)
        assert float(found.macs) == pytest.approx(graph.macs, rel=1e-5)
        assert float(found.flash_bytes) == pytest.approx(graph.weight_bytes("int8"), rel=1e-5)
        assert float(found.sram_bytes) == pytest.approx(own_sram(graph), rel=1e-5)


def test_costs_have_gradients_that_differences_confirm() -> None:
    asked = question("micronet-kws")
    costs = Costs(asked)
    torch.manual_seed(0)
    logits = [torch.randn(len(d.values), dtype=torch.float64) for d in asked.open]

    def macs(*wishes: Tensor) -> Tensor:
        shares = [torch.softmax(x, -1) for x in wishes]
        names = [d.name for d in asked.open]
        found: Tensor = costs(dict(zip(names, shares, strict=True))).macs / 1e6
        return found

    assert torch.autograd.gradcheck(macs, [x.requires_grad_() for x in logits])


def test_a_learned_latency_is_that_of_the_chosen_network_and_leads_to_it() -> None:
    space = contract.find("micronet-kws")
    options = space.Options(step=8, widest=24, pairs=(1, 2))
    asked = Networks(space, options, contract.decided(space, options))
    target = cost.target("ethos-u55-128")
    latency = Latency(asked, target)
    choice = {"pairs": 1, "stem": 16, "pair 1": 24, "pair 2": 8}
    weights = {
        d.name: one_hot(d.values.index(choice[d.name]), torch.zeros(len(d.values)))
        for d in asked.open
    }
    shape = (recipe := asked.recipe(**choice)).input_shape
    graph = integer(seeded(lambda: build(recipe).eval()), shape)
    cycles = latency.predictor(model.batch([passes_of(graph, target)])).cycles
    exact = 1e3 * float(cycles.detach()) / 500e6
    assert float(latency(weights)) == pytest.approx(exact, rel=1e-5)
    # Half as wide in expectation and half as deep: between, with a gradient to what is faster.
    weights["pairs"] = torch.tensor([0.5, 0.5])
    weights["stem"] = torch.tensor([0.5, 0.5, 0.0], requires_grad=True)
    found = latency(weights)
    found.backward()
    gradient = weights["stem"].grad
    assert gradient is not None
    assert gradient[0] < gradient[1] < gradient[2]
    with pytest.raises(MismatchError, match="none of stm32f746-216mhz-cmsisnn; there are: ethos"):
        Latency(asked, cost.target("stm32f746-216mhz-cmsisnn"))


def test_the_searcher_names_the_costs_of_a_device() -> None:
    names = [dnas._cost(name, None) for name in ("macs", "sram_bytes", "flash_bytes")]
    assert names == ["macs", "sram", "flash"]
    npu = cost.target("ethos-u55-128")
    assert [dnas._cost(name, npu) for name in ("flash_bytes", "latency_ms")] == [
        "encoded", "latency",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["micronet-kws", "sesr", "vit-tiny"])
def test_a_supernet_computes_what_the_chosen_network_does(name: str) -> None:
    asked, dice = question(name), random.Random(1)
    torch.manual_seed(0)
    net = Supernet(asked, softmax).eval()
    whole = net.network.state_dict()
    for value in whole.values():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) - 0.3).abs_()
    for _ in range(2):
        options = net.any(dice)
        recipe = asked.space.recipe(asked.settings, net.choice(options), "chosen")
        chosen = training_form(build(recipe), recipe.train.options).eval()
        for key, value in chosen.state_dict().items():
            value.copy_(whole[key][tuple(slice(n) for n in value.shape)])
        size = recipe.input_shape[1:] if name != "sesr" else (1, 12, 12)
        x = torch.rand(2, *size)
        net.fixed = options
        with torch.no_grad():
            assert torch.allclose(net(x), chosen(x), rtol=1e-4, atol=1e-4)


class Tripled(torch.nn.Module):
    """A candidate that keeps shapes."""

    def forward(self, x: Tensor) -> Tensor:
        return 3 * x


def test_partial_channels_leave_the_others_as_they_are() -> None:
    """PC-DARTS's equation 1: of K channels one is under the choice, and the others pass by it."""
    torch.manual_seed(0)
    net = Supernet(question("ran-e"), softmax, partial=4)
    mixed = net.network.get_submodule("blocks.0")
    mixed.candidates = torch.nn.ModuleList([torch.nn.Identity(), Tripled()])
    net.wishes[0].data.copy_(torch.tensor([0.0, np.log(3.0)]) / 60)  # shares 1/4 and 3/4
    x, seen = torch.rand(2, 16, 5, 5), torch.zeros(16)
    for _ in range(30):
        net.draw()
        ratio = (mixed(x) / x).mean((0, 2, 3))
        chosen = ratio > 1.5
        assert int(chosen.sum()) == 16 // 4
        assert torch.allclose(ratio[chosen], torch.tensor(0.25 + 3 * 0.75))
        assert torch.allclose(ratio[~chosen], torch.tensor(1.0))
        seen += chosen
    assert (seen > 0).all()  # they are drawn anew
    net.fixed = [0] * len(net.decisions)
    net.fix([1] * len(net.decisions))
    assert torch.allclose(mixed(x), 3 * x)  # what is decided acts on all


@pytest.mark.parametrize("kind", ["width", "depth"])
def test_partial_channels_of_widths_and_depths(kind: str) -> None:
    torch.manual_seed(0)
    net = Supernet(question("sesr"), softmax, partial=4)
    decision = next(d for d in net.decisions if d.kind == kind)
    path = decision.layers[-1]
    module = net.network.get_submodule(path)
    before, after = torch.rand(1, 32, 4, 4), torch.rand(1, 32, 4, 4)
    hooks = [h for h in module._forward_hooks.values() if h.place == net.decisions.index(decision)]
    net.draw()
    found = hooks[0](module, (before,), after)
    bypass = after if kind == "width" else before
    passed = (found == bypass).all(3).all(2)[0]
    if kind == "width":  # where every width has the channel, its mask is 1 in any case
        passed[: decision.values[0]] = False
    assert int((~passed).sum()) <= 32 // 4 + (int(decision.values[0]) if kind == "width" else 0)
    assert int((~passed).sum()) > 0


def test_edges_are_normalised_and_give_the_depth() -> None:
    """PC-DARTS's equation 2: what leads to a place is weighed by a softmax of its own."""
    asked = question("sesr")
    torch.manual_seed(0)
    net = Supernet(asked, softmax, edges=True)
    place = next(n for n, d in enumerate(net.decisions) if d.kind == "depth")
    depths = net.decisions[place].values
    assert net.edge_wishes[0].shape == (max(depths), 2)
    net.edge_wishes[0].data.copy_(torch.randn(max(depths), 2) / 60)
    net.draw()
    share = torch.softmax(60 * net.edge_wishes[0], -1)
    layer = net.network.get_submodule(net.decisions[place].layers[-1])
    hook = next(h for h in layer._forward_hooks.values() if h.place == place)
    x, y = torch.rand(1, 8, 3, 3), torch.rand(1, 8, 3, 3)
    wanted = share[-1, 0] * y + share[-1, 1] * x
    assert torch.allclose(hook(layer, (x,), y), wanted)
    # Of a depth all layers up to it are taken, and the ways past the rest.
    every = [share[:d, 0].prod() * share[d:, 1].prod() for d in depths]
    odds = torch.stack(every) / torch.stack(every).sum()
    assert torch.allclose(net.logits()[place].softmax(-1), odds, rtol=1e-4)
    net.fixed = net.widest()
    net.fix(net.fixed)
    assert torch.allclose(hook(layer, (x,), y), y)


def test_twins_learn_from_their_halves_and_are_held_together() -> None:
    """RARTS: L1(w, a) + L2(y, a) + b / 2 |w - y|^2, with the gradients of each part alone."""
    torch.manual_seed(0)
    net = Supernet(question("sesr"), softmax, twin=True).train()
    assert net.twin is not None
    x, target = torch.rand(4, 1, 8, 8), torch.rand(4, 1, 16, 16)
    assert float(net.apart().detach()) == 0
    with torch.no_grad():
        for parameter in net.twin.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    y = net(x)
    losses = [(y[:2] - target[:2]).square().mean(), (y[2:] - target[2:]).square().mean()]
    ours, theirs = list(net.network.parameters()), list(net.twin.parameters())
    net.zero_grad()
    (sum(losses) / 2).backward(retain_graph=True)
    both = [wish.grad.clone() for wish in net.wishes]  # type: ignore[union-attr]
    for own, others, loss in ((ours, theirs, losses[0]), (theirs, ours, losses[1])):
        net.zero_grad()
        loss.backward(retain_graph=True)
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in own)
        assert all(p.grad is None or p.grad.abs().sum() == 0 for p in others)
        for total, wish in zip(both, net.wishes, strict=True):
            total -= wish.grad / 2  # type: ignore[operator]
    assert all(torch.allclose(rest, torch.zeros(()), atol=1e-6) for rest in both)
    net.zero_grad()
    (0.1 / 2 * net.apart()).backward()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a.grad, 0.1 * (a - b).detach())  # type: ignore[arg-type]
        assert torch.allclose(b.grad, 0.1 * (b - a).detach())  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class Numbers:
    train: list[int]
    shares: Any = None


class Listing:
    """A task whose samples are numbers, in order."""

    name = "listing"

    def batch(self, data: Any, recipe: Any, step: int, rows: range, total: int) -> Any:
        drawn = torch.tensor([data.train[row % len(data.train)] for row in rows])
        return drawn, drawn


def test_a_second_split_keeps_wishes_and_weights_apart() -> None:
    data = Numbers(list(range(10)), np.arange(1, 11) / 10)
    way = Way(settle=0.2, wishes_every=2, split=True)
    task: Any = Splits(Listing(), data, lambda step: way.half(step, 10))
    for step in range(10):
        inputs, _ = task.batch(data, None, step, range(6), 6)
        wishes = step >= 2 and step % 2 == 0
        assert set((inputs % 2).tolist()) == {int(wishes)}
    both: Any = Splits(Listing(), data, lambda step: Way(relaxed=0.1).half(step, 10))
    assert (both.batch(data, None, 0, range(6), 6)[0] % 2).tolist() == [0, 0, 0, 1, 1, 1]
    assert both.name == "listing"
    assert part(data, 1).shares.tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    with pytest.raises(MismatchError, match="needs two samples"):
        Splits(Listing(), Numbers([1]), lambda step: 0)
