"""Language models as GGUF files of llama.cpp: integers stay the integers that they are."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.deploy.language import architectures, words
from zoo.deploy.language.blocks import Array, blocks
from zoo.deploy.language.weights import IntegerMatrix, Weight, weights
from zoo.errors import MismatchError, MissingExtraError
from zoo.files import replacing

_HALF_STEP = 2.0**-11  # of a number rounded to 16 bits


@dataclass(frozen=True)
class GgufFile:
    """A file that llama.cpp opens.

    Attributes:
        path: the file.
        max_abs_error: of a weight, as the package `gguf` reads it, from the model's.
        types: how many tensors have each type.

    """

    path: Path
    max_abs_error: float
    types: Mapping[str, int]


def export(model: Any, folder: Path, path: Path, *, facts: Mapping[str, str]) -> GgufFile:
    """Write a language model, packed or not, with the tokenizer in its folder.

    Packed layers become the smallest of Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0 that has their integers;
    8-bit embeddings and heads become Q8_0; other matrices keep their type (F32, F16, BF16), and
    vectors are F32. Before the file is in its place, it is read back: a weight may differ by the
    rounding of a block's minimum to 16 bits, 2^-11 of it, in Q4_1 and Q5_1, and not at all in the
    rest.

    Args:
        model: as `zoo.load` returns it.
        folder: where its tokenizer is.
        path: the file to write.
        facts: `recipe` and `license`, for those who find the file.

    Raises:
        MissingExtraError: the extra `[llm]` is not installed.
        MissingWeightsError: the folder has no tokenizer.
        MismatchError: llama.cpp has no such model, layer or tokenizer.

    """
    try:
        import gguf
    except ImportError as error:
        raise MissingExtraError.of(str(error.name), "llm") from error
    architecture = architectures.find(model)
    with replacing(path) as temporary:
        writer = gguf.GGUFWriter(temporary, architecture.name)
        writer.add_name(facts["recipe"])
        writer.add_license(facts["license"])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        divisors = architectures.describe(writer, model.config, architecture)
        words.add_tokenizer(writer, folder, model.config.vocab_size)
        wanted = _written(writer, model, architecture)
        if divisors is not None:
            writer.add_tensor("rope_freqs.weight", divisors.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        largest, types = _checked(temporary, wanted)
    return GgufFile(path, largest, types)


def _written(
    writer: Any, model: Any, architecture: architectures.GgufArchitecture
) -> dict[str, Weight]:
    """Give the writer every tensor; return them by their names in the file."""
    import gguf

    places = architectures.places(architecture, model.config.num_hidden_layers)
    heads = {
        "q_proj": model.config.num_attention_heads,
        "k_proj": model.config.num_key_value_heads,
    }
    given: dict[str, Weight] = {}
    types: Counter[str] = Counter()
    for name, weight in weights(model, "GGUF"):
        base, place = name.rpartition(".")[0], architectures.place(places, name)
        if place is None:
            raise MismatchError(
                f"GGUF's {architecture.name} has no place for {name} of {type(model).__name__}"
            )
        count = heads.get(base.rpartition(".")[2]) if architecture.interleaved else None
        if count is not None:
            weight = _interleaved(weight, count)
        elif architecture.shifted and base.endswith("norm"):
            assert isinstance(weight, Tensor)
            weight = weight.to(torch.float32) + 1
        kind, data = _data(weight, base)
        writer.add_tensor(place, data, raw_dtype=gguf.GGMLQuantizationType[kind])
        given[place] = weight
        types[kind] += isinstance(weight, IntegerMatrix) or weight.dim() > 1
    writer.add_file_type(_file_type(types.most_common(1)[0][0]))
    return given


def _file_type(most: str) -> int:
    import gguf

    usual = {"F32": "ALL_F32"}
    return int(gguf.LlamaFileType[usual.get(most, f"MOSTLY_{most}")])


def _interleaved(weight: Weight, heads: int) -> Weight:
    """Return rows in the order of pairs that turn together, where halves of a head did."""
    rows = weight.shape[0]
    order = torch.arange(rows).view(heads, 2, -1).transpose(1, 2).flatten()
    return weight.rows(order) if isinstance(weight, IntegerMatrix) else weight[order]


def _data(weight: Weight, name: str) -> tuple[str, Array]:
    if isinstance(weight, IntegerMatrix):
        return blocks(weight, name)
    if weight.dim() < 2:
        return "F32", weight.to(torch.float32).numpy()
    if weight.dtype == torch.bfloat16:
        return "BF16", weight.contiguous().view(torch.uint8).numpy()
    if weight.dtype == torch.float16:
        return "F16", weight.numpy()
    return "F32", weight.to(torch.float32).numpy()


def _checked(path: Path, wanted: Mapping[str, Weight]) -> tuple[float, dict[str, int]]:
    """Return the largest difference of a weight in the file, and its types; refuse another one."""
    import gguf

    largest, types = 0.0, Counter[str]()
    for tensor in gguf.GGUFReader(path).tensors:
        kind = tensor.tensor_type.name
        types[kind] += 1
        if tensor.name not in wanted:
            continue  # frequencies
        weight = wanted[tensor.name]
        found = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
        exact = weight.floats() if isinstance(weight, IntegerMatrix) else weight.to(torch.float32)
        error = (found.view(exact.shape) - exact).abs()
        if isinstance(weight, IntegerMatrix) and kind in ("Q4_1", "Q5_1"):
            assert weight.zero is not None
            least = weight.spread(weight.scale.float() * weight.zero.float())
            # d q and its sum with m are rounded to float32: by far less than m is to 16 bits
            allowed = least * _HALF_STEP + 1e-6 * (least + exact.abs()) + 2.0**-25
        else:
            allowed = torch.zeros(())
        if not (error <= allowed).all():
            raise MismatchError(f"{tensor.name} would be another matrix in the file: a fault here")
        largest = max(largest, float(error.max()))
    return largest, dict(types)
