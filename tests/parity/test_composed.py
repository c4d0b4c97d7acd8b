"""What is made of several operators is what torch computes, in floats and in both runtimes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.parity.test_networks import having, ours
from tests.parity.test_tflite_reference import rounded_once
from tests.runtimes import TFLITE
from zoo.deploy.fidelity import of_samples, weakest
from zoo.deploy.onnx_qdq import export_qdq
from zoo.deploy.tflite import export_tflite
from zoo.deploy.tflite_write import serialize_tflite
from zoo.graph.ir import Graph
from zoo.graph.lower import lower
from zoo.graph.rewrite import without_clamps
from zoo.quantization.int8.calibration import Options
from zoo.quantization.int8.post_training import prepared, quantize
from zoo.runtime.kernels import INTEGER
from zoo.runtime.values import channels_last, computed, quantized

ROWS, PICTURE = (1, 6, 16), (1, 3, 9, 11)
Body = Callable[["Composed", Tensor], Tensor | tuple[Tensor, ...]]


class Composed(nn.Module):
    """A function of an input, a layer and parameters of several shapes."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.body = body
        self.rows, self.thin = nn.Linear(16, 16), nn.Linear(16, 5)
        self.pixels = nn.Conv2d(3, 8, 3, padding=1)
        self.square = nn.Parameter(torch.randn(16, 16) * 0.3)
        self.window = nn.Parameter(torch.randn(6, 6, 3) * 0.3)
        self.tall = nn.Parameter(torch.randn(7, 9) * 0.3)
        self.many = nn.Parameter(torch.randn(8, 11, 5) * 0.3)
        self.vector = nn.Parameter(torch.randn(16) * 0.3)
        self.sheets = nn.Parameter(torch.randn(1, 5, 4, 3) * 0.3)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.body(self, x)


def heads(x: Tensor, count: int) -> Tensor:
    return x.view(len(x), 6, count, -1).transpose(1, 2)


def scores(s: Composed, x: Tensor) -> Tensor:
    return s.rows(x) @ x.transpose(1, 2) / 4


