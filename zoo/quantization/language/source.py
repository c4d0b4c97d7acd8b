"""`Source`: a Hugging Face folder of a causal language model, read tensor by tensor."""

import shutil
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from zoo.errors import MismatchError, MissingExtraError, MissingWeightsError, UnsafeFileError
from zoo.files import read_json, replacing, sha256

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# What accompanies the weights, and is copied unread into the quantized folder.
COMPANIONS = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
)


class Source:
    """A folder with `config.json` and safetensors shards; nothing is loaded until it is needed.

    Raises:
        MissingWeightsError: there is no such folder, or no config or weights in it.
        UnsafeFileError: the weights are pickles, or not safetensors.

    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / CONFIG).is_file():
            raise MissingWeightsError(
                f"{folder} is not the folder of a language model (no {CONFIG}); expected one that "
                "save_pretrained or `zoo import FILE.gguf --out DIR` made"
            )
        self._shards = self._read_shards()

    def _read_shards(self) -> dict[str, Path]:
        """Return the file of each tensor, by its name there."""
        if (self.folder / INDEX).is_file():
            index = read_json(self.folder / INDEX).get("weight_map")
            if not isinstance(index, dict) or not all(
                isinstance(file, str) and Path(file).name == file for file in index.values()
            ):
                raise UnsafeFileError(f"{self.folder / INDEX} is not an index of files next to it")
            return {name: self.folder / file for name, file in index.items()}
        if not (self.folder / SINGLE).is_file():
            pickles = any(self.folder.glob("*.bin"))
            raise (UnsafeFileError if pickles else MissingWeightsError)(
                f"{self.folder} has no {SINGLE}"
                + ("; its weights are pickles, which are never opened" if pickles else "")
                + "; save the model again with save_pretrained"
            )
        with _opened(self.folder / SINGLE) as file:
            return dict.fromkeys(file.keys(), self.folder / SINGLE)

    @cached_property
    def _stored(self) -> dict[str, str]:
        """Each tensor's name in the files, by its name in the model.

        Transformers loads what older releases named differently, like the head of GPT-NeoX, and
        what was saved without the head's class, like Bloom; its own table says how.
        """
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightRenaming, rename_source_key

        model = self.skeleton()
        known, prefix = model.state_dict(), model.base_model_prefix
        table = get_model_conversion_mapping(model)
        renamings = [rule for rule in table if isinstance(rule, WeightRenaming)]
        found = {}
        for stored in self._shards:
            name = rename_source_key(stored, renamings, [], prefix, known)[0]
            found[name if stored not in known and name in known else stored] = stored
        return found

    @cached_property
    def files(self) -> dict[str, Path]:
        """The file of each tensor, by its name in the model."""
        return {name: self._shards[stored] for name, stored in self._stored.items()}

    @cached_property
    def raw_config(self) -> dict[str, Any]:
        """The whole of `config.json`."""
        return read_json(self.folder / CONFIG)

    @cached_property
    def config(self) -> Any:
        """The configuration of a model that is not quantized, as transformers reads it."""
        if "quantization_config" in self.raw_config:
            method = self.raw_config["quantization_config"].get("quant_method")
            raise MismatchError(
                f"{self.folder} is already quantized (quant_method {method!r}); give the model it "
                "was made from"
            )
        return self._configuration()

    def _configuration(self) -> Any:
        """Return the configuration; code in the folder is never run."""
        try:
            from transformers import AutoConfig
        except ImportError:
            raise MissingExtraError.of("transformers", "llm") from None
        try:
            return AutoConfig.from_pretrained(
                self.folder, trust_remote_code=False, local_files_only=True
            )
        except (ValueError, KeyError, OSError) as error:
            raise MismatchError(
                f"{self.folder / CONFIG} is not a configuration transformers knows: {error}"
            ) from error

    @cached_property
    def is_decoder(self) -> bool:
        """Whether the model goes on with a text and takes nothing else, packed or not."""
        from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

        config, kinds = self._configuration(), AutoModelForCausalLM._model_mapping
        if type(config) not in kinds or config.get_text_config() is not config:
            return False
        named = (self.raw_config.get("architectures") or [""])[0]
        # Without its head, as Bloom is on the Hub, a decoder is a decoder all the same.
        bare = named.endswith("Model") and type(config) not in AutoModelForMaskedLM._model_mapping
        bare = bare and not config.is_encoder_decoder
        return named in ("", kinds[type(config)].__name__) or bare

    def skeleton(self) -> "PreTrainedModel":
        """Return the model with parameters on the meta device, buffers computed, in eval mode."""
        from accelerate import init_empty_weights
        from transformers import AutoModelForCausalLM

        config = self.config
        config.use_cache = False
        try:
            with init_empty_weights(include_buffers=False):
                model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        except ValueError as error:
            raise MismatchError(
                f"{self.folder} holds a {config.model_type!r}, not a causal language model: "
                "quantize its module itself with zoo.quantization.generic.quantize_model"
            ) from error
        return model.eval()

    def tensors(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Return tensors by name, each file opened once."""
        by_file: dict[Path, list[str]] = {}
        for name in names:
            if name not in self.files:
                raise MissingWeightsError(
                    f"{self.folder} has no tensor {name!r}: get the whole folder again; if it "
                    "loads with transformers, quantize the loaded module itself with "
                    "zoo.quantization.generic.quantize_model"
                )
            by_file.setdefault(self.files[name], []).append(name)
        tensors: dict[str, Tensor] = {}
        for path, wanted in by_file.items():
            with _opened(path) as file:
                tensors |= {name: file.get_tensor(self._stored[name]) for name in wanted}
        return tensors

    def fill(self, module: nn.Module, prefix: str, dtype: torch.dtype, device: str) -> None:
        """Give the meta parameters and stored buffers below `prefix` their values, in `dtype`."""
        local = [name for name in module.state_dict() if f"{prefix}{name}" in self.files]
        missing = [
            name for name, value in module.named_parameters() if value.is_meta and name not in local
        ]
        if missing:
            self.tensors([f"{prefix}{missing[0]}"])  # raises, naming it
        tensors = self.tensors(f"{prefix}{name}" for name in local)
        values = {
            name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).to(device)
            for name, tensor in ((name, tensors[f"{prefix}{name}"]) for name in local)
        }
        module.load_state_dict(values, strict=False, assign=True)
        for name, value in list(module.named_buffers()):  # computed by __init__, on the device
            if value.device != torch.device(device):
                owner, _, leaf = name.rpartition(".")
                setattr(module.get_submodule(owner), leaf, value.to(device))

    def stored_as(self, module: nn.Module, prefix: str) -> dict[str, Tensor]:
        """Return the tensors below `prefix` with the values of a module, in their stored types."""
        stored = self.tensors(name for name in self.files if name.startswith(prefix))
        changed = module.state_dict()
        return {
            name: changed.get(name.removeprefix(prefix), value).to(value).contiguous()
            for name, value in stored.items()
        }

    def copy_companions(self, out: Path, more: Iterable[str] = ()) -> None:
        """Copy what accompanies the weights, and files of the names `more`: those that exist."""
        for name in (*COMPANIONS, *more):
            if (self.folder / name).is_file():
                with replacing(out / name) as temporary:
                    shutil.copyfile(self.folder / name, temporary)

    def facts(self) -> dict[str, Any]:
        """Return what a job is bound to: digests of the configuration and of every shard."""
        shards = sorted(set(self._shards.values()))
        return {
            "config": sha256(self.folder / CONFIG),
            "shards": {
                file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in shards
            },
        }


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise UnsafeFileError(f"{path} is not a whole safetensors file: {error}") from error
