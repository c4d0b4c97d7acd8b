"""`Switcher`: every state is the freshly fused model, and the base comes back to the bit."""

import copy
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from zoo.adapters import SparseAdapter, Switcher, fuse
from zoo.adapters.fusion import STRATEGIES
from zoo.adapters.sparse import fingerprint
from zoo.errors import MismatchError, UnknownNameError

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


class Net(nn.Module):
    """Every kind of weight: Linear, Conv, Embedding, one transposed, one part of a larger one."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(32, 16)
        self.linear = nn.Linear(16, 24)
        self.conv = nn.Conv1d(1, 4, 3)
        self.turned = nn.Parameter(torch.randn(48, 24).t())
        packed = torch.randn(16, 96)
        self.part = nn.Parameter(packed[:, 16:64])
        self.to(dtype)
        assert not self.turned.is_contiguous()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(self.embed(x)) @ self.turned @ self.part.T
        return self.conv(y.unsqueeze(1)).flatten(1)


def made(
    model: nn.Module, seed: int, density: float = 0.2, *, masks: int | None = None, block: int = 1
) -> SparseAdapter:
    where_from = torch.Generator().manual_seed(seed if masks is None else masks)
    values_from = torch.Generator().manual_seed(seed)
    given = {}
    for name, p in model.named_parameters():
        rows = torch.randperm(p.numel() // block, generator=where_from)
        rows = rows[: max(1, int(p.numel() // block * density))]
        where = (rows[:, None] * block + torch.arange(block)).view(-1)
        given[name] = (where, torch.randn(len(where), generator=values_from) * 0.1)
    return SparseAdapter.from_tensors(given, model)


def fused(model: nn.Module, adapter: SparseAdapter) -> nn.Module:
    """Return a copy with the adapter added, the plain way."""
    model = copy.deepcopy(model)
    for name, tensor in adapter.to_mode("overwrite", model).tensors.items():
        p = model.get_parameter(name)
        flat = p.detach().clone().reshape(-1)
        flat[tensor.indices] = tensor.values
        p.data.copy_(flat.view(p.shape))
    return model


X = torch.arange(32).view(4, 8)[:, 0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block", [1, 8])
def test_every_state_is_the_freshly_fused_model(dtype: torch.dtype, block: int) -> None:
    model = Net(dtype)
    pristine = copy.deepcopy(model)
    adapters = {name: made(model, i, block=block) for i, name in enumerate("abc")}
    adapters["o"] = made(model, 9, block=block).to_mode("overwrite", model)
    switcher = Switcher(model)
    before = switcher.verify()
    for name, adapter in adapters.items():
        switcher.register(name, adapter)
    weights = {"a": 0.8, "b": -0.5, "c": 1.0, "o": 1.0}
    for strategy in STRATEGIES:
        switcher.activate(weights, strategy=strategy)
        expected = fused(pristine, fuse(adapters, pristine, weights, strategy))
        assert fingerprint(model) == fingerprint(expected)
        assert torch.equal(model(X), expected(X))
        assert switcher.verify() == before
    for name, adapter in adapters.items():
        switcher.activate(name)
        assert fingerprint(model) == fingerprint(fused(pristine, adapter))
    switcher.activate("a", alpha=0.0)
    assert switcher.active == {}
    assert fingerprint(model) == before == fingerprint(pristine)


def test_the_batched_path_writes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU runs (one block of memory, `index_copy_` per tensor), here on the CPU."""
    from zoo.adapters import plan

    model, plain = Net(torch.bfloat16), Net(torch.bfloat16)
    adapters = {name: made(model, i) for i, name in enumerate("ab")}
    one = Switcher(plain)
    real = plan.TensorMemory.__init__

    def on_a_device(target: plan.TensorMemory, *given: Any) -> None:
        real(target, *given)
        target.numbers = None

    monkeypatch.setattr(plan.TensorMemory, "__init__", on_a_device)
    two = Switcher(model)
    for name, adapter in adapters.items():
        two.register(name, adapter)
    monkeypatch.undo()
    for name, adapter in adapters.items():
        one.register(name, adapter)
    for what in ("a", "b", {"a": 0.5, "b": 2.0}):
        one.activate(what)
        two.activate(what)
        assert two._active is not None
        assert all(isinstance(e._prepared[0], torch.Tensor) for e in two._active.edits.values())
        storages = {e.new.untyped_storage().data_ptr() for e in two._active.edits.values()}
        assert len(storages) == 1
        assert fingerprint(model) == fingerprint(plain)


