"""A new grid is a file, also another package's: here MXFP4 in its simplest form."""

import importlib.metadata
from collections.abc import Iterator, Mapping
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from zoo import extensions
from zoo.deploy.onnx_language import Gathered
from zoo.errors import MismatchError, UnsafeFileError
from zoo.quantization.core import LayerOptions, QuantizedMatrix, quantize_matrix, stored_bits
from zoo.quantization.grids.contract import Grid, Layout, Parameters
from zoo.quantization.packed import PackedLinear

# E2M1: sign, 2 bits of exponent, 1 of mantissa; blocks of 32 share a power of two (E8M0).
POSITIVE = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
VALUES = torch.cat([POSITIVE, -POSITIVE])
BLOCK, BIAS = 32, 127


class Mx(Grid):
    def fit(self, values: Tensor, importance: Tensor) -> Parameters:
        largest = values.abs().amax(1).clamp(min=2.0**-100)
        return {"power": torch.floor(torch.log2(largest)) - 2}  # 6 = 1.5 * 2^2 is the top

    def encode(self, group: Parameters, values: Tensor, metric: Tensor, offset: int = 0) -> Tensor:
        steps = values / torch.exp2(group["power"]).unsqueeze(1)
        return (steps.unsqueeze(2) - VALUES).abs().argmin(2)

    def decode_group(self, group: Parameters, codes: Tensor, offset: int = 0) -> Tensor:
        return VALUES[codes] * torch.exp2(group["power"]).unsqueeze(1)

    def adjoint(self, parameters: Parameters, codes: Tensor, gradient: Tensor) -> Parameters:
        return {}

    def layout(self) -> Layout:
        return {"power": ((len(self.groups), self.rows), torch.uint8)}

    def store(self, parameters: Parameters) -> dict[str, Tensor]:
        return {"power": (parameters["power"] + BIAS).to(torch.uint8)}

    def restore(self, tensors: Mapping[str, Tensor]) -> Parameters:
        return {"power": self.take(tensors, "power").to(torch.float32) - BIAS}

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        if not tensors["power"].any():
            raise UnsafeFileError("all powers are zero")


GRID = SimpleNamespace(make=lambda options, rows, columns: Mx(rows, columns, 1, 4, BLOCK))
METHOD = SimpleNamespace(GRID="mx", SOLVER="rtn")


@pytest.fixture(params=["rtn", "gptq"])
def options(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LayerOptions]:
    offered = {"zoo.quantization.grids": "GRID", "zoo.quantization.methods": "METHOD"}
    usual = importlib.metadata.entry_points

    def entry_points(*, group: str) -> list[importlib.metadata.EntryPoint]:
        ours = [("mx", f"{__name__}:{offered[group]}", group)] if group in offered else []
        return [*usual(group=group), *(importlib.metadata.EntryPoint(*entry) for entry in ours)]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    monkeypatch.setattr(METHOD, "SOLVER", request.param)
    extensions.members.cache_clear()
    yield LayerOptions(method="mx", bits=4)
    extensions.members.cache_clear()


def test_it_goes_all_the_way(options: LayerOptions) -> None:
    dice = torch.Generator().manual_seed(0)
    weight, x, mix = (torch.randn(n, 80, generator=dice) for n in (24, 200, 80))
    x = x @ mix  # correlated inputs: what error feedback lives on
    matrix = quantize_matrix(weight, 2 / len(x) * x.T @ x, options)
    stored = matrix.tensors()
    assert stored["power"].shape == (3, 24)  # the last group is ragged
    assert stored_bits((24, 80), options) == 8 * (24 * 40 + 3 * 24)
    assert sum(t.numel() * t.element_size() for t in stored.values()) * 8 == matrix.bits
    again = QuantizedMatrix.from_tensors(stored, (24, 80), options)
    assert torch.equal(again.dequantize(), matrix.dequantize())
    layer = PackedLinear.of(matrix)
    layer.check()
    assert torch.equal(layer(x), F.linear(x, matrix.dequantize()))
    nearest = quantize_matrix(weight, None, options).dequantize()
    ours, plain = (F.mse_loss(x @ q.T, x @ weight.T) for q in (matrix.dequantize(), nearest))
    assert (ours < 0.8 * plain) if options.solver == "gptq" else (ours == plain)


def test_what_it_cannot_is_said(options: LayerOptions) -> None:
    layer = PackedLinear(80, 24, options)
    with pytest.raises(UnsafeFileError, match="all powers are zero"):
        layer.check()
    with pytest.raises(MismatchError, match="Mx weights have no form in ONNX"):
        Gathered(layer)
    with pytest.raises(UnsafeFileError, match="power is"):
        QuantizedMatrix.from_tensors(
            {"codes": layer.codes, "power": torch.zeros(2, 24)}, (24, 80), options
        )
