"""The last step of packing: one forward pass, compared with the float model's.

The packed model has to run, return finite numbers, and stay within `FARTHEST` of the float model's
outputs. The distance is part of the report.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoo.errors import MismatchError, ZooError
from zoo.quantization.language import blocks

if TYPE_CHECKING:
    from zoo.quantization.language.pipeline import Job

# |packed - float| / |float|. Answers of equal size lie at most 2 apart (they are opposite), and
# unrelated ones at 1.4: anything beyond has grown, which no loss of precision explains. A smaller
# bound would refuse what is merely bad: SmolLM2-135M rounded to 2 bits lies at 1.2 to 1.5, as far
# as with the rows of its weights shuffled.
FARTHEST = 2.0
TOKENS = 16  # tokens of the forward pass of a language model


def answers(found: Any) -> list[Tensor]:
    """Return the floating-point tensors in a model's output: a tensor, tuples, lists, mappings."""
    if isinstance(found, Tensor):
        return [found] if found.is_floating_point() else []
    if isinstance(found, Mapping):
        found = tuple(found.values())
    if isinstance(found, tuple | list):
        return [tensor for part in found for tensor in answers(part)]
    return []


@torch.no_grad()
def compare(model: nn.Module, run: Callable[[], Any], expected: list[Tensor], worst: str) -> float:
    """Return how far a packed model's outputs are from the float model's.

    Args:
        model: the packed model.
        run: calls it.
        expected: outputs of the float model.
        worst: what to say about its layers if it is too far off.

    Raises:
        MismatchError: it does not run, or returns NaN, infinity or something else altogether; the
            layer is named.

    """
    kind = type(model).__name__
    with _watched(model) as (inside, broken):
        try:
            actual = answers(run())
        except Exception as error:
            where = " in ".join(reversed(inside[-2:])) or kind
            raise MismatchError(
                f"{kind} does not run with packed layers: {where}: "
                f"{type(error).__name__}: {error}; leave that layer out with --skip"
            ) from error
    if [x.shape for x in actual] != [x.shape for x in expected]:
        raise MismatchError(f"{kind} with packed layers gives tensors of other shapes than before")
    far = size = 0.0
    for packed, before in zip(actual, expected, strict=True):
        known = torch.isfinite(before)  # what is masked stays masked
        if not torch.isfinite(packed[known]).all():
            where = broken[0] if broken else kind
            raise MismatchError(
                f"{kind} with packed layers gives NaN or infinity, first in {where}; "
                "leave layers out with --skip, or take more bits"
            )
        off = packed[known].double() - before[known].double()
        far, size = (
            far + float(off.square().sum()),
            size + float(before[known].double().norm()) ** 2,
        )
    distance = math.sqrt(far / size) if size else 0.0
    if distance > FARTHEST:
        raise MismatchError(
            f"{kind} with packed layers gives answers {distance:.3g} times their own size away "
            f"from the float model's; {FARTHEST:g} is the most that codes can explain. {worst}"
        )
    return distance


@contextmanager
def _watched(model: nn.Module) -> Iterator[tuple[list[str], list[str]]]:
    """Yield the modules being called, innermost last, and those whose output is not finite."""
    inside: list[str] = []
    broken: list[str] = []
    handles = []

    def before(label: str) -> Any:
        return lambda *_: inside.append(label)

    def after(label: str) -> Any:
        def hook(*args: Any) -> None:
            inside.pop()
            if not all(torch.isfinite(value).all() for value in answers(args[2])):
                broken.append(label)

        return hook

    for name, module in model.named_modules():
        label = f"{name or 'the model'} ({type(module).__name__})"
        handles += [module.register_forward_pre_hook(before(label))]
        handles += [module.register_forward_hook(after(label))]
    try:
        yield inside, broken
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def check_folder(job: "Job", out: Path) -> dict[str, Any]:
    """Compare the checkpoint of a job with its source; return `tokens` and `distance`.

    The float model is run with one block in memory at a time.

    Raises:
        MismatchError: see `compare`; or the folder does not load.

    """
    from zoo.quantization.language.opening import load

    if job.ids is not None:
        ids = job.ids[:1, :TOKENS].cpu()
    else:
        most = int(job.model.get_input_embeddings().weight.shape[0])
        ids = torch.randint(most, (1, TOKENS), generator=torch.Generator().manual_seed(0))
    expected = _float_answers(job, ids)
    try:
        model = load(out, dtype=torch.float32)
    except Exception as error:
        kind = type(job.model).__name__
        raise MismatchError(
            f"{kind} does not load with packed layers: {type(error).__name__}: {error}"
        ) from error
    layers = job.state["layers"]
    name = max(layers, key=lambda key: layers[key]["relative_error"])
    worst = f"The layer with the largest error, {layers[name]['relative_error']:.3g}, is {name}"
    distance = compare(model, lambda: model(ids, use_cache=False), expected, worst)
    return {"tokens": ids.numel(), "distance": distance}


def _float_answers(job: "Job", ids: Tensor) -> list[Tensor]:
    """Return the source's outputs for token ids (1, length), one block in memory at a time."""
    model = job.source.skeleton()
    prefix, items = blocks.find_blocks(model)
    outside = [name for name in model.state_dict() if not name.startswith(f"{prefix}.")]
    values = job.source.tensors(name for name in outside if name in job.source.files)
    model.load_state_dict(
        {n: v.float() if v.is_floating_point() else v for n, v in values.items()},
        strict=False,
        assign=True,
    )
    model.tie_weights()
    for name, parameter in model.named_parameters():
        if parameter.is_meta and not name.startswith(f"{prefix}."):
            job.source.tensors([name])  # raises: a meta weight computes whatever memory holds

    def streamed(index: int) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            return job.load_block(index, "cpu")(*args, **kwargs)

        return forward

    try:
        with blocks.replaced_forward(items, streamed):
            return answers(model(ids, use_cache=False))
    except ZooError:
        raise
    except Exception as error:
        raise MismatchError(f"{type(model).__name__} itself does not run: {error}") from error
