"""Masks: exact counts, one total order on every device, disjoint bands, and refusals."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import nn

from zoo.adapters import masks
from zoo.adapters.recipe import KINDS, SCORES, AdapterRecipe, MaskOptions
from zoo.errors import MismatchError, UnknownNameError
from zoo.registry.recipe import Train


class Net(nn.Module):
    """One weight tensor of each sort: linear, convolution, embedding; and a vector."""

    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.embed = nn.Embedding(40, 12)
            self.conv = nn.Conv1d(12, 16, 3, padding=1)
            self.linear = nn.Linear(16, 24)

    def forward(self, ids):
        x = self.conv(self.embed(ids).transpose(1, 2)).transpose(1, 2)
        return self.linear(torch.tanh(x))


def backward_of(model):
    ids = torch.arange(40).reshape(4, 10)
    return lambda: model(ids).square().mean().backward()


def choose(model, **options):
    chosen = MaskOptions(**{"density": 0.1, **options})
    return masks.choose(model, chosen, backward=backward_of(model))


@pytest.mark.parametrize("kind", ["rand", "wm", "grad", "snip"])
@pytest.mark.parametrize("density", [0.0001, 0.01, 0.13, 1.0])
def test_each_tensor_gets_its_share_exactly(kind, density):
    model = Net()
    found = choose(model, kind=kind, density=density)
    assert list(found) == ["embed.weight", "conv.weight", "linear.weight"]  # no biases
    for name, indices in found.items():
        numel = model.get_parameter(name).numel()
        assert indices.dtype == torch.int64
        assert indices.numel() == max(1, int(density * numel + 0.5))
        assert bool((indices.diff() > 0).all())
        assert int(indices[-1]) < numel


@pytest.mark.parametrize("kind", ["rand", "wm", "grad", "snip", "block"])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_bands_are_disjoint_and_in_order(kind, scope):
    if (kind, scope) == ("rand", "global"):
        pytest.skip("rand has no global scope")
    model = Net()
    options = {"kind": kind, "density": 0.25, "scope": scope, "block": 4}
    bands = [choose(model, band=band, **options) for band in range(4)]
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            continue
        joined = torch.cat([band[name] for band in bands])
        assert joined.unique().numel() == joined.numel()
        if kind == "wm" and scope == "layer":
            least = [parameter.detach().flatten()[band[name]].abs().min() for band in bands[:3]]
            most = [parameter.detach().flatten()[band[name]].abs().max() for band in bands[1:]]
            assert all(a >= b for a, b in zip(least, most, strict=True))
    assert sum(i.numel() for band in bands for i in band.values()) == 40 * 12 + 16 * 36 + 24 * 16


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=60),
    st.integers(0, 60),
    st.integers(0, 3),
)
def test_the_order_is_that_of_a_stable_sort(scores, number, which):
    tensor = torch.tensor(scores, dtype=torch.float32)
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    assert masks.first(tensor, number).tolist() == sorted(order[:number])
    if (which + 1) * number <= len(scores):
        expected = sorted(order[which * number : (which + 1) * number])
        assert masks.band(tensor, number, which, "x").tolist() == expected


def test_ties_fall_to_the_lower_index_wherever_equal_values_stand():
    model = nn.Linear(8, 4, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([1.0, -2.0]).repeat(16).view(4, 8))
    assert choose(model, kind="wm", density=0.25)["weight"].tolist() == [1, 3, 5, 7, 9, 11, 13, 15]
    with torch.no_grad():  # signs and zeros of either sign do not matter
        model.weight.copy_(torch.zeros(4, 8)).view(-1)[::2] = -0.0
    assert choose(model, kind="wm", density=0.25)["weight"].tolist() == list(range(8))


def test_a_mask_does_not_depend_on_the_type_that_holds_the_values():
    half = Net().bfloat16()
    full = Net().bfloat16().float()
    for kind in ("wm", "rand", "block", "struct"):
        a, b = (masks.choose(m, MaskOptions(kind=kind, density=0.1)) for m in (half, full))
        assert masks.digest(a) == masks.digest(b)


def test_random_masks_are_pinned_and_differ_by_layer_and_seed():
    model = nn.ModuleList([nn.Linear(64, 64), nn.Linear(64, 64)])
    found = [masks.choose(model, MaskOptions(kind="rand", density=0.1, seed=s)) for s in (0, 0, 1)]
    assert masks.digest(found[0]) == masks.digest(found[1])
    a, b, c = (set(m.tolist()) for m in (found[0]["0.weight"], found[0]["1.weight"],
                                         found[2]["0.weight"]))  # fmt: skip
    for other in (b, c):  # 410 of 4096 each: about 41 in common
        assert 20 < len(a & other) < 65
    # SplitMix64 by hand, of the first 8 bytes of sha256("0:0.weight")
    import hashlib

    key = int.from_bytes(hashlib.sha256(b"0:0.weight").digest()[:8], "little")
    word = (1 << 64) - 1

    def score(i):
        x = ((i + 1) * 0x9E3779B97F4A7C15 + key) & word
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & word
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & word
        return (x ^ (x >> 31)) >> 33

    order = sorted(range(4096), key=lambda i: (-score(i), i))
    assert sorted(order[:410]) == found[0]["0.weight"].tolist()


def test_gradient_scores_equal_those_of_a_dense_backward_pass():
    for kind in ("grad", "snip"):
        for batches in (1, 3):
            model = Net()
            found = choose(model, kind=kind, density=0.2, batches=batches)
            assert all(p.grad is None and p.requires_grad for p in model.parameters())
            for _ in range(batches):
                backward_of(model)()
            for name, indices in found.items():
                parameter = model.get_parameter(name)
                score = parameter.grad if kind == "grad" else parameter.grad * parameter
                order = score.detach().abs().flatten().sort(descending=True, stable=True).indices
                assert indices.tolist() == sorted(order[: indices.numel()].tolist())


def test_with_one_batch_one_dense_gradient_is_alive_at_a_time():
    model, alive = Net(), []
    original = masks._Picker.__call__

    def spy(self, name, scores):
        alive.append(sum(p.grad is not None for p in model.parameters()))
        original(self, name, scores)

    masks._Picker.__call__ = spy
    try:
        choose(model, kind="grad")
    finally:
        masks._Picker.__call__ = original
    assert alive == [0, 0, 0]  # each is dropped before the next arrives


def test_blocks_are_whole_and_the_best_by_sum():
    model = nn.Linear(10, 7, bias=False)  # 70 entries: the last block of 32 is short
    found = masks.choose(model, MaskOptions(kind="block", block=32, density=0.9))["weight"]
    assert found.numel() in (64, 38)
    small = masks.choose(model, MaskOptions(kind="block", block=8, density=0.23))["weight"]
    sums = model.weight.detach().abs().flatten()[:64].view(8, 8).sum(1)
    best = sums.argsort(descending=True)[:2].sort().values
    assert small.tolist() == [8 * int(b) + j for b in best for j in range(8)]


def test_struct_is_rows_and_the_diagonal():
    model = nn.Linear(20, 10, bias=False)
    rows = masks.choose(model, MaskOptions(kind="struct", density=0.25))["weight"]
    grid = torch.zeros(10, 20)
    grid.view(-1)[rows] = 1
    full = [i for i in range(10) if grid[i].all()]
    assert len(full) == 2  # (50 - 10) / 20
    assert all(grid[i, i] for i in range(10))
    assert grid.sum() == 2 * 20 + 8
    columns = masks.choose(model, MaskOptions(kind="struct", density=0.25, axis="columns"))
    other = torch.zeros(10, 20)
    other.view(-1)[columns["weight"]] = 1
    assert sum(bool(other[:, j].all()) for j in range(20)) == 4
    shifted = masks.choose(model, MaskOptions(kind="struct", density=0.25, band=1))["weight"]
    assert set(shifted.tolist()) != set(rows.tolist())


def test_global_scope_gives_the_whole_budget_to_the_best():
    model = nn.ModuleList([nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False)])
    with torch.no_grad():
        model[0].weight.mul_(100)
    found = masks.choose(model, MaskOptions(kind="wm", density=0.25, scope="global"))
    assert {name: i.numel() for name, i in found.items()} == {"0.weight": 128, "1.weight": 0}


def test_avoided_entries_are_never_chosen():
    model = Net()
    first = choose(model, kind="wm", density=0.3)
    for kind in ("wm", "rand", "snip", "block"):
        options = MaskOptions(kind=kind, density=0.2, block=2)
        found = masks.choose(model, options, backward=backward_of(model), avoid=first)
        for name, indices in found.items():
            assert not set(indices.tolist()) & set(first[name].tolist())


def test_channels_last_weights_are_indexed_row_major():
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 8, 3)
    other = nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)
    other.load_state_dict(conv.state_dict())
    assert not other.weight.is_contiguous()
    a, b = (masks.choose(m, MaskOptions(density=0.2)) for m in (conv, other))
    assert masks.digest(a) == masks.digest(b)


def test_tied_embeddings_are_left_out_unless_named():
    model = Net()
    model.head = nn.Linear(12, 40, bias=False)
    model.head.weight = model.embed.weight
    assert list(masks.targets(model, MaskOptions())) == ["conv.weight", "linear.weight"]
    assert list(masks.targets(model, MaskOptions(include=("embed*",)))) == ["embed.weight"]
    named = MaskOptions(exclude=("conv.*",))
    assert list(masks.targets(model, named)) == ["linear.weight"]


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"kind": "magnitude"}, UnknownNameError, "known: struct, rand"),
        ({"density": 0.0}, MismatchError, "0 < density <= 1"),
        ({"density": 1.5}, MismatchError, "0 < density <= 1"),
        ({"band": -1}, MismatchError, "0 or more"),
        ({"block": 0}, MismatchError, "1 or more"),
        ({"kind": "rand", "scope": "global"}, MismatchError, "no meaning"),
        ({"density": 0.5, "band": 2}, MismatchError, "goes beyond"),
        ({"include": ("nothing*",)}, MismatchError, "embed.weight"),
        ({"kind": "custom"}, MismatchError, "needs its indices"),
    ],
)
def test_wrong_options_are_refused(options, error, text):
    with pytest.raises(error, match=text):
        choose(Net(), **options)


def test_wrong_inputs_are_refused():
    model = Net()
    with pytest.raises(MismatchError, match="needs calibration data"):
        masks.choose(model, MaskOptions(kind="snip"))
    for indices in ([], [1, 1], [-1], [40 * 12]):
        custom = {"embed.weight": torch.tensor(indices, dtype=torch.int64)}
        with pytest.raises(MismatchError, match=r"custom mask of embed\.weight"):
            masks.choose(model, MaskOptions(kind="custom"), custom=custom)
    with pytest.raises(MismatchError, match="not a target"):
        masks.choose(model, MaskOptions(kind="custom"), custom={"x": torch.tensor([0])})
    custom = {"embed.weight": torch.tensor([7, 3])}
    found = masks.choose(model, MaskOptions(kind="custom"), custom=custom)
    assert found["embed.weight"].tolist() == [3, 7]
    with torch.no_grad():
        model.linear.weight[0, 0] = float("nan")
    with pytest.raises(MismatchError, match="not finite"):
        choose(model, kind="wm")


def test_a_tensor_without_gradient_is_named():
    model = Net()
    model.unused = nn.Linear(4, 4)
    with pytest.raises(MismatchError, match=r"unused\.weight got no gradient"):
        choose(model, kind="grad")


def recipe(**fields):
    return AdapterRecipe(
        name="a", summary="s", base="b", task="causal-lm",
        train=Train(steps=1, batch_size=1, lr=1e-3, options={"length": 8}), **fields,
    )  # fmt: skip


def test_recipes_survive_json_and_take_settings():
    one = recipe(mask=MaskOptions(kind="block", include=("*.q.weight", "*.k.weight")))
    assert AdapterRecipe.from_json(one.to_json()) == one
    other = one.override(
        {"mask.density": "0.05", "train.lr": "2e-3", "train.options.length": "16",
         "mask.exclude": "a*,b*", "rank": "4"}
    )  # fmt: skip
    assert (other.mask.density, other.train.lr, other.rank) == (0.05, 2e-3, 4)
    assert other.train.options == {"length": 16}
    assert other.mask.exclude == ("a*", "b*")
    for wrong, text in (
        ({"mask.densty": "1"}, "no setting 'mask.densty'"),
        ({"mask.density": "much"}, "expected float"),
        ({"train.options.length": "x"}, "expected int"),
        ({"nothing.at.all": "1"}, "known: method"),
    ):
        with pytest.raises(MismatchError, match=text):
            one.override(wrong)
    with pytest.raises(UnknownNameError, match="did you mean lora or dora"):
        recipe(method="lorra")


def test_every_kind_and_score_is_documented_where_it_is_listed():
    assert set(SCORES) < set(KINDS)
    for kind in KINDS:
        assert f"`{kind}`" in masks.__doc__
