"""Sharpness-aware steps: two passes, the second uphill; what a pass leaves behind, it leaves once.

That two processes train like one is in `test_processes`.
"""

import copy
import json

import pytest
import torch
from torch import nn

from zoo.errors import MismatchError
from zoo.registry.recipe import Train
from zoo.training.updates import SharpnessAware, descent, update_for


class Batch:
    """The passes of a step, over one batch."""

    def __init__(self, network, x, y):
        self.network, self.x, self.y, self.outputs = network, x, y, []

    def backward(self):
        outputs = self.network(self.x)
        self.outputs.append(outputs.detach())
        loss = nn.functional.mse_loss(outputs, self.y)
        loss.backward()
        return loss.detach()


def made(*layers):
    torch.manual_seed(0)
    network = nn.Sequential(*layers)
    return network, Batch(network, torch.randn(16, 6), torch.randn(16, 3))


def test_a_step_takes_the_gradient_uphill():
    network, batch = made(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    uphill, there = copy.deepcopy(network), Batch(None, batch.x, batch.y)
    there.network = uphill
    there.backward()
    parameters = list(uphill.parameters())
    length = torch.cat([p.grad.flatten() for p in parameters]).norm()
    with torch.no_grad():
        for p in parameters:
            p.add_(0.3 * p.grad / length)
            p.grad = None
    there.backward()
    expected = [
        a.detach() - 0.1 * b.grad for a, b in zip(network.parameters(), parameters, strict=True)
    ]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    first = nn.functional.mse_loss(network(batch.x), batch.y)
    assert SharpnessAware(0.3, network)(batch, optimizer) == first
    for ours, theirs in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert all(p.grad is None for p in network.parameters())


def test_weights_come_back_to_the_bit():
    network, batch = made(nn.Linear(6, 3))
    before = copy.deepcopy(network.state_dict())
    SharpnessAware(7.7, network)(batch, torch.optim.SGD(network.parameters(), lr=0.0))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_both_passes_drop_the_same_and_count_the_batch_once():
    network, batch = made(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    plain = copy.deepcopy(network)
    torch.manual_seed(5)
    same = Batch(plain, batch.x, batch.y)
    same.backward()
    random = torch.get_rng_state()
    torch.manual_seed(5)
    update = SharpnessAware(1e-9, network)
    update(batch, torch.optim.SGD(network.parameters(), lr=0.0))
    assert torch.equal(batch.outputs[0], same.outputs[0])
    torch.testing.assert_close(batch.outputs[1], batch.outputs[0])
    ours, theirs = network[1].state_dict(), plain[1].state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    assert network[1].momentum == 0.1
    assert torch.equal(torch.get_rng_state(), random)


def test_a_frozen_or_unused_parameter_stays():
    network, batch = made(nn.Linear(6, 3), nn.Identity())
    network[0].bias.requires_grad_(False)
    before = network[0].bias.clone()
    SharpnessAware(0.1, network)(batch, torch.optim.AdamW(network.parameters(), lr=0.1))
    assert torch.equal(network[0].bias, before)


def test_from_the_command_line_and_resumed(train, read_losses, tmp_path):
    assert train(tmp_path / "plain") == 0
    assert train(tmp_path / "sharp", sharpness=0.5) == 0
    plain, sharp = read_losses(tmp_path / "plain"), read_losses(tmp_path / "sharp")
    assert sharp[1] == plain[1]  # the loss where the step started
    assert sharp[8] != plain[8]
    stored = json.loads((tmp_path / "sharp" / "config.json").read_text())["recipe"]["train"]
    assert stored["sharpness"] == 0.5
    assert (
        "sharpness"
        not in json.loads((tmp_path / "plain" / "config.json").read_text())["recipe"]["train"]
    )


def test_what_does_not_fit_is_refused_by_one_line(train_tiny, tmp_path, capsys):
    assert update_for(Train(steps=1, batch_size=1, lr=1.0), nn.Identity()) is descent
    with pytest.raises(MismatchError, match=r"train\.sharpness is -1"):
        Train(steps=1, batch_size=1, lr=1.0, sharpness=-1)
    with pytest.raises(MismatchError, match=r"sharpness does not go with train\.quant"):
        Train(steps=1, batch_size=1, lr=1.0, sharpness=0.1, quant="int8")
    with pytest.raises(MismatchError, match=r"does not go with train\.precision fp16"):
        Train(steps=1, batch_size=1, lr=1.0, sharpness=0.1, precision="fp16")
    assert train_tiny(tmp_path / "run", train__sharpness=0.1) == 1
    assert "sharpness" in capsys.readouterr().err
