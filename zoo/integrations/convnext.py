"""ConvNeXt as transformers saves it, and as its checkpoints lie on the Hub, for the zoo."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from zoo import registry
from zoo.errors import MismatchError, MissingWeightsError, UnsafeFileError
from zoo.files import read_json
from zoo.models.convnext import EPSILON, ConvNeXt, from_transformers
from zoo.registry.layout import CONFIG
from zoo.registry.recipe import Recipe

KIND, CLASS = "convnext", "ConvNextForImageClassification"
_PREPROCESSOR = "preprocessor_config.json"
_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_NAMES = ("convnext-t", "convnext-s", "convnext-b")


def read_convnext(folder: Path) -> tuple[Recipe, dict[str, Tensor]]:
    """Return the recipe of a folder's classifier, and the tensors of its deployed network.

    The network sees pixels from 0 to 1: mean and deviation, which the folder's preprocessor takes
    off, are in the first layer, which has no padding; so they are exact.

    Raises:
        MismatchError: the folder holds another kind of model, or sizes that are none.
        MissingWeightsError: it has no safetensors.
        UnsafeFileError: its weights are no valid safetensors, or not those of its config.

    """
    config = read_json(folder / CONFIG)
    _check(folder, config)
    seen = folder / _PREPROCESSOR
    pixels = {**_IMAGENET, **(read_json(seen) if seen.is_file() else {})}
    if not pixels.get("do_normalize", True):
        channels = config["num_channels"]
        pixels |= {"image_mean": [0.0] * channels, "image_std": [1.0] * channels}
    labels = [str(name) for _, name in sorted(_labels(config).items())]
    args = {
        "depths": list(config["depths"]), "dims": list(config["hidden_sizes"]),
        "num_classes": len(labels), "in_chans": config["num_channels"],
        "patch": config["patch_size"],
    }  # fmt: skip
    try:
        network = ConvNeXt(**args, layer_scale=float(config["layer_scale_init_value"] > 0))
    except (TypeError, ValueError) as error:
        raise MismatchError(f"{folder / CONFIG}: {error}") from error
    try:
        network.load_state_dict(from_transformers(_tensors(folder)))
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UnsafeFileError(
            f"the weights in {folder} are not those of its {CONFIG}: {reason}"
        ) from error
    _normalize(network, pixels["image_mean"], pixels["image_std"])
    return _recipe(args, labels, _side(pixels, config)), network.deployed().state_dict()


def _check(folder: Path, config: Mapping[str, Any]) -> None:
    kind, classes = config.get("model_type"), config.get("architectures")
    if kind != KIND or classes != [CLASS]:
        raise MismatchError(
            f"{folder} holds {classes or 'no class'} of the type {kind!r}; expected the {CLASS} of "
            f"transformers, of the type {KIND!r}"
        )
    needed = ("depths", "hidden_sizes", "num_channels", "patch_size", "layer_scale_init_value")
    if missing := [name for name in needed if name not in config]:
        raise MismatchError(f"{folder / CONFIG} has no {', '.join(missing)}")
    if (act := config.get("hidden_act", "gelu")) != "gelu":
        raise MismatchError(f"{folder / CONFIG} has the activation {act!r}; expected 'gelu'")
    if (epsilon := config.get("layer_norm_eps", EPSILON)) > EPSILON:  # of the last norm only
        raise MismatchError(
            f"{folder / CONFIG} has layer_norm_eps {epsilon}; expected {EPSILON} or less"
        )


def _labels(config: Mapping[str, Any]) -> dict[int, str]:
    """Return a config's labels by number; transformers leaves them out if there are two."""
    given = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    return {int(number): name for number, name in given.items()}


def _tensors(folder: Path) -> dict[str, Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise MissingWeightsError(
            f"{folder} has no *.safetensors; weights in pickles are not opened: save them again "
            "with transformers, model.save_pretrained(DIR)"
        )
    try:
        return {k: v for file in files for k, v in safetensors.torch.load_file(file).items()}
    except SafetensorError as error:
        raise UnsafeFileError(f"{folder} has no valid safetensors: {error}") from error


@torch.no_grad()
def _normalize(network: ConvNeXt, mean: list[float], deviation: list[float]) -> None:
    """Let the first layer see pixels from 0 to 1, and not (pixels - mean) / deviation."""
    first: Any = network.downsample_layers[0][0]  # type: ignore[index]
    if len(mean) != network.in_chans or len(deviation) != network.in_chans:
        raise MismatchError(
            f"a mean {mean} and a deviation {deviation}; expected {network.in_chans} of each"
        )
    weight = first.weight.double() / torch.tensor(deviation, dtype=torch.double)[:, None, None]
    shift = (weight.sum((2, 3)) * torch.tensor(mean, dtype=torch.double)).sum(1)
    first.bias.copy_(first.bias.double() - shift)
    first.weight.copy_(weight)


def _side(pixels: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    """Return the rows, and columns, of the pictures that the network was trained on."""
    size = pixels.get("size", config.get("image_size", 224))
    if isinstance(size, Mapping):
        size = size.get("shortest_edge", size.get("height"))
    if not isinstance(size, int) or size < 1:
        raise MismatchError(f"pictures of the size {size!r}; expected a number of pixels")
    return size


def _recipe(args: dict[str, Any], labels: list[str], side: int) -> Recipe:
    """Return the zoo's recipe of these sizes, or the first one with others."""
    known = [registry.find(name) for name in _NAMES]
    shape = {"depths", "dims"}
    like = [r for r in known if {k: r.args[k] for k in shape} == {k: args[k] for k in shape}]
    recipe = (like or known)[0]
    defaults = {"in_chans": 3, "patch": 4}
    own = {key: value for key, value in args.items() if defaults.get(key) != value}
    return replace(
        recipe,
        args={**own, "layer_scale": 0.0},
        input_shape=(1, args["in_chans"], side, side),
        preprocessing={
            **recipe.preprocessing,
            "channels": "rgb" if args["in_chans"] == 3 else "grey",
            "range": [0, 1],
            "labels": labels,
        },
    )
