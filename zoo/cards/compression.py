"""What cards say about compression, whatever the method: settings, history, and the command."""

import json
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zoo.compression import catalogue
from zoo.registry.options import options, words
from zoo.registry.recipe import Compress

if TYPE_CHECKING:
    from zoo.registry.checkpoint import Checkpoint


def settings(compress: Compress) -> str:
    """Return the options that a recipe names, for people."""
    said = [f"{name} {_text(value)}" for name, value in compress.options.items()]
    return ", ".join(said) or "with its defaults"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def history(checkpoint: "Checkpoint") -> str:
    """Return how a compressed network was made, in a sentence or two."""
    compress = checkpoint.recipe.compress
    text = f"Made from `{compress.base}`: {compress.method}, {settings(compress)}."
    calibration = checkpoint.metrics.get("compression", {}).get("calibration")
    if calibration:
        text += f" Ranges were seen on {calibration['inputs']} inputs of {calibration['source']}."
    if data := _trained_on(checkpoint):
        text += f" Trained for it on {data['source']} (content sha256 `{data['sha256']}`)."
    return text


def sizes(checkpoint: "Checkpoint") -> list[tuple[str, str, str]]:
    """Return what a device's own code makes of the weights, if the method aims at it."""
    facts = checkpoint.metrics.get("compression", {})
    if "encoded_by" not in facts:
        return []
    text = f"{facts['packed_bytes']:,} bytes; in plain int8 about {facts['int8_bytes']:,}"
    bits = sorted({layer["bits"] for layer in facts["layers"].values()})
    zeros = [layer["zeros"] for layer in facts["layers"].values()]
    chosen = f"{', '.join(map(str, bits))} bits; {min(zeros):.0%} to {max(zeros):.0%} zeros"
    return [
        (f"weights as encoded ({facts['encoded_by']})", text, "exact"),
        ("levels and zeros of its layers", chosen, "exact"),
    ]


def _trained_on(checkpoint: "Checkpoint") -> Mapping[str, Any]:
    data = checkpoint.metrics.get("compression", {}).get("trained_on", {})
    return data if {"source", "sha256"} <= set(data) else {}


def command(checkpoint: "Checkpoint") -> str:
    """Return the command that makes these weights."""
    from zoo import registry

    recipe = checkpoint.recipe
    compress = recipe.compress
    seen = checkpoint.metrics.get("compression", {}).get("calibration") or {}
    data = seen.get("text") or seen.get("source") or _trained_on(checkpoint).get("source")
    tail = [*(["--data", data] if data else []), "--out", recipe.name]
    if recipe.name in registry.names() and registry.find(recipe.name).make == compress:
        return shlex.join(["zoo", "compress", recipe.name, *tail])
    typed = ["zoo", "compress", compress.base, "--method", compress.method, *_words(compress)]
    return shlex.join([*typed, *tail])


def _words(compress: Compress) -> list[str]:
    """Return the flags of a recipe's options; `--set` where this zoo lacks the method or option."""
    known: dict[str, Any] = {}
    if compress.method in catalogue.names():
        kind = catalogue.find(compress.method).Options
        names = {option.name for option in options(kind)}
        known = {name: value for name, value in compress.options.items() if name in names}
        typed = words(kind, known)
    else:
        typed = []
    others = {name: value for name, value in compress.options.items() if name not in known}
    return typed + [f"--set={name}={json.dumps(value)}" for name, value in others.items()]
