"""The commands `zoo compress` and `zoo import`."""

import argparse
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from zoo import verbs as api
from zoo.errors import MismatchError

Arguments = argparse.Namespace


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands to the command line."""
    sub = command("compress", _compress, "make a language model smaller")
    sub.add_argument("model", metavar="MODEL", help="a recipe, org/repo[@revision], or ./DIR")
    sub.add_argument("--out", required=True, metavar="DIR")
    sub.add_argument("--method", metavar="M", help="gptvq, gptq, rtn, or e.g. gptvq-2d-2b")
    sub.add_argument("--bits", type=float, help="of an index, per weight")
    sub.add_argument("--dim", type=int, help="weights that share an index: 1, 2 or 4")
    sub.add_argument("--group-size", type=int, metavar="N", help="weights per codebook or scale")
    sub.add_argument("--target-bpv", type=float, metavar="B", help="bits per weight in all")
    sub.add_argument("--budget", type=float, metavar="B", help="bits per weight, shared by layers")
    sub.add_argument("--tune", type=int, metavar="STEPS", help="tune codebooks and scales, at last")
    sub.add_argument("--preset", choices=("fast", "best"), help="how much work on each layer")
    sub.add_argument("--data", metavar="TEXT", help="a text file to calibrate on")
    sub.add_argument("--test", metavar="TEXT", help="measure perplexity on it, before and after")
    sub.add_argument("--base", metavar="REF", help="where a recipe's base model is: ./DIR")
    sub.add_argument("--license", metavar="ID", help="of the weights, for the card")
    sub.add_argument("--windows", type=int, metavar="N", help="of the text (32)")
    sub.add_argument("--length", type=int, metavar="N", help="tokens of a window (1024)")
    sub.add_argument("--seed", type=int, help="of the choice of windows")
    sub.add_argument("--skip", action="append", metavar="PATTERN", help="layers left as they are")
    sub.add_argument(
        "--override",
        action="append",
        default=[],
        metavar="PATTERN:KEY=VALUE",
        help='other options there, e.g. "*.11.mlp.down_proj:bits=3"',
    )
    sub.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any option")
    sub.add_argument("--rest-dtype", metavar="T", help="store other tensors so, e.g. bfloat16")
    sub.add_argument(
        "--embeddings", type=int, metavar="8", help="store embedding and head in 8 bits"
    )
    sub.add_argument(
        "--rotate",
        choices=("heads", "all", "all-untied"),
        help="spread outliers by rotations that fold into the weights",
    )
    sub.add_argument("--resume", action="store_true", help="go on with the job in --out")
    sub.add_argument("--device", help="a torch device; default: what Accelerate finds")
    sub = command("import", _import, "turn a GGUF file into a folder for transformers")
    sub.add_argument("file", metavar="FILE.gguf")
    sub.add_argument("--out", required=True, metavar="DIR")


_DIRECT = (
    "group_size", "target_bpv", "windows", "length", "seed", "skip", "rest_dtype", "dim",
    "budget", "preset", "embeddings", "rotate",
)  # fmt: skip


def _compress(args: Arguments) -> None:
    options = {key: getattr(args, key) for key in _DIRECT}
    options = {key: value for key, value in options.items() if value is not None}
    if args.tune is not None:
        options["tune_steps"] = args.tune
    if args.bits is not None:
        options["bits"] = int(args.bits) if args.bits == int(args.bits) else args.bits
    options |= dict(_setting(text, "--set") for text in args.set)
    if args.override:
        options["overrides"] = _overrides(args.override)
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
        **options,
    )
    if int(os.environ.get("RANK", "0")) == 0:  # under `accelerate launch`, one process speaks
        print(f"{result.path}  {_summary(result.metrics)}")


def _summary(metrics: Mapping[str, Any]) -> str:
    facts = metrics["compression"]
    size, packed = facts["tensor_bytes"], facts["packed_bytes"]
    words = [
        f"{facts['bits_per_weight']:.4f} bits per packed weight",
        f"{facts['share']:.1%} of the weights packed",
        f"{packed:,} bytes packed, {size:,} in all",
    ]
    scores = metrics.get("evaluations", {})
    words += [f"perplexity {value['perplexity']:.2f} ({name})" for name, value in scores.items()]
    return ", ".join(words)


def _overrides(texts: list[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        pattern, colon, setting = text.rpartition(":")
        if not colon:
            raise MismatchError(f"--override {text!r}; expected PATTERN:KEY=VALUE")
        key, value = _setting(setting, "--override")
        found.setdefault(pattern, {})[key] = value
    return found


def _setting(text: str, flag: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise MismatchError(f"{flag} {text!r}; expected KEY=VALUE, e.g. {flag} iterations=10")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _import(args: Arguments) -> None:
    print(api.import_gguf(args.file, args.out))
