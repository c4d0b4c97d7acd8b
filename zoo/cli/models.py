"""The commands that use a model: run, evaluate, export, card."""

import argparse
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import verbs as api
from zoo.cli.printing import (
    Arguments,
    Command,
    adapters,
    add_ref,
    positive,
    print_json,
    print_table,
    shape_of,
)
from zoo.errors import MismatchError

if TYPE_CHECKING:
    from zoo.registry.artifact import Artifact

MICROPHONE = "microphone"


def add(command: Command) -> None:
    """Add the commands to the command line."""
    sub = command("run", _run, "run a model on a picture or a prompt", device=True)
    add_ref(sub)
    sub.add_argument(
        "source",
        help="a picture file; for a language model: a prompt; for a .tflite file also .npy, .npz "
        "(several inputs) and .wav files",
    )
    sub.add_argument(
        "--stream",
        action="store_true",
        help="feed a .tflite file one frame of an array or a sound after the other; say when words "
        "are said in a long sound, or, with the source 'microphone', as they are",
    )
    sub.add_argument("--out", help="where the result goes; the suffix chooses the format")
    sub.add_argument(
        "--adapter", metavar="NAME[=STRENGTH],...",
        help="put adapters in, e.g. looks-pencil, or looks-pencil=1,looks-film=0.6",
    ).completer = adapters  # type: ignore[attr-defined]  # fmt: skip
    sub.add_argument(
        "--threshold", type=float, help="least score of an object that is found, or of a word"
    )
    _add_suppression(sub)
    _add_cache_bits(sub)
    sub = command("evaluate", _evaluate, "measure a model on pictures or a text", device=True)
    add_ref(sub)
    sub.add_argument(
        "--data",
        required=True,
        metavar="DIR",
        help="a folder laid out as the task expects, or a text: a file, a folder, wikitext2, "
        "org/name",
    )
    sub.add_argument(
        "--length", type=positive, help="length of a language model's windows, in tokens"
    )
    sub.add_argument("--stride", type=positive, help="from window to window; default: --length")
    sub.add_argument("--windows", type=positive, help="at most this many; default: all")
    sub.add_argument("--tasks", metavar="T,T", help="also tasks of lm-eval: names or .yaml files")
    sub.add_argument("--limit", type=positive, metavar="N", help="examples of each task")
    _add_suppression(sub)
    _add_cache_bits(sub)
    sub.add_argument("--record", metavar="NAME", help="also store the result in the checkpoint")
    _add_export(command("export", _export, "write a deployable file"))
    sub = command("card", _card, "render the model card")
    add_ref(sub)
    sub.add_argument("--out", metavar="FILE", help="write there instead of to stdout")
    sub.add_argument("--check", action="store_true", help="check the existing README.md")


def _add_suppression(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--suppression", choices=("nms", "soft-nms"), help="of boxes of the same object"
    )


def _add_cache_bits(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--cache-bits", type=int, choices=(4, 8),
        help="of a language model's keys and values; default: full precision",
    )  # fmt: skip


def _add_export(sub: argparse.ArgumentParser) -> None:
    add_ref(sub)
    sub.add_argument(
        "--format",
        help="onnx, tflite or c; of a language model onnx, gguf, gptq or compressed-tensors; "
        "default: as --out ends, else onnx",
    )
    sub.add_argument("--int8", action="store_true", help="quantize to int8")
    sub.add_argument(
        "--int16", action="store_true", help="int16 activations, int8 weights (tflite)"
    )
    sub.add_argument("--npu", action="store_true", help="only operators that Ethos-U has (tflite)")
    sub.add_argument("--data", metavar="DIR", help="inputs to learn the integers' ranges from")
    _add_shape(sub)
    sub.add_argument("--out", metavar="FILE")
    sub.add_argument(
        "--least-memory", action="store_true",
        help="plan the arena so that TFLite Micro needs the least (tflite; REF may be such a file)",
    )  # fmt: skip
    sub.add_argument(
        "--front-end",
        action="store_true",
        help="instead of the network, C source of what comes before one that hears (.h)",
    )
    sub.add_argument(
        "--adapters", metavar="PATTERN",
        help="also write these as patches of the int8 .tflite file: names, or ./DIR",
    )  # fmt: skip
    sub.add_argument(
        "--mix", action="append", default=[], metavar="NAME=STRENGTH,...",
        help="one more patch, of several of these adapters at once",
    )  # fmt: skip


