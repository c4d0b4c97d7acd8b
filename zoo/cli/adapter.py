"""The command `zoo adapter`: list, train, info, convert, fuse, compare."""

import argparse
import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.cli.printing import Arguments, adapters, add_action, names, print_json, print_table
from zoo.errors import MismatchError

if TYPE_CHECKING:
    from zoo.adapters.format import SparseAdapter

_ADAPTER = "a name (zoo adapter list), org/repo[@revision], or a path: ./DIR"


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    actions = command("adapter", _none, "sparse adapters of a base model").add_subparsers(
        required=True, metavar="ACTION"
    )

    action = functools.partial(add_action, actions)
    sub = action("list", _list, "list the named adapters")
    sub.add_argument("pattern", nargs="?", default="*")
    sub.add_argument("--base", metavar="REF", help="only those of this base model")
    _add_train(action("train", _train, "train an adapter under Accelerate"))
    _add_joint(action("joint", _joint, "train a base together with its adapters"))
    sub = action("info", _info, "show an adapter: base, mask, size, what was measured")
    _adapter(sub, "adapter")
    sub.add_argument("--base", metavar="REF", help="check it against this base; time a switch")
    sub = action(
        "convert",
        _convert,
        "turn a fine-tuned model or a PEFT adapter into a sparse adapter, or back",
    )
    sub.add_argument("source", help="a tuned model, a PEFT folder (SHiRA, LoRA), or an adapter")
    sub.add_argument("--base", metavar="REF", required=True, help="the base model")
    sub.add_argument("--to", choices=["sparse", "peft"], default="sparse")
    sub.add_argument("--density", type=float, default=0.01, help="share of the weights kept")
    sub.add_argument("--out", required=True, metavar="DIR")
    sub = action("fuse", _fuse, "make one adapter out of several")
    _several(sub)
    sub.add_argument("--strategy", default="sum", help="sum, mean, ties, dare, priority, max-abs")
    sub.add_argument("--out", required=True, metavar="FILE", help="a .safetensors file")
    sub = action("compare", _compare, "report how adapters would interfere when fused")
    _several(sub)
    sub.add_argument("--strategy", default="sum", help="for the fusion whose loss is measured")
    sub.add_argument("--orthogonality", action="store_true", help="also AWOM and AWOR")
    sub.add_argument("--data", help="measure the loss on it: base, each adapter, and fused")
    sub.add_argument("--picture", metavar="FILE", help="write the report as a picture too")
    _add_patch(action("patch", _patch, "put an adapter's patch into an int8 .tflite file"))


def _adapter(sub: argparse.ArgumentParser, name: str, **how: Any) -> None:
    sub.add_argument(name, help=_ADAPTER, **how).completer = adapters  # type: ignore[attr-defined]


def _add_patch(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("file", help="the base's .tflite file; it stays as it is")
    sub.add_argument("patch", help="a .patch file: zoo export ... --adapters PATTERN")
    sub.add_argument("--out", metavar="FILE", help="write the result; default: only check")
    sub.add_argument("--target", default="ethos-u55-256", help="estimate a switch on this device")


def _add_train(sub: argparse.ArgumentParser) -> None:
    named = sub.add_argument("name", help="a named adapter, or the name of a new one")
    named.completer = adapters  # type: ignore[attr-defined]
    sub.add_argument("--out", required=True, metavar="DIR", help="the run folder")
    sub.add_argument("--data", required=True, help="a folder, a file, or rendered:text[:COUNT]")
    sub.add_argument("--data-license", metavar="TEXT", help="its licence, for the card")
    sub.add_argument("--base", metavar="REF", help="the base model, or where it is on this machine")
    sub.add_argument("--task", help="task of a new adapter; an unknown name lists the known ones")
    sub.add_argument(
        "--filter",
        metavar="FILE.py:NAME",
        help="learn your own function, executed here, on --data's photographs",
    )
    sub.add_argument("--resume", action="store_true", help="continue the run in --out")
    sub.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                     help="e.g. mask.kind=snip, mask.density=0.01, train.lr=1e-3")  # fmt: skip
    sub.add_argument("--seed", type=int)
    sub.add_argument("--dtype", help="hold the base in this type, e.g. bfloat16")
    sub.add_argument("--tracker", metavar="NAME", help='e.g. "tensorboard"')
    sub.add_argument("--device", choices=["cpu"], help="do not use an accelerator")