def test_equal_masks_are_not_restored_in_between() -> None:
    model = Net()
    switcher = Switcher(model)
    for i, name in enumerate("ab"):
        switcher.register(name, made(model, i, masks=7))
    switcher.register("c", made(model, 3))
    switcher.activate("a")
    writes: list[str] = []

    def write(step: Callable[[], None]) -> None:
        writes.append(step.__name__)
        step()

    switcher._write = write  # type: ignore[method-assign]
    switcher.activate("b")
    tensors = len(list(model.parameters()))
    assert writes == ["apply"] * tensors
    writes.clear()
    switcher.activate("c")
    assert sorted(writes) == ["apply"] * tensors + ["undo"] * tensors


def test_plans_are_cached_whatever_the_order() -> None:
    model = Net()
    switcher = Switcher(model)
    for i, name in enumerate("ab"):
        switcher.register(name, made(model, i))
    switcher.activate({"a": 0.5, "b": 2.0})
    first = fingerprint(model)
    switcher.deactivate()
    switcher.activate({"b": 2.0, "a": 0.5})
    assert fingerprint(model) == first
    stats = switcher.stats()
    assert (stats["plans_built"], stats["plans_reused"]) == (1, 1)
    switcher.activate({"b": 2.0, "a": 0.5})
    assert switcher.stats()["switches"] == stats["switches"]


def test_the_cache_keeps_to_its_budget(tmp_path: Path) -> None:
    model = Net()
    switcher = Switcher(model, cache_bytes=20_000)
    paths = [made(model, i).save(tmp_path / str(i)) for i in range(5)]
    for i, path in enumerate(paths):
        switcher.register(str(i), path)
    for _ in range(2):
        for i in range(5):
            switcher.activate(str(i))
    assert switcher.stats()["cache_bytes"] <= 2 * 20_000
    assert 0 < switcher.stats()["plans"] < 5
    assert switcher.stats()["plans_built"] == 10


def test_a_thousand_registered_adapters_cost_nothing(tmp_path: Path) -> None:
    model = Net()
    path = made(model, 0).save(tmp_path)
    switcher = Switcher(model)
    for i in range(1000):
        switcher.register(f"a{i}", path)
    assert switcher.stats()["cache_bytes"] == 0
    switcher.activate("a500")
    assert switcher.stats()["plans"] == 1
    assert len(switcher.registered) == 1000


def test_using_nests_and_comes_back() -> None:
    model = Net()
    switcher = Switcher(model)
    for i, name in enumerate("ab"):
        switcher.register(name, made(model, i))
    switcher.activate("a", alpha=0.5)
    with switcher.using("a"), switcher.using("b"):
        assert switcher.active == {"b": 1.0}
        with switcher.using("b"):
            assert switcher.active == {"b": 1.0}
        assert switcher.active == {"b": 1.0}
    assert switcher.active == {"a": 0.5}
    with pytest.raises(RuntimeError, match="mine"), switcher.using("b"):
        raise RuntimeError("mine")
    assert switcher.active == {"a": 0.5}


def test_threads_that_use_the_same_share_and_others_wait() -> None:
    model = Net()
    switcher = Switcher(model)
    for i, name in enumerate("ab"):
        switcher.register(name, made(model, i))
    inside, done = threading.Barrier(2, timeout=20), []

    def same() -> None:
        with switcher.using("a"):
            inside.wait()

    def other() -> None:
        with switcher.using("b"):
            done.append(switcher.active)

    with switcher.using("a"):
        threads = [threading.Thread(target=same), threading.Thread(target=other)]
        threads[0].start()
        inside.wait()
        threads[0].join(20)
        threads[1].start()
        threads[1].join(0.1)
        assert not done
        assert switcher.active == {"a": 1.0}
    threads[1].join(20)
    assert done == [{"b": 1.0}]
    assert switcher.active == {}


def test_tied_weights_change_together_and_are_named_once() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(8, 4), "head": nn.Linear(4, 8, bias=False)})
    model["head"].weight = model["embed"].weight
    switcher = Switcher(model)
    switcher.register("a", SparseAdapter.from_tensors({"head.weight": ([3], [1.0])}, model))
    both = {"head.weight": ([3], [1.0]), "embed.weight": ([4], [1.0])}
    switcher.register("both", SparseAdapter.from_tensors(both, model))
    before = model["embed"].weight.detach().clone()
    with switcher.using("a"):
        assert (model["embed"].weight != before).sum() == 1
    with pytest.raises(MismatchError, match="tied"):
        switcher.activate("both")
    assert torch.equal(model["embed"].weight, before)


