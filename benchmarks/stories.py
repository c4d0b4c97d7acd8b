"""The 260,000 parameters of TinyStories in the format of llama2.c, as a model of transformers."""

import struct
from pathlib import Path
from typing import Any

import torch


def story_model(path: Path) -> Any:
    """Read the llama2.c format: seven int32, then float32 tensors of all layers in turn."""
    from transformers import LlamaConfig, LlamaForCausalLM

    data = path.read_bytes()
    dim, hidden, layers, heads, kv_heads, vocab, length = struct.unpack("7i", data[:28])
    values = torch.frombuffer(bytearray(data[28:]), dtype=torch.float32)
    place = 0

    def take(*shape: int) -> torch.Tensor:
        nonlocal place
        count = int(torch.tensor(shape).prod())
        place += count
        return values[place - count : place].view(shape).clone()

    kv = dim * kv_heads // heads
    embedding = take(vocab, dim)
    shapes = {
        "input_layernorm": (dim,),
        "self_attn.q_proj": (dim, dim),
        "self_attn.k_proj": (kv, dim),
        "self_attn.v_proj": (kv, dim),
        "self_attn.o_proj": (dim, dim),
        "post_attention_layernorm": (dim,),
        "mlp.gate_proj": (hidden, dim),
        "mlp.down_proj": (dim, hidden),
        "mlp.up_proj": (hidden, dim),
    }
    stacks = {name: take(layers, *shape) for name, shape in shapes.items()}
    state = {"model.embed_tokens.weight": embedding, "model.norm.weight": take(dim)}
    state["lm_head.weight"] = embedding
    for name, stack in stacks.items():
        for layer, value in enumerate(stack):
            if name.endswith(("q_proj", "k_proj")):  # pairs (2i, 2i+1) rotate there, halves here
                count = kv_heads if "k_proj" in name else heads
                value = value.view(count, -1, 2, dim).transpose(1, 2).reshape(value.shape)
            state[f"model.layers.{layer}.{name}.weight"] = value
    config = LlamaConfig(
        hidden_size=dim, intermediate_size=hidden, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, vocab_size=vocab,
        max_position_embeddings=length, rms_norm_eps=1e-5, rope_theta=10000.0,
        tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    model.load_state_dict(state)
    return model