LATER = torch.ones(6, 6).triu(1)
ON_ROWS: dict[str, Body] = {
    "normalize": lambda s, x: F.normalize(s.rows(x), dim=-1),
    "cosine": lambda s, x: F.linear(F.normalize(x.mean(1)), F.normalize(s.square)),
    "deviation": lambda s, x: (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True),
    "variances": lambda s, x: torch.cat([x.var(2), x.std(2, unbiased=False), x.sum(2)], 1),
    "root": lambda s, x: torch.sqrt(F.relu(s.rows(x)) + 0.01),
    "cubes": lambda s, x: s.rows(x).pow(3) * 0.1 + x,
    "absolute": lambda s, x: s.rows(x).abs(),
    "larger": lambda s, x: torch.maximum(s.rows(x), x),
    "added-product": lambda s, x: torch.addcmul(x, s.rows(x), x, value=0.5),
    "mixed": lambda s, x: torch.lerp(x, s.rows(x), 0.25),
    "matrix-sum": lambda s, x: torch.baddbmm(x, x @ x.transpose(1, 2), x, alpha=0.5),
    "layer-sum": lambda s, x: torch.addmm(s.vector, x.mean(1), s.square),
    "selu": lambda s, x: F.selu(s.rows(x)),
    "elu": lambda s, x: F.elu(s.rows(x), 0.5),
    "gated": lambda s, x: F.glu(s.rows(x), dim=-1),
    "matrix-before": lambda s, x: s.tall[:6, :6] @ x,
    "both-sides": lambda s, x: s.square @ (x @ s.square).transpose(1, 2),
    "vector": lambda s, x: (torch.tanh(s.rows(x)) @ s.vector).unsqueeze(-1) * x,
    "pooled": lambda s, x: (s.rows(x).softmax(1).transpose(1, 2) @ x).mean(2),
    "outer": lambda s, x: torch.einsum("bi,bj->bij", x.mean(1), s.thin(x.mean(1))),
    "einsum": lambda s, x: torch.einsum("b n d, b m d -> b m n", x, s.rows(x)),
    "five": lambda s, x: torch.matmul(s.sheets, x.reshape(-1, 2, 1, 3, 16)),
    "grouped-queries": lambda s, x: F.scaled_dot_product_attention(
        heads(x, 4), heads(s.rows(x)[..., :8], 2), heads(x[..., :8], 2), enable_gqa=True
    ),
    "causal": lambda s, x: F.scaled_dot_product_attention(s.rows(x), x, x, is_causal=True),
    "boolean-mask": lambda s, x: F.scaled_dot_product_attention(
        heads(x, 2), heads(s.rows(x), 2), heads(x, 2), attn_mask=LATER.bool() | torch.eye(6).bool()
    ),
    "real-mask": lambda s, x: F.scaled_dot_product_attention(
        s.rows(x), x, x, attn_mask=s.tall[:6, :6], scale=0.5
    ),
    "filled": lambda s, x: scores(s, x).masked_fill(LATER.bool(), -torch.inf).softmax(-1) @ x,
    "added": lambda s, x: (scores(s, x) + LATER * torch.finfo(torch.float32).min).softmax(-1) @ x,
    "added-hundred": lambda s, x: (scores(s, x) - 100 * LATER).softmax(-1) @ x,
    "chosen": lambda s, x: torch.where(torch.arange(16) % 3 == 0, x, s.rows(x) * 0.5),
    "filled-in": lambda s, x: s.rows(x).masked_fill(torch.arange(16) % 3 == 0, 0.7),
    "averaged-heads": lambda s, x: s.attention(x, x, x),
    "same-layers": lambda s, x: F.conv_transpose1d(F.relu(F.conv1d(x, s.window)), s.window),
    "sums-of-shares": lambda s, x: (s.rows(x).softmax(-1) * torch.linspace(-1, 1, 16)).sum(-1),
    "repeated": lambda s, x: torch.repeat_interleave(x, 3, dim=1).repeat(1, 1, 2),
    "twelve": lambda s, x: torch.cat([s.thin(x) + number for number in range(12)], -1),
    "norm-of-norm": lambda s, x: F.layer_norm(F.layer_norm(x, (16,)), (16,), s.vector),
    "shifted": lambda s, x: (s.rows(x) - 0.3).view(-1, 3, 32).transpose(1, 2),
    "shifted-share": lambda s, x: s.rows(s.rows(x).sigmoid() - 0.3),
}
ON_PICTURES: dict[str, Body] = {
    "instance": lambda s, x: (
        (x - x.mean((2, 3), keepdim=True))
        / torch.sqrt(x.var((2, 3), keepdim=True, unbiased=False) + 1e-5)
    ),
    "channels": lambda s, x: x * torch.cat([x.mean(1, True), x.amax(1, True)], 1).sum(1, True),
    "largest": lambda s, x: s.pixels(x).max(dim=2).values,
    "average-channel": lambda s, x: s.pixels(x).mean(1),
    "average-row": lambda s, x: s.pixels(x).mean(-1).transpose(1, 2),
    "matrix-before": lambda s, x: s.tall @ s.pixels(x),
    "matrices-after": lambda s, x: s.pixels(x) @ s.many,
    "one-for-all": lambda s, x: s.pixels(x) @ s.pixels(x).mean(1, keepdim=True).transpose(2, 3),
    "all-for-one": lambda s, x: s.pixels(x).mean(1, keepdim=True) @ s.pixels(x).transpose(2, 3),
    "mixed-channels": lambda s, x: torch.einsum("bchw,oc->bohw", s.pixels(x), s.square[:, :8]),
    "gram": lambda s, x: torch.einsum("nchw,ndhw->ncd", s.pixels(x), x),
    "mirrored": lambda s, x: s.pixels(F.pad(x, (2, 1, 0, 3), mode="reflect")),
    "edges": lambda s, x: F.pad(s.pixels(x), (1, 2, 0, 1), mode="replicate"),
    "around": lambda s, x: F.pad(s.pixels(x), (1, 2, 3, 1), mode="circular"),
    "cut": lambda s, x: F.pad(s.pixels(x), (-1, 2, 0, -3)),
    "rolled": lambda s, x: s.pixels(x.roll((1, -2), (2, 3))).flip(3),
    "spread": lambda s, x: s.pixels(x.mean((2, 3), keepdim=True).expand(-1, -1, 12, 12)),
    "tiled": lambda s, x: s.pixels(x).repeat(1, 2, 1, 2),
    "cells": lambda s, x: F.pixel_unshuffle(F.pad(s.pixels(x), (0, 1, 0, 1)), 2),
    "shuffled": lambda s, x: F.channel_shuffle(s.pixels(x), 2),
    "three": lambda s, x: torch.stack([s.pixels(x), s.pixels(x).flip(2)], 2).mean(2),
    "windows": lambda s, x: (
        F.pad(s.pixels(x), (0, 1, 0, 1)).view(-1, 8, 5, 2, 6, 2).permute(0, 2, 4, 3, 5, 1)
    ).reshape(-1, 30, 4, 8),
}
CASES: list[tuple[str, Body, tuple[int, ...]]] = [
    (name, body, ROWS) for name, body in ON_ROWS.items()
]
CASES += [(f"{name}-picture", body, PICTURE) for name, body in ON_PICTURES.items()]


