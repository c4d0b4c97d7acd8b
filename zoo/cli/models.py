"""What each subcommand prints. Results go to stdout, progress to stderr."""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zoo import registry
from zoo import verbs as api
from zoo.errors import MismatchError
from zoo.page import serve as serve_page
from zoo.registry.codec import leaves
from zoo.registry.recipe import Compress, Recipe
from zoo.version import __version__

if TYPE_CHECKING:
    from zoo.registry.artifact import Artifact

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


def list_recipes(args: Arguments) -> None:
    """List the recipes."""
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


def _show_file(args: Arguments, artifact: "Artifact") -> None:
    from zoo.cost.memory import plan
    from zoo.deploy.tflite import describe

    graph, path = artifact.graph(), artifact.path
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


def show(args: Arguments) -> None:
    """Show a recipe, or the graph of a `.tflite` file."""
    from zoo.artifacts.networks import Network

    artifact = api.resolve(args.ref, weights=False)
    if not isinstance(artifact, Network):
        _show_file(args, artifact)
        return
    recipe = artifact.recipe
    if args.ref == recipe.name:
        tags = registry.shipped_tags(recipe.name)
        weights = [api.checkpoint(f"{recipe.name}.{tag}") for tag in tags]
    else:
        weights = [artifact.facts]
    facts = [
        {
            "tag": item.tag,
            "license": item.license,
            "data": dict(item.config.get("data", {})),
            "files": item.config["files"],
            "metrics": dict(item.metrics),
            "quantization": item.quantization,
        }
        for item in weights
    ]
    if args.json:
        _print({"recipe": recipe.to_json(), "weights": facts})
        return
    print(f"{recipe.name}: {recipe.summary}")
    print(f"paper    https://arxiv.org/abs/{recipe.paper}")
    print(f"code     {recipe.license}")
    if recipe.of_transformers:
        _show_compressed(recipe, facts)
        return
    print(f"input    {tuple(recipe.input_shape)}, {_pairs(recipe.preprocessing)}")
    kind = "compress" if isinstance(recipe.make, Compress) else "train"
    print(f"{kind.ljust(8)} {_pairs(leaves(recipe.to_json()[kind]))}")
    for item in facts:
        data = item["data"]
        print(f"weights  {item['tag']}, licence: {item['license']}")
        print(f"         trained on {', '.join([data.get('source', '?'), *_counts(data)])}")
        if item["quantization"]:
            scheme = item["quantization"]["scheme"]
            how = "" if kind == "compress" else "trained for it; "
            print(f"         {scheme}: {how}measured on the device's own integers")
        for name, result in _scores(item["metrics"]):
            print(f"         {name}: {result}")
    if not facts:
        print(f"weights  none shipped; zoo {kind} {recipe.name} --data DIR --out DIR makes them")


def _show_compressed(recipe: Recipe, facts: Sequence[Mapping[str, Any]]) -> None:
    print(
        f"compress {_pairs({k: v for k, v in leaves(recipe.to_json()['compress']).items() if v})}"
    )
    for item in facts:
        size = sum(file["bytes"] for file in item["files"].values())
        compression = item["metrics"].get("compression", {})
        bits = compression.get("bits_per_weight", 0)
        print(f"weights  {item['tag']}, licence: {item['license']}")
        print(f"         {bits:.4f} bits per packed weight, {size:,} bytes in all")
        for name, result in _scores(item["metrics"]):
            print(f"         {name}: {result}")
    if not facts:
        print(f"weights  none shipped; zoo compress {recipe.name} --data TEXT --out DIR makes them")


def _pairs(values: Mapping[str, Any]) -> str:
    texts = {k: "/".join(map(str, v)) if isinstance(v, list) else v for k, v in values.items()}
    return ", ".join(f"{key} {value}" for key, value in texts.items())


def _counts(data: Mapping[str, Any]) -> list[str]:
    """Return how many samples were trained on, in the task's word: "400 images"."""
    counts = {key: value for key, value in data.items() if isinstance(value, int)}
    return [f"{value} {key}" for key, value in counts.items() if key != "held_out"]


def _scores(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    held_out = {"held out": metrics["held_out"]} if "held_out" in metrics else {}
    results = {**held_out, **metrics.get("evaluations", {})}
    scores = [(name, _numbers(result)) for name, result in results.items()]
    plain = [
        (f"{name}, the same weights in float", _numbers(result["float"]))
        for name, result in results.items()
        if "float" in result
    ]
    return scores + plain


def _numbers(result: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v:.4g}" for k, v in result.items() if isinstance(v, float))


def run(args: Arguments) -> None:
    """Run a model on one input."""
    from pathlib import Path

    artifact = api.resolve(args.ref)
    out = Path(args.out) if args.out else artifact.default_output(Path(args.source))
    result = artifact.run(args.source, out, device=args.device, dtype=args.dtype)
    if args.json:
        _print(result.to_json() | ({} if out is None else {"out": str(out)}))
    else:
        print(result.text if out is None else f"{out}  {result.text}")


def train(args: Arguments) -> None:
    """Train a recipe."""
    settings = dict(_setting(text) for text in args.set)
    if args.seed is not None:
        settings["train.seed"] = args.seed
    result = api.train(
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


def evaluate(args: Arguments) -> None:
    """Measure a model."""
    protocol = {key: getattr(args, key) for key in ("length", "stride", "windows", "limit")}
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
        _print(result)
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
    _table(rows)
    print(f"protocol: {result['protocol']}")


def estimate(args: Arguments) -> None:
    """Estimate what a model costs."""
    shape = _shape(args.shape) if args.shape is not None else None
    artifact = api.resolve(args.ref, weights=False)
    costs = [
        api.estimate(artifact, target, method=args.method, input_shape=shape)
        for target in args.target.split(",")
    ]
    if args.json:
        _print([cost.to_json() for cost in costs])
        return
    for cost in costs:
        print(cost)


def export(args: Arguments) -> None:
    """Write a deployable file."""
    artifact = api.resolve(args.ref)
    name = artifact.path.stem if artifact.recipe is None else artifact.recipe.name
    out = args.out or f"{name}.{args.format}"
    file = api.export(
        artifact,
        out,
        format=args.format,
        int8=args.int8,
        int16=args.int16,
        npu=args.npu,
        data=args.data,
        input_shape=_shape(args.shape) if args.shape is not None else None,
    )
    size = file.path.stat().st_size
    line = f"{file.path}  {size} bytes, within {file.max_abs_error:.1e} of the module"
    if (steps := getattr(file, "max_steps", None)) is not None:
        line += f", ONNX Runtime within {steps} step{'s' * (steps != 1)} of the int8 reference"
    print(line)


def card(args: Arguments) -> None:
    """Render or check a model card."""
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


def serve(args: Arguments) -> None:
    """Serve the demo page."""
    serve_page(args.port, open_browser=args.open)


def cache(args: Arguments) -> None:
    """List or prune what was prepared and kept."""
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


def env(args: Arguments) -> None:
    """Show versions and settings."""
    import importlib.metadata
    import platform

    from zoo import cache
    from zoo.hub.where import place

    packages = "torch safetensors numpy pillow opencv-python-headless huggingface-hub accelerate "
    packages += "datasets tensorboard onnx onnxruntime ai-edge-litert tflite-micro ethos-u-vela "
    packages += "gradio transformers peft diffusers gguf lm-eval"
    versions = {}
    for name in packages.split():
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    facts = {
        "zoo": __version__,
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
