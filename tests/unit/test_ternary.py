"""Ternary layers: rounding, packing, the three phases, and files that are not theirs."""

import copy
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import zoo
from zoo.errors import MismatchError
from zoo.models.blocks.digits import pack, packed_bytes, parts_of, product, rounded, unpack
from zoo.models.blocks.ternary import Bank, Packed, TernaryConv2d, stored_bytes
from zoo.models.ternary import HybridMobileNetV1, StTree
from zoo.registry import find
from zoo.registry.checkpoint import Checkpoint, build, try_out
from zoo.registry.recipe import Recipe
from zoo.tasks import task_of

SMALL: dict[str, Any] = {
    "kernel": [10, 4], "width": 8, "stride": 2, "blocks": 1, "products": 6, "depth": 2,
    "num_classes": 4,
}  # fmt: skip


def tree(**changes: Any) -> StTree:
    torch.manual_seed(0)
    return StTree(**{**SMALL, **changes})


def descend(form: Packed, steps: int, start: float = 0.0) -> None:
    """Train on noise, as a run from `start` to its end would."""
    x, optimizer = torch.randn(8, 1, 49, 10), torch.optim.AdamW(form.parameters(), 1e-2)
    form.train()
    for step in range(steps):
        form.advance(start + (1 - start) * step / steps)
        loss = nn.functional.cross_entropy(form(x), torch.arange(8) % 4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.fixture(scope="module")
def trained() -> StTree:
    form = tree().trainable()
    descend(form, 10)
    return form.deployed()


# --- numbers --------------------------------------------------------------------------------------


def test_thresholds_are_the_published_ones():
    weight = torch.tensor([[1.0, -0.8, 0.5, -0.1, 0.0]])  # mean magnitude 0.48
    digits, scale = rounded(weight, "twn")  # below 0.336
    assert digits.tolist() == [[1, -1, 1, 0, 0]]
    assert scale.item() == pytest.approx((1 + 0.8 + 0.5) / 3)
    digits, scale = rounded(weight, "nearest")  # below 0.24
    assert digits.tolist() == [[1, -1, 1, 0, 0]]
    assert scale.item() == pytest.approx(0.48)


@given(
    st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=60), st.sampled_from([4, 5])
)
@settings(max_examples=50, deadline=None)
def test_digits_survive_packing(values: list[float], per_byte: int):
    digits = torch.tensor(values)
    stored = pack(digits, per_byte)
    assert len(stored) == packed_bytes(len(values), per_byte)
    assert unpack(stored, len(values), per_byte).equal(digits)


@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_a_product_gives_back_its_parts(seed: int, rows: int, columns: int):
    dice = torch.Generator().manual_seed(seed)
    digits = torch.randint(-1, 2, (rows, columns), generator=dice).float()
    scale = torch.rand(rows, generator=dice)
    found = parts_of(product(digits, scale))
    assert found is not None
    assert product(*found).equal(product(digits, scale))


def test_a_weight_of_two_magnitudes_is_not_ternary():
    assert parts_of(torch.tensor([[1.0, 0.5]])) is None
    assert parts_of(torch.tensor([[0.0, 0.0], [2.0, -2.0]])) is not None


@pytest.mark.parametrize(
    ("stored", "per_byte", "message"),
    [
        ([243], 5, "243 stands for no 5 ternary digits"),
        ([255], 4, "255 stands for no 4 ternary digits"),
        ([121, 121], 5, "expected 1 bytes for 5 digits"),
        ([], 5, "expected 1 bytes for 5 digits"),
    ],
)
def test_bytes_that_are_no_digits_are_refused(stored: list[int], per_byte: int, message: str):
    with pytest.raises(ValueError, match=message):
        unpack(torch.tensor(stored, dtype=torch.uint8), per_byte, per_byte)


def test_digits_after_the_last_are_refused():
    with pytest.raises(ValueError, match="after the last one"):
        unpack(pack(torch.ones(5)), 4)


# --- phases ---------------------------------------------------------------------------------------


def test_a_run_from_random_weights_is_float_and_then_ternary():
    form = tree().trainable(float_share=0.4)
    layer = form.ternary_layers()[0]
    form.advance(0.39)
    assert layer.kernel().equal(layer.weight)
    form.advance(0.4)
    assert layer.kernel().equal(product(*rounded(layer.weight, "twn")))
    layer.kernel().sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.equal(torch.ones_like(layer.weight))  # straight through


