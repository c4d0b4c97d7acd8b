"""LSTM, SVDF and variables in files: our executor and the runtimes, over several calls."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.runtimes import Run, litert_calls, tflite_micro_calls
from tests.tflite_files import File
from zoo.deploy.tflite_read import parse_tflite
from zoo.errors import MismatchError, UnsafeFileError
from zoo.runtime.integer import IntegerNetwork

CALLS = 6


def called(run: Run, inputs: list[torch.Tensor]) -> list[NDArray[Any]]:
    return [run(x)[0] for x in inputs]


def ours(content: bytes, inputs: list[torch.Tensor]) -> list[NDArray[Any]]:
    network = IntegerNetwork(parse_tflite(content))
    return [network(x).numpy() for x in inputs]


def integers(shape: tuple[int, ...], dtype: str = "int8") -> list[torch.Tensor]:
    random, limits = np.random.default_rng(1), np.iinfo(dtype)
    made = random.integers(limits.min, limits.max + 1, (CALLS, *shape)).astype(dtype)
    return list(torch.from_numpy(made))


def lstm(seed: int, *, clip: float = 10.0, time_major: bool = False, **more: Any) -> bytes:
    """An integer LSTM of 3 steps, 7 inputs and 5 units, in one sample."""
    random, file = np.random.default_rng(seed), File()
    main = file.main
    source, width, steps = 7, 5, 3
    shape = (steps, 1) if time_major else (1, steps)
    output = (float(random.uniform(0.006, 0.008)), int(random.integers(-9, 9)))
    main.inputs = [main.tensor("x", (*shape, source), "int8", 0.02, int(random.integers(-20, 20)))]

    def weights(name: str, columns: int) -> list[str]:
        values = random.integers(-127, 128, (4, width, columns)).astype(np.int8)
        scales = random.uniform(0.003, 0.02, 4)
        return [main.constant(f"{name}{i}", values[i], float(scales[i])) for i in range(4)]

    inner, outer = weights("w", source), weights("r", width)
    biases = [
        main.constant(f"b{i}", random.integers(-2000, 2000, width).astype(np.int32), 1e-4)
        for i in range(4)
    ]
    states = [
        main.tensor("h", (1, width), "int8", *output, is_variable=True),
        main.tensor("c", (1, width), "int16", more.pop("cell", 2.0**-11), is_variable=True),
    ]
    main.outputs = [main.tensor("y", (*shape, width), "int8", *output)]
    between = [main.tensor(f"i{i}", (0,)) for i in range(4)]
    between.append(main.tensor("i4", (0,), "int8", *output))
    inputs = ["x", *inner, *outer, *more.pop("peepholes", ("",) * 3), *biases, "", "", *states]
    main.op(
        "UNIDIRECTIONAL_SEQUENCE_LSTM",
        [*inputs, *("",) * 4],
        ["y"],
        options={"activation": 4, "cell_clip": clip, "time_major": time_major, **more},
        intermediates=between,
    )
    return file.bytes()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("options", [{}, {"time_major": True}, {"clip": 0.5}, {"clip": 0.0}])
def test_lstm_is_tflite_micros_and_a_step_from_litert(seed: int, options: dict[str, Any]) -> None:
    content = lstm(seed, **options)
    inputs = integers((3, 1, 7) if "time_major" in options else (1, 3, 7))
    given = ours(content, inputs)
    assert len(np.unique(given)) > 20
    for runtime, most in ((tflite_micro_calls, 0), (litert_calls, 1)):
        wanted = called(runtime(content), inputs)
        difference = np.abs(np.array(given).astype(int) - np.array(wanted).astype(int))
        assert difference.max() <= most
        assert difference.mean() <= 0.1 * most


@pytest.mark.parametrize("seed", range(2))
def test_lstm_on_floats(seed: int) -> None:
    random, file = np.random.default_rng(seed), File()
    main = file.main

    def parameter(name: str, *shape: int) -> str:
        return main.constant(name, random.normal(0, 0.5, shape).astype(np.float32))

    inner, outer, bias = (
        [parameter(f"{name}{i}", *shape) for i in range(4)]
        for name, shape in (("w", (5, 7)), ("r", (5, 5)), ("b", (5,)))
    )
    states = [main.tensor(name, (1, 5), is_variable=True) for name in "hc"]
    main.inputs = [main.tensor("x", (1, 3, 7))]
    main.outputs = [main.tensor("y", (1, 3, 5))]
    inputs = ["x", *inner, *outer, *("",) * 3, *bias, "", "", *states, *("",) * 4]
    options = {"activation": 4, "cell_clip": 0.4}
    main.op("UNIDIRECTIONAL_SEQUENCE_LSTM", inputs, ["y"], options=options)
    content = file.bytes()
    given = [torch.from_numpy(random.normal(0, 1, (1, 3, 7)).astype(np.float32)) for _ in range(5)]
    made = ours(content, given)
    for runtime in (tflite_micro_calls, litert_calls):
        np.testing.assert_allclose(made, called(runtime(content), given), atol=2e-6)


def svdf(seed: int, state: str, *, rank: int = 1, bias: bool = True) -> bytes:
    random, file = np.random.default_rng(seed), File()
    main = file.main
    source, filters, memory = 9, 6, 4
    zero = -7 if state == "int8" else 0
    main.inputs = [main.tensor("x", (1, source), "int8", 0.03, 5)]
    feature = random.integers(-127, 128, (filters, source)).astype(np.int8)
    time = random.integers(-127, 128, (filters, memory)).astype(state)
    operands = ["x", main.constant("f", feature, 0.01), main.constant("t", time, 0.02), ""]
    if bias:
        offsets = random.integers(-3000, 3000, filters // rank).astype(np.int32)
        operands[3] = main.constant("b", offsets, 0.3 * 0.02)
    operands.append(main.tensor("s", (1, filters * memory), state, 0.3, zero, is_variable=True))
    main.outputs = [main.tensor("y", (1, filters // rank), "int8", 2.0, 3)]
    main.op("SVDF", operands, ["y"], version=3, options={"rank": rank, "activation": 1})
    return file.bytes()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("state", "rank", "bias"),
    [("int8", 1, True), ("int8", 2, True), ("int16", 1, True), ("int16", 2, False)],
)
def test_svdf(seed: int, state: str, rank: int, bias: bool) -> None:
    content, inputs = svdf(seed, state, rank=rank, bias=bias), integers((1, 9))
    made = ours(content, inputs)
    assert len(np.unique(made)) > 10
    if bias:  # TFLite Micro reads it without asking
        np.testing.assert_array_equal(made, called(tflite_micro_calls(content), inputs))
    if state == "int16":  # LiteRT takes int8 states for int16 ones, and reads beyond them
        np.testing.assert_array_equal(made, called(litert_calls(content), inputs))


def streamed(*, start: bool = True, handles: int = 2) -> File:
    """Sums of this call's and the last call's input, the last one's from a variable."""
    file = File()
    main = file.main
    main.inputs = [main.tensor("x", (1, 2, 3), "int8", 0.1, 4)]
    main.tensor("handle", (), "resource")
    main.tensor("again", (), "resource")
    main.tensor("before", (1, 2, 3), "int8", 0.1, 4)
    main.outputs = [main.tensor("y", (1, 2, 3), "int8", 0.2, 4)]
    name = {"container": "", "shared_name": "last"}
    if start:
        once = file.subgraph()
        once.tensor("handle", (), "resource")
        once.constant("first", np.arange(6, dtype=np.int8).reshape(1, 2, 3), 0.1, 4)
        once.op("VAR_HANDLE", [], ["handle"], options=name)
        once.op("ASSIGN_VARIABLE", ["handle", "first"], [])
        main.op("CALL_ONCE", [], [], options={"init_subgraph_index": 1})
    main.op("VAR_HANDLE", [], ["handle"], options=name)
    main.op("READ_VARIABLE", ["handle"], ["before"])
    if handles == 2:
        main.op("VAR_HANDLE", [], ["again"], options=name)
    main.op("ASSIGN_VARIABLE", ["again" if handles == 2 else "handle", "x"], [])
    main.op("ADD", ["x", "before"], ["y"], version=2)
    return file


