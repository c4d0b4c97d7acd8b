"""UDC: sizes against Vela's code, gradients against differences, and a run from end to end."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.cli import main
from zoo.cost.deployed import integer
from zoo.cost.ethos_u import encoding
from zoo.cost.ethos_u.encoding import Coding, stream_bytes
from zoo.deploy.vela import compile_file, compile_graph
from zoo.errors import MismatchError
from zoo.nas.methods.udc import Options
from zoo.nas.udc import size, stages
from zoo.nas.udc.levels import best_shares, largest, levels_of, on_levels
from zoo.nas.udc.network import CompressibleNetwork
from zoo.nas.udc.options import BITS, SPARSITIES
from zoo.nas.udc.stages import Stages
from zoo.quantization.int8 import qat

SHAPES = (("depthwise", (24, 9, 1)), ("conv", (32, 1, 40)), ("vector", (16, 1, 128)))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_the_size_is_that_of_the_code(bits: int, share: float) -> None:
    dice, levels = np.random.default_rng(bits), levels_of(bits)
    for unit, shape in SHAPES:
        weight = dice.normal(size=shape)
        step, bound = np.abs(weight).max() * 0.7 / levels, np.quantile(np.abs(weight), share)
        bound = float(bound) if share else 0.0
        steps, magnitude = torch.from_numpy(weight / step), torch.from_numpy(np.abs(weight))
        counts = size.counts(steps, levels, magnitude, bound)
        rounded = np.clip(np.rint(weight / step), -levels, levels) * (np.abs(weight) > bound)
        integers = np.rint(rounded * 127 / levels).astype(int)
        exact = np.bincount(integers.ravel() + 256, minlength=513)
        assert np.abs(counts.numpy() - exact).max() < 1e-9
        with torch.no_grad():  # a way of its own, for tables of sizes
            hard = size.counts(steps, levels, magnitude, bound)
        assert np.array_equal(hard.numpy(), exact)
        coding = Coding(unit, 8)
        layer = size.Layer(1, encoding.padded_count(shape, coding) - integers.size)
        found, code = float(size.encoded_bytes(counts, layer)), stream_bytes(integers, coding)
        assert abs(found - code) <= encoding.ALIGNMENT + 0.03 * code
        assert code * 8 >= size.entropy_bits(exact)  # no code is shorter


def few(ratio: float) -> np.ndarray:
    """Two values and zeros, of which there are so many for each of the more frequent value."""
    ones = int(128 * 128 / (1.3 + ratio))
    values = np.zeros(128 * 128, np.int8)
    values[:ones], values[ones : ones + int(0.3 * ones)] = 127, -127
    return values


def many(share: float) -> np.ndarray:
    """All values alike, and a share of zeros."""
    dice = np.random.default_rng(1)
    values = dice.integers(1, 128, 128 * 128) * dice.choice([-1, 1], 128 * 128)
    values[: int(share * 128 * 128)] = 0
    return values.astype(np.int8)


@pytest.mark.parametrize("values", [few(4.6), few(4.9), few(5.1), few(5.4), many(0.27), many(0.3)])
def test_zeros_are_runs_where_vela_writes_runs(values: np.ndarray) -> None:
    """Below five zeros for each of the next value, or two for five others, each is written."""
    graph = integer(torch.nn.Linear(128, 128).eval(), (1, 128))
    (op,) = (op for op in graph.ops if op.kind == "fully_connected")
    values = np.random.default_rng(0).permutation(values).reshape(128, 128)
    changed = dataclasses.replace(graph, values={**graph.values, op.inputs[1]: values})
    found = compile_graph(changed, "ethos-u55-128").encoded_bytes
    assert stream_bytes(values.astype(np.int64)[:, None], Coding("vector", 8)) == pytest.approx(
        found, rel=0.01
    )
    counts = torch.bincount(torch.from_numpy(values).flatten().long() + size.ZERO, minlength=513)
    expected = size.encoded_bytes(counts.double(), size.layer(changed, op))
    assert float(expected) == pytest.approx(found, rel=0.01)


def test_the_size_pulls_weights_to_what_is_written_in_fewer_bits() -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 1, 64, dtype=torch.float64).requires_grad_()
    step, bound, layer = 0.4, 0.5, size.Layer(1, 0)

    def bytes_of(w: torch.Tensor) -> torch.Tensor:
        return size.encoded_bytes(size.counts(w / step, 7, w.abs(), bound), layer)

    before = bytes_of(weight)
    (slope,) = torch.autograd.grad(before, weight)
    assert (slope != 0).double().mean() > 0.3
    with torch.no_grad():
        after = bytes_of(weight - 0.1 * slope / slope.abs().max())
    assert after < before.detach()


def test_levels_have_the_gradients_of_lsq() -> None:
    weight = torch.tensor([[0.31, -0.9, 5.0, -7.0]], requires_grad=True)
    step = torch.tensor([[0.5]], requires_grad=True)
    out = on_levels(weight, step, 3)
    integers = torch.tensor([[42.0, -85.0, 127.0, -127.0]])  # of levels 1, -2, 3, -3
    assert torch.allclose(out, integers * (0.5 * 3 / 127))
    out.sum().backward()
    assert weight.grad is not None
    assert step.grad is not None
    assert weight.grad.tolist() == [[1, 1, 0, 0]]
    # (1 - 0.62) + (-2 + 1.8), and the last levels, 3 and -3
    assert step.grad.item() == pytest.approx(0.38 - 0.2, abs=1e-6)


def test_steps_are_where_rounding_loses_least() -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 3, 3, 8)
    top = largest(weight, 0)
    for levels in (1, 3, 7):
        share = best_shares(weight, top, levels, 0)
        assert share.shape == top.shape

        def error(part: Any, most: int = levels) -> torch.Tensor:
            step = top * part / most
            return ((weight / step).round().clamp(-most, most) * step - weight).square().sum()

        assert error(share) <= min(error(part) for part in (1.0, 0.7, 0.5, 0.3))
    assert (best_shares(weight, top, 127, 0) == 1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 1.0}, "ratio is 1; expected more than 1"),
        ({"max_flash": "40XB"}, "has the unit 'XB'; flash may be in"),
        ({"max_flash": "-3KB"}, "is no amount of flash"),
        ({"bits": 6}, "bits is 6; expected 2, 3, 4, 5, 8"),
        ({"bits": 4, "sparsity": 0.3}, "sparsity is 0.3; expected 0, 0.25, 0.5"),
        ({"sparsity": 0.5}, "sparsity of all layers goes with their --bits"),
        ({"bits": 4, "max_flash": "4KB"}, "give either --bits or --max-flash"),
        ({"steps": 5}, "steps is 5; expected 40 or more"),
        ({"lr": 0.0}, "lr is 0; expected a positive number"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], message: str) -> None:
    with pytest.raises(MismatchError, match=message):
        Options(**options)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    dice = np.random.default_rng(0)
    for number in range(3):
        pixels = np.kron(dice.integers(0, 255, (8, 8, 3)), np.ones((16, 16, 1)))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return folder


QUICK: dict[str, Any] = {"steps": 40, "batch_size": 2, "method": "udc", "device": "cpu"}


@pytest.fixture(scope="module")
def made(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("udc") / "out"
    zoo.compress("sesr-m3-x2.bsds", out, data=pictures, ratio=2.5, **QUICK)
    return out


def test_the_file_is_as_small_as_was_asked(made: Path, tmp_path: Path) -> None:
    facts = zoo.checkpoint(made).metrics["compression"]
    network = zoo.load(made)
    assert facts["packed_bytes"] <= facts["int8_bytes"] / 2.5
    assert not (made / "run").exists()
    graph = network.graph((1, 1, 32, 32))
    for layer, chosen in facts["layers"].items():
        (name,) = (op.inputs[1] for op in graph.ops if op.module == layer and len(op.inputs) > 2)
        values = graph.values[name]
        assert len(np.unique(values)) <= 2 * levels_of(chosen["bits"]) + 1
        assert np.mean(values == 0) == pytest.approx(chosen["zeros"], abs=1e-3)
    exported = zoo.export(
        made, tmp_path / "x.tflite", format="tflite", int8=True, input_shape=(1, 1, 32, 32)
    )
    own = compile_graph(graph, "ethos-u55-128").encoded_bytes
    assert compile_file(exported.path.read_bytes(), "ethos-u55-128").encoded_bytes == own
    assert own == facts["packed_bytes"]


def test_a_size_that_was_predicted_too_small_is_repaired(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "_MARGIN", 1.1)  # of the budget: what training is content with
    out = tmp_path / "out"
    zoo.compress("sesr-m3-x2.bsds", out, data=pictures, max_flash="1600B", **QUICK)
    facts = zoo.checkpoint(out).metrics["compression"]
    assert facts["encoded_by"].startswith("vela")
    assert 0.9 * 1600 <= facts["packed_bytes"] <= 1600


def test_training_computes_what_is_deployed() -> None:
    torch.manual_seed(0)
    source = zoo.load("sesr-m3-x2.bsds")
    x = torch.rand(2, 1, 16, 16)
    form = qat.training_form(source, [x], "int8", form=CompressibleNetwork)
    assert isinstance(form, CompressibleNetwork)
    form.look(shares=True)
    form.choose([(row % 4, row % 3) for row in range(len(form.layers))])
    form.stage = "refine"
    with torch.no_grad():
        ours, theirs = form(x), form.deployed()(x)
    step = float(form.ranges().detach()[-1].diff()) / 255
    assert (ours - theirs).abs().max() <= 2.01 * step
    assert ((ours - theirs).abs() > step / 2).float().mean() < 0.02
    for row in range(len(form.layers)):
        assert form.zeros(row) >= SPARSITIES[row % 3] - 0.01


def test_a_killed_run_goes_on_to_the_same_result(
    made: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starting, steps = Stages.starting, list[int]()

    def killed(self: Stages, step: int) -> None:
        steps.append(step)
        if len(steps) == 30:  # the search has ended
            raise KeyboardInterrupt
        starting(self, step)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(Stages, "starting", killed)
        with pytest.raises(KeyboardInterrupt):
            zoo.compress("sesr-m3-x2.bsds", out, data=pictures, ratio=2.5, **QUICK)
    with pytest.raises(MismatchError, match="add --resume"):
        zoo.compress("sesr-m3-x2.bsds", out, data=pictures, ratio=2.5, **QUICK)
    with pytest.raises(MismatchError, match="ratio"):
        zoo.compress("sesr-m3-x2.bsds", out, data=pictures, ratio=3.0, resume=True, **QUICK)
    again = zoo.compress("sesr-m3-x2.bsds", out, data=pictures, ratio=2.5, resume=True, **QUICK)
    assert again.config["files"] == zoo.checkpoint(made).config["files"]


def test_what_cannot_be_done_is_refused(
    made: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ["compress", "sesr-m3-x2.bsds", "--method", "udc", "--data", str(pictures)]
    assert main([*typed, "--max-flash", "100B", "--out", str(tmp_path / "a")]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "in plain int8" in said
    assert "at least (--max-flash)" in said
    assert main(["compress", str(made), *typed[2:], "--out", str(tmp_path / "b")]) == 1
    assert "is compressed already, from sesr-m3-x2.bsds" in capsys.readouterr().err
    assert main([*typed[:4], "--out", str(tmp_path / "c")]) == 1
    assert "learns from data: add --data" in capsys.readouterr().err
