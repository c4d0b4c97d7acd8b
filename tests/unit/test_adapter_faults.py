"""`Switcher` among enemies: random histories, failures at any point, threads, signals."""

import copy
import gc
import random
import signal
import threading
import time
from collections.abc import Callable

import pytest
import torch
from torch import nn

from zoo.adapters import SparseAdapter, Switcher, fuse
from zoo.adapters.fusion import STRATEGIES
from zoo.adapters.planner import Recent
from zoo.adapters.sparse import fingerprint
from zoo.errors import MismatchError, UnknownNameError, ZooError

X = torch.arange(32).view(4, 8)[:, 0]


class Net(nn.Module):
    """Linear, embedding, convolution and a transposed weight."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(32, 8)
        self.linear = nn.Linear(8, 12)
        self.conv = nn.Conv1d(1, 2, 3)
        self.turned = nn.Parameter(torch.randn(16, 12).t())
        self.to(dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(self.embed(x)) @ self.turned
        return self.conv(y.unsqueeze(1)).flatten(1)


def adapters(model: nn.Module) -> dict[str, SparseAdapter]:
    """Five: three masks of their own, one block mask, two that share a mask; one overwrites."""
    found = {}
    for seed, (name, block, mask) in enumerate(
        [("a", 1, 0), ("b", 1, 1), ("block", 8, 2), ("same", 1, 0), ("over", 1, 4)]
    ):
        where_from = torch.Generator().manual_seed(mask)
        values_from = torch.Generator().manual_seed(100 + seed)
        given = {}
        for tensor, p in model.named_parameters():
            size = block if p.numel() % block == 0 else 1
            rows = torch.randperm(p.numel() // size, generator=where_from)
            rows = rows[: max(1, p.numel() // size // 5)]
            where = (rows[:, None] * size + torch.arange(size)).view(-1)
            given[tensor] = (where, torch.randn(len(where), generator=values_from) * 0.1)
        found[name] = SparseAdapter.from_tensors(given, model)
    found["over"] = found["over"].to_mode("overwrite", model)
    return found


STATES: list[tuple[dict[str, float], str]] = [
    *(({name: 1.0}, "sum") for name in ("a", "b", "block", "same", "over")),
    ({"a": -0.5}, "sum"),
    *(({"a": 0.8, "b": 0.5, "block": 1.0}, strategy) for strategy in STRATEGIES),
    ({"same": 1.0, "over": -1.0}, "sum"),
]


def expected(model: nn.Module, made: dict[str, SparseAdapter]) -> list[tuple[str, torch.Tensor]]:
    """Return, per state, hash and output of a model fused afresh, without a switcher."""
    results = []
    for weights, strategy in STATES:
        fresh = copy.deepcopy(model)
        fused = fuse(made, fresh, {name: weights.get(name, 0.0) for name in made}, strategy)
        for name, tensor in fused.to_mode("overwrite", fresh).tensors.items():
            flat = fresh.get_parameter(name).detach().clone().reshape(-1)
            flat[tensor.indices] = tensor.values
            fresh.get_parameter(name).data.copy_(flat.view(fresh.get_parameter(name).shape))
        results.append((fingerprint(fresh), fresh(X)))
    return results


def history(dtype: torch.dtype, steps: int, cache_bytes: int = 40_000) -> None:
    """Switch at random; after each step the output is that of the fresh model."""
    model = Net(dtype)
    made = adapters(model)
    wanted = expected(model, made)
    base, output = fingerprint(model), model(X)
    switcher = Switcher(model, cache_bytes=cache_bytes)  # too little: plans are built anew
    for name, adapter in made.items():
        switcher.register(name, adapter)
    dice = random.Random(str(dtype))
    for step in range(steps):
        kind = dice.randrange(10)
        number = dice.randrange(len(STATES))
        weights, strategy = STATES[number]
        if kind < 6:
            switcher.activate(weights, strategy=strategy)
            assert torch.equal(model(X), wanted[number][1])
            if step % 50 == 0:
                assert fingerprint(model) == wanted[number][0]
        elif kind == 6:
            before = model(X)
            with switcher.using(weights, strategy=strategy):
                assert torch.equal(model(X), wanted[number][1])
            assert torch.equal(model(X), before)
        elif kind == 7:
            before = model(X)
            with pytest.raises(UnknownNameError):
                switcher.activate({"a": 1.0, "nobody": 1.0})
            assert torch.equal(model(X), before)
        elif kind == 8:
            name = dice.choice(sorted(set(made) - set(switcher.active)))
            switcher.unregister(name)
            switcher.register(name, made[name])
        else:
            switcher.deactivate()
            assert torch.equal(model(X), output)
    assert switcher.verify() == base
    switcher.close()
    assert fingerprint(model) == base


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_after_any_history_the_base_is_there_to_the_bit(dtype: torch.dtype) -> None:
    history(dtype, 400)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_after_a_hundred_thousand_operations_the_base_is_there_to_the_bit(
    dtype: torch.dtype,
) -> None:
    history(dtype, 10_000)
    history(dtype, 90_000, cache_bytes=1 << 30)


class HalfWrittenError(Exception):
    pass


def failing(switcher: Switcher, at: int, times: int = 1) -> None:
    """Let the write number `at`, counted from now, fail half-way; and the `times - 1` after it."""
    real, count = switcher._write, 0

    def write(step: Callable[[], None]) -> None:
        nonlocal count
        count += 1
        if at < count <= at + times:
            edit = step.__self__  # type: ignore[attr-defined]
            with torch.no_grad():  # half of a write happened
                edit.memory.line[edit.where[0] * edit.block] = 12345
            raise HalfWrittenError
        real(step)

    switcher._write = write  # type: ignore[method-assign]


@pytest.mark.parametrize("block", ["a", "block"])
def test_a_failure_at_any_write_is_rolled_back(block: str) -> None:
    model = Net(torch.bfloat16)
    made = adapters(model)
    tensors = len(list(model.parameters()))
    # Old and new values of each tensor, but where both have one mask (a bias of few elements).
    for at in range(2 * tensors - 1):
        switcher = Switcher(model)
        for name, adapter in made.items():
            switcher.register(name, adapter)
        switcher.activate("b")
        before = fingerprint(model)
        failing(switcher, at)
        with pytest.raises(HalfWrittenError):
            switcher.activate(block)
        assert (switcher.active, fingerprint(model)) == ({"b": 1.0}, before)
        assert switcher.stats()["rollbacks"] == 1
        model(X)
        del switcher._write
        switcher.close()
    assert fingerprint(model) == fingerprint(Net(torch.bfloat16))


def test_a_rollback_that_fails_poisons_the_model_until_it_is_restored() -> None:
    model = Net(torch.float16)
    made, base = adapters(model), fingerprint(model)
    for at in range(2 * len(list(model.parameters())) - 1):
        switcher = Switcher(model)
        for name, adapter in made.items():
            switcher.register(name, adapter)
        switcher.activate("b")
        failing(switcher, at, times=3)
        with pytest.raises(HalfWrittenError):
            switcher.activate("a")
        for act in (lambda: model(X), lambda: switcher.activate("b"), switcher.verify):  # noqa: B023
            with pytest.raises(ZooError, match=r"type: switcher\.deactivate"):
                act()
        del switcher._write
        switcher.deactivate()
        assert fingerprint(model) == base
        model(X)
        switcher.close()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="Windows has no interval timer")
def test_an_interrupt_at_any_moment_leaves_one_whole_state() -> None:
    """Ctrl-C lands between any two byte codes of a switch, some hundred times."""
    model = Net(torch.float32)
    made, base = adapters(model), fingerprint(model)
    states = {base: {}} | {
        found[0]: weights for found, (weights, _) in zip(expected(model, made), STATES, strict=True)
    }
    switcher = Switcher(model)
    for name, adapter in made.items():
        switcher.register(name, adapter)
    dice = random.Random(0)
    interrupted = 0

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGALRM, interrupt)
    gc.disable()  # hypothesis listens to the collector: an interrupt in there would be lost
    try:
        for _ in range(400):
            weights, strategy = dice.choice(STATES)
            try:
                signal.setitimer(signal.ITIMER_REAL, dice.uniform(1e-5, 1e-3))
                switcher.activate(weights, strategy=strategy)
                switcher.deactivate()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupted += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            if switcher._journal is not None:  # the interrupt hit the rollback itself
                with pytest.raises(ZooError):
                    model(X)
                switcher.deactivate()
            assert states[fingerprint(model)] == switcher.active
    finally:
        signal.signal(signal.SIGALRM, old)
        gc.enable()
    assert interrupted > 20
    switcher.deactivate()
    assert fingerprint(model) == base


class Interrupted:
    """A key whose hash or comparison is interrupted, `left` of them from now."""

    left = -1

    def __init__(self, number: int) -> None:
        self.number = number

    def __hash__(self) -> int:
        self.count()
        return hash(self.number)

    def __eq__(self, other: object) -> bool:
        self.count()
        return isinstance(other, Interrupted) and self.number == other.number

    @classmethod
    def count(cls) -> None:
        cls.left -= 1
        if cls.left == 0:
            raise KeyboardInterrupt


def test_an_interrupt_inside_a_key_leaves_a_cache_that_works() -> None:
    def use(cache: Recent[Interrupted, int], *numbers: int) -> None:
        for number in numbers:
            found = cache.get(Interrupted(number))
            assert found in (None, number)
            if found is None:
                cache.put(Interrupted(number), number, 50)
            assert cache.nbytes <= 100

    interrupted = 0
    for moment in range(1, 100):
        cache: Recent[Interrupted, int] = Recent(100)
        use(cache, 1, 2)
        Interrupted.left = moment
        try:
            use(cache, 1, 3, 2, 1, 4, 3)
        except KeyboardInterrupt:
            interrupted += 1
        Interrupted.left = -1
        use(cache, 0, 1, 2, 3, 4, 5, 5)
        assert len(cache) == 2
    assert 10 < interrupted < 99  # the last runs had no interrupt left


def is_right(switcher: Switcher, model: Net, known: list[torch.Tensor], number: int | None) -> bool:
    """Whether a pass gives the output of a state of its own, or, for None, of any state."""
    if number is None:
        output = model(X)
        return any(torch.equal(output, state) for state in known)
    weights, strategy = STATES[number]
    with switcher.using(weights, strategy=strategy):
        return torch.equal(model(X), known[number])


def threads(seconds: float, readers: int = 8) -> tuple[int, int]:
    """Let 8 threads compute while others switch; return passes and switches."""
    model = Net(torch.float32)
    made = adapters(model)
    known = [output for _, output in expected(model, made)] + [model(X)]
    base = fingerprint(model)
    switcher = Switcher(model)
    for name, adapter in made.items():
        switcher.register(name, adapter)
    end = time.monotonic() + seconds
    wrong: list[object] = []
    passes = [0] * readers

    def compute(me: int) -> None:
        dice = random.Random(me)
        with torch.no_grad():
            while time.monotonic() < end and not wrong:
                number = dice.randrange(len(STATES)) if dice.random() < 0.2 else None
                if not is_right(switcher, model, known, number):
                    wrong.append("no state's output" if number is None else STATES[number])
                passes[me] += 1

    def switch(me: int) -> None:
        dice = random.Random(me)
        while time.monotonic() < end and not wrong:
            weights, strategy = dice.choice(STATES)
            switcher.activate(weights, strategy=strategy)
            if dice.random() < 0.3:
                switcher.deactivate()

    running = [threading.Thread(target=compute, args=(i,)) for i in range(readers)]
    running += [threading.Thread(target=switch, args=(i,)) for i in range(100, 102)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(seconds + 60)
    assert not any(thread.is_alive() for thread in running)
    assert wrong == []
    assert min(passes) > 0
    switcher.deactivate()
    assert switcher.verify() == base
    return sum(passes), switcher.stats()["switches"]


def test_every_output_belongs_to_one_state_while_others_switch() -> None:
    passes, switches = threads(2.0)
    assert min(passes, switches) > 20
    assert 1 / 20 < passes / switches < 20  # neither side starves


@pytest.mark.slow
def test_every_output_belongs_to_one_state_for_a_minute() -> None:
    passes, switches = threads(60.0)
    print(f"{passes} passes, {switches} switches")
    assert min(passes, switches) > 1000
    assert 1 / 20 < passes / switches < 20


def test_another_revision_is_refused_at_a_single_changed_bit() -> None:
    """Each masked value of the base is moved by one unit in the last place, up and down."""
    model = Net(torch.float16)
    made, base = adapters(model), fingerprint(model)
    switcher = Switcher(model)
    switcher.register("a", made["a"])
    for name, tensor in made["a"].tensors.items():
        p = model.get_parameter(name).detach()
        place = torch.unravel_index(tensor.indices[len(tensor.indices) // 2], p.shape)
        for direction in (-100.0, 100.0):
            kept = p[place].clone()
            p[place] = torch.nextafter(kept, torch.tensor(direction, dtype=p.dtype))
            with pytest.raises(MismatchError, match="differs from the base"):
                switcher.activate("a")
            p[place] = kept
    assert fingerprint(model) == base
    switcher.activate("a")
