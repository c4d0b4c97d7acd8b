"""UDC on a checkpoint: the training run, and what is reported of its result."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from zoo.deploy.vela import compile_graph
from zoo.errors import MismatchError, MissingExtraError
from zoo.graph.ir import Graph
from zoo.nas.limits import amount
from zoo.nas.udc.network import CompressibleNetwork
from zoo.nas.udc.options import BITS, uniform
from zoo.nas.udc.stages import LOOK_EVERY, Plan, Stages
from zoo.quantization.int8 import qat
from zoo.quantization.int8.network import QuantizedNetwork, read_quantization
from zoo.registry.checkpoint import Checkpoint
from zoo.registry.codec import to_json
from zoo.registry.compressed import Compressed, licence_after
from zoo.registry.recipe import Recipe, Train
from zoo.tasks import task_of
from zoo.training.accelerator import accelerator_for
from zoo.training.loop import Run
from zoo.training.network import WholeNetwork

if TYPE_CHECKING:
    from zoo.nas.methods.udc import Options

NPU = "ethos-u55-128"
SETTLE, SEARCH = 0.1, 0.4  # of a run's steps, and of all steps: those of the run that searches
_RUN, _FIRST_RUN = "run", "search"


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
    """Train a checkpoint's network for a small code; see `zoo.nas.methods.udc.compress`."""
    given, first = uniform(options), out / _FIRST_RUN
    chosen, searching = [] if given is None else [given], 0
    if given is None:
        searching = round(SEARCH * options.steps) // LOOK_EVERY * LOOK_EVERY
        stages, _ = _ran(source, first, options, searching, [], data, resume, device)
        stages.network.look(shares=True)
        chosen = stages.decided()
    folder, steps = out / _RUN, options.steps - searching
    stages, run = _ran(source, folder, options, steps, chosen, data, resume, device)
    made = Checkpoint.read(folder)
    integers = read_quantization(made.load(), made.quantization)
    task = task_of(source.recipe)
    scores = {} if test is None else {test.name: task.evaluate(integers, source.recipe, test)}
    facts = _facts(stages, integers, source.recipe.input_shape)
    if run.accelerator.is_main_process:
        shutil.rmtree(folder)
        shutil.rmtree(first, ignore_errors=True)
    return Compressed(
        metrics={
            **{name: made.metrics[name] for name in ("held_out", "training")},
            "compression": {**facts, "trained_on": run.data.facts},
            **({"evaluations": scores} if scores else {}),
        },
        tensors=integers.network.state_dict(),
        quantization=integers.quantization(),
        license=licence_after(source.license, source.config["data"], run.data.facts),
    )


def _ran(
    source: Checkpoint,
    folder: Path,
    options: "Options",
    steps: int,
    chosen: Sequence[tuple[int, int]],
    data: Path,
    resume: bool,
    device: str | None,
) -> tuple[Stages, Run]:
    """Do one of the two runs, or go on with it: a search, or the training of what is chosen."""
    recipe = _recipe(source, options, steps, chosen)
    accelerator = accelerator_for(recipe.name, recipe.train, folder, None, device)
    shape = source.recipe.input_shape
    stages = Stages(
        _plan(options, steps, chosen), lambda network: _encoded(network.deployed().graph(shape))
    )
    trainee = WholeNetwork(recipe, source.load(), _form)
    run = Run(trainee, folder, accelerator, str(data), source.license, hooks=[stages])
    run.execute(resume=resume and folder.is_dir())
    return stages, run


def _form(network: nn.Module, batches: Sequence[Tensor], scheme: str) -> nn.Module:
    return qat.training_form(network, batches, scheme, form=CompressibleNetwork)


def _recipe(
    source: Checkpoint, options: "Options", steps: int, chosen: Sequence[tuple[int, int]]
) -> Recipe:
    """Return the recipe that is run: the network's own, with the options' settings."""
    make = source.recipe.make
    if not isinstance(make, Train):
        raise MismatchError(
            f"{source.label} is compressed already, from {make.base}: udc trains a network, so "
            "give that one"
        )
    train = dataclasses.replace(
        make,
        steps=steps,
        lr=options.lr,
        optimizer="adamw",
        precision="no",
        batch_size=options.batch_size or make.batch_size,
        seed=options.seed,
        ema_decay=0.0,
        compile=False,  # what a step computes differs from stage to stage
        patience=0,
        init=source.label,
        teacher=None,
        quant="int8",
        eval_every=steps,
        save_every=_plan(options, steps, chosen).save_every,
        options={
            **make.options,
            "compress": {**to_json(options), "chosen": [list(pair) for pair in chosen]},
        },
    )
    return dataclasses.replace(source.recipe, make=train)


def _plan(options: "Options", steps: int, chosen: Sequence[tuple[int, int]]) -> Plan:
    return Plan(
        steps=steps,
        settle=SETTLE,
        ratio=options.ratio,
        budget=amount(options.max_flash, "flash_bytes") if options.max_flash else 0.0,
        options=chosen,
        bounded=uniform(options) is None,
    )


def _encoded(graph: Graph) -> int | None:
    """Return the bytes that Vela makes of a graph's weights; None without Vela."""
    try:
        return compile_graph(graph, NPU).encoded_bytes
    except MissingExtraError:
        return None


def _facts(stages: Stages, integers: QuantizedNetwork, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return what is known about the compression: each layer's choice, and the sizes."""
    network, graph = stages.network, integers.graph(shape)
    weights = [v for name, v in graph.values.items() if graph.tensors[name].kind == "weight"]
    count = sum(value.size for value in weights)
    found, how = _encoded(graph), f"vela for {NPU}"
    if found is None:
        found = round(float(network.chosen_bytes().detach()))
        how = "predicted; ethos-u-vela is missing"
    return {
        "weights": count,
        "bits_per_weight": 8 * found / count,
        "packed_bytes": found,
        "tensor_bytes": sum(value.nbytes for value in graph.values.values()),
        "encoded_by": how,
        "int8_bytes": round(stages.plain),
        "layers": {
            layer.module: {
                "bits": BITS[int(network.chosen[row, 0])],
                "zeros": round(network.zeros(row), 3),
            }
            for row, layer in enumerate(network.layers)
        },
    }
