"""The run of the method `denoise`: where blocks go, how they start, and their training."""

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from zoo.errors import MismatchError
from zoo.graph.trace import trace
from zoo.models.denoised import Denoised
from zoo.registry.checkpoint import Checkpoint, build
from zoo.registry.compressed import Compressed, licence_after
from zoo.registry.recipe import Recipe, Train
from zoo.resilience import noise as noises
from zoo.resilience.insertion import chosen, fitted, share
from zoo.tasks import calibration, task_of
from zoo.training.network import train

if TYPE_CHECKING:
    from zoo.resilience.methods.denoise import Options

MODEL = "zoo.models.denoised:Denoised"
_RUN = "run"
_INPUTS = 256  # of the training data, from which places and starts of blocks are found


def trained(
    source: Checkpoint,
    out: Path,
    options: "Options",
    *,
    data: Path,
    test: Path | None,
    resume: bool,
    device: str | None,
) -> Compressed:
    """Return the trained network; see `zoo.resilience.methods.denoise.compress`."""
    before = _checked(source)
    task, network = task_of(source.recipe), source.load()
    inputs = torch.cat(calibration(source.recipe, data))
    inputs = inputs[:: max(1, len(inputs) // _INPUTS)][:_INPUTS]
    kinds = noises.parse(options.noise)
    limits = noises.limits_of(network, inputs)
    count = sum(value.numel() for value in network.parameters())
    blocks: dict[str, str] = {}
    if options.learns == "blocks":
        budget = share(options.max_params, count)
        blocks = chosen(network, inputs, kinds, limits, budget, options.block, options.seed)
    recipe = _recipe(source, before, options, blocks)
    start = build(recipe)
    assert isinstance(start, Denoised)
    _adopt(start, network)
    # The gains that regression finds shrink everything, and cost more accuracy than the noise does:
    # they are for comparison. What is trained starts without.
    solvable = ("depthwise",) if options.steps else ("channel", "depthwise")
    fitted(start, network, inputs, kinds, limits, options.seed, solvable)
    made, metrics, facts, license = start, dict[str, Any](), dict[str, Any](), None
    if options.steps:
        folder = out / _RUN
        done = train(
            recipe, folder, data=str(data), data_license=source.license, init=start,
            teacher=network, resume=resume and folder.is_dir(), device=device,
        )  # fmt: skip
        loaded = done.load()
        assert isinstance(loaded, Denoised)
        made, metrics = loaded, {"training": done.metrics["training"]}
        license = licence_after(source.license, source.config["data"], done.config["data"])
        facts = {"trained_on": done.config["data"]}
        shutil.rmtree(folder)
    scored = _scores(task, made, recipe, test)
    facts |= _facts(source, made, count, blocks, options, limits)
    return Compressed(
        metrics={**metrics, "compression": facts, **scored},
        tensors=(made if blocks else made.network).state_dict(),
        license=license,
        changes={"model": MODEL, "args": recipe.args} if blocks else {},
    )


def _checked(source: Checkpoint) -> Train:
    """Return how a network was trained.

    Raises:
        MismatchError: it is no classifier in floats that a recipe trains.

    """
    recipe, make = source.recipe, source.recipe.make
    if source.quantization is not None:
        raise MismatchError(f"{source.label} computes in integers; give its float weights")
    if not isinstance(make, Train):
        raise MismatchError(
            f"{source.label} is compressed already, from {make.base}: denoise trains a network, "
            "so give that one"
        )
    if task_of(recipe).FACTS.metric("accuracy") is None:
        raise MismatchError(
            f"{source.label} has no accuracy to keep: denoise takes classifiers (zoo list shows "
            f"tasks; this is {recipe.subtask})"
        )
    if not recipe.model.startswith("zoo.models."):
        raise MismatchError(f"{source.label} is a network of another package, {recipe.model}")
    return make


def _recipe(
    source: Checkpoint,
    before: Train,
    options: "Options",
    blocks: Mapping[str, str],
) -> Recipe:
    """Return the recipe that is run: the network's own, with blocks and noise."""
    kinds = noises.parse(options.noise)
    steps = max(options.steps, 1)
    make = dataclasses.replace(
        before, steps=steps, lr=options.lr, optimizer="adamw", precision="no", compile=False,
        batch_size=options.batch_size or before.batch_size, seed=options.seed, weight_decay=0.0,
        ema_decay=0.99, clip_norm=1.0, patience=0, warmup_steps=min(before.warmup_steps, 50),
        init=source.label, teacher=source.label, quant=None, eval_every=steps,
        save_every=max(1, min(500, steps)), accumulation_steps=1,
        options={
            **before.options, "learns": options.learns,
            "noise": {
                "kinds": [noise.kind for noise in kinds],
                "sizes": [noise.size for noise in kinds],
            },
        },
    )  # fmt: skip
    recipe = source.recipe
    args = {"network": recipe.model, "args": dict(recipe.args), "blocks": dict(blocks)}
    return dataclasses.replace(recipe, model=MODEL, args=args, make=make)


def _adopt(start: Denoised, network: nn.Module) -> None:
    """Put a network's weights into the form with blocks, which keep theirs."""
    own, given = start.network.state_dict(), network.state_dict()
    start.network.load_state_dict({**own, **given})


def _scores(task: Any, made: nn.Module, recipe: Recipe, test: Path | None) -> dict[str, Any]:
    if test is None:
        return {}
    return {"evaluations": {test.name: task.evaluate(made, recipe, test)}}


def _facts(
    source: Checkpoint,
    made: Denoised,
    count: int,
    blocks: Mapping[str, str],
    options: "Options",
    limits: Mapping[str, float],
) -> dict[str, Any]:
    """Return what is known about the blocks: parameters and work, beside the network's."""
    shape = source.recipe.input_shape
    added = sum(value.numel() for block in made.blocks.values() for value in block.parameters())
    before, after = (_macs(network, shape) for network in (source.load(), made))
    return {
        "noise": options.noise,
        "parameters": count,
        "added_parameters": added,
        "added_share": added / count,
        "macs": before,
        "added_macs": after - before,
        "blocks": dict(blocks),
        "limits": {name: round(value, 6) for name, value in limits.items()},
    }


def _macs(network: nn.Module, shape: Sequence[int]) -> int:
    return trace(network, tuple(shape)).macs