def test_routing_sharpens_in_a_run():
    form = tree().trainable()
    seen = []
    for share in (0.0, 0.5, 0.99):
        form.advance(share)
        seen.append(form.tree.sharpness.item())
    assert seen == sorted(set(seen))


def test_in_eval_mode_a_form_computes_what_is_deployed():
    form, x = tree().trainable().eval(), torch.randn(3, 1, 49, 10)
    assert form(x).equal(form.deployed()(x))


def test_a_run_from_a_deployed_network_keeps_the_digits(trained: StTree):
    form = tree().trainable()
    form.load_deployed(trained)
    descend(form, 5)
    again = form.deployed()
    moved = 0
    for before, after in zip(trained.ternary_layers(), again.ternary_layers(), strict=True):
        assert after.weight.sign().abs().equal(before.weight.sign().abs())
        moved += int(not after.weight.equal(before.weight))
    assert moved == len(again.ternary_layers())  # the scales learn


def test_frozen_training_starts_where_the_deployed_network_was(trained: StTree):
    form, x = tree().trainable(), torch.randn(16, 1, 49, 10)
    form.load_deployed(trained)
    form.advance(0.0)
    torch.testing.assert_close(form.train()(x), trained(x), atol=1e-2, rtol=0)
    assert form.deployed()(x).equal(trained(x))


def test_for_other_classes_the_tree_starts_anew(trained: StTree):
    form = tree(num_classes=3).trainable()
    form.load_deployed(trained)
    phases = {name: part.phase for name, part in form.named_modules()
              if isinstance(part, TernaryConv2d)}  # fmt: skip
    assert {phase for name, phase in phases.items() if name.startswith("tree.")} == {"ternary"}
    assert {phase for name, phase in phases.items() if name.startswith("layers.")} == {"frozen"}


