"""SHiRA-WM-DoRA: the masked change of a DoRA, in training as in use."""

import pytest
import torch
from torch import nn

from zoo.adapters import SparseAdapter, masks
from zoo.adapters.methods.shira_dora import SCALE, MaskedDora
from zoo.adapters.recipe import MaskOptions
from zoo.adapters.sparse import fingerprint

RANK, STEPS = 3, 4
LINEAR = ("first", "last")


class Net(nn.Module):
    """A linear layer with few masked entries, one with many, and a convolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv1d(1, 4, 3)
        self.first = nn.Linear(40, 24)
        self.last = nn.Linear(24, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x.unsqueeze(1)).flatten(1)
        return self.last(torch.tanh(self.first(y)))


def indices(model: nn.Module) -> masks.Indices:
    found = masks.choose(model, MaskOptions(kind="wm", density=0.04, include=("first.weight",)))
    rest = MaskOptions(kind="wm", density=0.5, include=("conv.weight", "last.weight"))
    return found | masks.choose(model, rest)


def data() -> tuple[torch.Tensor, torch.Tensor]:
    dice = torch.Generator().manual_seed(1)
    return torch.randn(16, 12, generator=dice), torch.randn(16, 3, generator=dice)


def dense(model: nn.Module, route: MaskedDora) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Train A, B and m by autograd through dense weights, the plain way; return the losses."""
    start = {name: p.detach().clone() for name, p in Net().named_parameters()}
    names = route.compact.names
    factors = {k: v.detach().clone().requires_grad_() for k, v in route.factors.items()}
    optimizer = torch.optim.SGD(factors.values(), lr=0.05)
    x, y = data()
    losses = []
    for _ in range(STEPS):
        weights = dict(start)
        for n, name in enumerate(names):
            before = start[name].flatten(1)
            moved = before + SCALE * factors[f"b{n}"] @ factors[f"a{n}"]
            norm = moved.norm(dim=1, keepdim=True).detach()
            change = factors[f"m{n}"][:, None] * moved / norm - before
            mask = torch.zeros(before.numel())
            mask[route.compact.flat[route.compact.slices()[name]]] = 1
            weights[name] = (before + mask.view_as(before) * change).view_as(start[name])
        loss = nn.functional.mse_loss(torch.func.functional_call(model, weights, (x,)), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, factors


def test_training_equals_autograd_through_dense_weights() -> None:
    model = Net()
    base = fingerprint(model)
    route = MaskedDora(model, indices(model), RANK, seed=0)
    assert fingerprint(model) == base  # B is zero: nothing has changed yet
    expected, factors = dense(Net(), route)
    optimizer = torch.optim.SGD(route.trained.parameters(), lr=0.05)
    x, y = data()
    losses = []
    for _ in range(STEPS):
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        route.collect()
        optimizer.step()
        optimizer.zero_grad()
        route.use()
        losses.append(float(loss.detach()))
    assert losses == pytest.approx(expected, rel=1e-5)
    assert losses[-1] < losses[0]
    for name, value in route.factors.items():
        torch.testing.assert_close(value.detach(), factors[name].detach(), rtol=1e-4, atol=1e-6)
    served = {name: p.detach().clone() for name, p in model.named_parameters()}
    found = route.deltas(route.trained.state_dict())
    route.close()
    assert fingerprint(model) == base
    adapter = SparseAdapter.from_tensors(found, model)
    for name, p in model.named_parameters():
        changed = (served[name] != p).flatten().nonzero().flatten()
        inside = adapter.tensors[name].indices if name in adapter.tensors else torch.tensor([])
        assert set(changed.tolist()) <= set(inside.tolist())
        if name in adapter.tensors:
            fused = p.detach().flatten().clone()
            fused[inside] += adapter.tensors[name].values
            torch.testing.assert_close(fused.view_as(p), served[name], rtol=1e-6, atol=1e-7)


def test_with_every_entry_masked_it_is_the_dora_of_peft() -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    model = Net()
    every = {f"{n}.weight": torch.arange(model.get_submodule(n).weight.numel()) for n in LINEAR}
    route = MaskedDora(model, every, RANK, seed=0)
    config = peft.LoraConfig(
        r=RANK, lora_alpha=int(SCALE * RANK), use_dora=True, target_modules=list(LINEAR)
    )
    peer = peft.get_peft_model(Net(), config)
    layers = [peer.base_model.model.get_submodule(n) for n in LINEAR]
    with torch.no_grad():
        for n, layer in enumerate(layers):
            layer.lora_A["default"].weight.copy_(route.factors[f"a{n}"])
    theirs = [p for p in peer.parameters() if p.requires_grad]
    optimizers = [torch.optim.SGD(ps, lr=0.05) for ps in (route.trained.parameters(), theirs)]
    x, y = data()
    for _ in range(STEPS):
        losses = [nn.functional.mse_loss(net(x), y) for net in (model, peer)]
        assert float(losses[0].detach()) == pytest.approx(float(losses[1].detach()), rel=1e-5)
        for loss in losses:
            loss.backward()
        route.collect()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        route.use()
    merged = dict(peer.merge_and_unload().named_parameters())
    for name in every:
        ours = dict(model.named_parameters())[name]
        torch.testing.assert_close(ours, merged[name], rtol=1e-4, atol=1e-6)
        assert not torch.equal(ours, dict(Net().named_parameters())[name])
