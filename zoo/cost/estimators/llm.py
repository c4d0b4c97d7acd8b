"""Estimated time of a language model's tokens: bytes over bandwidth, prompts by arithmetic.

A new token reads all weights once, as they are packed, and the keys and values of the tokens
before it; decoding codebooks takes its own time. A prompt's tokens share the weights, so they wait
for the arithmetic too. Both are passes through the operators of `zoo.cost.language_graph`, each of
which takes the longer of its arithmetic and its reading. What a device reaches, its target says:
bandwidths are measured through an engine, and the engine matters more than the format.
"""

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from zoo.cost import memory
from zoo.cost.estimators import roofline
from zoo.cost.estimators.contract import Subject, counts, energy_mj, obtained
from zoo.cost.language import Decoder
from zoo.cost.language_graph import decoder_graph
from zoo.cost.result import Cost, Fit, OpCost
from zoo.cost.target import Target
from zoo.errors import MismatchError
from zoo.graph.ir import Graph

SUMMARY = "a language model's prompt and tokens, by bytes and bandwidth"

_LAYER = re.compile(r"^layers\.\d+\.")


@dataclass(frozen=True, kw_only=True)
class Options:
    """A request.

    Attributes:
        prompt_tokens: read at once.
        new_tokens: written one by one.
        cache_bits: of a key's or value's element.

    """

    prompt_tokens: int = 128
    new_tokens: int = 64
    cache_bits: float = 16.0


def refusal(target: Target) -> str | None:
    """Return why a target has no bandwidth of a language model, or None if it has."""
    if target.method == "llm":
        return None
    return f"target {target.name!r} is {target.method}, not llm"


def estimate(subject: Subject, target: Target, options: Options) -> Cost:
    """Return the cost of a request; of another network than a language model, of one run."""
    if options.prompt_tokens < 1 or options.new_tokens < 0:
        raise MismatchError(
            f"{options.prompt_tokens} prompt and {options.new_tokens} new tokens; expected at "
            "least 1 and 0"
        )
    if subject.language is None:
        return _of_graph(subject, target)
    return _of_language(subject.language, target, options)


def token_ms(model: Decoder, target: Target, tokens: int, cache_bits: float = 16.0) -> float:
    """Return milliseconds of a new token after `tokens` others."""
    graph = decoder_graph(model, 1, tokens, cache_bits=cache_bits)
    return sum(op.latency_ms for op in _priced(graph, model, target, alone=True))


def _priced(
    graph: Graph, model: Decoder, target: Target, *, alone: bool = False
) -> tuple[OpCost, ...]:
    """Return each operator of a pass: the longer of its arithmetic and of what it reads.

    Activations stay near the processor; weights and the cache do not. Codebooks are decoded on the
    way. Of a new token `alone` the bandwidth was measured, its arithmetic included.
    """
    speed, rate = target.get("bytes_per_s") or 1.0, target.get("macs_per_s") or 1.0
    decoding = target.get("weights_per_s") if model.codebook else None
    found = []
    for op in graph.ops:
        read = op.attributes["encoded_bytes"] + op.attributes["cache_bytes"]
        memory_s, compute_s = read / speed, 0.0 if alone else op.macs / rate
        if decoding and op.kind == "fully_connected" and op.module != "lm_head":
            memory_s += graph.tensors[op.inputs[1]].elements / decoding
        found.append(
            OpCost(
                module=op.module,
                kind=op.kind,
                macs=op.macs,
                latency_ms=1e3 * max(memory_s, compute_s),
                bound="compute" if compute_s > memory_s else "dram",
                encoded_bytes=round(op.attributes["encoded_bytes"]),
                bytes=round(read),
            )
        )
    return tuple(found)


def _table(phase: str, found: tuple[OpCost, ...], times: int = 1) -> tuple[OpCost, ...]:
    """Return a row for the same operator of all layers, of a pass that is made some times."""
    rows: dict[str, list[OpCost]] = {}
    for one in found:
        rows.setdefault(_LAYER.sub("layers.*.", one.module), []).append(one)
    return tuple(
        dataclasses.replace(
            same[0],
            module=f"{phase}: {module}",
            macs=times * sum(op.macs for op in same),
            latency_ms=times * sum(op.latency_ms for op in same),
            encoded_bytes=sum(op.encoded_bytes for op in same),
            bytes=times * sum(op.bytes for op in same),
        )
        for module, same in rows.items()
        if any(op.macs or op.bytes for op in same)
    )


def _of_language(model: Decoder, target: Target, options: Options) -> Cost:
    middle = options.prompt_tokens + options.new_tokens // 2
    prompt = decoder_graph(model, options.prompt_tokens)
    later = decoder_graph(model, 1, middle, cache_bits=options.cache_bits)
    first = _table("prompt", _priced(prompt, model, target))
    each = _priced(later, model, target, alone=True)
    token = sum(op.latency_ms for op in each)
    ops = (*first, *_table("new tokens", each, options.new_tokens))
    prefill = sum(op.latency_ms for op in first)
    latency, end = sum(op.latency_ms for op in ops), options.prompt_tokens + options.new_tokens
    cache = model.cache_bytes(end, options.cache_bits)
    size, limit = model.packed_bytes + cache, target.sram_bytes
    fits = limit is None or size <= limit
    words = obtained("estimated (llm)", target)
    words["peak_activation_bytes"] = "exact (keys and values at the end of the request)"
    words["weight_bytes"] = "exact (weights as they are packed)"
    return Cost(
        target=target.name,
        graph="deployed",
        method="llm",
        dtype=f"{model.bits_per_weight:.4g} bits",
        input_shape=(1, options.prompt_tokens),
        parameters={"weights": model.parameters},
        macs=prompt.macs + options.new_tokens * later.macs,
        weight_bytes=model.packed_bytes,
        peak_activation_bytes=cache,
        latency_ms=latency,
        energy_mj=energy_mj(latency, target),
        bound=roofline.bound(ops),
        fits=Fit(sram=fits, flash=True, reasons=() if fits else (f"{size:,} bytes exceed memory",)),
        tiled=None,
        obtained=words,
        notes=(
            *target.notes,
            f"{1e3 / token:.2f} tokens a second after a prompt of {options.prompt_tokens}, "
            f"which takes {prefill:.0f} ms",
        ),
        ops=ops,
        interval_ms=roofline.interval(latency, target),
        moved_bytes={"dram": sum(op.bytes for op in ops)},
    )


def _of_graph(subject: Subject, target: Target) -> Cost:
    """Return the cost of a network that runs once: its weights read, or its arithmetic."""
    graph = subject.graph
    fields: dict[str, Any] = counts(graph, memory.plan(graph, target.dtype), target)
    reading = fields["weight_bytes"] / (target.get("bytes_per_s") or 1.0)
    arithmetic = graph.macs / (target.get("macs_per_s") or 1.0)
    latency = 1e3 * max(reading, arithmetic)
    return Cost(
        **fields,
        method="llm",
        latency_ms=latency,
        energy_mj=energy_mj(latency, target),
        bound="dram" if reading > arithmetic else "compute",
        fits=Fit(sram=True, flash=True),
        tiled=None,
        obtained=obtained("estimated (llm)", target),
        notes=target.notes,
        ops=(),
    )
