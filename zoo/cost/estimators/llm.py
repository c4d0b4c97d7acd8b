"""Estimated time of a language model's tokens: bytes over bandwidth, prompts by arithmetic.

A new token reads all weights once, as they are packed, and the keys and values of the tokens
before it; decoding codebooks takes its own time. A prompt's tokens share the weights, so they wait
for the arithmetic too. What a device reaches, its target says: bandwidths are measured through an
engine, and the engine matters more than the format.
"""

from dataclasses import dataclass
from typing import Any

from zoo.cost import memory
from zoo.cost.estimators.contract import Subject, counts, energy_mj, obtained
from zoo.cost.language import Decoder
from zoo.cost.result import Cost, Fit, OpCost
from zoo.cost.target import Target
from zoo.errors import MismatchError

SUMMARY = "a language model's prompt and tokens, by bytes and bandwidth"


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
    moved = model.read_bytes + model.cache_bytes(tokens, cache_bits)
    seconds = moved / (target.get("bytes_per_s") or 1.0)
    speed = target.get("weights_per_s")
    if model.codebook and speed:
        seconds += model.layer_weights / speed
    return 1e3 * seconds


def _of_language(model: Decoder, target: Target, options: Options) -> Cost:
    arithmetic = 1e3 * model.prefill_macs(options.prompt_tokens) / (target.get("macs_per_s") or 1)
    reading = token_ms(model, target, 0)
    prefill = max(arithmetic, reading)
    middle = options.prompt_tokens + options.new_tokens // 2
    decode = options.new_tokens * token_ms(model, target, middle, options.cache_bits)
    latency, end = prefill + decode, options.prompt_tokens + options.new_tokens
    cache = model.cache_bytes(end, options.cache_bits)
    size, limit = model.packed_bytes + cache, target.sram_bytes
    fits = limit is None or size <= limit
    per_token = token_ms(model, target, middle, options.cache_bits)
    macs = model.prefill_macs(options.prompt_tokens)
    bound = "compute" if arithmetic > reading else "dram"
    words = obtained("estimated (llm)", target)
    words["peak_activation_bytes"] = "exact (keys and values at the end of the request)"
    words["weight_bytes"] = "exact (weights as they are packed)"
    return Cost(
        target=target.name,
        graph="deployed",
        method="llm",
        dtype=f"{model.bits_per_weight:g} bits",
        input_shape=(1, options.prompt_tokens),
        parameters={"weights": model.parameters},
        macs=macs + options.new_tokens * (model.layer_weights + model.vocabulary * model.hidden),
        weight_bytes=model.packed_bytes,
        peak_activation_bytes=cache,
        latency_ms=latency,
        energy_mj=energy_mj(latency, target),
        bound="dram" if decode > prefill else bound,
        fits=Fit(sram=fits, flash=True, reasons=() if fits else (f"{size:,} bytes exceed memory",)),
        tiled=None,
        obtained=words,
        notes=(
            *target.notes,
            f"{1e3 / per_token:.2f} tokens a second after a prompt of {options.prompt_tokens}, "
            f"which takes {prefill:.0f} ms",
        ),
        ops=(
            OpCost(module="prompt", kind="prefill", macs=macs, latency_ms=prefill, bound=bound),
            OpCost(module="new tokens", kind="decode", macs=0, latency_ms=decode, bound="dram"),
        ),
        interval_ms=None
        if target.interval is None
        else (target.interval[0] * latency, target.interval[1] * latency),
        moved_bytes={"dram": options.new_tokens * model.read_bytes + model.read_bytes},
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
