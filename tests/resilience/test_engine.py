"""Flips injected many at a time, against networks that are computed anew with the flip in them."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.small_nets import NAMES, small_net
from zoo.errors import MismatchError
from zoo.resilience.dataflow import MicroBlocks, OutputStationary, WeightStationary
from zoo.resilience.engine import Engine, answers
from zoo.resilience.faults import BITS, faulty_product, flipped
from zoo.resilience.plan import STORED, FaultPlan
from zoo.runtime.integer import IntegerNetwork
from zoo.runtime.integer_products import requantizer

FLOWS = (OutputStationary(4, 4), WeightStationary(4, 4), MicroBlocks())


def plan_of(name, flow, registers=tuple(BITS), count=6, batch=256):
    graph, samples, labels = small_net(name)
    engine = Engine(graph, samples[:count], batch)
    return FaultPlan(engine, flow, registers, [1.0] * len(engine.layers), labels[:count].numpy())


def matrices(layer, x):
    """A layer's operands by PyTorch's own gathering: (products, positions, depth)."""
    if layer.op.kind == "fully_connected":
        return x.reshape(1, -1, layer.shape.depth).numpy().astype(np.int64)
    top, bottom, left, right = layer.op.attributes["padding"]
    image = F.pad(x.permute(0, 3, 1, 2).double(), (left, right, top, bottom), value=layer.zero)
    groups = layer.shape.products
    height = width = round((layer.shape.depth / (image.shape[1] // groups)) ** 0.5)
    columns = F.unfold(image, (height, width), stride=layer.op.attributes["stride"])
    split = columns[0].reshape(groups, image.shape[1] // groups, height * width, -1)
    return split.permute(0, 3, 2, 1).reshape(groups, -1, layer.shape.depth).numpy().astype(int)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_flips_are_those_of_a_product_computed_anew(name, flow):
    plan = plan_of(name, flow)
    engine, graph = plan.engine, plan.engine.graph
    dice = np.random.default_rng(1)
    network = IntegerNetwork(graph)
    drawn = plan.drawn(np.full(len(plan.shares), 2), (3,))
    drawn = drawn[dice.permutation(len(drawn))[:60]]
    outcome = plan.tried(drawn)[0]
    assert 5 < outcome.masked.sum() < 55
    for place in range(len(drawn)):
        cell, sample = plan.cells[drawn.cell[place]], int(drawn.sample[place])
        layer = engine.layers[cell.layer]
        live = flow.live(layer.shape, cell.register)
        product, site = divmod(int(drawn.site[place]), live)
        recorded = network.record(small_net(name)[1][sample : sample + 1])
        a = matrices(layer, recorded[layer.op.inputs[0]])
        reach = flow.reach(layer.shape, cell.register, np.array([site]))
        y = np.stack([(m - layer.zero) @ w for m, w in zip(a, layer.stored, strict=True)])
        y[product] = faulty_product(
            a[product], layer.stored[product], layer.zero, cell.register, cell.bit, reach
        )
        y = (y + layer.bias[:, None]).transpose(1, 0, 2).reshape(layer.shape.positions, -1)
        channels = torch.arange(y.shape[1]).expand(y.shape)
        clean = recorded[layer.op.outputs[0]]
        made = requantizer(graph, layer.op)(torch.from_numpy(y), channels).reshape(clean.shape)
        assert bool(outcome.masked[place]) == torch.equal(made, clean)
        held = recorded | {layer.op.outputs[0]: made}
        outputs = network.run_from(layer.step + 1, held)[0]
        assert outcome.answer[place] == answers(outputs)[0]
        flips = plan.flips(cell.layer, cell.register, drawn[place : place + 1])
        traced = engine.trace(layer, flips)
        assert torch.equal(traced.layer, made)
        assert torch.equal(traced.outputs, outputs)


@pytest.mark.parametrize("name", NAMES)
def test_weights_that_are_stored_wrongly_are_another_network(name):
    plan = plan_of(name, None, ("weight",))
    graph, samples, _ = small_net(name)
    drawn = plan.drawn(np.full(len(plan.shares), 2), (5,))
    outcome = plan.tried(drawn)[0]
    for place in range(len(drawn)):
        cell = plan.cells[drawn.cell[place]]
        layer = plan.engine.layers[cell.layer]
        stored = layer.stored.copy()
        size = layer.shape.channels * layer.shape.depth
        product, site = divmod(int(drawn.site[place]), size)
        n, k = divmod(site, layer.shape.depth)
        stored[product, k, n] = flipped(stored[product, k, n], np.int64(cell.bit), 8)
        whole = stored.transpose(0, 2, 1).reshape(-1, layer.shape.depth)
        shape = graph.values[layer.op.inputs[1]].shape
        if layer.op.kind == "depthwise_conv2d":
            whole = whole.T
        values = dict(graph.values) | {layer.op.inputs[1]: whole.reshape(shape).astype(np.int8)}
        other = IntegerNetwork(dataclasses.replace(graph, values=values))
        sample = int(drawn.sample[place])
        assert outcome.answer[place] == answers(other(samples[sample : sample + 1]))[0]


def test_a_stored_byte_is_read_by_all_but_not_by_those_before():
    """A residual block's input is also its skip; a fault in the block leaves it alone."""
    plan = plan_of("residual", None, (STORED,))
    graph, samples, _ = small_net("residual")
    network = IntegerNetwork(graph)
    drawn = plan.drawn(np.full(len(plan.shares), 3), (7,))
    outcome = plan.tried(drawn)[0]
    for place in range(len(drawn)):
        cell, sample = plan.cells[drawn.cell[place]], int(drawn.sample[place])
        layer = plan.engine.layers[cell.layer]
        recorded = network.record(samples[sample : sample + 1])
        changed = recorded[layer.op.inputs[0]].clone()
        flat = changed.view(-1).numpy()
        site = int(drawn.site[place])
        flat[site] = flipped(flat[site : site + 1].astype(np.int64), np.int64(cell.bit), 8)[0]
        held = recorded | {layer.op.inputs[0]: changed}
        expected = answers(network.run_from(layer.step, held)[0])[0]
        assert outcome.answer[place] == expected


