"""Language models as folders of other libraries: the layouts of GPTQ and compressed-tensors.

Both keep integers with a scale and a zero point per row and group of columns, as packed layers of
the zoo do: codes, scales and zero points are copied, only their order in the file changes. vLLM
reads both; transformers does with the package of each, `gptqmodel` or `compressed-tensors`.

Sources: `compressed_tensors/compressors/pack_quantized` (dense streams of bits in words of 32, each
row for itself, zero points down the rows); the README of AutoGPTQ and GPTQModel's `pack` (streams
down the columns; zero points less one in the format "gptq", as they are in "gptq_v2").
"""

import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.deploy.language.weights import IntegerMatrix, weights
from zoo.errors import MismatchError
from zoo.files import read_json, replacing_folder, write_json
from zoo.quantization.language import shards
from zoo.quantization.language.source import COMPANIONS, CONFIG
from zoo.quantization.packed import PackedLinear
from zoo.quantization.packing import pack
from zoo.version import __version__

_SHARD_BYTES = 5_000_000_000
_WORD = 32  # bits
_GPTQ_BITS = (2, 3, 4, 8)
_TENSORS_BITS = (4, 8)  # what vLLM has kernels for

Layout = tuple[dict[str, Tensor], dict[str, Any]]


@dataclass(frozen=True)
class ModelFolder:
    """A folder that vLLM and transformers open.

    Attributes:
        path: the folder.
        max_abs_error: of a packed weight from the model's: 0, its integers are copied.
        types: how many layers have how many bits.

    """

    path: Path
    max_abs_error: float
    types: Mapping[str, int]


def export(model: Any, folder: Path, path: Path, format: str) -> ModelFolder:
    """Write a packed language model in another library's layout, with its tokenizer.

    Args:
        model: as `zoo.load` returns it. Embeddings and heads of 8 bits, which these layouts do not
            have, are decoded into the type of its other floats.
        folder: where its configuration and tokenizer are.
        path: the new folder.
        format: "gptq" or "compressed-tensors".

    Raises:
        MismatchError: nothing is packed, or the layout cannot hold a layer; or `path` exists.

    """
    from safetensors.torch import save_file

    layouts: dict[str, Callable[[IntegerMatrix, str], Layout]] = {
        "gptq": _gptq, "compressed-tensors": _compressed_tensors
    }  # fmt: skip
    layout = layouts[format]
    if path.exists():
        raise MismatchError(f"{path} already exists; choose another --out, or remove it")
    config = read_json(folder / CONFIG)
    given = config.pop("quantization_config", {})
    if not given:
        raise MismatchError(
            f"{folder} is not packed, and {format} is a layout of integers; type: zoo compress "
            f"{folder} --method gptq --bits 4 --data TEXT --out DIR, and export that"
        )
    if given.get("exposed"):
        raise MismatchError(
            f"{given['exposed'][0]} is packed as layers that the model itself does not have, and "
            f"{format} has no names for; compress the model with --skip '*experts*'"
        )
    tensors, layers = _tensors(model, layout, format)
    config["tie_word_embeddings"] = given.get("tied") or config.get("tie_word_embeddings", False)
    left = [name for name, part in model.named_modules() if type(part) is nn.Linear]
    with replacing_folder(path) as made:
        whole = made / "all"
        save_file(tensors, whole)
        shards.assemble([whole], made, limit=_SHARD_BYTES)
        whole.unlink()
        for name in COMPANIONS:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, made / name)
        described = _describe_gptq if format == "gptq" else _describe_compressed_tensors
        write_json(made / CONFIG, {**config, "quantization_config": described(layers, left)})
    types = Counter(f"{facts['bits']} bits" for facts in layers.values())
    return ModelFolder(path, 0.0, dict(types))


def _tensors(
    model: Any, layout: Callable[[IntegerMatrix, str], Layout], format: str
) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """Return what is stored, and what is to be said of each packed layer."""
    packed = {name for name, part in model.named_modules() if isinstance(part, PackedLinear)}
    tied = bool(getattr(model.config, "tie_word_embeddings", False))
    tensors: dict[str, Tensor] = {}
    layers = {}
    for name, weight in weights(model, format):
        owner = name.rpartition(".")[0]
        if owner in packed and isinstance(weight, IntegerMatrix):
            stored, layers[owner] = layout(weight, owner)
            if "weight_scale" in stored and model.dtype == torch.float32:  # decoded in its type
                stored["weight_scale"] = stored["weight_scale"].to(torch.float32)
            tensors |= {f"{owner}.{key}": value.contiguous() for key, value in stored.items()}
        elif isinstance(weight, IntegerMatrix):  # 8-bit rows
            tensors[name] = weight.floats().to(model.dtype)
        elif not (tied and owner == "lm_head"):
            tensors[name] = weight.contiguous()
    kinds = {(facts["version"], facts["bits"]) for facts in layers.values()}
    if format == "gptq" and len({version for version, _ in kinds}) > 1:  # one for the whole folder
        return _tensors(model, lambda matrix, name: _gptq(matrix, name, plain=True), format)
    if format != "gptq" and len(kinds) > 1 and any(version for version, _ in kinds):
        # transformers 5.23 decodes all layers as the first kind where zero points are decoded
        most = max(bits for _, bits in kinds)
        return _tensors(model, lambda m, name: _compressed_tensors(m, name, least=most), format)
    return tensors, layers


def _wider(matrix: IntegerMatrix, known: tuple[int, ...]) -> int:
    """Return the bits that a layout has for a matrix: codes and zero points stay what they are."""
    return next(bits for bits in known if bits >= matrix.bits)


