"""What cards say about compression, whatever the method: settings, history, and the command."""

import json
import shlex
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
    return text


def command(checkpoint: "Checkpoint") -> str:
    """Return the command that makes these weights."""
    from zoo import registry

    recipe = checkpoint.recipe
    compress = recipe.compress
    seen = checkpoint.metrics.get("compression", {}).get("calibration") or {}
    data = seen.get("text") or seen.get("source")
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
