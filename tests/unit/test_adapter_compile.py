"""`Switcher` and torch.compile: graphs that read the weights follow; frozen ones are refused."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from zoo.adapters import SparseAdapter, Switcher
from zoo.errors import MismatchError


def made(model: nn.Module, seed: int) -> SparseAdapter:
    """An adapter that changes three elements of every tensor."""
    dice = torch.Generator().manual_seed(seed)
    given = {
        name: (torch.randperm(p.numel(), generator=dice)[:3], torch.randn(3, generator=dice))
        for name, p in model.named_parameters()
    }
    return SparseAdapter.from_tensors(given, model)


def test_compiled_graphs_follow_a_switch_without_recompiling() -> None:
    torch._dynamo.reset()
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=backend, fullgraph=True)
    switcher = Switcher(compiled)
    switcher.register("a", made(model, 0))
    switcher.register("b", made(model, 1))
    x = torch.randn(3, 8)
    with torch.no_grad():
        for what in ("a", "b", {"a": 0.5, "b": 0.5}):
            switcher.activate(what)
            assert torch.equal(compiled(x), model(x))
        switcher.deactivate()
        assert torch.equal(compiled(x), model(x))
    assert len(graphs) == 1
    torch._dynamo.reset()


def test_freezing_is_refused() -> None:
    import torch._inductor.config as config

    model = nn.Linear(8, 4)
    switcher = Switcher(model)
    switcher.register("a", made(model, 0))
    with config.patch(freezing=True):
        with pytest.raises(MismatchError, match="freezing"):
            switcher.activate("a")
        with pytest.raises(MismatchError, match="freezing"):
            Switcher(nn.Linear(8, 4))
    switcher.activate("a")
