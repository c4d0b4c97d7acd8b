"""Attacks: the ball of eps, 8 bits, strength, and texts that mean them."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from zoo import extensions
from zoo.errors import MismatchError, UnknownNameError
from zoo.resilience.attacking import attacked, predicted, rounded
from zoo.resilience.attacks import contract
from zoo.resilience.attacks._steps import gradient, losses
from zoo.resilience.attacks.apgd import _checkpoints, _ratio
from zoo.resilience.attacks.contract import parse, settings
from zoo.resilience.attacks.di_fgsm import Options as Diverse
from zoo.resilience.attacks.di_fgsm import _diverse

NAMES = extensions.names(contract.POINT)


class Net(nn.Module):
    """A small smooth classifier of colours and edges."""

    def __init__(self, labels: int = 4) -> None:
        super().__init__()
        dice = torch.Generator().manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.Linear(8 * 16, labels)
        with torch.no_grad():
            for value in self.parameters():
                value.copy_(torch.randn(value.shape, generator=dice) * 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x - 0.5))
        logits: Tensor = self.last(nn.functional.adaptive_avg_pool2d(x, 4).flatten(1))
        return logits


@pytest.fixture(scope="module")
def model() -> Net:
    return Net()


@pytest.fixture(scope="module")
def images() -> Tensor:
    pixels = torch.randint(0, 256, (24, 3, 12, 12), generator=torch.Generator().manual_seed(1))
    return pixels.float() / 255


@pytest.fixture(scope="module")
def labels(model: Net, images: Tensor) -> Tensor:
    return predicted(model, images)


@pytest.mark.parametrize("name", NAMES)
def test_every_attack_stays_within_eps_and_on_8_bits(
    name: str, model: Net, images: Tensor, labels: Tensor
) -> None:
    for eps in ("1/255", "2.9/255", "8/255", "1"):
        made = attacked(parse(f"{name}:eps={eps}"), model, images, labels)
        far = (made - images).abs().max() * 255
        most = int(float(settings(f"eps={eps}", "attack")["eps"]) * 255 + 1e-6)
        assert far <= most + 0.01
        assert far >= min(most, 100) - 0.01  # it uses what it may, where black and white let it
        assert made.min() >= 0
        assert made.max() <= 1
        assert torch.equal((made * 255).round() / 255, made)


@pytest.mark.parametrize("name", NAMES)
def test_every_attack_raises_the_loss_and_repeats_itself(
    name: str, model: Net, images: Tensor, labels: Tensor
) -> None:
    chosen = parse(f"{name}:eps=8/255,seed=3")
    made = attacked(chosen, model, images, labels)
    with torch.no_grad():
        assert (losses(model(made), labels) > losses(model(images), labels)).all()
    assert torch.equal(made, attacked(chosen, model, images, labels))
    assert not any(value.grad is not None for value in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_what_comes_with_it_does_not_change_a_picture(
    name: str, model: Net, images: Tensor, labels: Tensor
) -> None:
    """No attack may look at the other pictures of its batch, by a mean over it for example."""
    others = images.clone()
    others[1:] = others[1:].flip(0)
    other_labels = torch.cat([labels[:1], labels[1:].flip(0)])
    one, two = (
        attacked(parse(f"{name}:eps=4/255"), model, x, y)[0]
        for x, y in ((images, labels), (others, other_labels))
    )
    assert torch.equal(one, two)


def test_more_steps_and_restarts_do_not_help_the_defender(
    model: Net, images: Tensor, labels: Tensor
) -> None:
    def right(text: str) -> int:
        made = attacked(parse(text), model, images, labels)
        return int((predicted(model, made) == labels).sum())

    eps = "eps=6/255"
    few, many = right(f"pgd:{eps},steps=2"), right(f"pgd:{eps},steps=40")
    assert right(f"pgd:{eps},steps=2,restarts=5") <= few
    assert many <= few <= right("fgsm:eps=1/255")
    assert right(f"apgd:{eps},steps=40") <= right(f"fgsm:{eps}")
    assert right("pgd:eps=64/255,steps=40") == 0


def test_a_linear_model_is_attacked_as_well_as_can_be() -> None:
    """There the best is known: eps against the sign of each weight's difference."""
    linear = nn.Sequential(nn.Flatten(), nn.Linear(12, 2, bias=False))
    x, y = torch.full((1, 3, 2, 2), 0.5), torch.tensor([0])
    weights = linear[1].weight.detach()
    best = (x + 10 / 255 * (weights[1] - weights[0]).sign().view(1, 3, 2, 2)) * 255
    start = (x * 255).round() / 255
    for name in NAMES:
        settings_ = ",resize=1" if name == "di-fgsm" else ""
        made = attacked(parse(f"{name}:eps=10/255{settings_}"), linear, start, y)
        assert (made * 255 - best).abs().max() <= 0.51