def _add_joint(sub: argparse.ArgumentParser) -> None:
    named = sub.add_argument("name", help="a recipe whose named adapters are trained with it")
    named.completer = names  # type: ignore[attr-defined]
    sub.add_argument("--out", required=True, metavar="DIR", help="the run folder")
    sub.add_argument("--data", required=True, help="a folder of photographs")
    sub.add_argument("--adapters", metavar="PATTERN", help="only those of its adapters")
    sub.add_argument("--data-license", metavar="TEXT", help="its licence, for the cards")
    sub.add_argument("--resume", action="store_true", help="go on with the run in --out")
    sub.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                     help="e.g. train.steps=2000")  # fmt: skip
    sub.add_argument("--seed", type=int)
    sub.add_argument("--tracker", metavar="NAME", help='e.g. "tensorboard"')
    sub.add_argument("--device", choices=["cpu"], help="leave an accelerator alone")


def _several(sub: argparse.ArgumentParser) -> None:
    _adapter(sub, "adapters", nargs="+", metavar="ADAPTER")
    sub.add_argument("--base", metavar="REF", help="default: the base that the adapters name")
    sub.add_argument("--weights", metavar="A,B,...", help="default: 1 each")


def _none(args: Arguments) -> None:
    raise MismatchError("expected an action: zoo adapter --help")


def _list(args: Arguments) -> None:
    from zoo.adapters import registry

    recipes = [registry.find(name) for name in registry.names(args.pattern, args.base)]
    if args.json:
        print_json([recipe.to_json() for recipe in recipes])
        return
    if not recipes:
        print(f"no adapter matches {args.pattern!r}; zoo adapter list shows all", file=sys.stderr)
        return
    rows = [("NAME", "BASE", "WEIGHTS", "WHAT")]
    for recipe in recipes:
        where = "shipped" if "file" in recipe.weights else str(recipe.weights.get("repo", "-"))
        rows.append((recipe.name, recipe.base, where, recipe.summary))
    print_table(rows)


def _train(args: Arguments) -> None:
    from zoo.verbs.adapters import train_adapter

    settings = _settings(args)
    if args.seed is not None:
        settings |= {"train.seed": str(args.seed), "mask.seed": str(args.seed)}
    folder = train_adapter(
        args.name,
        args.out,
        data=args.data,
        base=args.base,
        task=args.task,
        data_license=args.data_license,
        resume=args.resume,
        dtype=args.dtype,
        tracker=args.tracker,
        device=args.device,
        own_filter=args.filter,
        settings=settings,
    )
    if int(os.environ.get("RANK", "0")) == 0:
        scores = folder.metrics["held_out"].items()
        print(f"{folder.path}  held out: {', '.join(f'{k} {v:.6g}' for k, v in scores)}")


def _settings(args: Arguments) -> dict[str, str]:
    settings = {}
    for text in args.set:
        key, equals, value = text.partition("=")
        if not equals:
            raise MismatchError(f"--set {text!r}; expected KEY=VALUE, e.g. train.lr=1e-3")
        settings[key] = value
    return settings


def _joint(args: Arguments) -> None:
    from zoo.verbs.adapters import train_joint

    settings = _settings(args)
    if args.seed is not None:
        settings["train.seed"] = str(args.seed)
    result = train_joint(
        args.name,
        args.out,
        data=args.data,
        adapters=args.adapters,
        data_license=args.data_license,
        resume=args.resume,
        tracker=args.tracker,
        device=args.device,
        settings=settings,
    )
    if int(os.environ.get("RANK", "0")) == 0:
        score = ", ".join(f"{k} {v:.6g}" for k, v in result.metrics["held_out"].items())
        print(f"{result.path}  held out: {score}")


def _info(args: Arguments) -> None:
    from zoo.adapters import registry
    from zoo.artifacts import adapters as adapter_refs
    from zoo.verbs.adapters import describe, file_of

    adapter = adapter_refs.adapter(args.adapter)
    facts = describe(adapter, file_of(args.adapter))
    recipe = adapter_refs.about(args.adapter)
    if recipe is not None:
        facts["recipe"] = recipe.to_json()
    if args.base:
        from zoo.artifacts.base import load_base
        from zoo.verbs.adapters import switch_facts

        facts["switch"] = switch_facts(load_base(args.base).model, adapter)
    if args.json:
        print_json(facts)
        return
    name = recipe.name if recipe else args.adapter
    print(f"{name}: {recipe.summary if recipe else 'a sparse adapter'}")
    rows = {
        "base": recipe.base if recipe else str(facts["metadata"].get("base", "not recorded")),
        "changes": f"{facts['nnz']:,} of {facts['numel']:,} weights ({facts['density']:.2%}) in "
        f"{len(facts['tensors'])} tensors, {facts['mode']}",
        "file": f"{facts['bytes']:,} bytes, {facts['bytes'] / max(1, facts['nnz']):.2f} a weight",
    }
    if recipe:
        license = registry.licence(recipe)
        rows["data"] = f"{recipe.data.get('source', 'not recorded')}; licence: {license}"
        for key, value in recipe.facts.items():
            pairs = value.items() if isinstance(value, dict) else ()
            rows[key.replace("_", " ")] = ", ".join(f"{k} {v}" for k, v in pairs) or str(value)
    if "switch" in facts:
        switch = facts["switch"]
        rows["switch"] = f"{switch['median_ms']:.3g} ms on and off, measured; base fits: yes"
    width = max(map(len, rows))
    for key, text in rows.items():
        print(f"{key:{width}}  {text}")


