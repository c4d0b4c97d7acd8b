"""Adapters trained on packed bases, by the same commands: equal to those of the decoded base."""

import json

import pytest
import torch

import zoo
from zoo.adapters import SparseAdapter, Switcher, compare, fuse, masks, sidecar
from zoo.adapters.compact import CompactValues
from zoo.adapters.folder import AdapterFolder
from zoo.adapters.recipe import MaskOptions
from zoo.artifacts.base import load_base
from zoo.errors import MismatchError
from zoo.quantization.packed import PackedLinear, set_cache
from zoo.training.loop import Run

pytestmark = [  # of peft 0.21: a name of transformers that is to go
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is:FutureWarning"),
]
IDS = torch.arange(20)[None] % 16


@pytest.fixture(scope="module")
def packed(tiny, tmp_path_factory):
    """The tiny model with codes of 4 bits."""
    out = tmp_path_factory.mktemp("packed") / "packed4"
    zoo.compress(tiny, out, method="rtn", bits=4, group_size=16)
    return out


@pytest.fixture(scope="module")
def decoded(packed, tmp_path_factory):
    """What its codes stand for, in floats."""
    folder = tmp_path_factory.mktemp("decoded") / "packed4"
    base = load_base(packed)
    base.model.dequantize().save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return folder


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def adapter_of(folder):
    return SparseAdapter.load(folder / "sparse_adapter.safetensors")


WAYS = [
    {"mask__kind": "wm", "mask__density": 0.03},  # sampled gradients
    {"mask__kind": "wm", "mask__density": 0.2},  # gathered ones
    {"mask__kind": "snip"},
    {"mask__kind": "grad", "mask__batches": 2, "mask__scope": "global"},
    {"mask__kind": "struct"},
    {"method": "shira-dora", "rank": 2},
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(map(str, way.values())))
def test_equal_to_training_on_the_decoded_weights(packed, decoded, train_tiny, tmp_path, way):
    assert train_tiny(tmp_path / "codes", "--base", str(packed), **way) == 0
    assert train_tiny(tmp_path / "floats", "--base", str(decoded), **way) == 0
    ours, theirs = adapter_of(tmp_path / "codes"), adapter_of(tmp_path / "floats")
    assert list(ours.tensors) == list(theirs.tensors)
    for name, tensor in ours.tensors.items():
        other = theirs.tensors[name]
        assert torch.equal(tensor.indices, other.indices), name
        torch.testing.assert_close(tensor.values, other.values, atol=2e-5, rtol=1e-3)
        assert (tensor.shape, tensor.base_sha256) == (other.shape, other.base_sha256)
    assert ours.metadata["base"] == "packed4"
    folder = AdapterFolder.read(tmp_path / "codes")
    assert folder.metrics["switch"]["median_ms"] > 0
    assert (tmp_path / "codes" / "README.md").is_file()
    before = load_base(packed).model
    model = zoo.load(packed, adapter=tmp_path / "codes")
    kept = before.state_dict()
    assert all(torch.equal(v, kept[n]) for n, v in model.state_dict().items() if "codes" in n)
    assert (logits(model) - logits(before)).abs().max() > 1e-3
    floats = zoo.load(decoded, adapter=tmp_path / "codes")  # decoded weights are a base as well
    torch.testing.assert_close(logits(model), logits(floats), atol=1e-4, rtol=1e-3)


def test_stopped_and_resumed_it_ends_in_the_same_bits(packed, train_tiny, tmp_path, monkeypatch):
    long = {"train__steps": 12, "train__save_every": 4, "mask__kind": "snip"}
    assert train_tiny(tmp_path / "whole", "--base", str(packed), **long) == 0
    step = Run._step

    def stop(run, number):
        if number == 7:
            raise KeyboardInterrupt
        return step(run, number)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_step", stop)
        assert train_tiny(tmp_path / "half", "--base", str(packed), **long) == 130
    assert train_tiny(tmp_path / "half", "--base", str(packed), "--resume", **long) == 0
    one, two = adapter_of(tmp_path / "whole"), adapter_of(tmp_path / "half")
    for name, tensor in one.tensors.items():
        assert torch.equal(tensor.indices, two.tensors[name].indices)
        assert torch.equal(tensor.values, two.tensors[name].values)


