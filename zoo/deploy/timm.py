"""Checkpoints of timm's weights, read by their names."""

import dataclasses
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from zoo import registry
from zoo.errors import MismatchError, MissingWeightsError, UnsafeFileError
from zoo.models.ran.efficientnet_lite import EfficientNetLite
from zoo.registry.checkpoint import Checkpoint
from zoo.registry.layout import UNSTATED

NAME, THEIRS = "efficientnet-lite-b0", "tf_efficientnet_lite0"


def convert(file: Path, out: Path) -> Checkpoint:
    """Write the checkpoint of a file with timm's EfficientNet-Lite-B0 into the new folder `out`.

    Raises:
        MissingWeightsError: there is no such file.
        UnsafeFileError: it is not a safetensors file.
        MismatchError: it has other tensors, or `out` exists already.

    """
    if not file.is_file():
        raise MissingWeightsError(f"no such file: {file}; expected a .safetensors file of {THEIRS}")
    if out.exists():
        raise MismatchError(f"{out} already exists; choose another --out, or remove it")
    try:
        state = load_file(file)
    except (SafetensorError, OSError) as error:
        raise UnsafeFileError(f"{file} is not a safetensors file: {error}") from error
    try:
        network = EfficientNetLite.of_timm(state)
    except (RuntimeError, KeyError, ValueError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise MismatchError(
            f"{file} does not hold the tensors of timm's {THEIRS}: {reason:.200}"
        ) from error
    recipe, classes = registry.find(NAME), network.arguments["num_classes"]
    channels = network.stem.layer.in_channels
    recipe = dataclasses.replace(
        recipe,
        args={**recipe.args, "num_classes": classes, "in_chans": channels},
        input_shape=(1, channels, *recipe.input_shape[2:]),
        preprocessing={
            **recipe.preprocessing,
            "labels": [f"class {number}" for number in range(classes)],
        },
    )
    facts = {"source": f"timm's {THEIRS}", "images": 0, "held_out": 0}
    return Checkpoint.write(
        out, recipe, network.state_dict(), {}, tag="timm", license=UNSTATED, data=facts
    )
