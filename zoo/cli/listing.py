"""The commands `zoo list` and `zoo show`."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import registry
from zoo import verbs as api
from zoo.cli.printing import Arguments, Command, add_ref, print_json, print_table
from zoo.errors import MismatchError
from zoo.registry.codec import leaves
from zoo.registry.licences import commercial
from zoo.registry.published import of_recipe
from zoo.registry.recipe import Compress, Recipe

if TYPE_CHECKING:
    from zoo.registry.artifact import Artifact
    from zoo.registry.checkpoint import Checkpoint
    from zoo.verbs.fitting import Fitting


def add(command: Command) -> None:
    """Add the commands to the command line."""
    sub = command("list", _list, "list the recipes")
    sub.add_argument("pattern", nargs="?", default="*", help='e.g. "sesr-*-x2"')
    sub.add_argument("--family")
    sub.add_argument("--task")
    sub.add_argument("--license", choices=["commercial"],
                     help="only weights and adapters that a product may ship")  # fmt: skip
    sub.add_argument("--fits", metavar="TARGET", help="only what fits a device, fastest first")
    sub.add_argument("--plot", metavar="FILE.png", help="with --fits: quality against latency")
    add_ref(command("show", _show, "show a recipe, its weights and their licence"))


def _list(args: Arguments) -> None:
    """List the recipes."""
    recipes = [
        recipe
        for recipe in (registry.find(name) for name in registry.names(args.pattern))
        if args.family in (None, recipe.family) and args.task in (None, recipe.task, recipe.subtask)
    ]
    if args.plot and not args.fits:
        raise MismatchError("--plot draws what fits a device; add --fits TARGET")
    if args.license:
        _list_commercial(args, recipes)
        return
    if args.fits:
        _list_fitting(args, recipes)
        return
    if args.json:
        print_json(
            [
                {**r.to_json(), **registry.counts().get(r.name, {}),
                 "weights": registry.shipped_tags(r.name)}
                for r in recipes
            ]
        )  # fmt: skip
        return
    sizes = {r.name: _sizes(r) for r in recipes}
    known = any(sizes.values())  # not of language models, nor of another package's networks
    rows = [("NAME", *(("PARAMETERS", "MACS") if known else ()), "WEIGHTS", "TASK", "WHAT")]
    for r in recipes:
        tags = ", ".join(registry.shipped_tags(r.name)) or "-"
        size = (sizes[r.name] or ("-", "-")) if known else ()
        rows.append((r.name, *size, tags, r.subtask, r.summary))
    if recipes:
        print_table(rows)
    else:
        print(f"no recipe matches {args.pattern!r}; zoo list shows all", file=sys.stderr)
    if sys.stdout.isatty() and (args.pattern, args.family, args.task) == ("*", None, None):
        bases = ", ".join(_bases_alone())
        print(f"\nother base models of adapters: {bases}; zoo adapter list shows all adapters")


def _sizes(recipe: Recipe) -> tuple[str, ...]:
    """Return the parameters and MACs of a network for people; none where nobody counted them."""
    found = registry.counts().get(recipe.name)
    if found is None:
        return ()
    macs = found["macs"]
    return (
        f"{found['parameters']:,}",
        f"{macs / 1e9:.2f} G" if macs >= 1e9 else f"{macs / 1e6:.1f} M",
    )


def _bases_alone() -> list[str]:
    """Return the base models of named adapters that are not recipes."""
    from zoo.adapters import registry as adapters

    bases = {adapters.find(name).base for name in adapters.names()}
    return sorted(base for base in bases if base.partition(".")[0] not in registry.names())


def _list_commercial(args: Arguments, recipes: Sequence[Recipe]) -> None:
    """List the weights and adapters whose stored licence lets a company ship them."""
    from zoo.adapters import registry as adapters

    models = [(recipe, _commercial(recipe)) for recipe in recipes]
    # An adapter has a task, and no family.
    found = () if args.family else map(adapters.find, adapters.names(args.pattern))
    changes = [a for a in found if args.task in (None, a.task) and adapters.may_ship(a)]
    if args.json:
        print_json(
            [
                {"kind": "model", **r.to_json(), "weights": list(tags), "licenses": tags}
                for r, tags in models
                if tags
            ]
            + [{"kind": "adapter", **a.to_json(), "license": adapters.licence(a)} for a in changes]
        )
        return
    rows = [
        (r.name, f"{tag}, the default" if tag == r.default_tag else tag, license, r.summary)
        for r, tags in models
        for tag, license in tags.items()
    ]
    rows += [(a.name, f"adapter of {a.base}", adapters.licence(a), a.summary) for a in changes]
    if rows:
        print_table([("NAME", "WEIGHTS", "LICENCE", "WHAT"), *rows])
    else:
        print(f"nothing that matches {args.pattern!r} may be shipped commercially", file=sys.stderr)


def _list_fitting(args: Arguments, recipes: Sequence[Recipe]) -> None:
    """List what fits a device, fastest first, with what was measured of its weights."""
    from zoo.cost.result import milliseconds, readable
    from zoo.verbs.fitting import fitting

    found = fitting(args.fits, recipes)
    if args.plot:
        _plot(args, found)
    if args.json:
        print_json([one.to_json() for one in found])
        return
    rows = [("NAME", "MS", "ACTIVATIONS", "WEIGHTS", "FITS", "MEASURED")]
    for one in found:
        cost = one.cost
        tiled = cost.tiled if cost.runs_tiled else None
        peak = tiled.peak_activation_bytes if tiled else cost.peak_activation_bytes
        measured = "-"
        if one.quality is not None:
            number = f"{one.quality:.2f} {one.unit}" if one.unit else f"{one.quality:.4f}"
            measured = f"{one.metric} {number} on {one.data} (.{one.tag})"
        fits = f"in {tiled.count} tiles" if tiled else "yes"
        time = f"{'>= ' if cost.host else ''}{milliseconds(cost.latency_ms)}"
        rows.append(
            (one.recipe.name, time, readable(peak), readable(cost.stored_bytes), fits, measured)
        )
    if found:
        print_table(rows)
    else:
        print(f"nothing that matches fits {args.fits}; zoo list shows all", file=sys.stderr)


def _plot(args: Arguments, found: "Sequence[Fitting]") -> None:
    from zoo.cost.pictures import Dot, pareto

    measured = [one for one in found if one.quality is not None]
    scales = sorted({f"{one.metric} on {one.data}" for one in measured})
    shapes = {one.recipe.subtask for one in measured}
    if len(scales) != 1 or len(shapes) != 1:
        text = f"{', '.join(scales) or 'nothing measured'}"
        raise MismatchError(
            f"a picture has one quality, and there is {text}; narrow it with --task or a pattern"
        )
    dots = [Dot(o.recipe.name, o.cost.latency_ms, o.quality or 0.0) for o in measured]
    unit = f" in {measured[0].unit}" if measured[0].unit else ""
    pareto(dots, f"What fits {args.fits}", scales[0] + unit, Path(args.plot))


def _commercial(recipe: Recipe) -> dict[str, str]:
    """Return tag -> licence of the shipped weights that a company may ship."""
    shipped = registry.shipped_licences(recipe.name)
    return {tag: license for tag, license in shipped.items() if commercial(license)}


def _show_file(args: Arguments, artifact: "Artifact") -> None:
    from zoo.cost.memory import plan
    from zoo.deploy.tflite import describe, tensors
    from zoo.deploy.tflite_metadata import about

    graph, path = artifact.graph(), artifact.path
    rows, facts, ends = describe(graph), about(path.read_bytes()), tensors(graph)
    arena = plan(graph, None, in_place=False).arena_bytes
    totals = {"file_bytes": path.stat().st_size, "macs": graph.macs, "arena_bytes": arena}
    if args.json:
        print_json({**totals, **ends, "about": facts.to_json(), "ops": rows})
        return
    table = [["#", "OPERATOR", "OUTPUT", "TYPE", "MACS", "WEIGHTS", "SCALE", "ZERO", "FROM"]]
    for row in rows:
        scale = "-" if row["scale"] is None else f"{row['scale']:.6g}"
        zero = "-" if row["zero_point"] is None else str(row["zero_point"])
        shape = "x".join(map(str, row["output"]))
        numbers = [f"{row['macs']:,}", f"{row['weight_bytes']:,} B", scale, zero]
        origin = row["module"] if len(row["module"]) <= 40 else f"{row['module'][:39]}…"
        table.append([str(row["number"]), row["kind"], shape, row["dtype"], *numbers, origin])
    print_table(table)
    print(
        f"{totals['file_bytes']:,} bytes, {graph.macs:,} MACs, "
        f"{arena:,} bytes of activations (planned as TFLite Micro does)"
    )
    for group, found in ends.items():
        if len(found) > (group != "states"):
            shown = (f"{t['name']} {t['dtype']} {'x'.join(map(str, t['shape']))}" for t in found)
            print(f"{group}: {', '.join(shown)}")
    for line in facts.lines:
        print(line)


def _show(args: Arguments) -> None:
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
    facts = [_facts(checkpoint) for checkpoint in weights]
    free = [tag for tag in _commercial(recipe) if args.ref == recipe.name]
    if args.json:
        print_json({"recipe": recipe.to_json(), "weights": facts, "commercial": free})
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
    for entry in facts:
        _show_weights(entry, kind)
    if free and recipe.default_tag not in free:
        default = f"not so .{recipe.default_tag}, which the bare name means"
        print(f"free     {recipe.name}.{free[0]}: a product may ship it; {default}")
    if not facts:
        print(f"weights  none shipped; zoo {kind} {recipe.name} --data DIR --out DIR makes them")
    if args.ref == recipe.name:
        for file in of_recipe(recipe.name):
            print(f"others'  zoo import {file.file} --out DIR, licence: {file.license}")
            print(f"         {file.url}")


def _show_weights(entry: Mapping[str, Any], kind: str) -> None:
    data = entry["data"]
    print(f"weights  {entry['tag']}, licence: {entry['license']}")
    print(f"         trained on {', '.join([data.get('source', '?'), *_counts(data)])}")
    if entry["quantization"]:
        scheme = entry["quantization"]["scheme"]
        if scheme == "file":
            print("         computes what the published file does, bit for bit")
        else:
            how = "" if kind == "compress" else "trained for it; "
            print(f"         {scheme}: {how}measured on the device's own integers")
    for name, result in _scores(entry["metrics"]):
        print(f"         {name}: {result}")


def _facts(checkpoint: "Checkpoint") -> dict[str, Any]:
    return {
        "tag": checkpoint.label.partition(".")[2],
        "license": checkpoint.license,
        "data": dict(checkpoint.config.get("data", {})),
        "files": checkpoint.config["files"],
        "metrics": dict(checkpoint.metrics),
        "quantization": checkpoint.quantization,
    }


def _show_compressed(recipe: Recipe, facts: Sequence[Mapping[str, Any]]) -> None:
    print(
        f"compress {_pairs({k: v for k, v in leaves(recipe.to_json()['compress']).items() if v})}"
    )
    for entry in facts:
        size = sum(file["bytes"] for file in entry["files"].values())
        compression = entry["metrics"].get("compression", {})
        size_of = f"{compression.get('bits_per_weight', 0):.4f} bits per packed weight"
        if "base_numbers" in compression:
            size_of = f"{compression['numbers']:,} of {compression['base_numbers']:,} parameters"
        print(f"weights  {entry['tag']}, licence: {entry['license']}")
        print(f"         {size_of}, {size:,} bytes in all")
        for name, result in _scores(entry["metrics"]):
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
    if stated := metrics.get("published"):
        results[f"its authors, on {stated['protocol']}"] = stated
    scores = [(name, _numbers(result)) for name, result in results.items()]
    plain = [
        (f"{name}, the same weights in float", _numbers(result["float"]))
        for name, result in results.items()
        if "float" in result
    ]
    return scores + plain


def _numbers(result: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v:.4g}" for k, v in result.items() if isinstance(v, float))