def test_the_graph_keeps_no_floats(packed):
    """QLoRA style: what autograd saves for a packed layer is its input, never its weight."""
    model = load_base(packed).model
    layer = model.get_submodule("model.layers.0.mlp.up_proj")
    compact = CompactValues(model, masks.choose(model, MaskOptions(density=0.05)))
    handles = compact.attach(model)
    saved = []

    def note(tensor):
        saved.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = model(IDS, labels=IDS).loss
    loss.backward()
    shape = (layer.out_features, layer.in_features)
    assert shape not in saved
    assert shape[::-1] not in saved
    assert compact.values.grad.abs().sum() > 0
    for handle in handles:
        handle.remove()
    assert all(m.sidecar is None for m in model.modules() if isinstance(m, PackedLinear))


@pytest.mark.parametrize("cache", ["none", "decoded"])
@pytest.mark.parametrize("method", ["rtn", "gptvq"])
def test_gradients_equal_those_of_the_decoded_model(tiny, farm_text, tmp_path, method, cache):
    options = {"bits": 3, "dim": 1, "iterations": 2} if method == "gptvq" else {"bits": 4}
    data = {"data": farm_text, "windows": 2, "length": 16} if method == "gptvq" else {}
    zoo.compress(tiny, tmp_path / "out", method=method, **options, **data)
    model = load_base(tmp_path / "out").model
    floats = load_base(tmp_path / "out").model.dequantize()
    set_cache(model, cache)
    indices = masks.choose(model, MaskOptions(density=0.1))
    gradients = []
    for network in (model, floats):
        compact = CompactValues(network, indices)
        handles = compact.attach(network)
        network(IDS, labels=IDS).loss.backward()
        gradients.append(compact.values.grad)
        for handle in handles:
            handle.remove()
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_low_ranks_train_beside_the_codes_too(packed, train_tiny, tmp_path, method):
    more = {"method": method, "rank": 2}
    assert train_tiny(tmp_path / "out", "--base", str(packed), **more) == 0
    metrics = AdapterFolder.read(tmp_path / "out").metrics
    assert metrics["trained_values"] > 0
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in log if "loss" in line]
    assert losses[-1] < losses[0]


def test_what_peft_cannot_do_on_codes_is_said(packed, train_tiny, tmp_path, capsys):
    assert train_tiny(tmp_path / "out", "--base", str(packed), method="peft-shira", rank=1) == 1
    assert "use method shira" in capsys.readouterr().err


def test_an_adapter_that_is_on_is_not_trained_over(packed, train_tiny, tmp_path):
    assert train_tiny(tmp_path / "out", "--base", str(packed)) == 0
    model = zoo.load(packed, adapter=tmp_path / "out")
    with pytest.raises(MismatchError, match="is already on"):
        masks.choose(model, MaskOptions())


@pytest.fixture(scope="module")
def two(packed, train_tiny, tmp_path_factory):
    """Two adapters of the packed model, which meet in some entries."""
    folder = tmp_path_factory.mktemp("two")
    for name, seed in (("one", 1), ("two", 2)):
        more = {"mask__kind": "rand", "mask__density": 0.3, "mask__seed": seed}
        assert train_tiny(folder / name, "--base", str(packed), **more) == 0
    return {name: adapter_of(folder / name) for name in ("one", "two")}


