"""ConvNeXt as transformers saves it, and as its checkpoints lie on the Hub, for the zoo."""

import math
from collections.abc import Callable, Mapping
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


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are_whole(value: Any) -> bool:
    return isinstance(value, list) and all(type(number) is int for number in value)


# What a config's values must be; transformers' layer_norm_eps is of the last norm only.
_FITS: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    ("depths", "whole numbers in a list", _are_whole),
    ("hidden_sizes", "whole numbers in a list", _are_whole),
    ("num_channels", "1 or 3", lambda value: type(value) is int and value in (1, 3)),
    ("patch_size", "a whole number", lambda value: type(value) is int),
    ("layer_scale_init_value", "a number", _is_number),
    ("layer_norm_eps", f"{EPSILON} or less", lambda value: _is_number(value) and value <= EPSILON),
    ("id2label", "labels by number", lambda value: value is None or _are_labels(value)),
)


def _are_labels(value: Any) -> bool:
    return isinstance(value, dict) and all(str(number).isdecimal() for number in value)


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
    _normalize(network, *_statistics(pixels, network.in_chans, seen))
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
    for name, expected, fits in _FITS:
        if name in config and not fits(config[name]):
            raise MismatchError(
                f"{folder / CONFIG} has {name} {config[name]!r}; expected {expected}"
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


def _statistics(pixels: Mapping[str, Any], channels: int, file: Path) -> tuple[Tensor, Tensor]:
    """Return mean and deviation `(channels,)` that a preprocessor takes off pixels from 0 to 1.

    It multiplies bytes by a factor, usually 1/255, and then takes off its own.
    """
    factor = pixels.get("rescale_factor", 1 / 255) if pixels.get("do_rescale", True) else 1
    if not isinstance(factor, int | float) or not 0 < factor < math.inf:
        raise MismatchError(f"{file} has rescale_factor {factor!r}; expected a number, e.g. 1/255")
    made = []
    for name, none in (("image_mean", 0.0), ("image_std", 1.0)):
        given = pixels[name] if pixels.get("do_normalize", True) else [none] * channels
        numbers = given if isinstance(given, list) else [given] * channels
        if len(numbers) != channels or not all(isinstance(n, int | float) for n in numbers):
            raise MismatchError(f"{file} has {name} {given}; expected {channels} numbers")
        made.append(torch.tensor(numbers, dtype=torch.double) / (255 * factor))
    mean, deviation = made
    if not (deviation > 0).all():
        raise MismatchError(f"{file} has image_std {pixels['image_std']}; expected more than 0")
    return mean, deviation


@torch.no_grad()
def _normalize(network: ConvNeXt, mean: Tensor, deviation: Tensor) -> None:
    """Let the first layer see pixels from 0 to 1, and not (pixels - mean) / deviation."""
    first: Any = network.downsample_layers[0][0]  # type: ignore[index]
    weight = first.weight.double() / deviation[:, None, None]
    first.bias.copy_(first.bias.double() - (weight.sum((2, 3)) * mean).sum(1))
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
