"""The operators of a language model: one pass of a decoder as a graph like any other network's.

A prompt is one pass of many tokens, a new token one pass of one. Each operator knows, beside its
multiply-accumulates, what memory it reads: its weights as they are packed (the attribute
`encoded_bytes`, as on an Ethos-U), and of attention the keys and values before (`cache_bytes`).
"""

import dataclasses
from typing import Any

from zoo.cost.language import Decoder
from zoo.graph.ir import Graph, Kind, Op, Tensor
from zoo.graph.kinds import counted

DTYPE = "float16"  # of activations
_HALF = 16  # bits of a norm's weights


def decoder_graph(model: Decoder, tokens: int, past: int = 0, *, cache_bits: float = 16.0) -> Graph:
    """Return the operators of a pass of `tokens` at once, after `past` others.

    Norms are one operator; rotations of queries and keys, and biases, a thousandth of all, are
    left out. Attention is causal: a token multiplies with itself and those before it. Only the
    last token becomes scores of the vocabulary.

    Args:
        model: by its sizes.
        tokens: at least 1.
        past: tokens whose keys and values are in the cache.
        cache_bits: of a key's or value's element.

    """
    building = _Building(model, tokens, past, cache_bits)
    x = building.embedding()
    for layer in range(model.layers):
        x = building.block(x, f"layers.{layer}")
    return building.result(x)