@pytest.mark.parametrize("strategy", ["sum", "ties", "priority", "dare"])
def test_switched_on_codes_as_on_their_floats(packed, decoded, two, strategy):
    model, floats = load_base(packed).model, load_base(decoded).model
    plain, state = logits(model), {n: v.clone() for n, v in model.state_dict().items()}
    switchers = [Switcher(model), Switcher(floats)]
    for switcher in switchers:
        for name, adapter in two.items():
            switcher.register(name, adapter)
        switcher.activate("one", alpha=0.5)
        switcher.activate({"one": 0.7, "two": -0.4}, strategy=strategy)
    torch.testing.assert_close(logits(model), logits(floats), atol=1e-4, rtol=1e-3)
    assert switchers[0].changed == switchers[1].changed > 0
    sha256 = switchers[0].verify()
    with switchers[0].using("two"):
        one = logits(model)
    assert (one - plain).abs().max() > 1e-3
    switchers[0].deactivate()
    assert switchers[0].verify() == sha256
    assert torch.equal(logits(model), plain)
    assert all(torch.equal(v, state[n]) for n, v in model.state_dict().items())
    for switcher in switchers:
        switcher.close()


def test_a_switch_that_fails_is_undone(packed, two, monkeypatch):
    model = load_base(packed).model
    switcher = Switcher(model)
    for name, adapter in two.items():
        switcher.register(name, adapter)
    switcher.activate("one")
    before, count = logits(model), 0

    def write(step):
        nonlocal count
        count += 1
        if count == 5:
            raise KeyboardInterrupt
        step()

    monkeypatch.setattr(switcher, "_write", write)
    with pytest.raises(KeyboardInterrupt):
        switcher.activate("two")
    assert switcher.active == {"one": 1.0}
    assert torch.equal(logits(model), before)


def test_two_keepers_of_one_model_are_refused(packed, two):
    model = sidecar.attach(load_base(packed).model, two["one"])
    before = logits(model)
    switcher = Switcher(model)
    with pytest.raises(MismatchError, match=r"already on; take it off .*detach"):
        switcher.register("two", two["two"])
    assert torch.equal(logits(model), before)
    sidecar.detach(model)
    switcher.register("two", two["two"])
    switcher.activate("two")
    with pytest.raises(MismatchError, match=r"already on; .*Switcher"):
        sidecar.attach(model, two["one"])
    switcher.deactivate()
    sidecar.attach(model, two["one"])
    with pytest.raises(MismatchError, match="already on"):
        switcher.activate("two")
    assert torch.equal(logits(model), before)


def test_fused_compared_and_mixed(packed, decoded, two, tmp_path):
    model, floats = load_base(packed).model, load_base(decoded).model
    ours, theirs = fuse(two, model, {"one": 0.5}), fuse(two, floats, {"one": 0.5})
    for name, tensor in ours.tensors.items():
        assert torch.equal(tensor.values, theirs.tensors[name].values)
        assert tensor.base_sha256 == theirs.tensors[name].base_sha256
    assert compare(two, model).to_json() == compare(two, floats).to_json()
    files = {str(a.save(tmp_path / f"{n}.safetensors")): 0.5 for n, a in two.items()}
    mixed = zoo.load(packed, adapter=files)
    both = sidecar.attach(model, fuse(two, model, dict.fromkeys(two, 0.5)))
    torch.testing.assert_close(logits(mixed), logits(both))


def test_one_of_the_float_base_is_switched_and_fused_too(packed, tiny, train_tiny, tmp_path):
    assert train_tiny(tmp_path / "out") == 0
    adapter = adapter_of(tmp_path / "out")
    model = load_base(packed).model
    attached = logits(sidecar.attach(model, adapter))
    sidecar.detach(model)
    switcher = Switcher(model)
    switcher.register("farm", tmp_path / "out" / "sparse_adapter.safetensors")
    switcher.activate("farm")
    assert torch.equal(logits(model), attached)
    other = load_base(tiny).model
    with torch.no_grad():
        other.get_parameter(next(iter(adapter.tensors)))[0, 0] += 1
    wrong = SparseAdapter.from_tensors(
        {n: (t.indices, t.values) for n, t in adapter.tensors.items()}, other
    )
    switcher.register("wrong", wrong)
    with pytest.raises(MismatchError, match="trained on other weights"):
        switcher.activate("wrong")
    assert torch.equal(logits(model), attached)
