"""Checkpoints of files that others published: see `zoo.registry.published`."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zoo import registry
from zoo.deploy.file_network import SCHEME
from zoo.deploy.tflite_metadata import about
from zoo.deploy.tflite_read import parse_tflite, read_bytes
from zoo.errors import MismatchError, UnsafeFileError
from zoo.graph.ir import Graph
from zoo.graph.kinds import MAC_KINDS
from zoo.graph.lower import lower
from zoo.registry.checkpoint import Checkpoint, build
from zoo.registry.layout import FILE
from zoo.registry.published import TAG, Published, recognised
from zoo.registry.recipe import Recipe

# Kernels as torch has them, from channels last.
_ORDER = {"conv2d": (0, 3, 1, 2), "depthwise_conv2d": (3, 0, 1, 2)}


def convert(file: Path, out: Path) -> Checkpoint:
    """Write the checkpoint of a published file into the new folder `out`.

    Raises:
        MissingWeightsError: the file cannot be read.
        UnsafeFileError: it is no TFLite file.
        MismatchError: it is not one that is known, or `out` exists already.

    """
    content = read_bytes(file)
    digest = hashlib.sha256(content).hexdigest()
    facts = recognised(digest)
    if facts is None:
        raise MismatchError(_unknown(file, content, digest))
    if out.exists():
        raise MismatchError(f"{out} already exists; choose another --out, or remove it")
    graph, recipe = parse_tflite(content), recipe_of(facts)
    integer = graph.tensors[graph.inputs[0]].quantization is not None
    real = all(tensor.dtype == "float32" for tensor in graph.tensors.values())
    return Checkpoint.write(
        out,
        recipe,
        float_tensors(graph, recipe),
        {"published": {**facts.score, "protocol": facts.protocol}},
        tag=TAG if integer else f"{TAG}-float",
        license=facts.license,
        data={"source": facts.data, "published": facts.url, "sha256": digest},
        quantization=None if real else {"scheme": SCHEME, "rounding": facts.rounding},
        beside={FILE: content},
    )


def recipe_of(facts: Published) -> Recipe:
    """Return the recipe of a file's architecture, with what comes before the file's network."""
    recipe = registry.find(facts.recipe)
    return dataclasses.replace(
        recipe,
        args={**recipe.args, **facts.args},
        preprocessing={**recipe.preprocessing, **facts.preprocessing},
    )


def float_tensors(graph: Graph, recipe: Recipe) -> dict[str, Tensor]:
    """Return the state dict of a recipe's network with the weights of a file's graph.

    The layers are those of the network in the same order, batch norms folded; integers become the
    real numbers that they stand for.

    Raises:
        MismatchError: the file has other layers.

    """
    network = build(recipe)
    own, state = lower(network, recipe.input_shape), network.state_dict()
    layers = [[op for op in found.ops if op.kind in MAC_KINDS] for found in (own, graph)]
    places = [[name for op in ops for name in op.inputs[1:]] for ops in layers]
    if len(places[0]) != len(places[1]):
        raise MismatchError(f"the file has {len(layers[1])} layers, {recipe.name} {len(layers[0])}")
    kinds = {name: op.kind for op in layers[1] for name in op.inputs[1:]}
    for mine, theirs in zip(*places, strict=True):
        value, key = as_real(graph, theirs), own.tensors[mine].source
        if value.ndim == 4:
            value = value.permute(_ORDER[kinds[theirs]])
        if value.numel() != state[key].numel():
            raise MismatchError(
                f"{theirs} of the file is {tuple(value.shape)}, and {key} of {recipe.name} "
                f"{tuple(state[key].shape)}"
            )
        state[key] = value.reshape(state[key].shape)  # a last layer may be a 1x1 convolution
    return state


def as_real(graph: Graph, name: str) -> Tensor:
    """Return a constant of a channels-last graph as the real numbers that it stands for."""
    value, meaning = graph.values[name], graph.tensors[name].quantization
    if meaning is None:
        return torch.from_numpy(value.astype(np.float32))
    shape = [1] * value.ndim
    if meaning.axis is not None:
        shape[meaning.axis] = -1
    scales = np.array(meaning.scales, np.float64).reshape(shape)
    zeros = np.array(meaning.zero_points, np.float64).reshape(shape)
    return torch.from_numpy(((value - zeros) * scales).astype(np.float32))


def _unknown(file: Path, content: bytes, digest: str) -> str:
    """Return what is known about a file that is not in the table."""
    try:
        graph = parse_tflite(content)
    except UnsafeFileError as error:
        raise UnsafeFileError(f"{file}: {error}") from error
    except MismatchError as error:
        known = f"a TFLite file that cannot be run here ({error})"
    else:
        ends = [graph.tensors[name] for name in (*graph.inputs[:1], *graph.outputs[:1])]
        shapes = " to ".join(f"{end.dtype} {end.shape}" for end in ends)
        words = [line for line in about(content).lines][:1]
        known = f"a network from {shapes}{', '.join(['', *words])}"
    return (
        f"{file} is not a file that the zoo knows (sha256 {digest}): {known}; zoo run, show and "
        f"estimate take it as it is: zoo show {file}"
    )
