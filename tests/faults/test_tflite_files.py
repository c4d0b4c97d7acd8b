"""Damaged and hostile `.tflite` files: a clear error of ours or a network, never anything else."""

import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.parity.test_tflite_recurrent import lstm, streamed, svdf
from tests.parity.test_tflite_types import layer, transposed
from tests.tflite_files import File, one
from zoo.deploy.tflite_read import parse_tflite, read_tflite
from zoo.deploy.tflite_write import serialize_tflite
from zoo.errors import MismatchError, MissingWeightsError, UnsafeFileError, ZooError
from zoo.graph.check import check
from zoo.graph.ir import Graph
from zoo.quantization.int8.post_training import quantize
from zoo.runtime.integer import IntegerNetwork

WORDS = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\1\0\0\0")


@pytest.fixture(scope="module")
def content() -> bytes:
    """A small file with most kinds of operator; half of it is structure."""
    torch.manual_seed(0)
    body = [nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4)]
    module = nn.Sequential(*body, nn.PReLU(4), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3))
    module.append(nn.Softmax(1))
    return serialize_tflite(quantize(module.eval(), [torch.rand(4, 1, 12, 12)], (1, 1, 12, 12)))


def mutated(content: bytes, chance: random.Random) -> bytes:
    data = bytearray(content)
    kind = chance.randrange(5)
    if kind == 4:
        return bytes(data[: chance.randrange(len(data))])
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        place = chance.randrange(len(data) - 4)
        if kind == 0:
            data[place] ^= 1 << chance.randrange(8)
        elif kind == 1:
            data[place] = chance.randrange(256)
        elif kind == 2:
            place -= place % 4
            data[place : place + 4] = chance.choice(WORDS)
        else:
            other = chance.randrange(len(data) - 4)
            data[place : place + 4] = data[other : other + 4]
    return bytes(data)


def small(graph: Graph) -> bool:
    return sum(tensor.elements for tensor in graph.tensors.values()) < 10**6


def attack(content: bytes, count: int, seed: int) -> Counter[str]:
    chance, outcomes = random.Random(seed), Counter[str]()
    messages = []
    for _ in range(count):
        try:
            graph = parse_tflite(mutated(content, chance))
            network = IntegerNetwork(graph)
            if small(graph):
                given = [graph.tensors[name] for name in graph.inputs]
                inputs = [torch.zeros(t.shape, dtype=getattr(torch, t.dtype)) for t in given]
                for _ in range(2 if graph.states else 1):
                    network(*inputs)
            outcomes["ran"] += 1
        except ZooError as error:
            messages.append(str(error))
            outcomes[type(error).__name__] += 1
    assert not [message for message in messages if "\n" in message]
    return outcomes


def test_mutated_files(content: bytes) -> None:
    outcomes = attack(content, 500, seed=0)
    assert set(outcomes) == {"ran", "UnsafeFileError", "MismatchError"}, outcomes


def others() -> dict[str, bytes]:
    """Files with states, several outputs, floats on integers, other types."""
    return {
        "lstm": lstm(0),
        "svdf": svdf(0, "int8"),
        "variables": streamed().bytes(),
        "uint8": layer("CONV_2D", 0, "uint8", weights="uint8")[0],
        "hybrid": layer("FULLY_CONNECTED", 0, "float32", weights="int8")[0],
        "transposed": transposed(0, "int8", 2, 0)[0],
        "split": split(),
    }


def split() -> bytes:
    meaning = ("uint8", 0.1, 4)
    sizes = [np.array([1, 2], np.int32), np.array(1, np.int32)]
    parts = [((1, size, 6), *meaning) for size in (1, 2)]
    return one("SPLIT_V", [((1, 3, 6), *meaning)], parts, sizes, options={"num_splits": 2})


@pytest.mark.parametrize("name", others())
def test_mutated_files_of_other_kinds(name: str) -> None:
    outcomes = attack(others()[name], 300, seed=len(name))
    assert {"ran", "UnsafeFileError"} <= set(outcomes)


