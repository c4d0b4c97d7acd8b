"""Repair: what is still continuous in a compressed network, tuned to the float one's outputs.

Only calibration inputs are seen, without labels: most are tuned on, and the others say which state
is kept, the start among them. So a repair never makes these worse.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo.compression.matrices import tensors
from zoo.compression.repair_options import RepairOptions
from zoo.errors import MismatchError
from zoo.models.structured.layers import Structured

BATCH = 128
_HELD = 8  # one in so many inputs chooses the state that is kept
_LOOK_EVERY = 10  # steps
_TEMPERATURE = 3.0  # of the contrastive loss
_POPULATION, _TOURNAMENT = 15, 10  # of the evolution
_LEAST = 2 * _HELD  # inputs
Scales = NDArray[np.float64]


@dataclass(frozen=True)
class Mended:
    """What a repair did.

    Attributes:
        before: the loss on the inputs held out, before.
        after: and after.
        step: the step whose state was kept; 0 is the start.
        seconds: how long it took.

    """

    before: float
    after: float
    step: int
    seconds: float


def repair(
    network: nn.Module,
    reference: nn.Module,
    batches: Sequence[Tensor],
    options: RepairOptions,
    *,
    chosen: Sequence[nn.Parameter] | None = None,
    stepped: Callable[[], None] | None = None,
) -> Mended:
    """Tune a network, in place, to the outputs of another.

    Args:
        network: compressed, in eval mode: batch norms keep their statistics.
        reference: what it was before, in eval mode.
        batches: inputs.
        options: see `RepairOptions`.
        chosen: what is tuned; None takes `tunable`.
        stepped: called after each step of Adam, for what must hold of the parameters.

    Raises:
        MismatchError: there are too few inputs, nothing can be tuned, or outputs are not finite.

    """
    start = time.perf_counter()
    learn, held = _split(batches, options.seed)
    distance = _distance(options.repair_loss)
    with torch.no_grad():
        wanted = [_flat(reference(x)) for x in learn]
        wanted_held = [_flat(reference(x)) for x in held]
    chosen = tunable(network) if chosen is None else chosen
    if not chosen:
        raise MismatchError(f"{type(network).__name__} has nothing to tune; leave --repair out")

    def loss_on_held() -> float:
        with torch.no_grad():
            pairs = zip(held, wanted_held, strict=True)
            losses = [distance(_flat(network(x)), y) * len(x) for x, y in pairs]
        return float(sum(losses)) / sum(map(len, held))

    before = loss_on_held()
    if not np.isfinite(before):
        raise MismatchError("the network's outputs are not finite; compress less")
    tune = partial(_gradient, stepped=stepped) if options.repair == "gradient" else _evolve

    def loss_of(number: int) -> Tensor:
        number %= len(learn)
        return distance(_flat(network(learn[number])), wanted[number])

    after, step = tune(chosen, loss_of, len(learn), loss_on_held, before, options)
    return Mended(before, after, step, time.perf_counter() - start)


def tunable(network: nn.Module) -> list[nn.Parameter]:
    """Return what is tuned: factors, and vectors (biases and norms); large dense weights stay."""
    own = {id(p) for m in network.modules() if isinstance(m, Structured) for p in m.parameters()}
    return [p for p in network.parameters() if p.numel() and (id(p) in own or p.ndim <= 1)]


def _split(batches: Sequence[Tensor], seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return inputs to tune on and held-out ones, in batches of one shape each."""
    by_shape: dict[tuple[int, ...], list[Tensor]] = {}
    for batch in batches:
        by_shape.setdefault(tuple(batch.shape[1:]), []).append(batch)
    learn, held = list[Tensor](), list[Tensor]()
    for parts in by_shape.values():
        inputs = torch.cat(parts)
        order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
        count = len(inputs) // _HELD
        held += [inputs[part] for part in order[:count].split(BATCH) if len(part)]
        learn += [inputs[part] for part in order[count:].split(BATCH)]
    count = sum(map(len, batches))
    if not held or count < _LEAST:
        raise MismatchError(
            f"a repair needs {_LEAST} inputs or more, of which some only judge; --data has {count}"
        )
    return learn, held


def _flat(outputs: Any) -> Tensor:
    """Return all outputs of each sample in a row, (N, numbers)."""
    return torch.cat([y.flatten(1) for y in tensors(outputs)], 1)


