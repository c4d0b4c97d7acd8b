"""PaCA and S2FT: whole columns, of which alone activations are kept."""

import pytest
import torch
from torch import nn

import zoo
from zoo.adapters import sampled
from zoo.adapters.methods import paca, s2ft
from zoo.adapters.methods.contract import Options, method
from zoo.adapters.recipe import MaskOptions
from zoo.artifacts.base import load_base
from zoo.errors import MismatchError
from zoo.registry.catalogue import find
from zoo.registry.checkpoint import build

IDS = torch.arange(24).view(2, 12) % 20


def step(attachment):
    attachment.model(input_ids=IDS, labels=IDS).loss.backward()
    attachment.collect()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("paca", Options(rank=5)),
        ("s2ft", s2ft.Options(rank=5)),
        ("s2ft", s2ft.Options(rank=5, heads=2, sides="both")),
    ],
)
def test_gradients_are_those_of_the_whole_weight(tiny, name, options):
    attachment = method(name).attach(load_base(tiny).model, {}, options)
    step(attachment)
    model = load_base(tiny).model
    model(input_ids=IDS, labels=IDS).loss.backward()
    compact = attachment.compact
    for tensor, part in compact.slices().items():
        wanted = model.get_parameter(tensor).grad.view(-1)[compact.flat[part]]
        torch.testing.assert_close(compact.values.grad[part], wanted)
        assert sampled.lines(compact.flat[part], model.get_parameter(tensor).shape) is not None
    for handle in attachment.handles:  # no layer makes a dense gradient
        assert isinstance(handle, sampled.Sampled)


def test_only_the_columns_of_an_input_are_kept():
    layer = nn.Linear(64, 8)
    layer.requires_grad_(False)
    indices = paca.columns(torch.tensor([3, 4, 60]), 8, 64)
    found = []
    handle = sampled.Sampled(layer, indices, found.append)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(torch.randn(7, 64, requires_grad=True)).sum().backward()
    inputs = [t.untyped_storage().nbytes() for t in kept if t is not layer.weight]
    assert inputs == [7 * 3 * 4]
    assert found[0].shape == (24,)
    handle.remove()


@pytest.mark.parametrize("rows", [(2, 3), (5,)])
def test_whole_lines_are_told_from_other_masks(rows):
    shape, at = torch.Size((6, 9)), torch.tensor(rows)
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[at] = True
    axis, found = sampled.lines(mask.view(-1).nonzero()[:, 0], shape)
    assert (axis, found.tolist()) == (0, list(rows))
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[:, at] = True
    indices = mask.view(-1).nonzero()[:, 0]
    axis, found = sampled.lines(indices, shape)
    assert (axis, found.tolist()) == (1, list(rows))
    indices[-1] -= 1
    assert sampled.lines(indices, shape) is None
    assert sampled.lines(torch.arange(7), shape) is None


def test_slices_are_coupled_by_heads_and_channels(tiny):
    """The tiny model has 4 heads of 8 and 2 for keys and values, and 48 channels."""
    model = load_base(tiny).model
    options = s2ft.Options(rank=6, heads=2, sides="both", seed=3)
    compact = s2ft.attach(model, {}, options).compact
    parts = {name: compact.flat[part] for name, part in compact.slices().items()}
    for layer in ("model.layers.0", "model.layers.1"):
        taken = {}
        for name in ("mlp.down_proj", "mlp.up_proj", "mlp.gate_proj", "self_attn.o_proj",
                     "self_attn.v_proj"):  # fmt: skip
            weight = model.get_submodule(f"{layer}.{name}").weight
            axis, at = sampled.lines(parts[f"{layer}.{name}.weight"], weight.shape)
            assert axis == name.endswith(("down_proj", "o_proj"))
            taken[name.split(".")[1]] = at.tolist()
        first = taken["down_proj"][0]
        assert taken["down_proj"] == list(range(first, first + 6))
        assert taken["up_proj"] == taken["gate_proj"] == taken["down_proj"]
        heads = {channel // 8 for channel in taken["o_proj"]}
        assert (len(taken["o_proj"]), len(heads)) == (16, 2)
        assert {row // 8 for row in taken["v_proj"]} == {head // 2 for head in heads}
    other = s2ft.attach(load_base(tiny).model, {}, s2ft.Options(rank=6, seed=4)).compact
    assert set(other.names) == {n for n in parts if "down_proj" in n or "o_proj" in n}


def test_a_vision_transformer_has_couples_too():
    model = build(find("vit-tiny-fashion"))
    names = {couple.name.rpartition(".")[2]: couple.head for couple in s2ft.couples(model)}
    assert set(names) == {"project", "fc2"}
    assert names["project"] > 0 == names["fc2"]


def test_queries_keys_and_values_alone_are_not_coupled():
    """BERT has its output layer in another module."""
    model = nn.ModuleDict({name: nn.Linear(8, 8) for name in ("query", "key", "value")})
    assert not list(s2ft.couples(model))


@pytest.mark.parametrize("name", ["paca", "s2ft"])
def test_from_the_command_line_to_a_switch(tiny, train_tiny, read_losses, tmp_path, name):
    out = tmp_path / name
    assert train_tiny(out, method=name, rank=4, train__lr=0.05) == 0
    assert read_losses(out)[6] < read_losses(out)[1]
    assert (out / "README.md").is_file()
    before = load_base(tiny).model
    model = zoo.load(tiny, adapter=out)
    with torch.no_grad():
        change = (model(input_ids=IDS).logits - before(input_ids=IDS).logits).abs().max()
    assert change > 1e-3


def test_what_does_not_fit_is_refused_by_one_line(tiny):
    model = load_base(tiny).model
    with pytest.raises(MismatchError, match="rank 33 is more columns than the 32 of"):
        paca.attach(model, {}, Options(rank=33))
    with pytest.raises(MismatchError, match="5 heads are more than the 4 that"):
        s2ft.attach(model, {}, s2ft.Options(rank=4, heads=5))
    with pytest.raises(MismatchError, match="rank 49 is more than 48"):
        s2ft.attach(model, {}, s2ft.Options(rank=49))
    with pytest.raises(MismatchError, match=r"options\.heads is -1"):
        s2ft.Options(heads=-1)
    with pytest.raises(MismatchError, match="no layer of Sequential"):
        s2ft.attach(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(6, 3)), {}, Options())
    convolutions = nn.Sequential(nn.Conv2d(1, 2, 3))
    for way in (paca, s2ft):
        with pytest.raises(MismatchError, match="belongs to Conv2d"):
            way.attach(convolutions, {}, Options(mask=MaskOptions()))