@pytest.mark.parametrize("start", [True, False])
@pytest.mark.parametrize("handles", [1, 2])
def test_variables_last_from_call_to_call(start: bool, handles: int) -> None:
    content, inputs = streamed(start=start, handles=handles).bytes(), integers((1, 2, 3))
    made = ours(content, inputs)
    np.testing.assert_array_equal(made, called(tflite_micro_calls(content), inputs))
    if start:  # LiteRT does not read what nothing has written
        np.testing.assert_array_equal(made, called(litert_calls(content), inputs))
    network = IntegerNetwork(parse_tflite(content))
    once = [network(x) for x in inputs]
    network.reset()
    assert all(torch.equal(a, network(x)) for a, x in zip(once, inputs, strict=True))
    assert [state.name for state in network.graph.states] == ["before"]
    assert {op.kind for op in network.graph.ops} == {"add"}


def test_a_variable_that_is_read_after_it_was_written() -> None:
    file = streamed()
    main = file.main
    main.tensor("after", (1, 2, 3), "int8", 0.1, 4)
    main.outputs.append(main.tensor("z", (1, 2, 3), "int8", 0.2, 4))
    main.op("READ_VARIABLE", ["handle"], ["after"])
    main.op("ADD", ["x", "after"], ["z"], version=2)
    content, inputs = file.bytes(), integers((1, 2, 3))
    network, run = IntegerNetwork(parse_tflite(content)), litert_calls(content)
    for x in inputs:
        for mine, theirs in zip(network(x), run(x), strict=True):
            np.testing.assert_array_equal(mine.numpy(), theirs)


