"""Recurrent keyword spotters: counts, streams, and the step that a device runs."""

import dataclasses
import tomllib
from pathlib import Path

import pytest
import torch

import zoo
from zoo.errors import MismatchError
from zoo.models.rnn import KeywordLstm
from zoo.registry.checkpoint import build

GOLDEN = tomllib.loads(
    (Path(__file__).parents[1] / "golden" / "compression.toml").read_text(encoding="utf-8")
)
NAMES = ("kws-lstm", "kws-lstm-kp", "kws-lstm-hkp", "kws-lstm-hmf")


def made(name: str) -> KeywordLstm:
    torch.manual_seed(0)
    network = build(zoo.find(name))
    assert isinstance(network, KeywordLstm)
    return network


@pytest.mark.parametrize("name", NAMES)
def test_numbers(name: str) -> None:
    numbers = sum(tensor.numel() for tensor in made(name).state_dict().values())
    assert numbers == GOLDEN[name]["numbers"]


@pytest.mark.parametrize("name", NAMES)
def test_a_stream_is_the_whole_clip(name: str) -> None:
    network, frames = made(name), 8 * torch.randn(2, 13, 10)
    logits, _ = network.push(frames)
    first, state = network.push(frames[:, :5])
    rest, after = network.push(frames[:, 5:], state)
    torch.testing.assert_close(torch.cat([first, rest], 1), logits)
    with torch.no_grad():
        torch.testing.assert_close(network(frames[:, None]), logits[:, -1])
        training = network.train()(frames[:, None])  # by one call of torch
        torch.testing.assert_close(training, logits[:, -1], atol=1e-5, rtol=1e-5)
        step = network.eval().stepping()
        hidden = cell = torch.zeros(2, zoo.find(name).args["hidden"])
        for number in range(13):
            now, hidden, cell = step(frames[:, number], hidden, cell)
            torch.testing.assert_close(now, logits[:, number])
        torch.testing.assert_close((hidden, cell), after)


@pytest.mark.parametrize("name", ["kws-lstm-kp", "kws-lstm-hmf"])
@pytest.mark.parametrize("format", ["tflite", "onnx"])
def test_its_step_is_exported(name: str, format: str, tmp_path: Path) -> None:
    """Both files are compared with the module before they are written."""
    hidden = zoo.find(name).args["hidden"]
    shapes = {"frame": (1, 10), "hidden": (1, hidden), "cell": (1, hidden)}
    file = zoo.export(
        made(name).stepping(), tmp_path / f"step.{format}", format=format, input_shape=shapes
    )
    assert file.max_abs_error < 1e-5
    assert file.path.stat().st_size < 80_000  # 23 and 43 KB of numbers


def test_the_forget_gates_begin_open_and_a_spread_is_one_number_for_each_coefficient() -> None:
    bias = made("kws-lstm-kp").lstm.of_inputs.bias
    assert bias is not None
    assert bias[120:240].tolist() == [1.0] * 120
    recipe = zoo.find("kws-lstm")
    for spread in ([1.0] * 9, [0.0] * 10):
        with pytest.raises(MismatchError, match="expected 10 numbers above 0"):
            build(dataclasses.replace(recipe, args={**recipe.args, "spread": spread}))
    with pytest.raises(MismatchError, match="was given no step"):
        made("kws-lstm").push(torch.zeros(1, 0, 10))
