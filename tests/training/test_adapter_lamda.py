"""LaMDA: cores between frozen factors, against PEFT's own layers and by what is kept in memory."""

import json
import warnings

import pytest
import torch
from torch import nn

from zoo.adapters.methods import lamda
from zoo.adapters.methods.contract import Options as Common
from zoo.adapters.methods.contract import method
from zoo.adapters.recipe import AdapterRecipe, MaskOptions
from zoo.artifacts.base import load_base
from zoo.errors import MismatchError, UnknownNameError
from zoo.registry.recipe import Train

pytestmark = [  # of peft 0.21
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning"),
]
IDS = torch.arange(24).view(2, 12) % 20


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def attached(tiny, **options):
    model = load_base(tiny).model
    return lamda.attach(model, {}, lamda.Options(**{"rank": 4, "steps": 10, **options}))


def steps(attachment, count, first=0, lr=1e-2):
    optimizer = torch.optim.AdamW(attachment.trained.parameters(), lr=lr, weight_decay=0.1)
    for step in range(first, first + count):
        attachment.starting(step)
        attachment.model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        attachment.use()
    return attachment


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"init": "random"}, {"allocation": "energy"}])
def test_the_base_keeps_its_output_to_the_bit(tiny, options, dtype):
    model = load_base(tiny).model.to(dtype)
    before = logits(model)
    attachment = lamda.attach(model, {}, lamda.Options(rank=4, **options))
    assert torch.equal(logits(model), before)
    attachment.close()


@pytest.mark.parametrize("options", [{}, {"freeze": 0.0}, {"allocation": "energy"}])
def test_folded_equals_unfolded_in_stock_peft(tiny, tmp_path, options):
    from peft import PeftModel

    attachment = steps(attached(tiny, **options), 4)
    trained = logits(attachment.model)
    attachment.result(dict(attachment.trained.state_dict()), tmp_path)
    again = PeftModel.from_pretrained(load_base(tiny).model, tmp_path)
    torch.testing.assert_close(logits(again), trained, atol=1e-5, rtol=0)
    attachment.close()
    assert (logits(attachment.model) - trained).abs().max() > 1e-3


def test_with_b_frozen_it_is_psoft_without_its_constraint(tiny):
    """PEFT's PSOFT is W + B (R - I) A with B and A frozen; the signs of its vectors are its own."""
    from peft import PsoftConfig, get_peft_model

    attachment = steps(attached(tiny, freeze=0.0), 6)
    config = PsoftConfig(
        r=4, psoft_alpha=4, psoft_orth=False, psoft_mag_a=False, psoft_mag_b=False,
        ab_svd_init="pissa_init", target_modules=attachment.names,
    )  # fmt: skip
    theirs = get_peft_model(load_base(tiny).model, config)
    with torch.no_grad():
        for number, name in enumerate(attachment.names):
            layer = theirs.base_model.model.get_submodule(name)
            a = layer._psoft_A_cache["default"]
            sign = (a * attachment.factors[number].a).sum(1).sign()
            core = attachment.trained[f"core{number}"]
            identity = torch.eye(len(core))
            layer.psoft_R["default"].weight.copy_(identity + sign[:, None] * core * sign)
    torch.testing.assert_close(logits(theirs), logits(attachment.model), atol=1e-6, rtol=1e-6)


def test_columns_freeze_one_by_one_and_never_move_again(tiny):
    attachment = attached(tiny, freeze=0.8)  # of 10 steps, 4 columns: frozen at 2, 4, 6 and 8
    columns = [attachment.trained[f"column0-{j}"] for j in range(4)]
    optimizer = torch.optim.AdamW(attachment.trained.parameters(), lr=1e-2, weight_decay=0.1)
    kept: dict[int, torch.Tensor] = {}
    for step in range(10):
        attachment.starting(step)
        frozen = [j for j, column in enumerate(columns) if not column.requires_grad]
        assert frozen == [j for j in range(4) if step >= 2 * (j + 1)]
        for j in frozen:
            kept.setdefault(j, columns[j].detach().clone())
        attachment.model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        assert all(torch.equal(columns[j], value) for j, value in kept.items())
    start = attached(tiny, freeze=0.8).trained
    assert all(not torch.equal(columns[j], start[f"column0-{j}"]) for j in range(4))