def test_flips_are_traced_together_as_alone():
    """In any order of their samples, hidden ones among them."""
    plan = plan_of("convolutions", MicroBlocks())
    drawn = plan.drawn(np.full(len(plan.shares), 4), (2,))
    for register in BITS:
        mine = [i for i, c in enumerate(plan.cells) if (c.layer, c.register) == (1, register)]
        some = drawn[np.flatnonzero(np.isin(drawn.cell, mine))]
        assert np.any(np.diff(some.sample) < 0)
        layer = plan.engine.layers[1]
        whole = plan.engine.trace(layer, plan.flips(1, register, some))
        assert ((whole.held ^ whole.made) != 0).all()
        for i in range(len(some)):
            alone = plan.engine.trace(layer, plan.flips(1, register, some[i : i + 1]))
            assert torch.equal(alone.layer[0], whole.layer[i])
            assert torch.equal(alone.outputs[0], whole.outputs[i])
            assert (alone.held[0], alone.made[0]) == (whole.held[i], whole.made[i])


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_batches_change_nothing(flow):
    found = []
    for batch in (1, 7, 256):
        plan = plan_of("residual", flow, batch=batch)
        outcome = plan.tried(plan.drawn(np.full(len(plan.shares), 6), (1,)))[0]
        found.append((outcome.answer.tolist(), outcome.masked.tolist()))
    assert found[0] == found[1] == found[2]


def test_what_cannot_be_hit_is_refused_in_words(monkeypatch):
    graph, samples, _ = small_net("dense")
    with pytest.raises(MismatchError, match="--samples"):
        Engine(graph, samples[:1].expand(2**25, -1, -1, -1))
    wide = {n: dataclasses.replace(t, dtype="int16") for n, t in graph.tensors.items()}
    with pytest.raises(MismatchError, match="int16"):
        Engine(dataclasses.replace(graph, tensors=wide), samples)
    with pytest.raises(MismatchError, match="expected one of each"):
        Engine(dataclasses.replace(graph, outputs=(graph.outputs[0], graph.outputs[0])), samples)
    monkeypatch.setattr("zoo.runtime.integer.is_batched", lambda graph: False)
    with pytest.raises(MismatchError, match="mixes its samples"):
        Engine(graph, samples)
