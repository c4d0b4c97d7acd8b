"""Language models of Llama's kind whose single tokens pass through compiled code.

`quicken` leaves a model as it is for everything else: `generate`, its caches, its samplers and
stopping rules remain those of transformers. What takes the time of a small model's token is not its
products but all that Python does between them; here that is one call.
"""

import functools
import types
from typing import Any

import torch
from torch import Tensor

from zoo.errors import MismatchError
from zoo.quantization.kernels import matvec
from zoo.quantization.kernels.decoder import CLayer, CModel, Held, TokenStep, linear

KINDS = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
ROPES = ("default", "linear", "llama3", "yarn")  # angles that no input changes
# Of the logits' norm: a step that differs more is that of another model, whatever its class says.
# In bfloat16 it is the model's own answer that is rounded, and inputs of 8 bits multiply that.
CLOSE = {torch.float32: 0.05, torch.bfloat16: 0.25}
AHEAD = 256  # positions by which a cache grows at least
_PASSED = {"input_ids", "past_key_values", "attention_mask", "position_ids", "cache_position"}


def quicken(model: Any) -> bool:
    """Let single tokens of `model` pass through compiled code where they can; say whether they can.

    The logits differ from the model's own in the last digits: hidden states are float32 in any
    dtype. Adapters, gradients, batches, hooks and other caches take the way of before.
    """
    if isinstance(vars(model).get("_zoo_quick"), Quick):
        return True
    if "forward" in vars(model):  # somebody else's
        return False
    quick = Quick()
    try:
        quick.build(model)
        _compare(model, quick)
    except MismatchError:
        return False

    @functools.wraps(type(model).forward)
    def forward(self: Any, *args: Any, **given: Any) -> Any:
        answer = None if args else self._zoo_quick.answer(self, given)
        return type(self).forward(self, *args, **given) if answer is None else answer

    model._zoo_quick = quick
    model.forward = types.MethodType(forward, model)
    return True


class Quick:
    """The compiled step of one model, built anew when its weights change."""

    def __init__(self) -> None:
        self._step: TokenStep | None = None
        self._made_for: tuple[Any, ...] = ()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Quick":
        """Return one that is not built: addresses are those of the model that is copied."""
        return Quick()

    def __reduce__(self) -> tuple[Any, ...]:
        return Quick, ()

    def build(self, model: Any) -> None:
        """Take the addresses of a model's weights.

        Raises:
            MismatchError: it is no decoder of this kind, or a part has no compiled product.

        """
        self._step = None
        _check(model)
        held, config, blocks = Held(), model.config, model.model.layers
        layers = (CLayer * len(blocks))(*[_layer(block, held) for block in blocks])
        name = next(n for n, m in model.named_children() if m is model.get_output_embeddings())
        sizes = CModel(
            layers=len(blocks), hidden=config.hidden_size, heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads, head_dim=blocks[0].self_attn.head_dim,
            inner=layers[0].gate.rows, epsilon=config.rms_norm_eps,
            attention_scale=blocks[0].self_attn.scaling,
            norm=held.parameter(model.model, "norm"),
            head=linear(held.child(model, name), held),
        )  # fmt: skip
        held.child(model.model, "embed_tokens")
        step = TokenStep(sizes, layers, held)
        if not held.same():
            raise MismatchError("a layer has hooks or an adapter, or keeps its decoded weight")
        self._step, self._made_for = step, (model.dtype, model.device)

    def answer(self, model: Any, given: dict[str, Any]) -> Any:
        """Return what the model answers to one token after others, or None if it must itself."""
        ids, cache = given.get("input_ids"), given.get("past_key_values")
        if ids is None or ids.shape != (1, 1) or not _simple(model, given, cache):
            return None
        assert cache is not None
        position = cache.layers[0].keys.shape[2]
        mask, places = given.get("attention_mask"), given.get("position_ids")
        if mask is not None and not (mask.shape == (1, position + 1) and bool(mask.all())):
            return None
        if places is not None and not (places.numel() == 1 and int(places) == position):
            return None
        if (step := self._ready(model)) is None:
            return None
        from transformers.modeling_outputs import CausalLMOutputWithPast

        keys, values = _room(cache, position)
        if step.positions < keys.shape[2]:
            places = torch.arange(keys.shape[2], device=ids.device)[None]
            cos, sin = model.model.rotary_emb(torch.empty(0), places)
            step.turn(cos[0], sin[0])
        x = model.model.embed_tokens(ids).to(torch.float32).contiguous()
        logits = step(x, position, keys, values).to(model.dtype)
        for name, room in (("keys", keys), ("values", values)):
            parts = room[:, None, :, : position + 1].unbind()
            for layer, part in zip(cache.layers, parts, strict=True):
                setattr(layer, name, part)
        return CausalLMOutputWithPast(logits=logits.view(1, 1, -1), past_key_values=cache)

    def _ready(self, model: Any) -> TokenStep | None:
        made_for = (model.dtype, model.device)
        if self._step is not None and self._made_for == made_for and self._step.valid():
            return self._step
        try:
            self.build(model)
        except MismatchError:
            return None
        return self._step


