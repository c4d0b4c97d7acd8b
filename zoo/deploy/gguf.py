"""GGUF files of llama.cpp as folders that transformers opens."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from zoo.deploy.language import architectures, words
from zoo.errors import MismatchError, MissingExtraError, MissingWeightsError
from zoo.files import read_json, replacing_folder


def convert(file: Path, out: Path) -> Path:
    """Write the language model of a GGUF file, dequantized to float32, into the new folder `out`.

    Raises:
        MissingWeightsError: there is no such file, or tensors are missing from it.
        MismatchError: the file is not GGUF, is damaged, has an unknown architecture or says what
            transformers does not read from it, or `out` already exists.

    """
    try:
        import gguf  # transformers asks for it too late, and in other words
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    except ImportError as error:
        raise MissingExtraError.of(str(error.name), "llm") from error
    from zoo.quantization.language.opening import quiet

    if not file.is_file():
        raise MissingWeightsError(f"{file} does not exist; expected a .gguf file")
    if out.exists():
        raise MismatchError(f"{out} already exists; choose another --out, or remove it")
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise MismatchError(
                f"{file} is not a GGUF file: it does not start with GGUF; a TFLite file is named "
                ".tflite"
            )
    # transformers would take other files in its folder for the model's: a folder of its own
    with quiet(), tempfile.TemporaryDirectory(prefix="zoo-gguf-") as folder:
        linked = Path(folder) / file.name
        try:
            linked.symlink_to(file.resolve())
        except OSError:  # Windows, without the right to make links
            shutil.copyfile(file, linked)
        try:
            reader = gguf.GGUFReader(linked)
            tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file.name)
            model, report = AutoModelForCausalLM.from_pretrained(
                folder,
                gguf_file=file.name,
                quantization_config=GgufConfig(dequantize=True),
                output_loading_info=True,
            )
        except MismatchError:
            raise
        except Exception as error:  # a damaged file makes gguf and numpy raise nearly anything
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise MismatchError(f"transformers cannot read {file}: {first}") from error
        if report["missing_keys"]:  # transformers has filled them with random numbers
            raise MissingWeightsError(
                f"{file} lacks {sorted(report['missing_keys'])[0]!r}; get the whole file again"
            )
        _refuse_unread(file, reader, model)
        with replacing_folder(out) as temporary:
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
            _cut_as_llama_cpp(reader, temporary)
    return out


def _field(reader: Any, key: str) -> Any:
    """Return what a file says under a key; None if nothing."""
    field = reader.get_field(key)
    return None if field is None else field.contents()


def _refuse_unread(file: Path, reader: Any, model: Any) -> None:
    """Refuse a file with more in it than transformers has taken, where that can be known."""
    found = architectures.ARCHITECTURES.get(type(model).__name__)
    if found is None:
        return
    places = architectures.places(found, model.config.num_hidden_layers)
    known = {architectures.place(places, name) for name, _ in model.named_parameters()}
    left = sorted(tensor.name for tensor in reader.tensors if tensor.name not in known)
    scaling = _field(reader, f"{found.name}.rope.scaling.type")
    if left or scaling not in (None, "none"):
        what = f"the tensor {left[0]}" if left else f"positions that are scaled ({scaling})"
        raise MismatchError(
            f"{file} has {what}, which transformers does not read from GGUF; take the folder that "
            "the file was made from"
        )


def _cut_as_llama_cpp(reader: Any, folder: Path) -> None:
    """Let the tokenizer cut texts as llama.cpp does for what the file names.

    Transformers takes one way of cutting for all files whose tokens are pairs of bytes.
    """
    content = read_json(folder / words.FILE)
    rows = len(_field(reader, "tokenizer.ggml.tokens"))
    # transformers adds an end of its own to those that have none by that name
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < rows]
    if _field(reader, "tokenizer.ggml.model") == "gpt2":
        words.cut_as(content, _field(reader, "tokenizer.ggml.pre"))
    elif _field(reader, "tokenizer.ggml.model") == "llama":
        words.space_as(content, _field(reader, "tokenizer.ggml.add_space_prefix") is not False)
    text = json.dumps(content, ensure_ascii=False)
    (folder / words.FILE).write_text(text, encoding="utf-8")
