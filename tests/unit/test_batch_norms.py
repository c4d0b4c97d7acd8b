"""Batch norms of several processes: the formula here, alone; `tests/training` has two."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from zoo.training.batch_norms import SharedBatchNorm, share_batch_norms


@pytest.fixture(autouse=True)
def alone():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def pair(norm, **options):
    """A network with torch's batch norm, and its copy with ours."""
    nets = []
    for _ in range(2):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 5) if norm is nn.BatchNorm1d else nn.Conv2d(3, 5, 1))
        net.append(norm(5, **options))
        for parameter in net.parameters():
            nn.init.normal_(parameter)
        nets.append(net)
    share_batch_norms(nets[1])
    assert type(nets[1][1]) is SharedBatchNorm
    assert nets[1].state_dict().keys() == nets[0].state_dict().keys()
    return nets


@pytest.mark.parametrize(
    ("norm", "options"),
    [
        (nn.BatchNorm2d, {}),
        (nn.BatchNorm1d, {"eps": 1e-3, "momentum": 0.3}),
        (nn.BatchNorm2d, {"momentum": None, "affine": False}),
        (nn.BatchNorm2d, {"track_running_stats": False}),
    ],
)
def test_alone_it_is_the_batch_norm_of_torch(norm, options):
    theirs, ours = pair(norm, **options)
    shape = (6, 3) if norm is nn.BatchNorm1d else (4, 3, 5, 2)
    for _ in range(3):
        x = torch.randn(shape) * 3 + 1
        results = []
        for net in (theirs, ours):
            net.zero_grad()
            y = net(x)
            (y * torch.linspace(-1, 2, y.numel()).view_as(y)).sum().backward()
            results.append(y)
        torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-5)
        for ours_, theirs_ in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(ours_.grad, theirs_.grad, rtol=1e-4, atol=1e-4)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-5, atol=1e-5)


def test_half_precision_comes_out_as_it_went_in():
    norm = SharedBatchNorm(3)
    assert norm(torch.randn(4, 3, 2, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16
