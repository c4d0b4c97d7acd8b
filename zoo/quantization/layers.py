"""Quantizing the linear layers of a module, level by level: each sees quantized predecessors."""

import dataclasses
import functools
import itertools
import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from zoo.errors import MismatchError
from zoo.quantization.core import (
    Hessian,
    MatrixReport,
    PreparedHessian,
    QuantizedMatrix,
    prepare,
    quantize_matrix,
)
from zoo.quantization.grids import make_grid
from zoo.quantization.language import blocks
from zoo.quantization.options import LayerOptions
from zoo.quantization.passes import CalibrationRuns
from zoo.quantization.plan import QuantizationPlan
from zoo.quantization.team import Team

log = logging.getLogger("zoo")

PARTS = 8  # parts of the calibration windows; sums are over these, for any number of processes


def quantize_layers(
    module: nn.Module, prefix: str, passes: CalibrationRuns, plan: QuantizationPlan, team: Team
) -> dict[str, QuantizedMatrix]:
    """Quantize the linear layers below `module` in place; return them by name, without `prefix`.

    Args:
        module: holds the layers; their weights become the decoded ones.
        prefix: prefix of the layers' names in the whole model, for the plan and for messages.
        passes: run the module on the calibration windows; empty for plans without. Afterwards each
            returns what the quantized module returns.
        plan: what is done with each layer.
        team: the processes that share the work.

    Raises:
        MismatchError: weights or activations hold NaN or infinity; the layer is named.

    """
    layers = blocks.linears(module)
    _check_weights(layers, prefix)
    past: set[str] = set()  # layers that will no longer change
    if not plan.learns:
        levels: list[blocks.Level] = [[[name] for name in layers]]
        called = list(layers)
    else:
        order = blocks.call_order(module, passes)
        levels, called = blocks.levels(module, order), order.names
        past |= order.read
        for name in sorted(order.read):  # a method that learns from inputs would have none
            log.warning("%s%s: read and never called, so it stays in floats", prefix, name)
    done: dict[str, QuantizedMatrix] = {}
    for level in levels:
        passes.finish(called, past)
        past.update(name for group in level for name in group)
        wanted = {
            name: options
            for group in level
            for name in group
            if (options := plan.of(f"{prefix}{name}")) is not None
        }
        groups = [kept for group in level if (kept := [name for name in group if name in wanted])]
        if not groups:
            continue
        first = {group[0]: layers[group[0]] for group in groups}
        seen = hessians(first, passes, team) if plan.learns else {}
        matrices = _quantize_groups(groups, layers, seen, wanted, prefix, plan, team)
        for name, matrix in matrices.items():
            weight = layers[name].weight
            weight.data = matrix.dequantize().to(weight)
        done |= matrices
    passes.finish(called, past)
    return {name: done[name] for name in layers if name in done}


def _check_weights(layers: dict[str, nn.Linear], prefix: str) -> None:
    for name, layer in layers.items():
        if not torch.isfinite(layer.weight).all():
            raise MismatchError(
                f"{prefix}{name}.weight holds NaN or infinity: the base model is damaged, or "
                "overflowed when it was converted"
            )


def hessians(
    layers: dict[str, nn.Linear], passes: CalibrationRuns, team: Team
) -> dict[str, Hessian]:
    """Return the Hessians of the inputs of `layers`, summed over all passes."""
    count = min(PARTS, len(passes))

    def part(index: int) -> dict[str, Hessian]:
        sums = {
            name: Hessian(layer.in_features, layer.weight.device) for name, layer in layers.items()
        }
        begin, end = index * len(passes) // count, (index + 1) * len(passes) // count
        for index in range(begin, end):
            blocks.run_until(passes[index], layers, lambda name, value: sums[name].update(value))
        return sums

    def add(total: dict[str, Hessian], other: dict[str, Hessian]) -> None:
        for name, hessian in other.items():
            total[name].merge(hessian)

    return team.reduce(count, part, add)


