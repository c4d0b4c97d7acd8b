"""Passes that do nothing twice give what passes that do everything give."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from zoo.quantization import generic
from zoo.quantization.language import blocks
from zoo.quantization.options import LayerOptions
from zoo.quantization.passes import CalibrationRuns

OPTIONS = LayerOptions(bits=2, dim=2, group_size=256, iterations=3, update_steps=2)
WIDTH = 16


class Feed(nn.Module):
    """Two layers, answering with a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)

    def forward(self, x: Tensor, *, gain: float = 1.0) -> tuple[Tensor, None]:
        return self.down(self.up(x).relu() * gain), None


class Stack(nn.Module):
    """Residual blocks, added in place: what was kept must not change with its copies."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(Feed() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            answer = part(x, gain=0.5)[0]
            answer += x
            x = answer
        return x


class Parallel(nn.Module):
    """Two branches of the same input, the second called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = Feed(), Feed(), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x)[0] + self.second(self.second(x)[0])[0])


class Experts(nn.Module):
    """Experts of two layers, each for some of the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.experts, self.last = (
            nn.Linear(WIDTH, WIDTH), nn.ModuleList(Feed() for _ in range(3)), nn.Linear(WIDTH, 4),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.gate(x)
        which = (x[:, 0] > 0).long() + (x[:, 1] > 1.0).long()
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            if (which == number).any():
                out[which == number] = expert(x[which == number])[0]
        return self.last(out)


NETWORKS: list[Callable[[], nn.Module]] = [Stack, Parallel, Experts]


def network(make: Callable[[], nn.Module], windows: int = 6) -> tuple[nn.Module, list[Tensor]]:
    torch.manual_seed(0)
    model = make().eval()
    return model, list(torch.randn(windows, 200, WIDTH))


@pytest.mark.parametrize("make", NETWORKS)
@pytest.mark.parametrize("limit", [20_000, 1 << 30], ids=["some kept", "all kept"])
def test_the_same_matrices_as_without(make, limit, monkeypatch):
    states, reports = [], []
    for most in (0, limit):
        model, batches = network(make)
        monkeypatch.setattr(
            generic,
            "CalibrationRuns",
            lambda module, runs, most=most: CalibrationRuns(module, runs, limit=most),
        )
        reports.append(generic.quantize_model(model, batches, OPTIONS))
        states.append(model.state_dict())
    assert reports[0] == reports[1]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_each_layer_is_computed_once_per_window(monkeypatch):
    model, batches = network(Stack, windows=50)
    calls = []
    usual = nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda s, x: calls.append(s) or usual(s, x))
    generic.quantize_model(model, batches, OPTIONS)
    # And a few runs of one window, to see the order and who feeds whom.
    assert len(calls) <= 6 * len(batches) + 6 * 10


def test_blocks_of_a_stack_see_quantized_predecessors_and_experts_come_together():
    stack, batches = network(Stack)
    runs = [lambda: stack(batches[0])]
    names = [f"parts.{i}.{layer}" for i in range(3) for layer in ("up", "down")]
    assert blocks.levels(stack, blocks.call_order(stack, runs)) == [[[name]] for name in names]
    experts, batches = network(Experts)
    some = [lambda batch=batch: experts(batch) for batch in batches]
    levels = blocks.levels(experts, blocks.call_order(experts, some))
    merged = [[[f"experts.{i}.{layer}"] for i in range(3)] for layer in ("up", "down")]
    assert levels[0] == [["gate"]]
    assert [sorted(level) for level in levels[1:3]] == merged
    assert levels[3] == [["last"]]


def test_a_part_is_final_only_when_all_before_it_is():
    order = [f"parts.{i}.{layer}" for i in range(3) for layer in ("up", "down")]
    for final in itertools.permutations(order):
        stack, batches = network(Stack, windows=1)
        passes = CalibrationRuns(
            stack, [lambda stack=stack, batches=batches: stack(batches[0][:4])]
        )
        for count in range(7):
            passes.finish(order, set(final[:count]))
            passes[0]()
            for name in final[count:]:  # these may still change
                stack.get_submodule(name).weight.data.mul_(1.01)
            assert torch.equal(passes[0](), stack(batches[0][:4]))
        assert all("forward" not in module.__dict__ for module in stack.modules())
