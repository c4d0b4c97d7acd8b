"""What cards say about compression, whatever the method: settings, history, and the command."""

import json
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zoo import registry
from zoo.cards.parts import costs
from zoo.compression import catalogue
from zoo.registry.options import options, words
from zoo.registry.recipe import Compress, Recipe

if TYPE_CHECKING:
    from zoo.cost.comparison import Contest
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
        seen = "Ranges were seen" if checkpoint.quantization else "Layers were seen at work"
        text += f" {seen} on {calibration['inputs']} inputs of {calibration['source']}."
    if mended := checkpoint.metrics.get("compression", {}).get("repair"):
        text += (
            f" Repaired by {mended['how']} in {mended['seconds']:.0f} s, without labels: "
            f"{mended['loss']} from the base's outputs {mended['before']:.3g} before, "
            f"{mended['after']:.3g} after, on inputs held out of it."
        )
    if data := _trained_on(checkpoint):
        text += f" Trained for it on {data['source']} (content sha256 `{data['sha256']}`)."
    return text


def beside_base(checkpoint: "Checkpoint") -> list[list[str]]:
    """Return the table of `against_base`, its head first; [] without one."""
    found = against_base(checkpoint)
    return [] if found is None else found.rows


def against_base(checkpoint: "Checkpoint") -> "Contest | None":
    """Return a compressed network beside what it was made from.

    None where that is not known here, or nothing was measured of both on the same data.
    """
    from zoo.cost.comparison import Contender, Contest, bytes_of, shared
    from zoo.tasks import task_of

    base = _base(checkpoint)
    if base is None:
        return None
    pair = shared(base, checkpoint.metrics, task_of(checkpoint.recipe).FACTS)
    if pair is None:
        return None
    before = costs(Recipe.from_json(base["recipe"]), None)[0]
    after = costs(checkpoint.recipe, checkpoint)[0]
    facts = ((base["name"], base["bytes"], before), (None, bytes_of(checkpoint), after))
    return Contest(
        contenders=tuple(
            Contender(
                name=name or checkpoint.label,
                stored_bytes=size,
                macs=cost.macs,
                quality=quality,
                cost=cost,
            )
            for (name, size, cost), quality in zip(facts, pair, strict=True)
        )
    )


def _base(checkpoint: "Checkpoint") -> Mapping[str, Any] | None:
    """Return the facts of what a network was made from: as recorded, or as this package ships."""
    from zoo.artifacts.resolution import checkpoint as found
    from zoo.cost.comparison import about

    made = checkpoint.recipe.make
    if "base" in checkpoint.metrics or not isinstance(made, Compress):
        return checkpoint.metrics.get("base")
    name, _, tag = made.base.partition(".")
    if name not in registry.names() or tag not in registry.shipped_tags(name):
        return None
    return about(found(made.base))


def sizes(checkpoint: "Checkpoint") -> list[tuple[str, str, str]]:
    """Return sizes that a method aims at: those of a device's own code, or against the base's."""
    facts = checkpoint.metrics.get("compression", {})
    if "base_numbers" in facts:
        return _against_base(facts)
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


def _against_base(facts: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return what a network stores and computes against its base, and the form of each layer."""
    rows = shares(facts)
    if "nonzero" in facts:
        share = facts["nonzero"] / facts["numbers"]
        text = f"{facts['nonzero']:,}, {share:.1%}; zeros are stored and computed like others"
        rows.append(("parameters that are not zero", text, "exact"))
    if exchanged := facts.get("exchanged"):
        said = ", ".join(
            f"{op} {one['setting']} in {one['places']} places" for op, one in exchanged.items()
        )
        rows.append(
            ("operators without division and root: bits, or pieces of curves", said, "exact")
        )
    if layers := facts.get("layers"):
        ranks = ", ".join(f"{name} {layer['rank']}" for name, layer in layers.items())
        errors = [layer["relative_error"] for layer in layers.values()]
        rows.append((f"ranks of its {len(layers)} layers in low rank", ranks, "exact"))
        spread = f"{min(errors):.2g} to {max(errors):.2g}"
        rows.append(("their outputs' squared error, as a share, before repair", spread, "measured"))
    if factors := facts.get("factors"):
        text = f"{factors['format']}, {factors['bits_per_number']:.2f} bits a number with scales"
        rows.append(("factors are stored in", text, "exact"))
    return rows


def shares(facts: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return what is stored and computed, against the base."""
    return [
        (f"{what}, of those of the base", _share(facts, key), "exact")
        for what, key in (("parameters", "numbers"), ("MACs", "macs"))
    ]


def _share(facts: Mapping[str, Any], key: str) -> str:
    now, before = facts[key], facts[f"base_{key}"]
    return f"{now:,} of {before:,}, {now / before:.1%}"


def _trained_on(checkpoint: "Checkpoint") -> Mapping[str, Any]:
    data = checkpoint.metrics.get("compression", {}).get("trained_on", {})
    return data if {"source", "sha256"} <= set(data) else {}


def command(checkpoint: "Checkpoint") -> str:
    """Return the command that makes these weights."""
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
