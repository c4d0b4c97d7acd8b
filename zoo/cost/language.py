"""`Decoder`: a decoder by its sizes, and the work and bytes of its tokens."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.errors import MismatchError
from zoo.files import read_json

# Types of transformers whose feed-forward layers are two matrices, not three.
PLAIN = frozenset(("gpt_neox", "gptj", "phi", "opt", "starcoder2", "bloom", "gpt2", "falcon"))
_BLOCK = re.compile(r"(^|\.)(layers|h|blocks)\.\d+\.")
_OUTPUT = re.compile(r"(^|\.)(lm_head|embed_out)\.")
_EMBEDDING = re.compile(r"(^|\.)(embed_tokens|embed_in|wte)\.")
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
_MOST_HEADER = 100 << 20  # bytes that safetensors allows


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """A decoder-only transformer, as its `config.json` describes it.

    Attributes:
        name: for messages.
        layers: how many blocks.
        hidden: width of a token; `intermediate`: of the feed-forward layers between.
        heads: of attention; `kv_heads` keys and values; `head_dim` the width of one.
        vocabulary: tokens there are.
        gated: the feed-forward layers are three matrices, not two.
        tied: the output layer is the embedding.
        bits_per_weight: of the layers as they are packed, scales and codebooks included.
        output_bits: of the output layer's weights.
        codebook: weights are indices into one, which takes time to decode.
        adapter_bytes: of an adapter that is read beside the weights for every token.

    """

    name: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    gated: bool = True
    tied: bool = False
    bits_per_weight: float = 16.0
    output_bits: float = 16.0
    codebook: bool = False
    adapter_bytes: int = 0

    def __post_init__(self) -> None:
        for name in ("layers", "hidden", "intermediate", "heads", "kv_heads", "head_dim"):
            if getattr(self, name) < 1:
                raise MismatchError(f"{self.name}: {name} is {getattr(self, name)}; expected >= 1")
        if self.heads % self.kv_heads:
            raise MismatchError(
                f"{self.name}: {self.heads} heads share {self.kv_heads} keys and values unevenly"
            )
        for name in ("bits_per_weight", "output_bits"):
            if not 0 < getattr(self, name) <= 64:
                raise MismatchError(f"{self.name}: {name} is {getattr(self, name)}; expected bits")

    @classmethod
    def of_config(cls, name: str, config: Mapping[str, Any], **changes: Any) -> "Decoder":
        """Return a model by the `config.json` of transformers.

        Raises:
            MismatchError: a size is missing: it is not the config of a decoder; or its layers are
                mixtures of experts, of which a token reads a part.

        """
        if experts := next((k for k in _EXPERTS if (config.get(k) or 0) > 1), None):
            raise MismatchError(
                f"{name} has {experts} {config[experts]}: of mixtures of experts the cost is not "
                "known here; give the sizes that one token reads as a zoo.cost.Decoder"
            )
        try:
            heads, hidden = config["num_attention_heads"], config["hidden_size"]
            sizes = {
                "layers": config["num_hidden_layers"],
                "hidden": hidden,
                "intermediate": config["intermediate_size"],
                "heads": heads,
                "kv_heads": config.get("num_key_value_heads") or heads,
                "head_dim": config.get("head_dim") or hidden // heads,
                "vocabulary": config["vocab_size"],
                "tied": bool(config.get("tie_word_embeddings", False)),
                "gated": config.get("model_type") not in PLAIN,
            }
        except KeyError as error:
            kind = config.get("model_type") or "no model_type"
            raise MismatchError(
                f"{name} ({kind}) has no {error}; expected the config.json of a decoder that names "
                "its sizes as Llama's does; for others give them as a zoo.cost.Decoder"
            ) from error
        return cls(name=name, **{**sizes, **changes})

    @classmethod
    def of_folder(cls, name: str, folder: Path) -> "Decoder":
        """Return a model by its folder: sizes of `config.json`, bits of the weights' files.

        Raises:
            MismatchError: as `of_config`, or a file of weights is damaged.

        """
        config = read_json(folder / "config.json")
        model = cls.of_config(name, config)
        sizes: dict[str, int] = {}
        for file in sorted(folder.glob("model*.safetensors")):
            sizes |= tensor_bytes(file)
        layers = {t: size for t, size in sizes.items() if _BLOCK.search(t) and "norm" not in t}
        blocks = sum(layers.values())
        output = sum(size for tensor, size in sizes.items() if _OUTPUT.search(tensor))
        # Packed, an embedding that is the output layer too is stored once, whatever `config` says.
        tied = model.tied or not output
        output = output or sum(size for t, size in sizes.items() if _EMBEDDING.search(t))
        if not blocks:
            return model
        bits = 8 * blocks / model.layer_weights
        changes: dict[str, Any] = {"bits_per_weight": bits, "tied": tied}
        if output:
            changes["output_bits"] = 8 * output / (model.vocabulary * model.hidden)
        changes["codebook"] = any(tensor.endswith(".codebook") for tensor in sizes)
        return cls.of_config(name, config, **changes)

    @property
    def norm_weights(self) -> int:
        """Weights of two norms in each block and of the last one; they have 16 bits."""
        return (2 * self.layers + 1) * self.hidden

    @property
    def layer_weights(self) -> int:
        """Weights of all blocks."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        return self.layers * (attention + (2 + self.gated) * self.hidden * self.intermediate)

    @property
    def parameters(self) -> int:
        """Weights of blocks, norms, embedding and output layer."""
        return (
            self.layer_weights + self.norm_weights + (2 - self.tied) * self.vocabulary * self.hidden
        )

    @property
    def packed_bytes(self) -> int:
        """Bytes of everything as it is stored; the embedding as the output layer is."""
        outputs = (2 - self.tied) * self.vocabulary * self.hidden * self.output_bits
        return round((self._block_bits + outputs) / 8)

    @property
    def _block_bits(self) -> float:
        return self.layer_weights * self.bits_per_weight + 16 * self.norm_weights

    @property
    def read_bytes(self) -> int:
        """Bytes that each new token reads: blocks, its row of the embedding, output, adapter."""
        output = (self.vocabulary + 1) * self.hidden * self.output_bits
        return round((self._block_bits + output) / 8) + self.adapter_bytes

    def cache_bytes(self, tokens: int, bits: float = 16.0) -> int:
        """Return the bytes of keys and values of so many tokens."""
        return round(2 * self.layers * self.kv_heads * self.head_dim * tokens * bits / 8)


def tensor_bytes(file: Path) -> dict[str, int]:
    """Return the bytes of each tensor of a safetensors file, by its header alone.

    Raises:
        MismatchError: it is none.

    """
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(min(length, _MOST_HEADER)))
        return {
            name: int(facts["data_offsets"][1]) - int(facts["data_offsets"][0])
            for name, facts in header.items()
            if name != "__metadata__"
        }
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise MismatchError(f"{file} is no safetensors file, or damaged: {error}") from error