def _quantize_groups(
    groups: list[blocks.Group],
    layers: dict[str, nn.Linear],
    seen: dict[str, Hessian],
    wanted: dict[str, LayerOptions],
    prefix: str,
    plan: QuantizationPlan,
    team: Team,
) -> dict[str, QuantizedMatrix]:
    """Quantize the layers of one level; their parts are shared between the processes."""
    tasks: list[Callable[[], QuantizedMatrix]] = []
    places: list[tuple[str, int]] = []  # layer, and its number of parts
    for group in groups:
        hessian, notes = _usable(seen.get(group[0]), plan.least_tokens)
        ready = functools.cache(functools.partial(_prepare, hessian, f"{prefix}{group[0]}"))
        for name in group:
            weight = layers[name].weight.detach()
            parts = _row_parts(
                wanted[name], (layers[name].out_features, layers[name].in_features), plan.row_parts
            )
            places.append((name, len(parts)))
            for options, begin, end in parts:
                tasks.append(functools.partial(_task, weight[begin:end], ready, options, notes))
    results = iter(team.share(tasks))
    matrices = {}
    for name, count in places:
        parts_done = [next(results) for _ in range(count)]
        matrices[name] = _joined(
            parts_done, wanted[name], (layers[name].out_features, layers[name].in_features)
        )
        for note in matrices[name].report.fallbacks:  # type: ignore[union-attr]
            log.warning("%s%s: %s", prefix, name, note)
    return matrices


def _usable(hessian: Hessian | None, least: int) -> tuple[Tensor | None, tuple[str, ...]]:
    if hessian is None or hessian.tokens >= max(least, 1):
        return (None if hessian is None else hessian.finish()), ()
    return None, (f"only {hessian.tokens} calibration tokens came here: H is the identity",)


def _prepare(hessian: Tensor | None, name: str, options: LayerOptions) -> PreparedHessian | None:
    if hessian is None:
        return None
    try:
        return prepare(hessian, len(hessian), options)
    except MismatchError as error:
        raise MismatchError(f"the inputs of {name}: {error}") from error


def _task(
    weight: Tensor,
    ready: Callable[[LayerOptions], PreparedHessian | None],
    options: LayerOptions,
    notes: tuple[str, ...],
) -> QuantizedMatrix:
    matrix = quantize_matrix(weight, ready(_preparation(options)), options)
    report = matrix.report
    assert report is not None, "a matrix just quantized has its report"
    fallbacks = (*report.fallbacks, *notes)
    return dataclasses.replace(matrix, report=dataclasses.replace(report, fallbacks=fallbacks))


def _preparation(options: LayerOptions) -> LayerOptions:
    """Return options that are equal if layers can share a prepared Hessian."""
    method, order = options.method, options.act_order
    return LayerOptions(method=method, bits=2, dim=1, damp=options.damp, act_order=order)


def _row_parts(
    options: LayerOptions, shape: tuple[int, int], parts: int
) -> list[tuple[LayerOptions, int, int]]:
    """Return options, first row and end row of each part in which a layer's rows are swept.

    Parts consist of whole groups of rows.
    """
    rows, columns = shape
    grid = make_grid(options, rows, columns)
    groups = -(-rows // grid.row_unit)
    count = min(parts, groups)
    if count == 1:
        return [(options, 0, rows)]
    edges = [min(index * groups // count * grid.row_unit, rows) for index in range(count)] + [rows]
    pinned = grid.pinned(options)
    return [(pinned, begin, end) for begin, end in itertools.pairwise(edges)]


def _joined(
    parts: list[QuantizedMatrix], options: LayerOptions, shape: tuple[int, int]
) -> QuantizedMatrix:
    """Return the matrix whose rows were quantized in parts."""
    if len(parts) == 1:
        return parts[0]
    reports = [part.report for part in parts if part.report is not None]
    # Errors are relative to the part's own weight; rows are similar, so parts count by their rows.
    rows = [part.grid.rows for part in parts]
    error = sum(r.relative_error * n for r, n in zip(reports, rows, strict=True)) / sum(rows)
    report = MatrixReport(
        error,
        max(item.damp for item in reports),
        sum(item.seconds for item in reports),
        tuple(dict.fromkeys(note for item in reports for note in item.fallbacks)),
    )
    parameters = {
        name: torch.cat([part.parameters[name] for part in parts], 1)
        for name in parts[0].parameters
    }
    codes = torch.cat([part.codes for part in parts])
    grid = make_grid(options, *shape)
    return QuantizedMatrix(codes, parameters, grid, options, parts[0].order, report)