def _add_shape(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--shape", metavar="N,C,H,W", help="input shape; default: the recipe's")


def _run(args: Arguments) -> None:
    """Run a model on one input."""
    artifact = api.resolve(args.ref)
    given = {key: getattr(args, key) for key in ("threshold", "suppression", "cache_bits")}
    options = {key: value for key, value in given.items() if value is not None}
    options |= {"device": args.device, "dtype": args.dtype}
    if args.stream and args.source == MICROPHONE and not Path(MICROPHONE).exists():
        _follow(artifact, options)
        return
    out = Path(args.out) if args.out else artifact.default_output(Path(args.source))
    if args.stream:
        result = api.run(artifact, args.source, out, stream=True, **options)
    elif (what := args.adapter) is not None:
        chosen = _strengths("--adapter", what, default="1") if set(what) & set("=,") else what
        result = api.run(args.ref, args.source, out, adapter=chosen, **options)
    else:
        result = artifact.run(args.source, out, **options)
    if args.json:
        print_json(result.to_json() | ({} if out is None else {"out": str(out)}))
    else:
        print(result.text if out is None else f"{out}  {result.text}")


def _follow(artifact: "Artifact", options: Mapping[str, Any]) -> None:
    """Say the words that a microphone hears, until Ctrl-C."""
    from zoo.artifacts.networks import Network
    from zoo.data import sound
    from zoo.data.following import followed

    if not isinstance(artifact, Network):
        raise MismatchError(f"{artifact.ref} does not hear words; give it a sound's file")
    follower = artifact.follower(**options)
    print("listening; Ctrl-C ends it", file=sys.stderr)
    for found in followed(follower, sound.microphone(follower.rate)):
        print(found.text, flush=True)


def _evaluate(args: Arguments) -> None:
    """Measure a model."""
    keys = ("length", "stride", "windows", "limit", "suppression", "cache_bits")
    protocol = {key: getattr(args, key) for key in keys}
    protocol["tasks"] = args.tasks.split(",") if args.tasks else None
    result = api.evaluate(
        args.ref,
        args.data,
        record=args.record,
        device=args.device,
        dtype=args.dtype,
        **{key: value for key, value in protocol.items() if value is not None},
    )
    if args.json:
        print_json(result)
        return
    each = next((key for key in result if key.startswith("per_")), None)
    if each is None:
        for key, value in result.items():
            print(f"{key}: {value:.6g}" if isinstance(value, float) else f"{key}: {value}")
        return
    sample = each.removeprefix("per_")
    columns = [key for key, value in result[each][0].items() if isinstance(value, float)]
    rows = [[sample, *columns]]
    means = [{sample: "mean", **result}]
    if "float" in result:
        means.append({sample: "mean in float", **result["float"]})
    for row in [*result[each], *means]:
        rows.append([str(row[sample]), *(f"{row[key]:.4f}" for key in columns)])
    print_table(rows)
    for key, value in result.items():  # what the table has no column for
        if isinstance(value, float) and key not in columns:
            print(f"{key}: {value:.6g}")
    print(f"protocol: {result['protocol']}")


def _export(args: Arguments) -> None:
    """Write a deployable file."""
    from zoo.verbs.exporting import FOLDERS, OF_LANGUAGE, format_of

    if args.front_end:
        _export_front_end(args)
        return
    if args.out:
        format_of(Path(args.out), args.format)  # before anything is resolved
    artifact = api.resolve(args.ref)
    if args.least_memory:
        from zoo.cli import memory
    if args.least_memory and artifact.path.suffix == ".tflite":
        memory.plan_file(artifact.path, Path(args.out or artifact.path))
        return
    name = artifact.path.stem if artifact.recipe is None else artifact.recipe.name
    folder = args.format in FOLDERS
    out = args.out or f"{name}{'-' if folder else '.'}{args.format or 'onnx'}"
    args.format = format_of(Path(out), args.format)
    if args.least_memory:
        memory.check_format(args.format)
    if args.adapters or args.mix:
        _export_patches(args, out)
        return
    file = api.export(
        artifact,
        out,
        format=args.format,
        int8=args.int8,
        int16=args.int16,
        npu=args.npu,
        data=args.data,
        input_shape=shape_of(args.shape) if args.shape is not None else None,
    )
    parts = [file.path, *(file.path.iterdir() if file.path.is_dir() else [])]
    size = sum(part.stat().st_size for part in parts if part.is_file())
    what = "model's weights" if args.format in OF_LANGUAGE else "module"
    line = f"{file.path}  {size} bytes, within {file.max_abs_error:.1e} of the {what}"
    if types := getattr(file, "types", None):
        line += ": " + ", ".join(f"{count} x {kind}" for kind, count in types.items())
    if (steps := getattr(file, "max_steps", None)) is not None:
        line += f", ONNX Runtime within {steps} step{'s' * (steps != 1)} of the int8 reference"
    print(line)
    if args.least_memory:
        memory.plan_file(file.path, file.path)


def _export_front_end(args: Arguments) -> None:
    """Write the front end of a network that hears."""
    from zoo.verbs.exporting import write_heard

    artifact = api.resolve(args.ref, weights=False)
    file = write_heard(artifact, Path(args.out or "front_end.h"))
    print(
        f"{file.path}  {file.flash_bytes} bytes of tables, {file.ram_bytes} bytes of memory, "
        f"{file.operations} operations a frame"
    )


def _export_patches(args: Arguments, out: str) -> None:
    """Write a base and patches of it."""
    from zoo.verbs.patching import export_patches

    if not args.adapters or args.format != "tflite" or not args.int8 or not args.data:
        raise MismatchError(
            "patches are of an int8 .tflite file; type: zoo export REF --format tflite --int8 "
            "--data DIR --adapters PATTERN"
        )
    file, patches = export_patches(
        args.ref,
        out,
        data=args.data,
        adapters=args.adapters,
        mixes=[_strengths("--mix", text) for text in args.mix],
        npu=args.npu,
        input_shape=shape_of(args.shape) if args.shape is not None else None,
    )
    print(f"{file.path}  {file.path.stat().st_size} bytes, SNR {file.snr_db:.1f} dB")
    for patch in patches:
        print(
            f"{patch.path}  {patch.file_bytes} bytes, writes {patch.written_bytes}, "
            f"SNR {patch.snr_db:.1f} dB"
        )


def _strengths(flag: str, text: str, default: str = "") -> dict[str, float]:
    """Return NAME=STRENGTH,... by name; a name without a strength gets the default, if any."""
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, strength = part.rpartition("=") if "=" in part else (part, "", default)
        try:
            number = float(strength)
        except ValueError:
            number = math.nan
        if not name or name in found or not math.isfinite(number):
            raise MismatchError(
                f"{flag} {text!r}; expected NAME=STRENGTH,..., each once, e.g. "
                "looks-film=0.5,looks-night=1"
            )
        found[name] = number
    return found


def _card(args: Arguments) -> None:
    """Render or check a model card."""
    if args.check:
        wrong = api.check_card(args.ref)
        for line in wrong:
            print(line)
        if wrong:
            count = f"{len(wrong)} mistake{'s' * (len(wrong) != 1)}"
            raise MismatchError(f"the card of {args.ref} has {count}")
        return
    text = api.card(args.ref)
    if args.out:
        from zoo.files import write_bytes

        write_bytes(Path(args.out), text.encode())
    else:
        print(text, end="")
