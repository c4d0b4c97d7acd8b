"""Adapters by PEFT's methods: SHiRA as ours, LoRA and DoRA as baselines, and conversions."""

import json

import pytest
import torch

from zoo.adapters import SparseAdapter, masks
from zoo.adapters.apply import apply
from zoo.adapters.recipe import MaskOptions
from zoo.artifacts.base import load_base
from zoo.errors import MismatchError

pytestmark = [  # of peft 0.21: a name of transformers that is to go, unchecked sparse sums
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning"),
]


def test_both_routes_give_one_adapter(train_tiny, read_losses, tmp_path):
    """PEFT's SHiRA with our mask, and the hook route with that very mask."""
    through, hooks = tmp_path / "peft", tmp_path / "hooks"
    assert train_tiny(through, method="peft-shira", rank=2, mask__kind="snip") == 0
    assert train_tiny(hooks, mask__kind="custom", mask__source=through) == 0
    assert read_losses(hooks) == pytest.approx(read_losses(through), abs=1e-5)
    a, b = (SparseAdapter.load(out / "sparse_adapter.safetensors") for out in (through, hooks))
    for name, tensor in a.tensors.items():
        assert torch.equal(tensor.indices, b.tensors[name].indices)
        assert tensor.nnz == 2 * sum(tensor.shape)
        torch.testing.assert_close(tensor.values, b.tensors[name].values, atol=1e-5, rtol=1e-3)


def test_indices_of_the_peft_route_survive_a_state_dict(tiny):
    """Stock PEFT loses them: with another mask, loading says all is well and logits differ."""
    from zoo.adapters.methods.peft_shira import peft_counts, wrap_shira

    ids = torch.arange(12)[None] % 20

    def made(seed):
        model = load_base(tiny).model
        options = MaskOptions(kind="rand", seed=seed)
        counts = peft_counts(model, options, 2)
        return wrap_shira(model, masks.choose(model, options, counts=counts), 2)

    one, two = made(0), made(1)
    with torch.no_grad():
        for name, parameter in one.named_parameters():
            if "shira_weight" in name:
                parameter.normal_()
    two.load_state_dict(one.state_dict())
    with torch.no_grad():
        assert torch.equal(one(input_ids=ids).logits, two(input_ids=ids).logits)


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_baselines_through_peft_are_resumed_and_converted(
    train_tiny, read_losses, tiny, tmp_path, method
):
    from zoo.adapters.conversion import from_lora

    out = tmp_path / "run"
    assert train_tiny(out, method=method, rank=2) == 0
    assert read_losses(out)[6] < read_losses(out)[1]
    assert (out / "adapter_model.safetensors").is_file()
    base = load_base(tiny).model
    sparse = from_lora(base, out, 0.3)
    assert 0 < sparse.metadata["energy_kept"] < 1
    whole = from_lora(base, out, 1.0)
    from peft import PeftModel

    merged = PeftModel.from_pretrained(load_base(tiny).model, out).merge_and_unload()
    for name, tensor in whole.tensors.items():
        fused = dict(apply(load_base(tiny).model, whole).named_parameters())[name]
        torch.testing.assert_close(fused, dict(merged.named_parameters())[name])
        assert sparse.tensors[name].nnz <= int(0.3 * tensor.numel + 0.5)


def test_a_full_fine_tune_becomes_its_largest_changes(tiny):
    from zoo.adapters.conversion import from_full_finetune

    base, tuned = load_base(tiny).model, load_base(tiny).model
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    adapter = from_full_finetune(base, tuned, 0.25)
    for name, tensor in adapter.tensors.items():
        change = (tuned.get_parameter(name) - base.get_parameter(name)).detach().flatten()
        order = change.abs().sort(descending=True, stable=True).indices[: tensor.nnz]
        assert tensor.indices.tolist() == sorted(order.tolist())
        assert torch.equal(tensor.values, change[tensor.indices])
    assert adapter.metadata["energy_kept"] == pytest.approx(0.72, abs=0.04)  # of a normal law
    with pytest.raises(MismatchError, match="equals its base"):
        from_full_finetune(base, base)


SCALED = '''
"""One trained factor for each row of a layer's weight; the result is sparse like a SHiRA's."""

import torch
from torch import nn


def rows(model):
    return {name: p for name, p in model.named_parameters() if name.endswith("_proj.weight")}


def budget(model, options):
    return {}


def attach(model, indices, options):
    return Scaled(model)


class Scaled:
    def __init__(self, model):
        self.model = model
        self.rows = rows(model)
        self.start = {n: p.detach().clone() for n, p in self.rows.items()}
        model.requires_grad_(False)
        for weight in self.rows.values():
            weight.requires_grad_(True)
        self.trained = nn.ParameterList([torch.ones(len(p), 1) for p in self.rows.values()])
        self.facts = {}

    def collect(self):
        for (name, weight), factor in zip(self.rows.items(), self.trained):
            factor.grad = (weight.grad * self.start[name]).sum(1, keepdim=True)
            weight.grad = None

    @torch.no_grad()
    def use(self, values=None):
        for n, (name, weight) in enumerate(self.rows.items()):
            weight.copy_(self.start[name] * (self.trained[n] if values is None else values[str(n)]))

    def result(self, values, folder):
        self.close()
        deltas = {}
        for n, (name, weight) in enumerate(self.rows.items()):
            delta = (weight.detach() * (values[str(n)] - 1)).flatten()
            deltas[name] = (torch.arange(delta.numel()), delta)
        return deltas, dict(self.model.named_parameters())

    @torch.no_grad()
    def close(self):
        for name, weight in self.rows.items():
            weight.copy_(self.start[name])
'''


def test_a_new_method_is_one_file(train_tiny, tiny, tmp_path, monkeypatch):
    """From the command line to a sparse adapter, with nothing of the zoo touched."""
    import zoo.adapters.methods
    from zoo import extensions

    (tmp_path / "row_scale.py").write_text(SCALED)
    package = zoo.adapters.methods
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    extensions.members.cache_clear()
    try:
        out = tmp_path / "run"
        assert train_tiny(out, method="row-scale", train__lr=0.1) == 0
    finally:
        extensions.members.cache_clear()
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    third, sixth = (x["held_out/perplexity"] for x in log if "held_out/perplexity" in x)
    assert sixth < third
    adapter = SparseAdapter.load(out / "sparse_adapter.safetensors")
    assert len(adapter.tensors) == 14
    assert not (out / "mask.safetensors").exists()
    adapter.check(load_base(tiny).model)