@dataclasses.dataclass
class _Building:
    model: Decoder
    tokens: int
    past: int
    cache_bits: float

    def __post_init__(self) -> None:
        self.ops: list[Op] = []
        self.tensors: dict[str, Tensor] = {}
        self.inputs: list[str] = []

    def embedding(self) -> str:
        """Add the rows of a table that a prompt's tokens are; return them."""
        model = self.model
        ids = self.given("tokens", (1, self.tokens))
        row = model.hidden * model.output_bits / 8
        return self.op(
            "strided_slice", "embed_tokens", (ids,), (1, self.tokens, model.hidden),
            encoded=self.tokens * row,
        )  # fmt: skip

    def block(self, x: str, layer: str) -> str:
        """Add attention and feed-forward layers, each around a shortcut; return their result."""
        model, attention = self.model, f"{layer}.self_attn"
        normed = self.norm(x, f"{layer}.input_layernorm")
        wide, narrow = model.heads * model.head_dim, model.kv_heads * model.head_dim
        query = self.linear(normed, f"{attention}.q_proj", wide)
        keys = self.linear(normed, f"{attention}.k_proj", narrow)
        values = self.linear(normed, f"{attention}.v_proj", narrow)
        mixed = self.attend(attention, query, keys, values)
        x = self.add(x, self.linear(mixed, f"{attention}.o_proj", model.hidden), attention)
        normed = self.norm(x, f"{layer}.post_attention_layernorm")
        inner = self.linear(normed, f"{layer}.mlp.up_proj", model.intermediate)
        shape = self.tensors[inner].shape
        if model.gated:
            gate = self.linear(normed, f"{layer}.mlp.gate_proj", model.intermediate)
            inner = self.op("mul", f"{layer}.mlp.act", (gate, inner), shape)
        else:
            inner = self.op("gelu", f"{layer}.mlp.act", (inner,), shape)
        down = self.linear(inner, f"{layer}.mlp.down_proj", model.hidden)
        return self.add(x, down, f"{layer}.mlp")

    def attend(self, module: str, query: str, keys: str, values: str) -> str:
        """Add attention of heads that share keys and values in groups; return (1, T, heads * D)."""
        model, every = self.model, self.past + self.tokens
        rows = model.heads // model.kv_heads * self.tokens  # of one key's group
        cached = model.kv_heads * model.head_dim * self.past * self.cache_bits / 8
        groups = (model.kv_heads, rows, model.head_dim)
        query = self.op("reshape", f"{module}.queries", (query,), groups)
        keys = self.joined(f"{module}.keys", keys, (model.head_dim, every))
        values = self.joined(f"{module}.values", values, (every, model.head_dim))
        shape = (model.kv_heads, rows, every)
        scores = self.op("batch_matmul", f"{module}.scores", (query, keys), shape, cached=cached)
        weights = self.op("softmax", f"{module}.softmax", (scores,), shape)
        mixed = self.op(
            "batch_matmul", f"{module}.context", (weights, values), groups, cached=cached
        )
        wide = model.heads * model.head_dim
        return self.op("reshape", f"{module}.heads", (mixed,), (1, self.tokens, wide))

    def joined(self, module: str, new: str, shape: tuple[int, int]) -> str:
        """Add what is cached and what is new as one tensor; nothing is copied."""
        model = self.model
        old = self.given(f"{module}.cached", (model.kv_heads, self.past, model.head_dim))
        return self.op("concat", module, (old, new), (model.kv_heads, *shape))

    def linear(self, x: str, module: str, outputs: int, bits: float | None = None) -> str:
        """Add a fully connected layer without a bias; return its output."""
        *rows, inputs = self.tensors[x].shape
        weight = self.stored(f"{module}.weight", (outputs, inputs), "weight")
        packed = outputs * inputs * (bits or self.model.bits_per_weight) / 8
        return self.op("fully_connected", module, (x, weight), (*rows, outputs), encoded=packed)

    def norm(self, x: str, module: str) -> str:
        """Add a norm; return its output."""
        shape = self.tensors[x].shape
        weight = self.stored(f"{module}.weight", shape[-1:], "constant")
        return self.op("mul", module, (x, weight), shape, encoded=shape[-1] * _HALF / 8)

    def add(self, first: str, second: str, module: str) -> str:
        """Add a shortcut; return the sum."""
        return self.op("add", f"{module}.shortcut", (first, second), self.tensors[first].shape)

    def result(self, x: str) -> Graph:
        """Add the last norm and the output layer; return the graph."""
        model = self.model
        if model.adapter_bytes:
            shape = self.tensors[x].shape
            x = self.op("add", "adapter", (x,), shape, encoded=model.adapter_bytes)
        x = self.norm(x, "norm")
        x = self.op("strided_slice", "last", (x,), (1, 1, model.hidden))
        logits = self.linear(x, "lm_head", model.vocabulary, model.output_bits)
        graph = Graph(
            ops=tuple(self.ops), tensors=self.tensors, inputs=tuple(self.inputs), outputs=(logits,)
        )
        return dataclasses.replace(graph, ops=tuple(self.causal(op) for op in counted(graph).ops))

    def causal(self, op: Op) -> Op:
        """Return a product of attention with the multiplications that a mask leaves."""
        if op.kind != "batch_matmul":
            return op
        pairs = self.tokens * self.past + self.tokens * (self.tokens + 1) // 2
        return dataclasses.replace(op, macs=self.model.heads * self.model.head_dim * pairs)

    def given(self, name: str, shape: tuple[int, ...]) -> str:
        """Add an input."""
        self.inputs.append(name)
        return self.stored(name, shape, "input")

    def stored(self, name: str, shape: tuple[int, ...], kind: Kind) -> str:
        """Add a tensor that no operator makes."""
        self.tensors[name] = Tensor(name=name, shape=shape, dtype=DTYPE, kind=kind)
        return name

    def op(
        self,
        kind: str,
        module: str,
        inputs: tuple[str, ...],
        shape: tuple[int, ...],
        *,
        encoded: float = 0.0,
        cached: float = 0.0,
    ) -> str:
        """Add an operator; return its output."""
        attributes: dict[str, Any] = {"encoded_bytes": encoded, "cache_bytes": cached}
        if kind == "batch_matmul":
            attributes |= {"adj_x": False, "adj_y": False}
        self.tensors[module] = Tensor(name=module, shape=shape, dtype=DTYPE, kind="activation")
        self.ops.append(
            Op(
                name=module, kind=kind, inputs=inputs, outputs=(module,), attributes=attributes,
                macs=0, module=module,
            )
        )  # fmt: skip
        return module