def test_a_state_that_a_call_sets_to_a_constant_or_leaves() -> None:
    for change in (True, False):
        file = streamed()
        main = file.main
        main.operators.pop(-2)
        if change:
            main.constant("same", np.full((1, 2, 3), 9, np.int8), 0.1, 4)
            main.op("ASSIGN_VARIABLE", ["handle", "same"], [])
        content, inputs = file.bytes(), integers((1, 2, 3))
        wanted = called(litert_calls(content), inputs)
        np.testing.assert_array_equal(ours(content, inputs), wanted)


def test_what_is_wrong_with_a_state_is_said() -> None:
    with pytest.raises(MismatchError, match=r"LSTM at y has peepholes, which is not supported"):
        parse_tflite(lstm(0, peepholes=("b0", "b1", "b2")))
    with pytest.raises(MismatchError, match=r"scale 0\.003; expected a power of two"):
        IntegerNetwork(parse_tflite(lstm(0, cell=0.003)))
    with pytest.raises(MismatchError, match="is not a plain LSTM with tanh"):
        parse_tflite(lstm(0, activation=1))
    file = streamed()
    file.main.operators[0]["builtin_options"] = {"init_subgraph_index": 0}
    with pytest.raises(UnsafeFileError, match="operator 0, CALL_ONCE, calls subgraph 0"):
        parse_tflite(file.bytes())
    file = streamed()
    file.main.operators.pop(1)
    with pytest.raises(UnsafeFileError, match="'handle', which is not a variable's handle"):
        parse_tflite(file.bytes())
    file = streamed()
    shape = file.subgraphs[1].tensors[1]
    shape["shape"] = np.array([1, 6], np.int32)
    with pytest.raises(MismatchError, match=r"is int8 \(1, 2, 3\), and starts as int8 \(1, 6\)"):
        parse_tflite(file.bytes())
    file = streamed()
    file.main.tensors[0]["shape"] = np.array([1, 1, 3], np.int32)
    with pytest.raises(MismatchError, match=r"the state 'before' is int8 \(1, 2, 3\), and 'x'"):
        parse_tflite(file.bytes())