@pytest.mark.slow
@pytest.mark.parametrize("name", others())
def test_many_mutated_files_of_other_kinds(name: str) -> None:
    assert sum(attack(others()[name], 10_000, seed=1).values()) == 10_000


@pytest.mark.slow
def test_many_mutated_files(content: bytes) -> None:
    assert sum(attack(content, 20_000, seed=1).values()) == 20_000


def test_a_file_that_shares_tables_to_explode_is_refused(content: bytes) -> None:
    """A vector of many offsets to the same table costs the reader no more than its budget."""
    from zoo.deploy import flatbuffer, tflite_schema

    inner = {"data": torch.zeros(1000, dtype=torch.uint8).numpy()}
    data = bytearray(
        flatbuffer.write({"version": 3, "buffers": [inner] * 1000}, tflite_schema.MODEL, b"TFL3")
    )
    # Point every offset of the vector at its first table.
    start = data.index((1000).to_bytes(4, "little"))
    first = start + 4 + int.from_bytes(data[start + 4 : start + 8], "little")
    for place in range(start + 4, start + 4004, 4):
        data[place : place + 4] = (first - place).to_bytes(4, "little")
    small_file = bytes(data[: first + 2000])
    with pytest.raises(UnsafeFileError, match="more than a file of this size"):
        parse_tflite(small_file)


