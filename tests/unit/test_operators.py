"""Every kind of operator has an entry in every column, or a reason for its absence."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.runtimes import tflite_micro
from zoo.cost.estimators.roofline import op_costs
from zoo.cost.target import target, target_names
from zoo.cost.work import WORK
from zoo.deploy import tflite_read
from zoo.deploy.formats import NPU, ONNX, TFLITE, operators_by_format
from zoo.deploy.operators.contract import TfliteOp, alone, without_options
from zoo.deploy.tflite_read import parse_tflite
from zoo.deploy.tflite_schema import ACTIVATIONS, OPERATORS, Builtin
from zoo.deploy.tflite_write import serialize_tflite
from zoo.graph import kinds
from zoo.graph.fuse import LIMITS as FUSED_LIMITS
from zoo.graph.ir import Graph, Op
from zoo.graph.kinds import FUSABLE, KINDS, LAYERS, MAC_KINDS
from zoo.graph.operators.contract import Column, OpKind, never
from zoo.graph.operators.elementwise import lower_elementwise, same_shape
from zoo.graph.rewrite import INT16
from zoo.graph.trace import trace
from zoo.quantization.int8.post_training import quantize
from zoo.quantization.int8.rules import RULES, Rule
from zoo.runtime.integer import IntegerNetwork
from zoo.runtime.integer_base import Kernel, quantization_of
from zoo.runtime.integer_tables import elementwise, output_rescale
from zoo.runtime.kernels import FLOAT, INTEGER
from zoo.runtime.values import channels_first, channels_last, dequantized, quantized

OWN = ("aten", "lower", "shape")  # columns of the graph room, in the row itself
COLUMNS: Mapping[str, Column[Any]] = {
    "float": FLOAT,
    "integer": INTEGER,
    "quantization": RULES,
    "tflite": TFLITE,
    "onnx": ONNX,
    "npu": NPU,
    "cost": WORK,
}


def gaps() -> list[str]:
    """What the table lacks, and what its columns have of kinds that it does not have."""
    lines = []
    for name, row in KINDS.items():
        for column in OWN:
            filled, reason = getattr(row, column) is not None, row.absent.get(column)
            lines += [f"{name}: {column}"] * (filled == bool(reason))
        for title, entries in COLUMNS.items():
            # What has no channels-last form is never computed or written, only counted.
            if row.shape is None and title != "cost":
                lines += [f"{name}: {title} of a kind without a shape"] * (name in entries)
            else:
                filled, reason = name in entries, entries.absent.get(name)
                lines += [f"{name}: {title}"] * (filled == bool(reason))
    for title, entries in COLUMNS.items():
        lines += [f"{title} has {n!r}" for n in {*entries, *entries.absent} - set(KINDS)]
    return lines


def test_no_column_is_missing() -> None:
    assert gaps() == []


def test_a_kind_without_columns_is_told_each_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = OpKind(name="bogus", aten=None, lower=None, shape=same_shape, mixes_samples=never)
    monkeypatch.setitem(KINDS, "bogus", bare)
    assert gaps() == [f"bogus: {column}" for column in ("aten", "lower", *COLUMNS)]
    for column in COLUMNS.values():
        monkeypatch.setitem(column.absent, "bogus", "it is a test")
    assert gaps() == ["bogus: aten", "bogus: lower"]


@pytest.mark.parametrize("title", COLUMNS)
def test_an_entry_taken_away_or_of_no_kind_is_seen(
    title: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    column = COLUMNS[title]
    entry = column["conv2d"]
    monkeypatch.delitem(column, "conv2d")
    assert gaps() == [f"conv2d: {title}"]
    monkeypatch.setitem(column, "convolution", entry)
    assert gaps() == [f"conv2d: {title}", f"{title} has 'convolution'"]


def test_a_reason_beside_an_entry_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FLOAT.absent, "conv2d", "it has one")
    assert gaps() == ["conv2d: float"]


def test_what_has_no_entry_is_refused_with_the_reason() -> None:
    op = Op(
        name="y",
        kind="dequantize",
        inputs=("x",),
        outputs=("y",),
        attributes={},
        macs=0,
        module="a.1",
    )
    with pytest.raises(Exception, match=r"dequantize at a\.1 has no ONNX operator \(every value"):
        ONNX.of(op)


def test_groups_of_a_room_hold_each_kind_once() -> None:
    rows = [row for group in kinds._GROUPS for row in group.ROWS]
    assert len(rows) == len(KINDS)


def test_what_has_weights_counts_its_multiplications() -> None:
    assert {name for name, row in KINDS.items() if "weight" in row.roles} == LAYERS
    assert {"batch_matmul"} == MAC_KINDS - LAYERS  # of two computed matrices


def test_an_aten_operator_is_read_in_one_way() -> None:
    readers: dict[str, Any] = {}
    for row in KINDS.values():
        for aten, reader in (row.aten or {}).items():
            if callable(reader) and callable(readers.get(aten, reader)):
                assert readers.setdefault(aten, reader) is reader, aten
            else:
                assert aten not in readers, aten
                readers[aten] = reader


def test_operators_of_files_belong_to_one_kind_each() -> None:
    names = [name for row in TFLITE.values() for name in row.names]
    assert sorted(names) == sorted(OPERATORS)


@pytest.mark.parametrize("name", target_names())
def test_targets_speak_of_kinds_that_there_are(name: str) -> None:
    device = target(name)
    named = {*device.rates, *device.fuses, *device.host, *device.scratch} - {"default", "pointwise"}
    assert named <= set(KINDS)


def test_rewriting_and_fused_activations_speak_of_kinds_that_there_are() -> None:
    assert set(INT16) <= set(KINDS)
    files_alone = {"relu_n1_to_1"}
    assert set(FUSED_LIMITS) - files_alone == set(FUSABLE) - {"clamp"}
    assert set(FUSED_LIMITS) | {None} == set(ACTIVATIONS)


def test_the_table_of_formats_has_a_row_per_kind() -> None:
    rows = {row["kind"]: row for row in operators_by_format()}
    assert list(rows) == list(KINDS)
    keys = ["kind", "trace", "float", "integer", "tflite", "onnx", "vela", "note"]
    assert all(list(row) == keys for row in rows.values())
    assert rows["conv2d"] == {
        "kind": "conv2d",
        "trace": "conv2d, conv1d",
        **dict.fromkeys(("float", "integer", "onnx", "vela"), "yes"),
        "tflite": "CONV_2D",
        "note": "",
    }
    assert rows["pad"]["tflite"] == "PAD, PADV2"
    assert rows["pad"]["vela"] == "may stay on the host: pad inside the convolution"
    assert rows["gelu"]["trace"] == "gelu"
    assert rows["gelu"]["tflite"] == "GELU"
    assert rows["clamp"]["trace"] == "clamp, clamp_min, clamp_max, hardtanh"
    assert rows["clamp"]["integer"] == rows["clamp"]["tflite"] == ""
    for row in rows.values():  # an empty cell is explained
        assert bool(row["note"]) == ("" in (row[key] for key in keys[:-1]))


class Magnitudes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).abs()


def add_abs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add a kind as its row and its entries would."""
    row = OpKind(
        name="abs",
        aten={"abs": ()},
        lower=lower_elementwise,
        shape=same_shape,
        mixes_samples=never,
        elementwise=True,
        scalar=True,
    )

    def kernel(graph: Graph, op: Op) -> Kernel:
        ratio = quantization_of(graph, op.inputs[0]).scale
        ratio /= quantization_of(graph, op.outputs[0]).scale
        rescale = output_rescale(graph, op, ratio, 255)
        return lambda x: rescale(x.abs())

    in_files = TfliteOp(names=("ABS",), write=alone, read=without_options(1))
    tables: list[tuple[dict[str, Any], str, Any]] = [
        (KINDS, "abs", row),
        (FLOAT, "abs", lambda graph, op, x: x.abs()),
        (INTEGER, "abs", elementwise(kernel)),
        (RULES, "abs", Rule()),
        (TFLITE, "abs", in_files),
        (OPERATORS, "ABS", Builtin(101, 0, int8=1)),
        (ONNX, "abs", lambda model, op: model.emit(op, "Abs", [model.real(op.inputs[0])])),
        (NPU, "abs", ""),
        (WORK, "abs", WORK["relu"]),
        # Derived when the modules are imported:
        (kinds.ATEN, "abs", ("abs", ())),
        (kinds.LOWER, "abs", row.lower),
        (kinds.SHAPES, "abs", row.shape),
        (tflite_read._NAMES, 101, "ABS"),  # type: ignore[list-item]
        (tflite_read._KINDS, "ABS", "abs"),
    ]
    for table, key, entry in tables:
        monkeypatch.setitem(table, key, entry)


def test_a_new_kind_is_a_row_and_one_entry_per_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """ABS, from a module to a file that TFLite Micro runs: with entries, and no other edit."""
    add_abs(monkeypatch)
    assert gaps() == []
    torch.manual_seed(0)
    module, x = Magnitudes().eval(), torch.randn(4, 3, 8, 8)
    traced = trace(module, (1, 3, 8, 8))
    assert traced.macs == 4 * 36 * 27
    costs = op_costs(traced, target("ethos-u55-256"))
    assert [cost.kind for cost in costs] == ["conv2d", "abs"]
    assert costs[1].latency_ms > 0
    graph = quantize(module, [x], (1, 3, 8, 8))
    content = serialize_tflite(graph)
    read = parse_tflite(content)
    assert [op.kind for op in read.ops] == ["conv2d", "abs"]
    integers = quantized(read, channels_last(x))
    ours = IntegerNetwork(read)(integers)
    real = channels_first(dequantized(read, ours))
    assert (real - module(x)).abs().max() < 0.05
    np.testing.assert_array_equal(tflite_micro(content)(integers)[0], ours.numpy())