def saved_bytes(model, run):
    """Bytes that a backward pass will need, besides parameters: each storage once."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen: dict[int, int] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = run()
    del loss
    return sum(seen.values())


def test_it_keeps_less_for_the_backward_pass_than_lora(tiny):
    ids = torch.randint(0, 20, (4, 64))
    kept = {}
    for name, options in {
        "lora": Common(rank=4), "lamda": lamda.Options(rank=4), "core": lamda.Options(freeze=0.0),
    }.items():  # fmt: skip
        model = load_base(tiny).model
        attachment = method("lora" if name == "lora" else "lamda").attach(model, {}, options)
        frozen = [t for pair in getattr(attachment, "factors", []) for t in pair]
        model.extra = nn.ParameterList([nn.Parameter(t, requires_grad=False) for t in frozen])
        kept[name] = saved_bytes(model, lambda m=attachment.model: m(input_ids=ids, labels=ids))
    assert kept["lamda"] <= 0.85 * kept["lora"]
    assert kept["core"] < kept["lamda"]


def test_ranks_by_energy_cost_no_more_and_go_where_spectra_are_flat():
    flat, steep = torch.ones(32), 0.5 ** torch.arange(32.0)
    ranks = lamda.allocate([flat, steep], 8)
    assert ranks[0] > 8 > ranks[1] >= 1
    assert 2 * 64 - 25 < sum(r * r for r in ranks) <= 2 * 64
    assert lamda.allocate([flat, flat.clone()], 8) == [8, 8]
    assert lamda.allocate([torch.zeros(4), steep], 1) == [1, 1]


def test_the_singular_values_are_those_of_torch():
    torch.manual_seed(0)
    for shape in ((12, 20), (20, 12), (9, 9)):
        weight = torch.randn(shape)
        a, b = lamda.factors(weight, 5)
        u, s, v = torch.linalg.svd(weight, full_matrices=False)
        torch.testing.assert_close(b @ a, u[:, :5] * s[:5] @ v[:5])
        torch.testing.assert_close(a @ a.t(), s[:5].diag(), atol=1e-5, rtol=1e-5)
    a, b = lamda.factors(torch.ones(4, 6), 3)  # of rank 1
    torch.testing.assert_close(b @ a, torch.ones(4, 6))
    assert bool(torch.isfinite(a).all() and torch.isfinite(b).all())


def test_a_run_is_resumed_with_the_same_result(train_tiny, read_losses, tmp_path, monkeypatch):
    from zoo.training.loop import Run

    given = {"method": "lamda", "rank": 4, "options__freeze": 0.8, "train__lr": 0.1}
    assert train_tiny(tmp_path / "whole", **given) == 0

    whole = Run._step

    def dies(self, step):
        if step == 4:
            raise KeyboardInterrupt
        return whole(self, step)

    monkeypatch.setattr(Run, "_step", dies)
    assert train_tiny(tmp_path / "parts", **given) != 0
    monkeypatch.setattr(Run, "_step", whole)
    assert train_tiny(tmp_path / "parts", "--resume", **given) == 0
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        parts = [(tmp_path / run / file).read_bytes() for run in ("whole", "parts")]
        assert parts[0] == parts[1]
    recipe = json.loads((tmp_path / "whole" / "adapter.json").read_text())["recipe"]
    assert recipe["options"] == {"freeze": 0.8}
    assert read_losses(tmp_path / "whole")[6] < read_losses(tmp_path / "whole")[1]


def test_packed_weights_take_cores_too(tiny, tmp_path):
    import zoo

    zoo.compress(tiny, tmp_path / "packed", method="rtn", bits=4, group_size=16)
    model = load_base(tmp_path / "packed").model
    before = logits(model)
    attachment = steps(lamda.attach(model, {}, lamda.Options(rank=2, steps=4)), 3)
    assert (logits(model) - before).abs().max() > 1e-3
    attachment.close()
    assert torch.equal(logits(model), before)


def recipe(**given):
    train = Train(steps=1, batch_size=1, lr=1.0)
    return AdapterRecipe(name="x", summary="", base="b", task="t", train=train, **given)


def test_what_does_not_fit_is_refused_by_one_line(tiny):
    from zoo.adapters.methods.contract import options_of

    with pytest.raises(MismatchError, match=r"rank 99 is more than model.layers.0"):
        attached(tiny, rank=99)
    with pytest.raises(MismatchError, match=r"options.freeze is 2"):
        options_of(recipe(method="lamda", options={"freeze": 2}))
    with pytest.raises(MismatchError, match="init is 'svdd'"):
        options_of(recipe(method="lamda", options={"init": "svdd"}))
    with pytest.raises(UnknownNameError, match=r"option 'freez'; did you mean freeze\? \(of lamda"):
        options_of(recipe(method="lamda", options={"freez": 0.1}))
    with pytest.raises(UnknownNameError, match=r"\(of lora: none\)"):
        options_of(recipe(method="lora", options={"freeze": 0.1}))
    with pytest.raises(UnknownNameError, match="unknown option 'seed'"):
        options_of(recipe(method="lamda", options={"seed": 1}))
    model = load_base(tiny).model
    with torch.no_grad():
        model.get_parameter("model.layers.0.self_attn.q_proj.weight")[0, 0] = float("nan")
    with pytest.raises(MismatchError, match="not finite"):
        lamda.attach(model, {}, lamda.Options(rank=2))
    mask = MaskOptions(include=("*norm.weight",))
    with warnings.catch_warnings(), pytest.raises(MismatchError, match="cannot take"):
        lamda.attach(load_base(tiny).model, {}, lamda.Options(rank=2, mask=mask))