@pytest.mark.parametrize(("body", "shape"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_composed(body: Body, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    module, x = Composed(body).eval(), torch.randn(4, *shape[1:])
    floating = without_clamps(lower(module, shape))
    wanted = of_samples(module, x, floating)
    outputs: list[Sequence[Any]] = [
        having(floating)[-1](serialize_tflite(floating))(channels_last(x))
    ]
    for given in (*outputs, [y.numpy() for y in computed(floating, x)]):
        for y, right in zip(given, wanted, strict=True):
            np.testing.assert_allclose(y, channels_last(right), rtol=1e-4, atol=1e-4)
    graph = quantize(module, [x], shape, Options(npu=True))
    content, q = serialize_tflite(graph), quantized(graph, channels_last(x))
    for y, integers in zip(TFLITE["tflite-micro"](content)(q), ours(graph, q), strict=True):
        np.testing.assert_array_equal(y, integers)
    monkeypatch.setitem(INTEGER, "fully_connected", rounded_once)
    if TFLITE["litert-reference"] in having(graph):
        reference = TFLITE["litert-reference"](content)
        for y, integers in zip(reference(q), ours(graph, q), strict=True):
            np.testing.assert_array_equal(y, integers)
    for y, right in zip(computed(graph, x), wanted, strict=True):
        noise = (y - channels_last(right)).square().mean()
        assert 10 * torch.log10(right.var(correction=0) / noise) > 25


def test_a_mask_does_not_widen_what_shares_are_made_of() -> None:
    torch.manual_seed(0)
    module, x = Composed(ON_ROWS["added"]).eval(), torch.randn(4, *ROWS[1:])
    graph = quantize(module, [x], ROWS)
    (softmax,) = (op for op in graph.ops if op.kind == "softmax")
    meaning = graph.tensors[softmax.inputs[0]].quantization
    assert meaning is not None
    assert 255 * meaning.scale < 20


def test_networks_with_another_first_dimension_are_compared_call_by_call(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32).eval()  # (tokens, N, features)
    x = torch.randn(12, 7, 16)
    for shape in ((1, 7, 16), (4, 7, 16), (12, 7, 16)):
        assert export_tflite(layer, tmp_path / "a.tflite", shape, [x]).snr_db > 20
        assert export_qdq(layer, tmp_path / "a.onnx", shape, [x]).snr_db > 20
    graph, floating = quantize(layer, [x], (1, 7, 16)), prepared(layer, (1, 7, 16))
    assert "loses most" in weakest(layer, graph, floating, x)


def test_stored_tokens_are_joined_to_each_sample_of_an_onnx_file(tmp_path: Path) -> None:
    class Token(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.last = nn.Parameter(torch.randn(1, 1, 16)), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.cat([self.token.expand(len(x), -1, -1), x], 1))

    torch.manual_seed(0)
    module, x = Token().eval(), torch.randn(4, *ROWS[1:])
    assert export_qdq(module, tmp_path / "a.onnx", ROWS, [x]).snr_db > 30


def dimensions(graph: Graph) -> int:
    return max(len(op.attributes["dims"]) for op in graph.ops if op.kind == "transpose")


def test_no_transposition_moves_more_dimensions_than_runtimes_take() -> None:
    for name in ("windows", "cells"):
        assert dimensions(lower(Composed(ON_PICTURES[name]).eval(), PICTURE)) <= 5