def _distance(loss: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the mean distance over samples of outputs from the wanted ones, both (N, numbers)."""
    if loss == "kl":
        return lambda y, wanted: F.kl_div(
            y.log_softmax(1), wanted.log_softmax(1), reduction="batchmean", log_target=True
        )
    return contrastive if loss == "contrastive" else F.mse_loss


def contrastive(y: Tensor, wanted: Tensor) -> Tensor:
    """Return InfoNCE: 2 T times the cross entropy of telling each sample's outputs by their angle.

    Its floor is not 0, and depends on how many samples there are.
    """
    angles = F.normalize(y, dim=1) @ F.normalize(wanted, dim=1).T
    return 2 * _TEMPERATURE * F.cross_entropy(angles / _TEMPERATURE, torch.arange(len(y)))


def _gradient(
    chosen: Sequence[nn.Parameter],
    loss_of: Callable[[int], Tensor],
    count: int,
    loss_on_held: Callable[[], float],
    before: float,
    options: RepairOptions,
    *,
    stepped: Callable[[], None] | None = None,
) -> tuple[float, int]:
    """Take steps of Adam, at a rate that falls to 0 along a cosine; keep the best state seen."""
    best, best_step, kept = before, 0, _copied(chosen)
    generator = torch.Generator().manual_seed(options.seed)
    optimizer = torch.optim.Adam(chosen, lr=options.repair_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.repair_steps)
    order: list[int] = []
    for step in range(1, options.repair_steps + 1):
        order = order or torch.randperm(count, generator=generator).tolist()
        optimizer.zero_grad()
        loss_of(order.pop()).backward()
        optimizer.step()
        if stepped is not None:
            stepped()
        schedule.step()
        if step % _LOOK_EVERY == 0 or step == options.repair_steps:
            loss = loss_on_held()
            if loss < best:  # never of one that is not a number
                best, best_step, kept = loss, step, _copied(chosen)
    optimizer.zero_grad()
    _put(chosen, kept)
    return best, best_step


def _evolve(
    chosen: Sequence[nn.Parameter],
    loss_of: Callable[[int], Tensor],
    count: int,
    loss_on_held: Callable[[], float],
    before: float,
    options: RepairOptions,
) -> tuple[float, int]:
    """Multiply each tensor by a scale near 1, found by mutation (arXiv 2308.10814).

    The published code changes scales by an absolute amount, which is half of some; this is
    relative.
    """
    start = _copied(chosen)

    def grown(scales: Scales) -> None:
        _put(chosen, [one * float(scale) for one, scale in zip(start, scales, strict=True)])

    @torch.no_grad()
    def fitness(scales: Scales) -> float:
        grown(scales)
        return sum(float(loss_of(number)) for number in range(count)) / count

    best, step = evolved(
        fitness, len(start), options.repair_steps, options.repair_rate, options.seed
    )
    grown(best)
    after = loss_on_held()
    if after < before:
        return after, step
    _put(chosen, start)
    return before, 0


def evolved(
    fitness: Callable[[Scales], float],
    size: int,
    trials: int,
    radius: float,
    seed: int,
) -> tuple[Scales, int]:
    """Return the scales (size,) of least fitness found, and the trial that found them.

    A child is the best of ten drawn from the population, each of its scales changed by up to
    `radius`, relatively; it takes the place of the worst.

    Args:
        fitness: what is to be small.
        size: how many scales there are; all begin at 1.
        trials: how many children are tried.
        radius: the largest relative change.
        seed: of what is drawn.

    """
    dice = np.random.default_rng(seed)
    first = np.ones(size)
    population = [(fitness(first), 0, first)] * _POPULATION
    for trial in range(1, trials + 1):
        drawn = dice.integers(0, len(population), _TOURNAMENT)
        parent = min((population[i] for i in drawn), key=lambda one: one[:2])[2]
        child = parent * (1 + dice.uniform(-radius, radius, size))
        worst = max(range(len(population)), key=lambda i: population[i][:2])
        population[worst] = (fitness(child), trial, child)
    _, step, best = min(population, key=lambda one: one[:2])
    return best, step


def _copied(chosen: Sequence[nn.Parameter]) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in chosen]


@torch.no_grad()
def _put(chosen: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(chosen, values, strict=True):
        parameter.copy_(value)
