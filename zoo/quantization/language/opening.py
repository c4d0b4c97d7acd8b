"""A language model's folder, packed or not, opened by transformers without trusting it."""

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from zoo.errors import MismatchError, MissingWeightsError, ZooError
from zoo.models.structured.network import METHOD as FORMS
from zoo.quantization.coded import METHOD as CODED
from zoo.quantization.language.source import Source
from zoo.quantization.packed import METHOD

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def quiet() -> Iterator[None]:
    """Show the progress bars of transformers on a terminal only."""
    if sys.stderr.isatty():
        yield
        return
    from transformers import modeling_gguf_pytorch_utils as gguf
    from transformers.utils import logging

    bar: Any = getattr(gguf, "tqdm", None)  # the bar for GGUF files is not logging's
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    if bar is not None:
        vars(gguf)["tqdm"] = functools.partial(bar, disable=True)
    try:
        yield
    finally:
        if bar is not None:
            vars(gguf)["tqdm"] = bar
        if shown:
            logging.enable_progress_bar()


def _opener(source: Source) -> Any:
    """Return the class that opens a folder: that of decoders, or the one that it names."""
    import transformers

    if source.is_decoder:
        return transformers.AutoModelForCausalLM
    name = (source.raw_config.get("architectures") or [""])[0]
    kind = getattr(transformers, name, None) if name.isidentifier() else None
    if not isinstance(kind, type) or not issubclass(kind, transformers.PreTrainedModel):
        raise MismatchError(
            f"{source.folder} names the class {name!r}, which transformers does not have"
        )
    return kind


def load(
    folder: Path, *, device: str = "cpu", dtype: torch.dtype | None = None
) -> "PreTrainedModel":
    """Return the language model in a folder, packed or not, in eval mode.

    Code in the folder is never run, pickles are never opened, and every tensor must fit: where
    transformers would warn and continue with random numbers, this raises.

    Raises:
        MissingWeightsError: tensors are missing.
        MismatchError: tensors are left over or have other shapes, or it is not a language model.

    """
    source = Source(folder)
    method = source.raw_config.get("quantization_config", {}).get("quant_method")
    if method not in (None, METHOD, CODED, FORMS):
        raise MismatchError(
            f"{folder} was quantized with {method!r}; load it with transformers and the package "
            "that method needs"
        )
    try:
        with quiet():
            model, report = _opener(source).from_pretrained(
                folder,
                dtype=dtype or "auto",
                device_map=device,
                trust_remote_code=False,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
    except ZooError:
        raise
    except (ValueError, OSError, RuntimeError, KeyError) as error:
        first = str(error).splitlines()[0]
        raise MismatchError(f"transformers cannot load {folder}: {first}") from error
    if report["missing_keys"]:
        raise MissingWeightsError(
            f"{folder} lacks {sorted(report['missing_keys'])[0]!r}; get the whole folder again"
        )
    for kind in ("unexpected_keys", "mismatched_keys"):
        if report[kind]:
            raise MismatchError(f"{folder}: {kind.replace('_', ' ')}: {sorted(report[kind])[0]}")
    return model.eval()
