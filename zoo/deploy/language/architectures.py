"""Which language models llama.cpp has: how it calls their tensors, and what a file says of them.

Each is here because a small random model of it has, in llama.cpp itself, the logits that
transformers computes (`tests/llm/test_gguf.py`). What a configuration asks for beyond that is
refused by name.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from zoo.errors import MismatchError


@dataclass(frozen=True)
class GgufArchitecture:
    """A class of transformers as llama.cpp has it.

    Attributes:
        name: the architecture's in GGUF.
        interleaved: rotary positions turn neighbouring numbers, and not halves of a head: rows of
            queries and keys lie in another order.
        shifted: norms are stored as what is added to 1.
        activation: the only one there is.
        fixed: settings that must have this value, if a configuration has them.
        describe: writes what only it has.

    """

    name: str
    interleaved: bool = False
    shifted: bool = False
    activation: str = "silu"
    fixed: Mapping[str, Any] = field(default_factory=dict)
    describe: Callable[[Any, Any], None] = lambda writer, config: None


def _gemma2(writer: Any, config: Any) -> None:
    _gemma(writer, config, every=2)
    writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    writer.add_final_logit_softcapping(config.final_logit_softcapping)


def _gemma3(writer: Any, config: Any) -> None:
    _gemma(writer, config, every=6)
    local = config.rope_parameters["sliding_attention"]
    if local["rope_type"] != "default" or local["rope_theta"] != 10_000:
        raise MismatchError(f"GGUF's gemma3 has no local rotary positions like {local}")
    if config.final_logit_softcapping or config.attn_logit_softcapping:
        raise MismatchError("GGUF's gemma3 caps no logits, and this model's are capped")


def _gemma(writer: Any, config: Any, *, every: int) -> None:
    _layers(config, every)
    if config.query_pre_attn_scalar != config.head_dim:
        raise MismatchError(
            f"the model scales queries by query_pre_attn_scalar {config.query_pre_attn_scalar}; "
            f"GGUF's by the size of a head, {config.head_dim}"
        )
    writer.add_sliding_window(config.sliding_window)


def _layers(config: Any, every: int) -> None:
    """Refuse another order of layers than one with full attention at the end of `every`."""
    kinds = ["full_attention" if (i + 1) % every == 0 else "sliding_attention"
             for i in range(config.num_hidden_layers)]  # fmt: skip
    if list(config.layer_types) != kinds:
        raise MismatchError(
            f"the model's layer_types are not full attention in every layer {every}, which is all "
            "that GGUF has for it"
        )


def _granite(writer: Any, config: Any) -> None:
    writer.add_attention_scale(config.attention_multiplier)
    writer.add_embedding_scale(config.embedding_multiplier)
    writer.add_residual_scale(config.residual_multiplier)
    writer.add_logit_scale(config.logits_scaling)


def _smollm3(writer: Any, config: Any) -> None:
    usual = [int((i + 1) % 4 != 0) for i in range(config.num_hidden_layers)]
    if list(config.no_rope_layers) != usual:
        raise MismatchError(
            "the model leaves positions out of other layers than every fourth, which is all that "
            "GGUF's smollm3 has"
        )


def _phi3(writer: Any, config: Any) -> None:
    writer.add_rope_scaling_orig_ctx_len(config.original_max_position_embeddings)


_FULL = {"use_sliding_window": False}
_PLAIN = {"attention_bias": False, "mlp_bias": False}
ARCHITECTURES = {
    "LlamaForCausalLM": GgufArchitecture("llama", interleaved=True),
    "MistralForCausalLM": GgufArchitecture(
        "llama", interleaved=True, fixed={"sliding_window": None}
    ),
    "Qwen2ForCausalLM": GgufArchitecture("qwen2", fixed=_FULL),
    "Qwen3ForCausalLM": GgufArchitecture("qwen3", fixed=_FULL | _PLAIN),
    "Gemma2ForCausalLM": GgufArchitecture(
        "gemma2", shifted=True, activation="gelu_pytorch_tanh", fixed=_PLAIN, describe=_gemma2
    ),
    "Gemma3ForCausalLM": GgufArchitecture(
        "gemma3", shifted=True, activation="gelu_pytorch_tanh", fixed=_PLAIN, describe=_gemma3
    ),
    "Phi3ForCausalLM": GgufArchitecture("phi3", fixed={"sliding_window": None}, describe=_phi3),
    "SmolLM3ForCausalLM": GgufArchitecture(
        "smollm3", interleaved=True, fixed=_FULL | _PLAIN, describe=_smollm3
    ),
    "GraniteForCausalLM": GgufArchitecture(
        "granite", interleaved=True, fixed=_PLAIN, describe=_granite
    ),
    "Olmo2ForCausalLM": GgufArchitecture("olmo2", fixed=_PLAIN),
}


def find(model: Any) -> GgufArchitecture:
    """Return the architecture of a model.

    Raises:
        MismatchError: llama.cpp has none like it.

    """
    kind, config = type(model).__name__, model.config
    if kind not in ARCHITECTURES:
        known = ", ".join(name.removesuffix("ForCausalLM") for name in ARCHITECTURES)
        raise MismatchError(
            f"{kind} is not written as GGUF; these are: {known}. Its own runtime is transformers"
        )
    found = ARCHITECTURES[kind]
    act = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", "silu")
    if act != found.activation:
        raise MismatchError(
            f"{kind} has the activation {act!r}; GGUF's {found.name} has {found.activation!r}"
        )
    for key, value in found.fixed.items():
        if (given := getattr(config, key, value)) != value:
            raise MismatchError(
                f"{kind} has {key} {given!r}; GGUF's {found.name} is written with {value!r} only"
            )
    return found


def places(architecture: GgufArchitecture, layers: int) -> Any:
    """Return how GGUF calls the tensors of a model with so many layers, for `place`."""
    import gguf

    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    return gguf.get_tensor_name_map(kinds[architecture.name], layers)


def place(places: Any, name: str) -> str | None:
    """Return what GGUF calls a tensor of transformers; None if it has none like it."""
    base, _, key = name.rpartition(".")
    found = places.get_name(base)
    return None if found is None else f"{found}.{key}"


def describe(writer: Any, config: Any, architecture: GgufArchitecture) -> Tensor | None:
    """Write what a configuration says; return the divisors of rotary frequencies, if it has any.

    Raises:
        MismatchError: it says something that GGUF has no word for.

    """
    head = head_size(config)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(head)
    writer.add_value_length(head)
    architecture.describe(writer, config)
    return _positions(writer, config, head)


def head_size(config: Any) -> int:
    """Return the numbers of one attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _positions(writer: Any, config: Any, head: int) -> Tensor | None:
    """Write how positions turn queries and keys."""
    import gguf

    rope = dict(config.rope_parameters)
    rope = dict(rope.get("full_attention", rope))
    kind, part = rope.get("rope_type", "default"), rope.get("partial_rotary_factor", 1.0)
    writer.add_rope_dimension_count(int(head * part))
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    if part != 1 and type(config).__name__ != "Phi3Config":
        raise MismatchError(f"the model turns only {part:g} of each head; GGUF's turns all of it")
    if kind == "default":
        return None
    if kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
        return None
    if kind == "llama3":
        return _divisors(config, rope, head)
    if kind == "yarn":
        _yarn(writer, rope)
        return None
    raise MismatchError(
        f"the model's rotary positions are of the kind {kind!r}; default, linear, llama3 and yarn "
        "are written as GGUF"
    )


def _yarn(writer: Any, rope: Mapping[str, Any]) -> None:
    import gguf

    factor = rope["factor"]
    usual = 0.1 * math.log(factor) + 1
    if not math.isclose(rope.get("attention_factor") or usual, usual) or rope.get("mscale"):
        raise MismatchError("the model's yarn has an attention factor of its own; GGUF's has not")
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(factor)
    writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    writer.add_rope_scaling_yarn_beta_fast(rope.get("beta_fast") or 32.0)
    writer.add_rope_scaling_yarn_beta_slow(rope.get("beta_slow") or 1.0)


def _divisors(config: Any, rope: Mapping[str, Any], head: int) -> Tensor:
    """Return by what llama3's frequencies are divided: (head / 2,)."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = rope["rope_theta"] ** -(torch.arange(0, head, 2, dtype=torch.float32) / head)
    return (plain / scaled).to(torch.float32)
