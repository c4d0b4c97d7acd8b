"""Networks with layers in forms, in ONNX, float and int8 files: runtimes agree with the module."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.recipes import slow_but_for_one_of_each_kind, smaller
from zoo.deploy.onnx import export_onnx
from zoo.deploy.tflite_write import serialize_tflite
from zoo.graph.lower import lower
from zoo.graph.rewrite import without_clamps
from zoo.graph.trace import trace
from zoo.models.structured.composed import BlocksForm, RowsForm, SumForm
from zoo.models.structured.forms import DenseForm, Form, KronForm, LowRankForm
from zoo.models.structured.layers import StructuredConv2d, StructuredLinear
from zoo.models.structured.network import restructure, structure_of, takes_forms
from zoo.quantization.int8.post_training import quantize
from zoo.registry import all_recipes
from zoo.registry.checkpoint import build
from zoo.registry.recipe import Recipe, Train
from zoo.runtime.integer import IntegerNetwork
from zoo.runtime.values import channels_last, quantized

Judges = dict[str, Any]  # see conftest.py
FORMS = {
    "dense": DenseForm(),
    "lowrank": LowRankForm(3),
    "nothing": LowRankForm(0),
    "diag": LowRankForm(3, "diag"),
    "full": LowRankForm(3, "full"),
    "kron": KronForm(4, 3),
    "rows": RowsForm(2, LowRankForm(1), gates=4),
    "blocks": BlocksForm(2, KronForm(2, 2)),
    "sum": SumForm((LowRankForm(1), KronForm(4, 3))),
}
IMAGES = [
    recipe
    for recipe in all_recipes().values()
    if isinstance(recipe.make, Train) and len(recipe.input_shape) in (2, 4)
]
every = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


class Tokens(nn.Module):
    """Tokens through a layer in a form, between dense ones, with a shortcut."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.first, self.act = nn.Linear(12, 12), nn.ReLU()
        self.middle = StructuredLinear.like(nn.Linear(12, 24), form)
        self.last = nn.Linear(24, 12)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(self.act(self.middle(self.act(self.first(x)))))


class Pixels(nn.Module):
    """A convolution of one pixel in a form, and one of nine pixels where that is possible."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        size = 3 if isinstance(form, LowRankForm | DenseForm) else 1
        self.wide = StructuredConv2d.like(nn.Conv2d(12, 24, size, padding=size // 2), form)
        self.point = StructuredConv2d.like(nn.Conv2d(12, 24, 1, 2), form)
        self.head = nn.Linear(60, 5)

    def forward(self, x: Tensor) -> Tensor:
        wide, point = self.wide(x).relu().mean((2, 3)), self.point(x).relu().mean((2, 3))
        return self.head(torch.cat([wide, point, x.mean((2, 3))], 1))


def made(form: Form, kind: type[nn.Module]) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return kind(form).eval(), torch.rand(8, *((4, 12) if kind is Tokens else (12, 6, 6)))


# Forms and layers do not meet: each form in one of the two, all in both in `make test-slow`.
@pytest.mark.parametrize(
    ("form", "kind"),
    [
        pytest.param(
            form,
            kind,
            id=f"{kind.__name__}-{name}",
            marks=[] if number % 2 == at else pytest.mark.slow,
        )
        for number, (name, form) in enumerate(FORMS.items())
        for at, kind in enumerate((Tokens, Pixels))
    ],
)
def test_files_compute_the_module(
    form: Form, kind: type[nn.Module], judges: Judges, tmp_path: Path
) -> None:
    module, x = made(form, kind)
    shape = (1, *x.shape[1:])
    assert export_onnx(module, tmp_path / "a.onnx", shape).max_abs_error < 1e-5
    with torch.no_grad():
        wanted = module(x)
    content = serialize_tflite(without_clamps(lower(module, shape)))
    graph = quantize(module, [x], shape)
    integers, q = serialize_tflite(graph), quantized(graph, channels_last(x))
    ours = IntegerNetwork(graph)(q).numpy()
    for name, judge in judges.items():
        np.testing.assert_allclose(judge(content)(channels_last(x)), wanted, atol=1e-5)
        # LiteRT rounds once in fully connected layers; TFLite Micro, and ours, twice.
        apart = np.abs(judge(integers)(q).astype(int) - ours)
        assert apart.max() <= name.startswith("litert")


def test_low_rank_is_two_layers_more_and_none_where_the_rank_is_zero() -> None:
    def kinds(form: Form, kind: type[nn.Module]) -> list[str]:
        module, x = made(form, kind)
        return sorted(op.kind for op in lower(module, (1, *x.shape[1:])).ops)

    for kind, layer in ((Tokens, "fully_connected"), (Pixels, "conv2d")):
        dense, low = kinds(DenseForm(), kind), kinds(LowRankForm(3), kind)
        added = list(low)
        for one in dense:
            added.remove(one)
        assert set(added) == {layer}
        assert len(added) == (1 if kind is Tokens else 2)
    assert kinds(LowRankForm(0), Tokens).count("fully_connected") < 3


@pytest.mark.parametrize("name", [name for name in FORMS if name != "nothing"])
def test_the_graph_counts_the_forms_macs(name: str) -> None:
    form = FORMS[name]
    module = StructuredLinear.like(nn.Linear(12, 24), form).eval()
    scaled = 3 if form == LowRankForm(3, "diag") else 0  # the diagonal is no product of matrices
    assert trace(module, (1, 12)).macs == form.macs(24, 12) - scaled


@pytest.mark.parametrize("recipe", slow_but_for_one_of_each_kind(IMAGES))
def test_the_layers_of_every_network_may_have_forms(recipe: Recipe) -> None:
    """Whatever a network does around its layers, it does around those in forms."""
    torch.manual_seed(0)
    recipe = smaller(recipe)
    network = build(recipe).eval()
    forms = {name: DenseForm() for name, part in network.named_modules() if takes_forms(part)}
    weights = {
        key: value.flatten(1) if key.removesuffix(".weight") in forms else value
        for key, value in network.state_dict().items()
    }
    other = restructure(build(recipe).eval(), structure_of(forms))
    other.load_state_dict(weights)
    x = torch.rand(2, *recipe.input_shape[1:])
    x = x[..., :33, :48] if x.ndim == 4 and x.shape[1] == 1 and x.shape[-1] > 200 else x
    with torch.inference_mode():
        expected = network(x)
        torch.testing.assert_close(
            other(x), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item()
        )