@given(
    eps=st.floats(1 / 255, 1),
    seed=st.integers(0, 99),
)
def test_rounding_never_leaves_the_ball(eps: float, seed: int) -> None:
    dice = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (2, 1, 3, 3), generator=dice).float() / 255
    moved = torch.rand(images.shape, generator=dice) * 3 - 1
    made = rounded(images, moved, eps)
    assert (made - images).abs().max() <= eps + 1e-6
    assert torch.equal((made * 255).round() / 255, made)


def test_apgd_looks_at_the_papers_shares_of_its_steps() -> None:
    """p_0 = 0, p_1 = 0.22, p_(j+1) = p_j + max(p_j - p_(j-1) - 0.03, 0.06)."""
    shares = [0, 22]
    while shares[-1] + max(shares[-1] - shares[-2] - 3, 6) <= 100:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 3, 6))
    assert _checkpoints(100) == set(shares[1:])
    assert min(_checkpoints(1)) == 1


def test_the_ratio_of_logits_by_hand() -> None:
    """(z_wrong - z_true) / (z_1 - z_3), wrong being the largest other one."""
    logits = torch.tensor([[4.0, 1.0, 2.0, 0.0], [4.0, 1.0, 2.0, 0.0]])
    found = _ratio(logits, torch.tensor([0, 1]))
    torch.testing.assert_close(found, torch.tensor([(2 - 4) / 3, (4 - 1) / 3]))
    torch.testing.assert_close(_ratio(logits[:1, :2], torch.tensor([0])), torch.tensor([-3.0]))


def test_diverse_pictures_keep_their_size_and_are_shrunk_within_it() -> None:
    x = torch.ones(2, 3, 20, 40)
    dice = torch.Generator().manual_seed(0)
    for _ in range(20):
        made = _diverse(x, Diverse(resize=0.5, share=1.0), dice)
        assert made.shape == x.shape
        assert 0.2 < made.mean() < 1
    assert _diverse(x, Diverse(resize=1.0, share=1.0), dice) is x


def test_gradients_reach_the_pixels_alone(model: Net, images: Tensor, labels: Tensor) -> None:
    with torch.no_grad():
        found = gradient(model, images, labels)
    x = images.clone()
    with torch.no_grad():
        x[0, 0, 5, 5] += 1e-2
        rise = losses(model(x), labels)[0] - losses(model(images), labels)[0]
    assert float(rise) == pytest.approx(float(found[0, 0, 5, 5]) * 1e-2, rel=0.1)


def test_texts_mean_attacks() -> None:
    chosen = parse("pgd: eps = 2/255 , steps=7")
    assert chosen.options.eps == pytest.approx(2 / 255)
    assert (chosen.options.steps, chosen.options.stride) == (7, pytest.approx(0.5 / 255))
    assert chosen.text == "pgd:eps=2/255,steps=7"
    assert parse(parse("apgd:eps=8/255,restarts=3").text).options.restarts == 3
    for text in (
        "pgd:eps=2/255,steps=1,seed=3,alpha=1/255,random=false",
        "di-fgsm:eps=4/255,steps=20,decay=1.0,share=0.25",
    ):
        assert parse(text).text == text
        assert parse(parse(text).text).options == parse(text).options
    assert parse("di_fgsm").attack is parse("di-fgsm").attack
    for name in NAMES:
        assert dataclasses.is_dataclass(parse(name).options)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("pgd:eps=8", "eps=8/255"),  # meant as 8/255
        ("pgd:eps=0", "more than 0"),
        ("pgd:eps=-1/255", "eps"),
        ("pgd:eps=nan", "eps"),
        ("pgd:eps=0.5/255", "less than one step"),
        ("pgd:eps=1/0", "not a number"),
        ("pgd:steps=0", "steps is 0"),
        ("pgd:steps=2.5", "steps"),
        ("pgd:restarts=0", "restarts is 0"),
        ("pgd:alpha=-1", "alpha"),
        ("pgd:eps", "key=value"),
        ("pgd:eps=1/255,eps=2/255", "once"),
        ("di-fgsm:resize=2", "resize"),
        ("di-fgsm:share=0", "share"),
        ("di-fgsm:decay=-1", "decay"),
        ("apgd:loss=cw", "ce"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(text: str, says: str) -> None:
    with pytest.raises(MismatchError, match=says):
        parse(text)


@pytest.mark.parametrize(
    ("text", "meant"), [("pdg", "pgd"), ("pgd:step=3", "steps"), ("", "known")]
)
def test_unknown_attacks_and_settings_name_the_nearest(text: str, meant: str) -> None:
    with pytest.raises(UnknownNameError, match=meant):
        parse(text)
