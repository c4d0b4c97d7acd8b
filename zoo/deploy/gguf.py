"""GGUF files of llama.cpp as folders that transformers opens."""

import shutil
import struct
import tempfile
from pathlib import Path

from zoo.errors import MismatchError, MissingExtraError, MissingWeightsError
from zoo.files import replacing_folder


def convert(file: Path, out: Path) -> Path:
    """Write the language model of a GGUF file, dequantized to float32, into the new folder `out`.

    Raises:
        MissingWeightsError: there is no such file.
        MismatchError: the file is not GGUF or has an unknown architecture, or `out` already exists.

    """
    try:
        import gguf  # noqa: F401  # transformers asks for it too late, and in other words
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
            words = AutoTokenizer.from_pretrained(folder, gguf_file=file.name)
            model = AutoModelForCausalLM.from_pretrained(
                folder,
                gguf_file=file.name,
                quantization_config=GgufConfig(dequantize=True),
            )
        except (ValueError, KeyError, NotImplementedError, OSError, struct.error) as error:
            first = str(error).splitlines()[0]
            raise MismatchError(f"transformers cannot read {file}: {first}") from error
    with quiet(), replacing_folder(out) as temporary:
        model.save_pretrained(temporary)
        words.save_pretrained(temporary)
    return out