def test_what_is_no_file_of_ours_says_so(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(MissingWeightsError, match="cannot be read"):
        read_tflite(tmp_path / "absent.tflite")
    (tmp_path / "a.tflite").write_bytes(b"PK\3\4 not at all")
    with pytest.raises(UnsafeFileError, match=r"a\.tflite: it does not begin"):
        read_tflite(tmp_path / "a.tflite")
    (tmp_path / "half.tflite").write_bytes(content[: len(content) // 2])
    with pytest.raises(UnsafeFileError, match=r"half\.tflite: "):
        read_tflite(tmp_path / "half.tflite")


def test_what_does_not_fit_a_layer_is_named(content: bytes) -> None:
    graph = parse_tflite(content)
    op = next(op for op in graph.ops if op.kind == "conv2d")
    source, weight, bias = op.inputs
    wrong = {
        (source, "dtype", "int32"): "its input is int32; expected float32, int8, uint8 or int16",
        (bias, "dtype", "int16"): "its bias is int16",
        (bias, "shape", (5,)): r"its bias is int32 \(5,\) for 4 outputs",
        (
            weight,
            "shape",
            (4, 3, 3, 3),
        ): r"a kernel of shape \(4, 3, 3, 3\) does not fit 1 channel",
        (weight, "shape", (4,)): "operands of impossible rank",
    }
    for (name, key, value), message in wrong.items():
        tensor = replace(graph.tensors[name], **{key: value})
        with pytest.raises(MismatchError, match=f"{re.escape(op.label)}.*{message}"):
            check(replace(graph, tensors={**graph.tensors, name: tensor}))


def test_an_unknown_operator_is_named() -> None:
    """With several outputs or an operand left out, too: none of that is damage."""
    from zoo.deploy import flatbuffer, tflite_schema

    def file(code: int, **names: str) -> bytes:
        tensor = {"shape": np.array([1, 4], np.int32), "type": 9, "buffer": 0}
        op = {
            "opcode_index": 0,
            "inputs": np.array([0, -1, 0], np.int32),
            "outputs": np.array([1, 2], np.int32),
        }
        subgraph = {
            "tensors": [{**tensor, "name": name} for name in "xyz"],
            "inputs": np.array([0], np.int32),
            "outputs": np.array([1, 2], np.int32),
            "operators": [op],
        }
        codes = {"builtin_code": code, "deprecated_builtin_code": min(code, 127), **names}
        model = {
            "version": 3,
            "operator_codes": [codes],
            "subgraphs": [subgraph],
            "buffers": [{}],
        }
        return flatbuffer.write(model, tflite_schema.MODEL, tflite_schema.IDENTIFIER)

    for content, name in (
        (file(119), r"WHILE \(code 119\)"),
        (file(103), r"UNIQUE \(code 103\)"),
        (file(999), "code 999"),
        (file(32, custom_code="TFLite_Detection"), "custom operator 'TFLite_Detection'"),
    ):
        with pytest.raises(MismatchError, match=f"operator 0, {name} at y, z, is not known"):
            parse_tflite(content)


def test_what_a_file_may_hold_but_nothing_here_computes_is_named() -> None:
    for file, message in (
        (one("ADD", [((1, 4), "complex64")] * 2, [((1, 4), "complex64")]), "holds complex64"),
        (one("ADD", [((1, 4), 17)] * 2, [((1, 4), 17)]), "holds int4, which nothing here"),
        (one("ADD", [((1, 4), 5)] * 2, [((1, 4), 5)]), "holds string, which nothing here"),
        (one("ADD", [((1, 4),)] * 2, [((1, 4),)], version=99), "ADD at y0, has version 99"),
        (
            one("CUSTOM", [((1, 4),)], [((1, 4),)], custom_code="TFLite_Detection_PostProcess"),
            "operator 0, custom operator 'TFLite_Detection_PostProcess' at y0, is not known",
        ),
        (one("RESHAPE", [((2**15, 2**15),)], [((2**30,),)]), "has 2 GiB or more"),
    ):
        with pytest.raises((MismatchError, UnsafeFileError), match=message) as caught:
            IntegerNetwork(parse_tflite(file))
        assert "\n" not in str(caught.value)


def test_a_network_without_ends_is_refused() -> None:
    for ends in ("inputs", "outputs"):
        file = streamed()
        setattr(file.main, ends, [])
        with pytest.raises(MismatchError, match="has no inputs or no outputs"):
            parse_tflite(file.bytes())


def test_a_cycle_is_named() -> None:
    file = File()
    graph = file.main
    graph.inputs = [graph.tensor("x", (1, 4))]
    for name in "ab":
        graph.tensor(name, (1, 4))
    graph.outputs = ["b"]
    graph.op("ADD", ["x", "b"], ["a"])
    graph.op("ADD", ["x", "a"], ["b"])
    with pytest.raises(UnsafeFileError, match="add at a reads 'b' before anything has made it"):
        parse_tflite(file.bytes())


def test_versions_are_those_that_litert_knows() -> None:
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    from zoo.deploy.tflite_schema import FOLLOWED, NEWEST, OPERATORS

    assert {*OPERATORS, *FOLLOWED} <= {*NEWEST}
    for name in (*OPERATORS, *FOLLOWED):
        # The reference kernels of this package lack ELU; the others have it.
        kind = "AUTO" if name == "ELU" else "BUILTIN_REF"
        resolver = interpreter.OpResolverType[kind]
        for version in (NEWEST[name], NEWEST[name] + 1):
            content = one(name, [((1, 4),)], [((1, 4),)], version=version)
            known = True
            try:
                interpreter.Interpreter(
                    model_content=content, experimental_op_resolver_type=resolver
                )
            except ValueError as error:
                known = "Didn't find op" not in str(error)
            assert known == (version == NEWEST[name]), (name, version)


def test_operators_have_the_names_of_the_schema() -> None:
    from zoo.deploy.tflite_schema import NAMES, OPERATORS

    assert all(NAMES[builtin.code] == name for name, builtin in OPERATORS.items())
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    assert [getattr(schema.BuiltinOperator, name) for name in NAMES] == [*range(len(NAMES))]


def test_wrong_inputs_are_refused(content: bytes) -> None:
    network = IntegerNetwork(parse_tflite(content))
    for wrong in (torch.zeros(1, 12, 12, 1), torch.zeros(1, 1, 12, 12, dtype=torch.int8)):
        with pytest.raises(MismatchError, match=r"expected int8 \(N, 12, 12, 1\), channels last"):
            network(wrong)
