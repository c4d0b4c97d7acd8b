"""The command `zoo`: one subcommand per verb. Results go to stdout, progress to stderr."""

import argparse
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import zoo
from zoo import api, registry
from zoo.errors import MismatchError, ZooError
from zoo.hub import commands as hub_commands
from zoo.hub import serve_commands
from zoo.recipe import leaves

Arguments = argparse.Namespace


def _print(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows as left-aligned columns; the first row is the header."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def _list(args: Arguments) -> None:
    recipes = [
        recipe
        for recipe in (registry.find(name) for name in registry.names(args.pattern))
        if args.family in (None, recipe.family) and args.task in (None, recipe.task, recipe.subtask)
    ]
    if args.json:
        _print([{**r.to_json(), "weights": registry.shipped_tags(r.name)} for r in recipes])
        return
    rows = [("NAME", "WEIGHTS", "TASK", "WHAT")]
    rows += [
        (r.name, ", ".join(registry.shipped_tags(r.name)) or "-", r.subtask, r.summary)
        for r in recipes
    ]
    if recipes:
        _table(rows)
    else:
        print(f"no recipe matches {args.pattern!r}; zoo list shows all", file=sys.stderr)


def _show_file(args: Arguments, path: Any) -> None:
    from zoo.cost.memory import plan
    from zoo.export.tflite import describe
    from zoo.export.tflite_read import read_tflite

    graph = read_tflite(path)
    rows = describe(graph)
    arena = plan(graph, graph.tensors[graph.inputs[0]].dtype, in_place=False).arena_bytes
    totals = {"file_bytes": path.stat().st_size, "macs": graph.macs, "arena_bytes": arena}
    if args.json:
        _print({**totals, "ops": rows})
        return
    table = [["#", "OPERATOR", "OUTPUT", "TYPE", "MACS", "WEIGHTS", "SCALE", "ZERO", "FROM"]]
    for row in rows:
        scale = "-" if row["scale"] is None else f"{row['scale']:.6g}"
        zero = "-" if row["zero_point"] is None else str(row["zero_point"])
        shape = "x".join(map(str, row["output"]))
        numbers = [f"{row['macs']:,}", f"{row['weight_bytes']:,} B", scale, zero]
        origin = row["module"] if len(row["module"]) <= 40 else f"{row['module'][:39]}…"
        table.append([str(row["number"]), row["kind"], shape, row["dtype"], *numbers, origin])
    _table(table)
    print(
        f"{totals['file_bytes']:,} bytes, {graph.macs:,} MACs, "
        f"{arena:,} bytes of activations (planned as TFLite Micro does)"
    )


def _show(args: Arguments) -> None:
    if path := api.tflite_path(args.ref):
        _show_file(args, path)
        return
    recipe = api.recipe_of(args.ref)
    weights = [api.checkpoint(f"{recipe.name}.{tag}") for tag in registry.shipped_tags(recipe.name)]
    if args.ref != recipe.name and (chosen := api.checkpoint(args.ref)):
        weights = [chosen]
    facts = [
        {
            "tag": item.tag,
            "license": item.license,
            "data": dict(item.config.get("data", {})),
            "files": item.config["files"],
            "metrics": dict(item.metrics),
        }
        for item in weights
    ]
    if args.json:
        _print({"recipe": recipe.to_json(), "weights": facts})
        return
    print(f"{recipe.name}: {recipe.summary}")
    print(f"paper    https://arxiv.org/abs/{recipe.paper}")
    print(f"code     {recipe.license}")
    print(f"input    {tuple(recipe.input_shape)}, {_pairs(recipe.preprocessing)}")
    print(f"train    {_pairs(leaves(recipe.to_json()['train']))}")
    for item in facts:
        data = item["data"]
        print(f"weights  {item['tag']}, licence: {item['license']}")
        print(f"         trained on {data.get('source', '?')}, {data.get('images', '?')} images")
        for name, result in _scores(item["metrics"]):
            print(f"         {name}: {result}")
    if not facts:
        print(f"weights  none shipped; zoo train {recipe.name} --data DIR --out DIR makes them")


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


def _scores(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    results = {"held out": metrics.get("held_out", {}), **metrics.get("evaluations", {})}
    return [
        (name, ", ".join(f"{k} {v:.4g}" for k, v in result.items() if isinstance(v, float)))
        for name, result in results.items()
    ]


def _run(args: Arguments) -> None:
    from zoo.tasks import task_of

    out = args.out
    if api.tflite_path(args.ref):
        facts = api.run(args.ref, args.source, out).to_json()
        if args.json:
            _print(facts)
            return
        for best in facts.get("best", []):
            print("  ".join(f"{item['index']}: {item['value']:.4g}" for item in best))
        print(f"{facts['dtype']} {tuple(facts['shape'])}, {facts['seconds']:.3f} s", out or "")
        return
    if out is None:
        from pathlib import Path

        recipe = api.recipe_of(args.ref)
        out = task_of(recipe).default_output(recipe, Path(args.source))
    result = api.run(args.ref, args.source, out, device=args.device, dtype=args.dtype)
    facts = result.to_json() | {"out": str(out)}
    if args.json:
        _print(facts)
    else:
        print(f"{out}  {facts['width']}x{facts['height']}, {facts['seconds']:.3f} s")


def _train(args: Arguments) -> None:
    settings = dict(_setting(text) for text in args.set)
    if args.seed is not None:
        settings["train.seed"] = args.seed
    result = zoo.api.train(
        args.name,
        args.out,
        data=args.data,
        init=args.init,
        resume=args.resume,
        data_license=args.data_license,
        tracker=args.tracker,
        device=args.device,
        **settings,
    )
    if int(os.environ.get("RANK", "0")) == 0:  # under `accelerate launch`, one process speaks
        score = ", ".join(f"{k} {v:.6g}" for k, v in result.metrics["held_out"].items())
        print(f"{result.path}  held out: {score}")


def _setting(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise MismatchError(f"--set {text!r}; expected KEY=VALUE, e.g. --set train.lr=1e-3")
    return f"train.{key.removeprefix('train.')}", value


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(part) for part in text.split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise MismatchError(f"--shape {text!r}; expected whole numbers, e.g. --shape 1,1,360,640")
    return shape


def _evaluate(args: Arguments) -> None:
    result = api.evaluate(
        args.ref, args.data, record=args.record, device=args.device, dtype=args.dtype
    )
    if args.json:
        _print(result)
        return
    columns = [key for key, value in result["per_image"][0].items() if isinstance(value, float)]
    rows = [["image", *columns]]
    for row in [*result["per_image"], {"image": "mean", **result}]:
        rows.append([str(row["image"]), *(f"{row[key]:.4f}" for key in columns)])
    _table(rows)
    print(f"protocol: {result['protocol']}")


def _estimate(args: Arguments) -> None:
    shape = _shape(args.shape) if args.shape is not None else None
    costs = [
        api.estimate(args.ref, target, method=args.method, input_shape=shape)
        for target in args.target.split(",")
    ]
    if args.json:
        _print([cost.to_json() for cost in costs])
        return
    for cost in costs:
        print(cost)


def _export(args: Arguments) -> None:
    recipe = api.recipe_of(args.ref)
    out = args.out or f"{recipe.name}.{args.format}"
    file = api.export(
        args.ref, out, format=args.format, int8=args.int8, npu=args.npu, data=args.data
    )
    size = file.path.stat().st_size
    print(f"{file.path}  {size} bytes, within {file.max_abs_error:.1e} of the module")


def _card(args: Arguments) -> None:
    if args.check:
        wrong = api.check_card(args.ref)
        for line in wrong:
            print(line)
        if wrong:
            raise MismatchError(f"the card of {args.ref} has {len(wrong)} mistakes")
        return
    text = api.card(args.ref)
    if args.out:
        from pathlib import Path

        from zoo.files import write_bytes

        write_bytes(Path(args.out), text.encode())
    else:
        print(text, end="")


def _serve(args: Arguments) -> None:
    api.serve(args.port, open_browser=args.open)


def _cache(args: Arguments) -> None:
    from zoo import cache

    found = cache.entries() if args.action == "list" else cache.prune(args.unused_days)
    if args.json:
        _print([{**vars(entry), "path": str(entry.path)} for entry in found])
        return
    for entry in found:
        print(
            f"{entry.kind}  {entry.size_bytes / 1e6:.1f} MB  "
            f"unused for {entry.unused_days:.1f} days  {entry.path}"
        )
    total = sum(entry.size_bytes for entry in found) / 1e6
    what = "in" if args.action == "list" else "removed from"
    print(f"{total:.1f} MB {what} {cache.root()}")


def _env(args: Arguments) -> None:
    import importlib.metadata
    import platform

    from zoo import cache
    from zoo.hub.where import place

    packages = "torch safetensors numpy pillow opencv-python-headless huggingface-hub accelerate "
    packages += "datasets tensorboard onnx onnxruntime ai-edge-litert tflite-micro ethos-u-vela "
    packages += "gradio"
    versions = {}
    for name in packages.split():
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    facts = {
        "zoo": zoo.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "processors": os.cpu_count(),
        "cache": str(cache.root()),
        "hub": place().endpoint or "local",
        **versions,
    }
    if args.json:
        _print(facts)
    else:
        _table([(key, str(value)) for key, value in facts.items()])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="zoo", description=zoo.__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=f"zoo {zoo.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, act: Any, text: str, *, device: bool = False) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(act=act)
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        sub.add_argument("-v", "--verbose", action="store_true", help="log what is done")
        sub.add_argument("--threads", type=_positive, help="processor threads to use")
        sub.add_argument(
            "--hub", metavar="WHERE", help="local (a hub in a folder of yours), or an address"
        )
        if name not in ("train", "export", "card", "serve"):
            sub.add_argument("--json", action="store_true", help="print the result as JSON")
        if device:
            sub.add_argument("--device", default="cpu", help="a torch device (default: cpu)")
            sub.add_argument("--dtype", help="run in this type, e.g. bfloat16")
        return sub

    ref = {"metavar": "REF", "help": "name[.tag], org/repo[@revision], or a folder: ./DIR"}
    sub = command("list", _list, "list the recipes")
    sub.add_argument("pattern", nargs="?", default="*", help='e.g. "sesr-*-x2"')
    sub.add_argument("--family")
    sub.add_argument("--task")
    sub = command("show", _show, "show a recipe, its weights and their licence")
    sub.add_argument("ref", **ref)  # type: ignore[arg-type]
    sub = command("run", _run, "run a model on a picture", device=True)
    sub.add_argument("ref", **ref)  # type: ignore[arg-type]
    sub.add_argument("source", help="a picture file")
    sub.add_argument("--out", help="where the result goes; the suffix chooses the format")
    _add_train(command("train", _train, "train a recipe under Accelerate"))
    sub = command("evaluate", _evaluate, "measure a model on a folder of pictures", device=True)
    sub.add_argument("ref", **ref)  # type: ignore[arg-type]
    sub.add_argument("--data", required=True, metavar="DIR", help="originals, or *_HR/*_LR pairs")
    sub.add_argument("--record", metavar="NAME", help="also store the result in the checkpoint")
    sub = command("estimate", _estimate, "estimate what a model costs on a device")
    sub.add_argument("ref", **ref)  # type: ignore[arg-type]
    sub.add_argument("--target", default="ethos-u55-256", metavar="T[,T2]")
    sub.add_argument("--method", default="auto", help="auto, roofline, vela or measured")
    sub.add_argument("--shape", metavar="N,C,H,W", help="input shape; default: the recipe's")
    sub = command("export", _export, "write a deployable file")
    sub.add_argument("ref", **ref)  # type: ignore[arg-type]
    sub.add_argument("--format", default="onnx", help="onnx, tflite or c")
    sub.add_argument("--int8", action="store_true", help="quantize (tflite)")
    sub.add_argument("--npu", action="store_true", help="only operators that Ethos-U has (tflite)")
    sub.add_argument("--data", metavar="DIR", help="inputs that int8 learns its ranges from")
    sub.add_argument("--out", metavar="FILE")
    sub = command("card", _card, "render the model card")
    sub.add_argument("ref", **ref)  # type: ignore[arg-type]
    sub.add_argument("--out", metavar="FILE", help="write there instead of to stdout")
    sub.add_argument("--check", action="store_true", help="check the README.md that is there")
    hub_commands.add(command)
    serve_commands.add(command)
    sub = command("serve", _serve, "serve the demo page on this machine")
    sub.add_argument("--port", type=int, help="default: 7860, or the next free one")
    sub.add_argument("--open", action="store_true", help="open it in the browser")
    sub = command("cache", _cache, "list or prune what was prepared and kept")
    sub.add_argument("action", choices=["list", "prune"])
    sub.add_argument("--unused-days", type=float, default=0.0, help="prune only what is older")
    command("env", _env, "show versions and settings, for a bug report")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _add_train(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("name", metavar="NAME", help="a recipe: zoo list")
    sub.add_argument("--out", required=True, metavar="DIR", help="the run folder")
    sub.add_argument("--data", required=True, help="a folder, or a Hub data set id")
    sub.add_argument("--data-license", metavar="TEXT", help="its licence, for the card")
    sub.add_argument("--from", dest="init", metavar="REF", help="start from these weights, or none")
    sub.add_argument("--resume", action="store_true", help="go on with the run in --out")
    sub.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    sub.add_argument("--seed", type=int)
    sub.add_argument("--tracker", metavar="NAME", help='e.g. "tensorboard"')
    sub.add_argument("--device", choices=["cpu"], help="leave an accelerator alone")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, 1 for an error, 2 for wrong usage."""
    args = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO if args.verbose else logging.WARNING)
    if args.threads:
        os.environ["OMP_NUM_THREADS"] = str(args.threads)  # read when torch is imported
    if args.hub:
        os.environ["ZOO_HUB"] = args.hub  # as if the user had set it: every verb reads it there
    try:
        if "ref" in args:
            args.ref = api.pinned(args.ref)  # a branch is asked for once, not by every step
        args.act(args)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has gone: `zoo list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ZooError, OSError) as error:  # OSError: a full disk, a file that may not be read
        if args.debug:
            raise
        print(f"zoo: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
