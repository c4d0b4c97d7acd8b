"""Tuning codebooks and scales end to end: codes stay, the model gets better, kills cost nothing."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from zoo.errors import MismatchError
from zoo.quantization.core import LayerOptions, QuantizedMatrix, quantize_matrix
from zoo.quantization.language import finetune as tuning
from zoo.quantization.language.finetune import FinetuneOptions, finetune

OPTIONS = FinetuneOptions(steps=30, lr=0.02, warmup=5, dtype="float32")


class Small(nn.Module):
    """An embedding, a residual block with a norm, and logits."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(40, 32)
        self.up = nn.Linear(32, 64)
        self.norm = nn.LayerNorm(64)
        self.down = nn.Linear(64, 32, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.embed(ids)
        hidden = hidden + self.down(torch.relu(self.norm(self.up(hidden))))
        return hidden @ self.embed.weight.T


def run(model: nn.Module, ids: Tensor) -> Tensor:
    return model(ids)


def case(method: str) -> tuple[Small, dict[str, QuantizedMatrix], Tensor]:
    model = Small()
    options = {
        "gptvq": LayerOptions(group_size=512, codebook_bits=8),
        "product": LayerOptions(dim=1, group_size=256, codebook_rank=2),
        "scaled": LayerOptions(group_size=512, scale_block=8, act_order=True),
        "rtn": LayerOptions(method="rtn", bits=2, group_size=32),
    }[method]
    matrices = {
        name: quantize_matrix(model.get_submodule(name).weight, None, options)  # type: ignore[arg-type]
        for name in ("up", "down")
    }
    ids = torch.randint(0, 40, (20, 30), generator=torch.Generator().manual_seed(0))
    return model, matrices, ids


@pytest.mark.parametrize("method", ["gptvq", "product", "scaled", "rtn"])
def test_tuning_moves_parameters_only_and_helps(method: str) -> None:
    model, matrices, ids = case(method)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    tuned = finetune(model, matrices, ids, OPTIONS, forward=run)
    assert tuned.after < 0.7 * tuned.before
    for name, matrix in tuned.matrices.items():
        assert torch.equal(matrix.codes, matrices[name].codes)
        assert matrix.bits == matrices[name].bits
        stored = QuantizedMatrix.from_tensors(matrix.tensors(), matrix.shape, matrix.options)
        assert torch.equal(stored.dequantize(), matrix.dequantize())
    assert set(tuned.tensors) == {"up.bias", "norm.weight", "norm.bias"}
    for name, value in model.state_dict().items():  # the float model is only read
        assert torch.equal(value, weights[name])

    student = Small()  # what is returned is what was measured
    with torch.no_grad():
        for name, matrix in tuned.matrices.items():
            student.get_submodule(name).weight.copy_(matrix.dequantize())  # type: ignore[operator]
        for name, value in tuned.tensors.items():
            student.get_parameter(name).copy_(value)
        held = ids[-2:]
        wanted, found = model(held).log_softmax(-1), student(held).log_softmax(-1)
        divergence = (wanted.exp() * (wanted - found)).sum(-1).mean().item()
    assert divergence == pytest.approx(tuned.after, rel=1e-4)


def test_a_killed_tuning_goes_on_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, matrices, ids = case("gptvq")
    whole = finetune(model, matrices, ids, OPTIONS, forward=run)
    state = tmp_path / "state.safetensors"
    steps = 0

    def dies(model: nn.Module, ids: Tensor) -> Tensor:
        nonlocal steps
        steps += 1
        if steps > 2 * (OPTIONS.held_out + 27):  # both models, before the 28th step
            raise KeyboardInterrupt
        return run(model, ids)

    with pytest.raises(KeyboardInterrupt):
        finetune(model, matrices, ids, OPTIONS, state=state, forward=dies)
    assert state.is_file()
    again = finetune(model, matrices, ids, OPTIONS, state=state, forward=run)
    assert again.after == whole.after
    for name, matrix in again.matrices.items():
        for key, value in matrix.tensors().items():
            assert torch.equal(value, whole.matrices[name].tensors()[key])
    other = dataclasses.replace(OPTIONS, lr=0.01)
    with pytest.raises(MismatchError, match="other options"):
        finetune(model, matrices, ids, other, state=state, forward=run)


def test_tuning_that_does_not_help_changes_nothing() -> None:
    model, matrices, ids = case("gptvq")
    wild = dataclasses.replace(OPTIONS, lr=30.0, steps=5)
    tuned = finetune(model, matrices, ids, wild, forward=run)
    assert tuned.after == tuned.before
    assert tuned.tensors == {}
    assert tuned.matrices == matrices


def test_the_written_down_gradient_is_that_of_the_divergence() -> None:
    generator = torch.Generator().manual_seed(0)
    wanted = torch.randn(2, 200, 50, generator=generator)
    found = torch.randn(2, 200, 50, generator=generator, requires_grad=True)
    theirs, ours = wanted.log_softmax(-1), found.log_softmax(-1)
    loss = (theirs.exp() * (theirs - ours)).sum(-1).mean() / 3
    (expected,) = torch.autograd.grad(loss, found)
    assert tuning._pull(found, wanted, 3) == pytest.approx(loss.item(), rel=1e-5)
    assert found.grad is not None
    torch.testing.assert_close(found.grad, expected)


def test_bad_input_is_refused() -> None:
    model, matrices, ids = case("gptvq")
    with pytest.raises(MismatchError, match="give more text"):
        finetune(model, matrices, ids[:2], OPTIONS, forward=run)
    with pytest.raises(MismatchError, match="another base model"):
        finetune(model, {"side": matrices["up"]}, ids, OPTIONS, forward=run)
    with pytest.raises(MismatchError, match="steps"):
        FinetuneOptions(steps=0)
    with pytest.raises(MismatchError, match="dtype"):
        FinetuneOptions(dtype="int8")