@pytest.mark.parametrize(
    ("options", "message"),
    [({"threshold": "half"}, "threshold is 'half'"), ({"float_share": 1.5}, "float_share is 1.5")],
)
def test_training_options_are_checked(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        tree().trainable(**options)


# --- files ----------------------------------------------------------------------------------------


def written(network: nn.Module, recipe: Recipe, folder: Path, **changes: Tensor) -> Checkpoint:
    return Checkpoint.write(folder, recipe, {**network.state_dict(), **changes}, {})


def recipe_of(**changes: Any) -> Recipe:
    made = find("st-tree-kws")
    labels = {"labels": ["a", "b", "c", "d"]}
    return Recipe.from_json(
        {**made.to_json(), "args": {**SMALL, **changes},
         "preprocessing": {**made.preprocessing, **labels}}
    )  # fmt: skip


def test_a_file_gives_the_network_back_to_the_bit(trained: StTree, tmp_path: Path):
    written(trained, recipe_of(), tmp_path)
    loaded, x = zoo.load(tmp_path), torch.randn(5, 1, 49, 10)
    assert loaded(x).equal(trained(x))
    for name, value in trained.named_parameters():
        assert dict(loaded.named_parameters())[name].equal(value)


def test_the_numbers_of_a_file_take_what_the_formula_says(trained: StTree):
    sizes = [value.numel() * value.element_size() for value in trained.state_dict().values()]
    assert sum(sizes) == stored_bytes(trained)
    assert stored_bytes(trained, per_byte=4) > stored_bytes(trained)


def test_assigned_tensors_have_one_precision(trained: StTree):
    other, x = tree(), torch.randn(2, 1, 49, 10)
    other.load_state_dict(trained.state_dict(), assign=True)
    assert {value.dtype for value in other.parameters()} == {torch.float32}
    torch.testing.assert_close(other(x), trained(x))  # another layout, another order of sums


def test_weights_that_are_not_ternary_are_stored_as_they_are():
    network = copy.deepcopy(tree())  # never trained
    state = safetensors.torch.load(safetensors.torch.save(network.state_dict()))
    assert state["tree.weight.weight"].dtype == torch.float32
    other = tree()
    other.load_state_dict(state)
    assert other.state_dict()["tree.weight.weight"].equal(network.tree.weight.weight)


def test_numbers_too_large_for_a_half_are_kept(tmp_path: Path):
    form = tree().trainable()
    last = form.layers[2]
    assert isinstance(last, Bank)
    assert last.second.norm is not None
    with torch.no_grad():
        last.second.norm.bias.fill_(1e5)
    network = form.deployed()
    assert dict(network.named_parameters())["layers.2.second.conv.bias"].equal(
        torch.full((8,), 1e5)
    )
    written(network, recipe_of(), tmp_path)
    x = torch.randn(2, 1, 49, 10)
    assert network(x).isfinite().all()
    assert zoo.load(tmp_path)(x).equal(network(x))


def test_codes_out_of_range_are_one_clear_line(trained: StTree, tmp_path: Path):
    digits = trained.state_dict()["tree.gate.digits"].clone()
    digits[0] = 250
    written(trained, recipe_of(), tmp_path, **{"tree.gate.digits": digits})
    with pytest.raises(MismatchError, match=r"tree\.gate\.digits: byte 250 stands for no") as error:
        zoo.load(tmp_path)
    assert "\n" not in str(error.value)


def test_scales_that_are_no_scales_are_refused(trained: StTree, tmp_path: Path):
    for number, wrong in enumerate((-1.0, float("nan"))):
        scale = trained.state_dict()["tree.gate.scale"].clone()
        scale[0] = wrong
        written(trained, recipe_of(), tmp_path / str(number), **{"tree.gate.scale": scale})
        with pytest.raises(MismatchError, match="scales that are finite"):
            zoo.load(tmp_path / str(number))


def test_scales_that_are_no_real_numbers_are_refused(trained: StTree, tmp_path: Path):
    scale = trained.state_dict()["tree.gate.scale"]
    for number, kind in enumerate((torch.int32, torch.complex64)):
        folder = tmp_path / str(number)
        written(trained, recipe_of(), folder, **{"tree.gate.scale": scale.to(kind)})
        with pytest.raises(MismatchError, match=f"scales are {kind}; expected real numbers"):
            zoo.load(folder)


def test_a_weight_that_is_there_twice_is_refused(trained: StTree, tmp_path: Path):
    other = torch.randn_like(trained.tree.gate.weight)
    written(trained, recipe_of(), tmp_path, **{"tree.gate.weight": other})
    with pytest.raises(MismatchError, match="there twice, as numbers and as digits"):
        zoo.load(tmp_path)


def test_digits_of_a_kernel_that_lies_otherwise_are_refused(trained: StTree):
    form = tree(kernel=[4, 10]).trainable()  # as many digits
    with pytest.raises(
        RuntimeError, match=r"shape \(6, 1, 10, 4\) there, and \(6, 1, 4, 10\) here"
    ):
        form.load_deployed(trained)


def test_a_tree_deeper_than_its_checkpoint_is_one_clear_line(trained: StTree, tmp_path: Path):
    written(trained, recipe_of(depth=3), tmp_path)
    with pytest.raises(MismatchError, match="tree") as error:
        zoo.load(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("mobilenet-v1-025-hybrid", {"alpha": 1.5}, "alpha is 1.5; expected 0 to 1"),
        ("mobilenet-v1-025-hybrid", {"alpha": -0.1}, "alpha is -0.1; expected 0 to 1"),
        ("mobilenet-v1-025-hybrid", {"alpha": [0.5] * 3}, "3 alphas; expected one, or 13"),
        ("mobilenet-v1-025-hybrid", {"bank": 2.0}, "wider than the layer"),
        ("st-tree-kws", {"products": 65}, "products is 65, for a layer of 64 filters"),
        ("st-tree-kws", {"depth": 0}, "depth is 0; expected at least 1"),
        ("st-tree-kws", {"depth": 1.5}, "depth is 1.5; expected a whole number"),
        ("st-tree-kws", {"depth": 40}, "depth is 40; expected at most 10"),
        ("st-tree-kws", {"blocks": -1}, "blocks is -1; expected at least 0"),
        ("st-tree-kws", {"blocks": True}, "blocks is True; expected a whole number"),
        ("st-tree-kws", {"products": 2.5}, "products is 2.5; expected a whole number"),
        ("st-tree-kws", {"width": 0}, "width is 0; expected at least 1"),
        ("st-tree-kws", {"stride": 0}, "stride is 0; expected at least 1"),
        ("st-tree-kws", {"kernel": 10}, "kernel is 10; expected its rows and columns"),
        ("st-tree-kws", {"kernel": [10, 4, 2]}, r"kernel is \[10, 4, 2\]; expected its rows"),
        ("st-tree-kws", {"kernel": [0, 4]}, "kernel is 0; expected at least 1"),
        ("ds-cnn-s", {"kernel": [10, 4, 2]}, r"kernel is \[10, 4, 2\]; expected its rows"),
        (
            "mobilenet-v1-025-hybrid",
            {"alpha": "half"},
            "alpha is 'half' and bank 1.0; expected numb",
        ),
        (
            "mobilenet-v1-025-hybrid",
            {"alpha": True},
            "alpha is True and bank 1.0; expected numbers",
        ),
        ("mobilenet-v1-025-hybrid", {"bank": None}, "alpha is 0.5 and bank None; expected numbers"),
        (
            "ds-cnn-s",
            {"blocks": [8, 1]},
            r"blocks is \[8, 1\]; expected outputs and stride of each",
        ),
        ("ds-cnn-s", {"blocks": 4}, "blocks is 4; expected outputs and stride of each"),
        ("ds-cnn-s", {"blocks": [[0, 1]]}, "outputs of a block is 0; expected at least 1"),
        ("ds-cnn-s", {"width": 1.5}, "width is 1.5; expected a whole number"),
    ],
)
def test_wrong_arguments_are_one_clear_line(name: str, args: dict[str, Any], message: str):
    made = find(name).to_json()
    with pytest.raises(MismatchError, match=message) as error:
        build(Recipe.from_json({**made, "args": {**made["args"], **args}}))
    assert "\n" not in str(error.value)


