"""The command `zoo estimate`: costs as lines, as a table, as JSON and as a picture."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import verbs as api
from zoo.cli import memory
from zoo.cli.printing import (
    Arguments,
    Command,
    add_ref,
    positive,
    print_json,
    print_table,
    shape_of,
    targets,
)
from zoo.errors import MismatchError
from zoo.files import write_json

if TYPE_CHECKING:
    from zoo.cost import Cost
    from zoo.cost.planner import Arena


def add(command: Command, words: Sequence[str]) -> None:
    """Add the command to the command line; only for itself is the list of targets made."""
    sub = command("estimate", _estimate, "estimate what a model costs on a device")
    add_ref(sub)
    sub.add_argument(
        "--target", default="ethos-u55-256", metavar="T[,T2]",
        help="devices: names, groups (ethos-u55), globs ('stm32*'), all, or files ./NAME.toml "
        "(default: %(default)s)",
    ).completer = targets  # type: ignore[attr-defined]  # fmt: skip
    sub.add_argument(
        "--method",
        default="auto",
        help="auto, roofline, vela, learned, measured, simulated, f1; all: side by side",
    )
    sub.add_argument("--weights", metavar="FILE", help="of --method learned: another predictor")
    sub.add_argument(
        "--time-limit", type=positive, metavar="SECONDS", help="stop Vela after this (default: 600)"
    )
    sub.add_argument("--drone", metavar="NAME", help="of --method f1: which drone flies")
    sub.add_argument(
        "--memory", action="store_true", help="also the smallest arena, and the best order"
    )
    sub.add_argument("--compare", metavar="REF2", help="another model, beside the first")
    sub.add_argument(
        "--plot", metavar="FILE.png", help="a picture: the roofline, and the slowest operators"
    )
    sub.add_argument(
        "--out", metavar="FILE", help="also write what --json prints, whatever the name ends in"
    )
    sub.add_argument("--shape", metavar="N,C,H,W", help="input shape; default: the recipe's")
    if words[:1] == ["estimate"]:
        _list_targets(sub)


def _list_targets(sub: argparse.ArgumentParser) -> None:
    from zoo.cost.target import target, target_names

    sub.formatter_class = argparse.RawDescriptionHelpFormatter
    lines = [f"  {name:26}{target(name).summary}" for name in target_names()]
    sub.epilog = "\n".join(["targets:", *lines])


def _estimate(args: Arguments) -> None:
    """Estimate what a model costs."""
    costs = _costs(args, args.ref)
    others = _costs(args, args.compare) if args.compare else []
    packed = _arenas(args, costs) if args.memory else {}
    if args.plot:
        _plot(costs, _devices(args), Path(args.plot))
    if args.out:
        write_json(Path(args.out), _values(costs, others, packed))
    if args.json:
        print_json(_values(costs, others, packed))
        return
    if others:
        print_table(_compared(costs, others, (args.ref, args.compare)))
    elif args.method == "all":
        print_table(_methods(costs))
        _print_details(costs)
    else:
        _print_each(costs, packed)
        return
    for name, found in packed.items():
        print(name)
        memory.show(found)


def _values(
    costs: "list[Cost]", others: "list[Cost]", packed: "dict[str, list[Arena]]"
) -> dict[str, Any] | list[dict[str, Any]]:
    """Return costs as JSON types; with those of another model under two names."""
    planned = {name: {"memory": memory.as_json(found)} for name, found in packed.items()}
    values = [cost.to_json() | planned.get(cost.target, {}) for cost in costs]
    second = [cost.to_json() for cost in others]
    return {"costs": values, "compared": second} if others else values


def _print_each(costs: "list[Cost]", packed: "dict[str, list[Arena]]") -> None:
    for cost in costs:
        print(cost)
        for line in cost.details:
            print(f"  {line}")
        if cost.target in packed:
            memory.show(packed[cost.target])


def _arenas(args: Arguments, costs: "list[Cost]") -> "dict[str, list[Arena]]":
    shape = shape_of(args.shape) if args.shape is not None else None
    devices = [_devices(args)[cost.target] for cost in costs]
    found = memory.arenas(api.resolve(args.ref, weights=False), devices, shape)
    return {cost.target: found[device] for cost, device in zip(costs, devices, strict=True)}


def _devices(args: Arguments) -> dict[str, str]:
    """Return what was typed, a name or a file, by the name that a cost calls a target."""
    from zoo.cost import matching, target

    typed = [name for pattern in args.target.split(",") for name in matching(pattern)]
    return {target(name).name: name for name in typed}


def _print_details(costs: "list[Cost]") -> None:
    for line in dict.fromkeys(f"{c.target}: {line}" for c in costs for line in c.details):
        print(line)


def _costs(args: Arguments, ref: str) -> "list[Cost]":
    shape = shape_of(args.shape) if args.shape is not None else None
    artifact = api.resolve(ref, weights=False)
    options: dict[str, Any] = {}
    if args.time_limit is not None:
        options["time_limit_s"] = float(args.time_limit)
    if args.drone is not None:
        options["drone"] = args.drone
    if args.weights is not None:
        options["weights"] = args.weights
    names = args.target.split(",")
    return api.estimate(artifact, names, method=args.method, input_shape=shape, **options)


def _methods(costs: "list[Cost]") -> list[list[str]]:
    """Return a row for each target and method, and how far the methods of a target are apart."""
    rows = [
        ["TARGET", "METHOD", "MS", "90 % WITHIN", "ENERGY", "SRAM", "FLASH", "WAITS FOR", "FITS"]
    ]
    for cost in costs:
        rows.append(_row(cost))
    for name in dict.fromkeys(cost.target for cost in costs):
        times = [cost.latency_ms for cost in costs if cost.target == name]
        if len(times) > 1:
            spread = f"{max(times) / min(times):.2f} times" if min(times) else "-"
            rows.append([name, "apart by", spread, *[""] * 6])
    return rows


def _row(cost: "Cost") -> list[str]:
    from zoo.cost.result import milliseconds, readable

    least = ">= " if cost.host else ""
    between = "-" if cost.interval_ms is None else " - ".join(map(milliseconds, cost.interval_ms))
    energy = "-" if cost.energy_mj is None else f"{cost.energy_mj:.3g} mJ"
    fits = "yes" if cost.fits else "in tiles" if cost.runs_tiled else "no"
    memory = [readable(cost.peak_activation_bytes), readable(cost.stored_bytes)]
    return [
        cost.target, cost.method, f"{least}{milliseconds(cost.latency_ms)}", between, energy,
        *memory, cost.bound or "-", fits,
    ]  # fmt: skip


def _compared(costs: "list[Cost]", others: "list[Cost]", names: tuple[str, str]) -> list[list[str]]:
    """Return a row for each target and method that both models have."""
    from zoo.cost.result import milliseconds, readable

    second = {(cost.target, cost.method): cost for cost in others}
    rows = [["TARGET", "METHOD", "", "MS", "MACS", "SRAM", "FLASH"]]
    for first in costs:
        other = second.get((first.target, first.method))
        if other is None:
            continue
        pair = [
            (c.latency_ms, c.macs, c.peak_activation_bytes, c.stored_bytes) for c in (first, other)
        ]
        for name, (time, macs, sram, flash) in zip(names, pair, strict=True):
            cells = [milliseconds(time), f"{macs / 1e6:,.1f} M", readable(sram), readable(flash)]
            rows.append([first.target, first.method, name, *cells])
        ratios = [f"x {b / a:.2f}" if a else "-" for a, b in zip(*pair, strict=True)]
        rows.append(["", "", "", *ratios])
    if len(rows) == 1:
        raise MismatchError(f"{names[0]} and {names[1]} have no target and method in common")
    return rows


def _plot(costs: "list[Cost]", devices: dict[str, str], path: Path) -> None:
    from zoo.cost import target
    from zoo.cost.pictures import operators

    if path.suffix.lower() != ".png":
        raise MismatchError(f"--plot {path}; expected a name that ends in .png")
    drawn = next((cost for cost in costs if cost.ops), None)
    if drawn is None:
        raise MismatchError("no method gives single operators here; take --method roofline")
    operators(drawn, target(devices[drawn.target]), path)