def _check(model: Any) -> None:
    config = model.config
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    windows = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    if type(model).__name__ == "MistralForCausalLM":
        windows = config.sliding_window is not None
    fits = (
        type(model).__name__ in KINDS
        and type(model).__module__.startswith("transformers.")
        and config.hidden_act == "silu"
        and rope in ROPES
        and not windows
        and model.dtype in (torch.float32, torch.bfloat16)
        and model.device.type == "cpu"
        and matvec.library() is not None
        and len({(b.self_attn.scaling, b.self_attn.head_dim) for b in model.model.layers}) == 1
    )
    if not fits:
        raise MismatchError(f"{type(model).__name__} has no compiled step as it is configured")


def _layer(block: Any, held: Held) -> CLayer:
    attention, inner = held.child(block, "self_attn"), held.child(block, "mlp")
    layer = CLayer()
    for name in ("q", "k", "v", "o"):
        setattr(layer, name, linear(held.child(attention, f"{name}_proj"), held))
        if hasattr(attention, f"{name}_norm"):
            setattr(layer, f"{name}_norm", held.parameter(attention, f"{name}_norm"))
    for name in ("gate", "up", "down"):
        setattr(layer, name, linear(held.child(inner, f"{name}_proj"), held))
    layer.norm = held.parameter(block, "input_layernorm")
    layer.inner_norm = held.parameter(block, "post_attention_layernorm")
    return layer


def _simple(model: Any, given: dict[str, Any], cache: Any) -> bool:
    """Whether a call asks for nothing but logits, with a cache that lies in plain tensors."""
    if torch.is_grad_enabled() or model.training or torch.compiler.is_compiling():
        return False
    for name, value in given.items():
        if name in _PASSED or value is None or value is False:
            continue
        if name == "logits_to_keep" and isinstance(value, int) and value in (0, 1):
            continue
        if not (name in ("use_cache", "return_dict") and value is True):
            return False
    if given.get("use_cache") is False or given.get("return_dict") is False:
        return False
    if type(cache).__name__ != "DynamicCache" or len(cache.layers) != len(model.model.layers):
        return False
    return all(
        type(layer).__name__ == "DynamicLayer"
        and layer.is_initialized
        and layer.keys.ndim == 4
        and layer.keys.shape[0] == 1
        and layer.keys.dtype == model.dtype
        for layer in (cache.layers[0], cache.layers[-1])
    )


def _room(cache: Any, position: int) -> tuple[Tensor, Tensor]:
    """Return keys and values (layers, heads, capacity, size) with those of `position` tokens.

    The tensors of the cache's layers are views of them while nobody else replaces those.
    """
    ends = (cache.layers[0], cache.layers[-1])
    if (kept := getattr(cache, "_zoo_room", None)) is not None:
        keys, values = kept
        lies = [
            (layer.keys.data_ptr(), layer.values.data_ptr())
            == (keys[at].data_ptr(), values[at].data_ptr())
            for at, layer in zip((0, -1), ends, strict=True)
        ]
        if all(lies) and position < keys.shape[2]:
            return keys, values
    _, heads, _, size = ends[0].keys.shape
    shape = (len(cache.layers), heads, position + max(position, AHEAD), size)
    keys = ends[0].keys.new_zeros(shape)
    values = torch.zeros_like(keys)
    for index, layer in enumerate(cache.layers):
        keys[index, :, :position], values[index, :, :position] = layer.keys[0], layer.values[0]
    cache._zoo_room = keys, values
    return keys, values


@torch.no_grad()
def _compare(model: Any, quick: Quick) -> None:
    """Refuse a model whose own answer is another."""
    if model.training:
        raise MismatchError("a model in training mode has no compiled step")
    ids = torch.arange(3)[None] % model.config.vocab_size
    own = [type(model).forward(model, ids[:, :2], use_cache=True) for _ in range(2)]
    last = ids[:, 2:]
    expected = type(model).forward(model, last, past_key_values=own[0].past_key_values).logits
    found = quick.answer(model, {"input_ids": last, "past_key_values": own[1].past_key_values})
    if (
        found is None
        or not (found.logits - expected).norm() <= CLOSE[model.dtype] * expected.norm()
    ):
        raise MismatchError("a compiled step of the model answers something else")