def test_an_activation_that_is_none_is_refused():
    made = find("ds-cnn-s").to_json()
    with pytest.raises(MismatchError, match="act is 'gelu'; expected relu, relu6 or hswish"):
        try_out(Recipe.from_json({**made, "args": {**made["args"], "act": "gelu"}}))


def test_alpha_of_zero_and_one_are_all_ternary_and_none():
    none = HybridMobileNetV1(0.25, 10, alpha=1.0)
    assert not none.ternary_layers()
    everything = HybridMobileNetV1(0.25, 10, alpha=0.0, bank=0.0)
    assert len(everything.ternary_layers()) == 14


def test_a_network_of_real_filters_is_deployed_without_norms(tmp_path: Path):
    torch.manual_seed(0)
    form = HybridMobileNetV1(0.25, 10, stride=1).trainable().train()
    x = 2 * torch.rand(8, 3, 32, 32) - 1
    for _ in range(3):
        form(x)
    network = form.deployed()
    assert not any(".norm." in name for name in network.state_dict())
    assert network(x).equal(form.eval()(x))
    Checkpoint.write(tmp_path, find("mobilenet-v1-025"), network.state_dict(), {})
    assert zoo.load(tmp_path)(x).equal(network(x))
    sizes = [value.numel() * value.element_size() for value in network.state_dict().values()]
    assert sum(sizes) == stored_bytes(network)


# --- runs -----------------------------------------------------------------------------------------


def test_a_run_writes_packed_digits_and_another_goes_on_from_them(tmp_path: Path):
    small = find("st-tree-kws").in_tiny_form()
    trial = task_of(small).trial(tmp_path / "data", small)
    first = zoo.train(trial.recipe, tmp_path / "first", data=trial.data, device="cpu")
    digits = {n: v for n, v in first.state_dict().items() if n.endswith(".digits")}
    assert len(digits) == 7
    second = zoo.train(
        trial.recipe, tmp_path / "second", data=trial.data, init=first.path, device="cpu"
    )
    for name, value in digits.items():
        assert second.state_dict()[name].equal(value)


def test_a_ternary_network_is_trained_on_in_int8(tmp_path: Path):
    small = find("st-tree-kws").in_tiny_form()
    trial = task_of(small).trial(tmp_path / "data", small)
    first = zoo.train(trial.recipe, tmp_path / "first", data=trial.data, device="cpu")
    again = zoo.train(
        trial.recipe,
        tmp_path / "again",
        data=trial.data,
        init=first.path,
        device="cpu",
        quant="int8",
    )
    assert again.config["quantization"]["scheme"] == "int8"
    assert again.load()(torch.randn(2, 1, 49, 10)).isfinite().all()
