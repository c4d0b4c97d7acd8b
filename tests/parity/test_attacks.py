"""Our attacks against torchattacks', picture by picture, where it is installed.

It is no dependency: 3.5.1 pins an old requests. `pip install --no-deps torchattacks==3.5.1`.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zoo.resilience.attacks.contract import parse

torchattacks: Any = pytest.importorskip("torchattacks", reason="torchattacks is not installed")


class Net(nn.Module):
    """Two convolutions and a linear layer, random."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 8, 3, stride=2), nn.Tanh(),
            nn.Flatten(), nn.Linear(8 * 15 * 15, 10),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.layers(x)
        return made


@pytest.fixture(scope="module")
def net() -> Net:
    return Net().double().eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    pixels = torch.randint(0, 256, (16, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    return pixels.double() / 255


@pytest.fixture(scope="module")
def labels(net: Net, images: Tensor) -> Tensor:
    with torch.no_grad():
        return net(images).argmax(1)


def ours(text: str, net: Net, images: Tensor, labels: Tensor, seed: int) -> Tensor:
    chosen = parse(text)
    dice = torch.Generator().manual_seed(seed)
    return chosen.attack.perturb(net, images, labels, chosen.options, dice)


def test_fgsm(net: Net, images: Tensor, labels: Tensor) -> None:
    theirs = torchattacks.FGSM(net, eps=4 / 255)(images, labels)
    torch.testing.assert_close(ours("fgsm:eps=4/255", net, images, labels, 0), theirs)


def test_pgd_from_the_same_start(net: Net, images: Tensor, labels: Tensor) -> None:
    torch.manual_seed(5)
    theirs = torchattacks.PGD(net, eps=4 / 255, alpha=1 / 255, steps=7)(images, labels)
    made = ours("pgd:eps=4/255,alpha=1/255,steps=7", net, images, labels, 5)
    torch.testing.assert_close(made, theirs)


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_di_fgsm_with_the_same_draws(
    net: Net, images: Tensor, labels: Tensor, decay: float
) -> None:
    torch.manual_seed(6)
    attack = torchattacks.DIFGSM(net, eps=4 / 255, alpha=1 / 255, steps=9, decay=decay)
    theirs = attack(images, labels)
    text = f"di-fgsm:eps=4/255,alpha=1/255,steps=9,decay={decay}"
    torch.testing.assert_close(ours(text, net, images, labels, 6), theirs)


def apgd(loss: str, net: Net, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    attack = torchattacks.APGD(net, eps=4 / 255, steps=25, loss=loss)
    torch.manual_seed(7)
    theirs, *_ = attack.attack_single_run(images, labels)
    return ours(f"apgd:eps=4/255,steps=25,loss={loss}", net, images, labels, 7), theirs


def test_apgd_from_the_same_start(net: Net, images: Tensor, labels: Tensor) -> None:
    """But for a few pixels with gradients next to 0: theirs takes its steps in float32."""
    made, theirs = apgd("ce", net, images, labels)
    far = (made - theirs).abs()
    assert (far > 1e-6).double().mean() < 1e-3
    assert far.max() < 1 / 255


def test_apgd_with_the_ratio_of_logits_is_as_strong(
    net: Net, images: Tensor, labels: Tensor
) -> None:
    """Theirs compares the first loss with 0, not with the start's, which is negative here.

    So it halves its steps at other checkpoints.
    """
    made, theirs = apgd("dlr", net, images, labels)
    with torch.no_grad():
        one, two = ((net(x).argmax(1) != labels).sum() for x in (made, theirs))
    assert abs(int(one) - int(two)) <= 1
    assert one > len(labels) / 2