def test_what_does_not_belong_is_refused() -> None:
    model = Net()
    adapter = made(model, 0)
    switcher = Switcher(model)
    with pytest.raises(MismatchError, match="already has a Switcher"):
        Switcher(model)
    switcher.register("a", adapter)
    with pytest.raises(MismatchError, match="registered already"):
        switcher.register("a", adapter)
    with pytest.raises(UnknownNameError, match="did you mean a"):
        switcher.activate("aa")
    with pytest.raises(UnknownNameError, match="strategy"):
        switcher.activate("a", strategy="average")
    with pytest.raises(MismatchError, match="alpha"):
        switcher.activate({"a": 1.0}, alpha=0.5)
    switcher.activate("a")
    with pytest.raises(MismatchError, match="is active"):
        switcher.unregister("a")
    switcher.deactivate()
    switcher.unregister("a")
    assert switcher.registered == ()
    small = {"linear.weight": torch.zeros(2, 2)}
    other = SparseAdapter.from_tensors({"linear.weight": ([0], [1.0])}, small)
    with pytest.raises(MismatchError, match="shape"):
        switcher.register("x", other)
    with torch.no_grad():
        weight = model.linear.weight
        where = adapter.tensors["linear.weight"].indices[3]
        weight.view(-1)[where] = torch.nextafter(weight.view(-1)[where], torch.tensor(9.0))
    switcher.register("off by one ulp", adapter)
    before = fingerprint(model)
    with pytest.raises(MismatchError, match="differs from the base"):
        switcher.activate("off by one ulp")
    assert (switcher.active, fingerprint(model)) == ({}, before)
    switcher.close()
    loose = Switcher(model, strict=False)
    loose.register("a", adapter)
    loose.activate("a")
    loose.close()
    assert fingerprint(model) == before


@pytest.mark.parametrize(
    "parameter",
    [nn.Parameter(torch.zeros(3, 1).expand(3, 4)), nn.Parameter(torch.zeros(3, 4, device="meta"))],
    ids=["expanded", "meta"],
)
def test_memory_that_cannot_be_written_is_refused(parameter: nn.Parameter) -> None:
    model = nn.Module()
    model.w = parameter
    adapter = SparseAdapter.from_tensors({"w": ([0], [1.0])}, {"w": torch.zeros(3, 4)})
    with pytest.raises(MismatchError, match=r"share memory|meta device"):
        Switcher(model).register("a", adapter)


def test_moving_the_model_is_seen() -> None:
    model = Net()
    adapter = made(model, 0)
    switcher = Switcher(model)
    switcher.register("a", adapter)
    switcher.activate("a")
    switcher.deactivate()
    for p in model.parameters():
        p.data = p.data.clone()
    switcher.activate("a")
    assert fingerprint(model) == fingerprint(fused(Net(), adapter))
    model.linear.weight.data = model.linear.weight.data.clone()
    for act in (switcher.deactivate, lambda: switcher.activate("a", alpha=0.5), switcher.verify):
        with pytest.raises(MismatchError, match="while an adapter was active"):
            act()


def test_changing_an_active_weight_is_seen() -> None:
    model = Net()
    switcher = Switcher(model)
    switcher.register("a", made(model, 0, density=1.0))
    switcher.verify()
    switcher.activate("a")
    with torch.no_grad():
        model.linear.weight[0, 0] += 1
    with pytest.raises(MismatchError, match="was changed"):
        switcher.verify()


def test_updates_that_a_switch_takes_back_are_not_lost_in_silence(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = Net()
    switcher = Switcher(model)
    switcher.register("a", made(model, 0))
    switcher.activate("a")
    switcher.deactivate()
    assert not caplog.text
    switcher.activate("a")
    optimizer = torch.optim.SGD(model.linear.parameters(), 0.1)
    model(X).square().sum().backward()
    optimizer.step()
    switcher.deactivate()
    assert "linear.weight was trained while an adapter was active" in caplog.text
    assert "conv" not in caplog.text


def test_a_copy_of_the_model_has_no_switcher() -> None:
    model = Net()
    switcher = Switcher(model)
    switcher.register("a", made(model, 0))
    switcher.activate("a")
    other = copy.deepcopy(model)
    switcher.deactivate()
    assert fingerprint(other) != fingerprint(model)
    other(X)
    Switcher(other)
    switcher.close()
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


def test_backward_through_an_old_forward_raises() -> None:
    model = Net()
    switcher = Switcher(model)
    switcher.register("a", made(model, 0))
    loss = model(X).sum()
    switcher.activate("a")
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_hooks_that_fail_release_the_model() -> None:
    model = Net()
    switcher = Switcher(model)
    switcher.register("a", made(model, 0))

    def fail(*_: object) -> None:
        raise RuntimeError("mine")

    for register in (model.register_forward_pre_hook, model.linear.register_forward_hook):
        handle = register(fail)
        with pytest.raises(RuntimeError, match="mine"):
            model(X)
        handle.remove()
    handle = model.register_forward_pre_hook(fail, prepend=True)
    with pytest.raises(RuntimeError, match="mine"):
        model(X)
    handle.remove()
    done = threading.Thread(target=switcher.activate, args=("a",), daemon=True)
    done.start()
    done.join(20)
    assert switcher.active == {"a": 1.0}