def _convert(args: Arguments) -> None:
    from zoo.verbs.adapters import convert

    path = convert(args.source, args.base, args.out, to=args.to, density=args.density)
    print(json.dumps({"path": str(path)}) if args.json else path)


def _chosen(args: Arguments) -> "tuple[dict[str, SparseAdapter], dict[str, float]]":
    """Return the adapters by a short name, and their weights."""
    from zoo.artifacts import adapters as adapter_refs

    labels = [Path(text).stem if text[:1] in "./~" else text for text in args.adapters]
    if len(set(labels)) < len(labels):
        labels = list(args.adapters)
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise MismatchError(f"{twice[0]} is given twice; give it once, with a larger weight")
    weights = [1.0] * len(labels)
    if args.weights:
        try:
            weights = [float(part) for part in args.weights.split(",")]
        except ValueError:
            raise MismatchError(f"--weights {args.weights!r}; expected numbers: 0.8,0.5") from None
    if len(weights) != len(labels):
        raise MismatchError(f"{len(labels)} adapters and {len(weights)} weights; expected as many")
    adapters = {
        label: adapter_refs.adapter(text) for label, text in zip(labels, args.adapters, strict=True)
    }
    return adapters, dict(zip(labels, weights, strict=True))


def _base_of(args: Arguments) -> Any:
    from zoo.adapters import registry
    from zoo.artifacts import adapters as adapter_refs
    from zoo.artifacts.base import load_base

    if args.base:
        return load_base(args.base)
    recipes = [adapter_refs.about(ref) for ref in args.adapters]
    bases = {registry.with_tag(recipe.base) for recipe in recipes if recipe}
    if len(bases) != 1:
        raise MismatchError(
            f"the adapters name {len(bases)} base models ({', '.join(sorted(bases)) or 'none'}); "
            "give --base REF"
        )
    return load_base(bases.pop())


def _fuse(args: Arguments) -> None:
    from zoo.adapters import fuse

    chosen, weights = _chosen(args)
    base = _base_of(args)
    result = fuse(chosen, base.model, weights, args.strategy)
    path = result.save(Path(args.out))
    facts = {"path": str(path), "nnz": result.nnz, "bytes": path.stat().st_size}
    if args.json:
        print_json(facts)
    else:
        print(f"{path}  {result.nnz:,} weights, {facts['bytes']:,} bytes")


def _compare(args: Arguments) -> None:
    from zoo.adapters import compare
    from zoo.verbs.adapters import loss_on

    if args.picture and Path(args.picture).suffix.lower() != ".png":
        raise MismatchError(f"--picture {args.picture!r}; expected a .png file")
    chosen, weights = _chosen(args)
    base = _base_of(args)
    loss = loss_on(base, args.adapters[0], args.data) if args.data else None
    report = compare(
        chosen,
        base.model,
        weights,
        orthogonality=args.orthogonality,
        loss=loss,
        strategy=args.strategy,
    )
    if args.picture:
        report.picture(args.picture)
    if args.json:
        print_json(report.to_json())
    else:
        print(report.table())


def _patch(args: Arguments) -> None:
    from zoo.cost.switching import switch_cost
    from zoo.cost.target import target
    from zoo.verbs.patching import patch_file

    device = target(args.target)
    facts = patch_file(args.file, args.patch, args.out)
    cost = switch_cost(
        device,
        patch_bytes=facts["patch_bytes"],
        integers=facts["integers"],
        weight_bytes=facts["file_bytes"],
    )
    if args.json:
        print_json({**facts, "out": args.out, "switch": cost.to_json()})
        return
    where = f"{args.out}  " if args.out else ""
    print(f"{where}{facts['label']}: {facts['integers']} integers, {facts['written_bytes']} bytes "
          f"written; {cost.switch_us:.0f} us on {cost.target} (estimated)")  # fmt: skip