def _check(matrix: IntegerMatrix, name: str, format: str) -> None:
    if matrix.span < matrix.shape[1] and matrix.shape[1] % matrix.span:
        raise MismatchError(
            f"{name} has {matrix.shape[1]} columns in groups of {matrix.span}, the last smaller; "
            f"{format} has groups of one size: compress the model with another --group-size, or "
            f"leave it out with --skip '*{name.rpartition('.')[2]}'"
        )


def _group_size(matrix: IntegerMatrix) -> int:
    return matrix.span if matrix.span < matrix.shape[1] else -1


def _compressed_tensors(matrix: IntegerMatrix, name: str, *, least: int = 0) -> Layout:
    """Return the tensors of the format "pack-quantized".

    Zero points go where they may, unless there are to be at least so many bits, and zero points.
    """
    _check(matrix, name, "compressed-tensors")
    if matrix.place is not None:
        raise MismatchError(
            f"{name} was quantized with act_order, which compressed-tensors has no more; export it "
            "with --format gptq, or compress the model without --set act_order=true"
        )
    assert matrix.zero is not None
    bits = max(_wider(matrix, _TENSORS_BITS), least)
    half = 1 << (bits - 1)
    signed = matrix.signed()
    symmetric = not least and bool((signed >= -half).all() and (signed < half).all())
    stored = {
        "weight_packed": _words(signed + half if symmetric else matrix.codes, bits),
        "weight_scale": matrix.scale,
        "weight_shape": torch.tensor(matrix.shape),
    }
    if not symmetric:
        stored["weight_zero_point"] = _words(matrix.zero.T, bits).T
    facts = {"bits": bits, "group_size": _group_size(matrix), "symmetric": symmetric}
    return stored, {**facts, "version": "" if symmetric else "zero points"}


def _gptq(matrix: IntegerMatrix, name: str, *, plain: bool = False) -> Layout:
    """Return the tensors of the format "gptq", or "gptq_v2" where zero points are 0."""
    _check(matrix, name, "gptq")
    assert matrix.zero is not None
    rows, columns = matrix.shape
    if rows % _WORD or columns % _WORD:
        raise MismatchError(
            f"{name} has {rows} rows and {columns} columns, and GPTQ packs {_WORD} of each; leave "
            f"it out with --skip '*{name.rpartition('.')[2]}' when you compress the model, or "
            "export it with --format compressed-tensors"
        )
    bits = _wider(matrix, _GPTQ_BITS)
    place = torch.arange(columns) if matrix.place is None else matrix.place
    plain = plain or bool((matrix.zero == 0).any())
    zero = matrix.zero if plain else matrix.zero - 1
    stored = {
        "qweight": _words(matrix.codes.index_select(1, place), bits).T,
        "qzeros": _words(zero.T, bits),
        "scales": matrix.scale.T,
        "g_idx": (place // matrix.span).to(torch.int32),
    }
    facts = {"bits": bits, "group_size": _group_size(matrix), "desc_act": matrix.place is not None}
    return stored, {**facts, "version": "gptq_v2" if plain else "gptq"}


def _words(values: Tensor, bits: int) -> Tensor:
    """Return the stream of bits of each row of `values`, in words of 32."""
    padded = nn.functional.pad(values, (0, -values.shape[1] % _WORD))
    return pack(padded, bits).view(torch.int32)[:, : -(-values.shape[1] * bits // _WORD)]


def _most(layers: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return what most layers have in common."""
    texts = Counter(tuple(sorted(facts.items())) for facts in layers.values())
    return dict(texts.most_common(1)[0][0])


def _describe_gptq(layers: Mapping[str, dict[str, Any]], left: list[str]) -> dict[str, Any]:
    usual = _most(layers)
    others: dict[str, dict[str, Any]] = {
        f"+:^{re.escape(name)}$": {key: facts[key] for key in ("bits", "group_size", "desc_act")}
        for name, facts in layers.items()
        if facts != usual
    }
    others |= {f"-:^{re.escape(name)}$": {} for name in left if name != "lm_head"}
    return {
        "quant_method": "gptq",
        "bits": usual["bits"],
        "group_size": usual["group_size"],
        "desc_act": usual["desc_act"],
        "sym": False,
        "lm_head": False,
        "checkpoint_format": usual["version"],
        "pack_dtype": "int32",
        "meta": {"quantizer": [f"edge-zoo:{__version__}"]},
        **({"dynamic": others} if others else {}),
    }


def _describe_compressed_tensors(
    layers: Mapping[str, dict[str, Any]], left: list[str]
) -> dict[str, Any]:
    kinds: dict[tuple[int, int, bool], list[str]] = {}
    for name, facts in layers.items():
        kind = facts["bits"], facts["group_size"], facts["symmetric"]
        kinds.setdefault(kind, []).append(name)
    groups = {
        f"group_{index}": {
            "targets": ["Linear"] if len(kinds) == 1 else names,
            "weights": {
                "num_bits": bits,
                "type": "int",
                "symmetric": symmetric,
                "strategy": "group" if size > 0 else "channel",
                "group_size": size if size > 0 else None,
                "dynamic": False,
            },
            "input_activations": None,
            "output_activations": None,
            "format": "pack-quantized",
        }
        for index, ((bits, size, symmetric), names) in enumerate(kinds.items())
    }
    described: dict[str, Any] = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": left,
    }
    if not all(symmetric for _, _, symmetric in kinds):
        # transformers 5.23 makes room for unpacked zero points unless it decodes when it loads
        described["dequantize"] = True
    return described
