"""Files with slices, cuts, stacks and places of extremes, against LiteRT's reference kernels."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.parity.test_tflite_types import equal, reals
from tests.tflite_files import File, one
from zoo.deploy.tflite_read import parse_tflite
from zoo.errors import MismatchError, UnsafeFileError
from zoo.runtime.integer import IntegerNetwork

MEANING = ("int8", 0.1, -4)


@pytest.mark.parametrize("meaning", [MEANING, ("uint8", 0.1, 4), ("int16", 0.1, 0), ("int32",)])
def test_stacks_are_made_and_taken_apart(meaning: Any) -> None:
    random, kind = np.random.default_rng(0), meaning[0]
    version = {"int8": 2, "int16": 3}.get(kind, 1)
    parts = [torch.from_numpy(random.integers(0, 99, (2, 3)).astype(kind)) for _ in range(3)]
    for axis, shape in ((0, (3, 2, 3)), (1, (2, 3, 3)), (-1, (2, 3, 3))):
        options = {"values_count": 3, "axis": axis}
        content = one(
            "PACK", [((2, 3), *meaning)] * 3, [(shape, *meaning)], version=version, options=options
        )
        (made,) = equal(content, *parts)
        content = one(
            "UNPACK",
            [(shape, *meaning)],
            [((2, 3), *meaning)] * 3,
            version=version,
            options={"num": 3, "axis": axis},
        )
        apart = equal(content, torch.from_numpy(made))
        np.testing.assert_array_equal(np.stack(apart), np.stack([x.numpy() for x in parts]))


@pytest.mark.parametrize("name", ["ARG_MAX", "ARG_MIN"])
@pytest.mark.parametrize("meaning", [MEANING, ("uint8", 0.1, 4), ("float32",)])
@pytest.mark.parametrize("made", ["int32", "int64"])
def test_the_first_of_the_greatest(name: str, meaning: Any, made: str) -> None:
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 4, (1, 5, 6)).astype(meaning[0]))
    version = 2 if meaning[0] == "int8" else 1
    for axis, shape in ((1, (1, 6)), (-1, (1, 5))):
        options = {"output_type": {"int32": 2, "int64": 4}[made]}
        content = one(
            name,
            [((1, 5, 6), *meaning)],
            [(shape, made)],
            [np.array(axis, np.int32)],
            version=version,
            options=options,
        )
        equal(content, x)


def test_shapes_are_constants() -> None:
    """As converters write a flattening of a batch of any size."""
    file = File()
    main = file.main
    main.inputs = [main.tensor("x", (1, 2, 3), shape_signature=np.array([-1, 2, 3], np.int32))]
    main.constant("rest", np.array(6, np.int32))
    for name, shape in (("sizes", (3,)), ("a", ()), ("b", ()), ("c", ()), ("wanted", (2,))):
        main.tensor(name, shape, "int32")
    main.outputs = [main.tensor("y", (1, 6))]
    main.op("SHAPE", ["x"], ["sizes"], options={"out_type": 2})
    main.op("UNPACK", ["sizes"], ["a", "b", "c"], options={"num": 3, "axis": 0})
    main.op("PACK", ["a", "rest"], ["wanted"], options={"values_count": 2, "axis": 0})
    main.op("RESHAPE", ["x", "wanted"], ["y"])
    content = file.bytes()
    assert [op.kind for op in parse_tflite(content).ops] == ["reshape"]
    equal(content, reals(0, 1, 2, 3))


SLICES: list[tuple[list[int], list[int], list[int], dict[str, int], tuple[int, ...]]] = [
    ([0, 1, 0], [1, 4, 6], [1, 1, 1], {}, (1, 3, 6)),
    ([0, 1, 0], [1, -1, 6], [1, 2, 4], {}, (1, 2, 2)),
    ([0, 9, 0], [9, 9, 9], [1, 1, 3], {"begin_mask": 2, "end_mask": 5}, (1, 5, 2)),
    ([0, -1, 5], [1, 0, -9], [1, -1, -2], {}, (1, 4, 3)),
    ([0, -1, 5], [1, 0, 0], [1, -2, -1], {"end_mask": 6}, (1, 3, 6)),
    ([0, 2, 1], [1, 3, 5], [1, 1, 1], {"shrink_axis_mask": 2}, (1, 4)),
    ([0, -1, 1], [1, 0, 5], [1, 1, 1], {"shrink_axis_mask": 3}, (4,)),
]


@pytest.mark.parametrize("case", SLICES)
@pytest.mark.parametrize("meaning", [MEANING, ("uint8", 0.1, 4), ("float32",), ("int32",)])
def test_strided_slices(case: Any, meaning: Any) -> None:
    *ends, options, made = case
    x = torch.from_numpy(np.arange(30).reshape(1, 5, 6).astype(meaning[0]))
    constants = [np.array(part, np.int32) for part in ends]
    inputs, outputs = [((1, 5, 6), *meaning)], [(made, *meaning)]
    version = 2 if meaning[0] == "int8" else 1
    content = one("STRIDED_SLICE", inputs, outputs, constants, version=version, options=options)
    equal(content, x)


def test_slices_by_their_sizes() -> None:
    x = torch.from_numpy(np.arange(30).reshape(1, 5, 6).astype(np.int8))
    constants = [np.array([0, 1, 2], np.int32), np.array([1, 3, -1], np.int32)]
    content = one("SLICE", [((1, 5, 6), *MEANING)], [((1, 3, 4), *MEANING)], constants, version=2)
    equal(content, x)


def test_slices_that_lie_outside_or_are_not_supported_say_so() -> None:
    def sliced(*ends: list[int], **options: int) -> bytes:
        constants = [np.array(part, np.int32) for part in ends]
        return one("STRIDED_SLICE", [((1, 5),)], [((1, 2),)], constants, options=options)

    with pytest.raises(UnsafeFileError, match="STRIDED_SLICE at y0 has an impossible slice"):
        parse_tflite(sliced([0, 0], [1, 2], [1, 0]))
    with pytest.raises(MismatchError, match=r"slice range\(3, 2\) is empty or outside of 5"):
        parse_tflite(sliced([0, 3], [1, 2], [1, 1]))
    with pytest.raises(MismatchError, match="has an ellipsis or a new axis"):
        parse_tflite(sliced([0, 0], [1, 2], [1, 1], new_axis_mask=1))
    with pytest.raises(MismatchError, match=r"range\(7, 8\) is empty or outside of 5"):
        parse_tflite(sliced([0, 7], [1, 8], [1, 1], shrink_axis_mask=2))


@pytest.mark.parametrize("meaning", [MEANING, ("uint8", 0.1, 4), ("int16", 0.1, 0), ("float32",)])
def test_splits(meaning: Any) -> None:
    x = torch.from_numpy(np.arange(30).reshape(1, 5, 6).astype(meaning[0]))
    options, version = {"num_splits": 3}, {"int8": 2, "int16": 4}.get(meaning[0], 1)
    file = File()
    main = file.main
    main.constant("axis", np.array(-1, np.int32))
    main.inputs = [main.tensor("x", (1, 5, 6), *meaning)]
    main.outputs = [main.tensor(f"y{i}", (1, 5, 2), *meaning) for i in range(3)]
    main.op("SPLIT", ["axis", "x"], main.outputs, version=version, options=options)
    equal(file.bytes(), x)
    sizes, axis = np.array([1, -1, 2], np.int32), np.array(1, np.int32)
    outputs = [((1, size, 6), *meaning) for size in (1, 2, 2)]
    version = 2 if meaning[0] in ("int8", "int16") else 1
    content = one(
        "SPLIT_V", [((1, 5, 6), *meaning)], outputs, [sizes, axis], version=version, options=options
    )
    equal(content, x)


def test_several_outputs_that_do_not_fit_are_refused() -> None:
    content = one("UNPACK", [((1, 3), *MEANING)], [((1,), *MEANING)] * 2, options={"axis": 1})
    with pytest.raises(UnsafeFileError, match=r"unpack at y0 has 2 outputs; expected 3"):
        parse_tflite(content)
    content = one("ADD", [((1, 3),)] * 2, [((1, 3),)] * 2)
    with pytest.raises(UnsafeFileError, match=r"add at y0 has 2 outputs; expected 1"):
        parse_tflite(content)


@pytest.mark.parametrize(
    "name", ["NEG", "EXP", "LOG", "SQRT", "RSQRT", "SQUARE", "FLOOR", "LOGISTIC", "TANH"]
)
def test_functions_of_reals(name: str) -> None:
    x = reals(0, 2, 5, 6).abs() + 0.1
    equal(one(name, [((2, 5, 6),)], [((2, 5, 6),)]), x, atol=2e-6)


def test_squared_differences() -> None:
    content = one("SQUARED_DIFFERENCE", [((1, 5, 6),), ((1, 1, 6),)], [((1, 5, 6),)])
    equal(content, reals(0, 1, 5, 6), reals(1, 1, 1, 6), atol=1e-6)


@pytest.mark.parametrize("name", ["SUM", "REDUCE_MAX", "REDUCE_MIN", "MEAN"])
@pytest.mark.parametrize("keep", [False, True])
def test_reductions_of_reals(name: str, keep: bool) -> None:
    for axes, shape in (([1], (1, 6)), ([-1, 1], (1,)), ([0], (5, 6))):
        whole = {(1, 6): (1, 1, 6), (1,): (1, 1, 1), (5, 6): (1, 5, 6)}[shape]
        made = [(whole if keep else shape,)]
        options = {"keep_dims": keep}
        axis = np.array(axes, np.int32)
        equal(
            one(name, [((1, 5, 6),)], made, [axis], options=options), reals(0, 1, 5, 6), atol=1e-5
        )


@pytest.mark.parametrize("meaning", [MEANING, ("float32",), ("int32",)])
def test_repetitions(meaning: Any) -> None:
    x = torch.from_numpy(np.arange(6).reshape(1, 2, 3).astype(meaning[0]))
    times = np.array([1, 3, 2], np.int32)
    equal(one("TILE", [((1, 2, 3), *meaning)], [((1, 6, 6), *meaning)], [times]), x)


def test_functions_of_integers_are_refused_by_name() -> None:
    content = one("EXP", [((1, 5), *MEANING)], [((1, 5), *MEANING)])
    with pytest.raises(
        MismatchError, match=r"exp at y0 has no integer kernel \(so far only floats"
    ):
        IntegerNetwork(parse_tflite(content))


def test_batches_are_cut_and_stacked_by_sample() -> None:
    x = reals(0, 3, 5, 6)
    for content in (
        one(
            "STRIDED_SLICE",
            [((1, 5, 6),)],
            [((1, 2, 6),)],
            [np.array(part, np.int32) for part in ([0, 1, 0], [1, 4, 6], [1, 2, 1])],
        ),
        one("UNPACK", [((1, 5, 6),)], [((1, 6),)] * 5, options={"num": 5, "axis": 1}),
        one("ARG_MAX", [((1, 5, 6),)], [((1, 6), "int32")], [np.array(1, np.int32)],
            options={"output_type": 2}),
        one("TILE", [((1, 5, 6),)], [((1, 5, 12),)], [np.array([1, 1, 2], np.int32)]),
    ):  # fmt: skip
        network = IntegerNetwork(parse_tflite(content))
        assert network.batched
        together = network(x)
        alone = [network(sample[None]) for sample in x]
        if not isinstance(together, tuple):
            together, alone = (together,), [(y,) for y in alone]
        for place, part in enumerate(together):
            assert torch.equal(part, torch.cat([y[place] for y in alone]))
