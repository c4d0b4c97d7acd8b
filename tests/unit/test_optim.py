"""SOAP: Adam where nothing is rotated, blind to rotations where everything is."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from zoo.errors import MismatchError
from zoo.registry.recipe import OPTIMIZERS, Train
from zoo.training.optimizers import Soap, make_optimizer

STEPS = 30


Loss = Callable[[Tensor, int], Tensor]


def quadratic(rows: int, columns: int, powers: float = 0.5) -> tuple[Tensor, Loss]:
    """Return a start and a loss ||A W B - C||^2 / 2 with another C in every step.

    A and B have condition 10^powers. (With one C the second gradient would be the first, in whose
    own basis it is a diagonal matrix: Adam makes steps of the rounding errors next to it.)
    """
    dice = torch.Generator().manual_seed(0)

    def steep(n: int) -> Tensor:
        basis = torch.linalg.qr(torch.randn(n, n, generator=dice, dtype=torch.float64)).Q
        return (basis * torch.logspace(0, -powers, n, dtype=torch.float64)) @ basis.T

    a, b = steep(rows), steep(columns)
    start, *c = torch.randn(302, rows, columns, generator=dice, dtype=torch.float64)
    c = [c[0] + each / 4 for each in c[1:]]
    return start, lambda w, step: (a @ w @ b - c[step]).square().sum() / 2


def descend(
    start: Tensor,
    loss: Loss,
    make: Callable[..., torch.optim.Optimizer],
    steps: int = STEPS,
) -> tuple[list[float], Tensor]:
    weight = nn.Parameter(start.float())
    optimizer = make([weight])
    losses = []
    for step in range(steps):
        value = loss(weight.double(), step)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
    return losses, weight.detach()


def test_rotations_of_the_weights_change_nothing() -> None:
    start, loss = quadratic(5, 5)
    dice = torch.Generator().manual_seed(1)
    u, v = (torch.linalg.qr(torch.randn(5, 5, generator=dice, dtype=torch.float64)).Q for _ in "uv")
    for make, same in (
        (lambda p: Soap(p, lr=0.05, frequency=3), True),
        (lambda p: torch.optim.Adam(p, lr=0.05), False),
    ):
        plain, one = descend(start, loss, make)
        turned, two = descend(u @ start @ v, lambda w, n: loss(u.T @ w @ v.T, n), make)
        assert (plain == pytest.approx(turned, rel=1e-2)) == same
        assert torch.allclose(u.float() @ one @ v.float(), two, atol=1e-2) == same


class Late(torch.optim.Adam):
    """Adam from the second gradient on."""

    seen = False

    def step(self, closure: None = None) -> None:
        if self.seen:
            super().step()
        self.seen = True


def test_without_rotation_it_is_adam_that_sits_out_the_first_step() -> None:
    start, loss = quadratic(4, 1)
    ours, _ = descend(start, loss, lambda p: Soap(p, lr=0.01, most=1))

    def late(weights: list[nn.Parameter]) -> torch.optim.Optimizer:
        return Late(weights, lr=0.01, betas=(0.95, 0.95))

    theirs, _ = descend(start, loss, late)
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_it_gets_further_than_adam_in_a_steep_valley() -> None:
    start, loss = quadratic(8, 12, powers=1.5)

    def best(kind: type[torch.optim.Optimizer]) -> float:
        rates = (0.01, 0.03, 0.1, 0.3)
        return min(descend(start, loss, lambda p, r=r: kind(p, lr=r), 300)[0][-1] for r in rates)

    assert best(Soap) < 0.75 * best(torch.optim.Adam)


def test_a_state_goes_on_with_the_same_bits() -> None:
    dice = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.PReLU(3), nn.Flatten(), nn.Linear(12, 2))
    data = [torch.randn(4, 2, 4, 4, generator=dice) for _ in range(12)]

    def train(net: nn.Module, optimizer: torch.optim.Optimizer, part: list[Tensor]) -> None:
        for x in part:
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()

    first = Soap(net.parameters(), lr=0.01, frequency=2, weight_decay=0.1)
    train(net, first, data[:5])
    copied = copy.deepcopy(net)
    again = Soap(copied.parameters(), lr=0.01, frequency=2, weight_decay=0.1)
    again.load_state_dict(copy.deepcopy(first.state_dict()))
    train(net, first, data[5:])
    train(copied, again, data[5:])
    for one, two in zip(net.parameters(), copied.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_single_number_is_trained_too() -> None:
    number = nn.Parameter(torch.tensor(3.0))
    optimizer = Soap([number], lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        number.square().backward()
        optimizer.step()
    assert abs(float(number.detach())) < 0.5


def test_every_name_of_a_recipe_makes_one() -> None:
    for name in OPTIMIZERS:
        settings = Train(steps=1, batch_size=1, lr=0.25, weight_decay=0.5, optimizer=name)
        (group,) = make_optimizer(settings, [nn.Parameter(torch.zeros(2))]).param_groups
        assert (group["lr"], group["weight_decay"]) == (0.25, 0.5)
    with pytest.raises(MismatchError, match="optimizer is 'sgd'; expected adamw, rmsprop, soap"):
        Train(steps=1, batch_size=1, lr=0.1, optimizer="sgd")


def test_losses_are_those_of_another_implementation() -> None:
    """What `SOAP` of pytorch-optimizer 4.1.0 gave, with the same settings, on this problem."""
    start, loss = quadratic(6, 9, powers=1.0)
    ours, _ = descend(start, loss, lambda p: Soap(p, lr=0.03, frequency=5), 100)
    theirs = {1: 35.51624, 2: 35.74967, 3: 36.29412, 5: 31.69126, 6: 38.27217, 10: 37.76552,
              20: 36.22701, 50: 33.52773, 99: 25.07062}  # fmt: skip
    assert {n: ours[n] for n in theirs} == pytest.approx(theirs, rel=3e-4)
