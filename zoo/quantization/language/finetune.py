"""Tuning a quantized model end to end: codebooks and scales follow the gradient, and weights may.

The loss is the divergence of the quantized model's predictions from the float model's, so that
no labels are needed. Values are linear in codebooks and scales: their gradient is the weights'
gradient, summed over the places that share an entry. Norms are tuned too, as they are stored in
full anyway. Codes stay, or follow weights that are trained (see `student`). The result takes
exactly as many bits as before.
"""

import copy
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from zoo.errors import MismatchError
from zoo.files import replacing
from zoo.quantization.core import QuantizedMatrix
from zoo.quantization.language.announcer import Announcer
from zoo.quantization.language.student import Student

log = logging.getLogger("zoo")

Forward = Callable[[nn.Module, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    """How to tune.

    Args:
        steps: number of Adam steps.
        batch: windows per step.
        lr: largest step of an entry, as a fraction of the root mean square of its parameter.
        weights: train the weights themselves, from which codes are chosen again at each step; the
            largest step of one, as a fraction of the root mean square of its matrix; 0 keeps codes.
        norms: tune one-dimensional parameters (norms, biases) too.
        warmup: steps over which the rate rises; after them it falls along a cosine.
        held_out: how many of the last windows only measure; if the tuned model is not better on
            them after rounding, the given one is returned.
        dtype: type of weights and activations while training.
        seed: seed of the order of the windows.

    """

    steps: int = 200
    batch: int = 1
    lr: float = 0.005
    weights: float = 0.0
    norms: bool = True
    warmup: int = 10
    held_out: int = 2
    dtype: str = "bfloat16"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch", 1), ("warmup", 0), ("held_out", 1)):
            if getattr(self, name) < least:
                raise MismatchError(f"{name} is {getattr(self, name)}; expected at least {least}")
        if self.lr <= 0 or self.weights < 0:
            raise MismatchError(
                f"lr is {self.lr} and weights {self.weights}; expected more than 0, and 0 or more"
            )
        if self.dtype not in ("bfloat16", "float32"):
            raise MismatchError(f"dtype is {self.dtype!r}; expected bfloat16 or float32")


@dataclass(frozen=True)
class Tuned:
    """The tuned matrices and other tensors by name, and the divergence, in nats per token."""

    matrices: dict[str, QuantizedMatrix]
    tensors: dict[str, Tensor]
    before: float
    after: float


def logits_of(model: nn.Module, ids: Tensor) -> Tensor:
    """Return the logits (windows, length, vocabulary) of a transformers model."""
    return model(input_ids=ids, use_cache=False).logits


def finetune(
    model: nn.Module,
    matrices: Mapping[str, QuantizedMatrix],
    windows: Tensor,
    options: FinetuneOptions,
    *,
    state: Path | None = None,
    forward: Forward = logits_of,
) -> Tuned:
    """Tune the codebooks and scales of `matrices` towards the predictions of `model`.

    Args:
        model: the float model; it is only read.
        matrices: by the names of the linear modules of `model` whose weights they replace.
        windows: token ids (windows, length).
        options: how to tune.
        state: a file that stores the state every 25 steps; if it exists, tuning resumes from it.
        forward: returns logits (..., vocabulary) for a model and ids (batch, length).

    Raises:
        MismatchError: there are too few windows, or the state was written with other options.

    """
    if len(windows) <= options.held_out:
        raise MismatchError(
            f"{len(windows)} windows of text, {options.held_out} of them held out, leave none to "
            "tune on: give more text"
        )
    dtype = getattr(torch, options.dtype)
    teacher = copy.deepcopy(model).to(dtype).requires_grad_(False).eval()
    held = windows[-options.held_out :]
    student = Student(
        copy.deepcopy(teacher), matrices, norms=options.norms, weights=options.weights > 0
    )
    rounded = student.rounded()
    before = _divergence(teacher, student, rounded, held, forward)
    log.info("divergence of the quantized model: %.4f nats per token", before)
    _train(teacher, student, windows[: -options.held_out], options, state, forward)
    result = student.rounded()
    after = _divergence(teacher, student, result, held, forward)
    log.info("divergence of the tuned model: %.4f nats per token", after)
    if not after < before:
        log.warning("tuning did not help (%.4f after %.4f): nothing changed", after, before)
        return Tuned(dict(matrices), {}, before, before)
    tensors = {name: value.detach().clone() for name, value in student.others.items()}
    return Tuned(result, tensors, before, after)


def _train(
    teacher: nn.Module,
    student: Student,
    windows: Tensor,
    options: FinetuneOptions,
    state: Path | None,
    forward: Forward,
) -> None:
    """Move the leaves of `student` in place."""
    leaves = student.leaves()
    sizes = [float(leaf.square().mean().sqrt()) or 1.0 for leaf in leaves]
    rates = [options.weights / options.lr if student.is_weight(leaf) else 1.0 for leaf in leaves]
    groups = [
        {"params": [leaf], "size": size * rate}
        for leaf, size, rate in zip(leaves, sizes, rates, strict=True)
    ]
    adam = torch.optim.Adam(groups, betas=(0.9, 0.95), eps=1e-12)
    first = _resume(state, leaves, adam, options)
    announce = Announcer()
    for step, batch in enumerate(_batches(windows, options)):
        if step < first:
            continue
        student.load()
        total = 0.0

        def backward(batch: Tensor = batch) -> None:
            nonlocal total
            for window in batch:
                wanted = forward(teacher, window[None])
                total += _pull(forward(student.model, window[None]), wanted, len(batch))

        for leaf, gradient in zip(leaves, student.gradients(backward), strict=True):
            leaf.grad = gradient
        for group in adam.param_groups:
            group["lr"] = _rate(step, options) * group["size"]
        adam.step()
        announce(f"tuning step {step + 1}/{options.steps}  divergence {total:.4f}")
        if state is not None and (step + 1) % 25 == 0:
            _save(state, leaves, adam, step + 1, options)


def _rate(step: int, options: FinetuneOptions) -> float:
    if step < options.warmup:
        return options.lr * (step + 1) / options.warmup
    done = (step - options.warmup) / max(1, options.steps - options.warmup)
    return options.lr * 0.5 * (1 + math.cos(math.pi * done))


def _batches(windows: Tensor, options: FinetuneOptions) -> Iterator[Tensor]:
    """Yield `steps` batches, every window once before any is repeated."""
    generator = torch.Generator().manual_seed(options.seed)
    order: list[int] = []
    for _ in range(options.steps):
        while len(order) < options.batch:
            order += torch.randperm(len(windows), generator=generator).tolist()
        yield windows[order[: options.batch]]
        del order[: options.batch]


_TOKENS = 128  # tokens whose probabilities over the vocabulary are in memory at once


def _pull(found: Tensor, wanted: Tensor, share: int) -> float:
    """Run the backward pass of the mean divergence KL(wanted || found) / share; return it.

    The gradient with respect to the logits is the difference of the two distributions: computed
    here, a chunk of tokens at a time, it takes a fraction of the memory that autograd would.
    """
    size = found.shape[-1]
    flat, target = found.detach().reshape(-1, size), wanted.reshape(-1, size)
    gradient = torch.empty_like(flat)
    total = 0.0
    for begin in range(0, len(flat), _TOKENS):
        some = slice(begin, begin + _TOKENS)
        ours = flat[some].float().log_softmax(1)
        theirs = target[some].float().log_softmax(1)
        odds = theirs.exp()
        total += float((odds * (theirs - ours)).sum())
        gradient[some] = (ours.exp() - odds) / (len(flat) * share)
    found.backward(gradient.view_as(found))
    return total / (len(flat) * share)


@torch.no_grad()
def _divergence(
    teacher: nn.Module,
    student: Student,
    matrices: Mapping[str, QuantizedMatrix],
    windows: Tensor,
    forward: Forward,
) -> float:
    """Return the mean KL(teacher || student) in nats per token."""
    student.load(matrices)
    total = 0.0
    for window in windows:
        wanted = forward(teacher, window[None]).flatten(0, -2)
        found = forward(student.model, window[None]).flatten(0, -2)
        for theirs, ours in zip(wanted.split(_TOKENS), found.split(_TOKENS), strict=True):
            theirs, ours = theirs.float().log_softmax(1), ours.float().log_softmax(1)
            total += float((theirs.exp() * (theirs - ours)).sum()) / len(wanted)
    return total / len(windows)


def _save(
    path: Path, leaves: list[Tensor], adam: torch.optim.Adam, step: int, options: FinetuneOptions
) -> None:
    from safetensors.torch import save_file

    tensors = {}
    for index, leaf in enumerate(leaves):
        moments = adam.state[leaf]
        tensors[f"{index}"] = leaf
        tensors[f"{index}.first"], tensors[f"{index}.second"] = (
            moments["exp_avg"],
            moments["exp_avg_sq"],
        )
    facts = {"step": str(step), "options": json.dumps(asdict(options))}
    with replacing(path) as temporary:
        save_file(tensors, temporary, facts)


def _resume(
    path: Path | None, leaves: list[Tensor], adam: torch.optim.Adam, options: FinetuneOptions
) -> int:
    """Load what `_save` wrote into leaves and moments; return the number of steps done."""
    if path is None or not path.is_file():
        return 0
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        facts = file.metadata() or {}
        if json.loads(facts.get("options", "null")) != asdict(options):
            raise MismatchError(
                f"{path} was written with other options; give the same, or remove the file"
            )
        step = int(facts["step"])
        for index, leaf in enumerate(leaves):
            leaf.copy_(file.get_tensor(f"{index}"))
            adam.state[leaf] = {
                "step": torch.tensor(float(step)),
                "exp_avg": file.get_tensor(f"{index}.first"),
                "exp_avg_sq": file.get_tensor(f"{index}.second"),
            }
    return step
