"""The command `zoo cost`: data sets of costs, and predictors that learn from them."""

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.cli.printing import Arguments, add_action, positive, print_json
from zoo.errors import MismatchError

if TYPE_CHECKING:
    from zoo.cost.learned.features import SeenPasses
    from zoo.cost.learned.model import Facts
    from zoo.cost.target import Target


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    actions = command(
        "cost", _none, "data sets of costs, and what learns from them"
    ).add_subparsers(required=True, metavar="ACTION")
    action = functools.partial(add_action, actions)
    sub = action("dataset", _dataset, "make random networks and compile them for Ethos-U")
    sub.add_argument("out", metavar="OUT", help="folder; a set of the same recipe goes on")
    sub.add_argument(
        "--target", default="ethos-u55-128", metavar="T[,T2]", help="default: %(default)s"
    )
    sub.add_argument("--graphs", type=int, required=True, metavar="N", help="networks in all")
    sub.add_argument("--seed", type=int, default=0, help="of the networks; default: 0")
    sub.add_argument("--jobs", type=positive, default=1, help="processes of this machine")
    sub.add_argument("--ray", action="store_true", help="on a Ray cluster in place of --jobs")
    sub = action("train", _train, "teach a predictor on a data set of costs")
    sub.add_argument("data", metavar="DATASET", help="a folder that zoo cost dataset made")
    _add_target(sub)
    sub.add_argument("--epochs", type=positive, default=60)
    sub.add_argument("--seed", type=int, default=0)
    sub = action("adapt", _adapt, "adapt a predictor to a target, from a few measurements")
    sub.add_argument(
        "measured", metavar="FILE.csv", help="lines of: int8 .tflite file, latency in ms"
    )
    _add_target(sub)
    sub.add_argument("--base", default="", metavar="FILE", help="weights of a similar target")


def _add_target(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--target", required=True, metavar="T", help="a name, or a file ./NAME.toml")
    sub.add_argument("--out", required=True, metavar="FILE.safetensors")


def _none(args: Arguments) -> None:
    raise NotImplementedError  # argparse asks for an action


def _dataset(args: Arguments) -> None:
    """Make what is missing of a data set."""
    from zoo.cost.networks import shards
    from zoo.cost.networks.about import write_card

    out = Path(args.out).expanduser()
    given = shards.recipe(args.target.split(","), args.seed)
    run = shards.cluster() if args.ray else shards.processes(args.jobs)
    made = shards.write(given, args.graphs, out, run)
    write_card(out, given)
    if args.json:
        print_json({"path": str(out), "graphs": args.graphs, "shards_made": made})
    else:
        print(
            f"{out}: {args.graphs:,} networks, {made} shards made; zoo push {out} datasets/ORG/NAME"
        )


def _train(args: Arguments) -> None:
    """Teach a predictor and write its weights."""
    from zoo.cost import target
    from zoo.cost.learned import learning
    from zoo.cost.learned.model import save
    from zoo.cost.networks.shards import RECIPE, rows
    from zoo.files import read_json

    device, data, out = target(args.target), Path(args.data).expanduser(), _weights(args.out)
    given = learning.examples(rows(data), device)
    about = read_json(data / RECIPE)
    source = f"Vela {about['vela']} on {len(given):,} random networks"
    options = learning.Options(epochs=args.epochs, seed=args.seed)
    predictor, facts = learning.trained(given, device.name, source, options)
    save(predictor, facts, out)
    _report(args, out, facts)


def _adapt(args: Arguments) -> None:
    """Adapt a predictor and write its weights."""
    from zoo.cost import target
    from zoo.cost.learned import adapting
    from zoo.cost.learned.model import load, save, shipped

    device, out = target(args.target), _weights(args.out)
    base = Path(args.base).expanduser() if args.base else shipped("ethos-u55-128")
    assert base is not None
    predictor, facts = load(base)
    given = _measured(Path(args.measured).expanduser(), device)
    predictor, facts = adapting.adapted(predictor, facts, given, device.name)
    save(predictor, facts, out)
    _report(args, out, facts)


def _weights(text: str) -> Path:
    path = Path(text).expanduser()
    if path.suffix != ".safetensors":
        raise MismatchError(f"--out {path}; expected a name that ends in .safetensors")
    return path


def _measured(path: Path, device: "Target") -> "list[tuple[SeenPasses, float]]":
    """Return what is seen of each measured file, and its cycles."""
    from zoo.cost.learned.features import passes_of
    from zoo.deploy.tflite_read import read_tflite

    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MismatchError(f"{path} cannot be read: {error}") from error
    found, clock = [], device.get("clock_hz") or 1.0
    for number, line in enumerate((line for line in lines if line.strip()), start=1):
        name, _, latency = (part.strip() for part in line.rpartition(","))
        try:
            time_ms = float(latency)
        except ValueError:
            time_ms = 0.0
        if not name or not 0 < time_ms < float("inf"):
            raise MismatchError(
                f"{path}, line {number}: {line!r}; expected FILE.tflite, milliseconds"
            )
        file = Path(name).expanduser()
        graph = read_tflite(file if file.is_absolute() else path.parent / file)
        found.append((passes_of(graph, device), time_ms * 1e-3 * clock))
    return found


def _report(args: Arguments, out: Path, facts: "Facts") -> None:
    from dataclasses import asdict

    if args.json:
        print_json({"path": str(out), **asdict(facts)})
        return
    low, high = facts.interval
    print(
        f"{out}: {facts.target}, {facts.networks:,} networks, 90 % within {low:.3f} to {high:.3f}"
    )
    for name, error in facts.errors.items():
        print(f"  {name}: {error:.2f} % off on average, on networks held out")
    print(f"zoo estimate REF --target {args.target} --method learned --weights {out}")
