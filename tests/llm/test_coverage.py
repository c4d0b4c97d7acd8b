"""Which models can be packed, what share of them is, and that the result does what it did."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    GPTBigCodeConfig,
    GPTNeoXConfig,
    GptOssConfig,
    LlamaConfig,
    Mamba2Config,
    MambaConfig,
)

from zoo.cli import main
from zoo.errors import MismatchError, MissingWeightsError
from zoo.quantization import coverage, verify
from zoo.quantization.generic import quantize_model
from zoo.quantization.language import opening
from zoo.quantization.language.job import compress_model
from zoo.quantization.options import LayerOptions
from zoo.quantization.packed import PackedLinear
from zoo.quantization.plan import QuantizationPlan

COMMON = {"vocab_size": 256, "bos_token_id": None, "eos_token_id": None}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, **COMMON}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, **COMMON}
LLAMA = {"intermediate_size": 64, "num_key_value_heads": 2, **SMALL}
MAMBA = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, **COMMON}
MAMBA2 = {**MAMBA, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 16}
CONFIGS = {
    "llama-tied": LlamaConfig(tie_word_embeddings=True, **LLAMA),
    "llama": LlamaConfig(tie_word_embeddings=False, **LLAMA),
    "falcon": FalconConfig(**SMALL),
    "mamba": MambaConfig(**MAMBA),
    "mamba2": Mamba2Config(**MAMBA2),
    "bigcode": GPTBigCodeConfig(**GPT),
}
MIXTURE = {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8}
REFUSED = {"gpt-oss": (GptOssConfig(**MIXTURE, **LLAMA), "GptOssExperts")}
IDS = torch.randint(256, (1, 40), generator=torch.Generator().manual_seed(1))
RTN = LayerOptions(method="rtn", bits=4)
VECTORS = LayerOptions(bits=4, dim=1, group_size=256, iterations=2)


def model_of(config):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def logits(model):
    with torch.no_grad():
        return model(IDS, use_cache=False).logits


def error(model, before):
    return float((logits(model) - before).norm() / before.norm())


@pytest.mark.parametrize("name", CONFIGS)
def test_in_memory_the_linear_layers_are_packed_and_nothing_else_changes(name):
    model = model_of(CONFIGS[name])
    before, state = logits(model), {k: v.clone() for k, v in model.state_dict().items()}
    report = quantize_model(model, [{"input_ids": IDS}] * 4, VECTORS)
    assert 0 < error(model, before) < 0.3
    assert error(model, before) == pytest.approx(report.distance, rel=0.05)
    packed = [m for m in model.modules() if isinstance(m, PackedLinear)]
    numel = sum(layer.in_features * layer.out_features for layer in packed)
    assert report.share == pytest.approx(numel / sum(v.numel() for v in weights_of(name)))
    assert report.share > 0.4
    for key, value in model.state_dict().items():
        assert key not in state or torch.equal(value, state[key]), key


def weights_of(name):
    return model_of(CONFIGS[name]).parameters()


def test_a_tied_embedding_keeps_its_values():
    model = model_of(CONFIGS["llama-tied"])
    table = model.get_input_embeddings().weight.clone()
    report = quantize_model(model, [{"input_ids": IDS}] * 4, VECTORS)
    assert "lm_head" not in report
    assert torch.equal(model.get_input_embeddings().weight, table)
    assert model.lm_head.weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("name", REFUSED)
def test_other_layers_are_refused_before_the_first_write(name, tmp_path):
    config, kind = REFUSED[name]
    model = model_of(config)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(MismatchError, match=f"{kind} .*cannot be packed"):
        quantize_model(model, [{"input_ids": IDS}], VECTORS)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(MismatchError, match=f"{kind} .*cannot be packed"):
        compress_model(
            tmp_path / "model", tmp_path / "out", QuantizationPlan(options=RTN), device="cpu"
        )
    assert not (tmp_path / "out").exists()


def test_what_is_skipped_by_name_is_left():
    model = model_of(REFUSED["gpt-oss"][0])
    plan = QuantizationPlan(options=VECTORS, skip=("*experts*",))
    report = quantize_model(model, [{"input_ids": IDS}] * 4, plan)
    assert report.share < 0.3  # and says so
    assert sum(isinstance(m, PackedLinear) for m in model.modules()) == len(report) == 9


def test_convolutions_with_a_linear_head_are_refused():
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Flatten(), nn.Linear(64, 4)).eval()
    with pytest.raises(MismatchError, match="256 of 1,984 weights in linear layers"):
        quantize_model(model, [torch.randn(200, 3, 3, 3)], VECTORS)


class Twice(nn.Module):
    """One layer in two places, and two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(32, 32)
        self.again = self.first
        self.one, self.other = nn.Linear(8, 8), nn.Linear(8, 8)
        self.other.weight = self.one.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.again(torch.tanh(self.first(x)))[:, :8]
        return self.other(torch.tanh(self.one(x)))


def test_a_layer_in_two_places_and_a_weight_of_two_layers():
    torch.manual_seed(0)
    model = Twice().eval()
    weight = model.one.weight.clone()
    report = quantize_model(model, [torch.randn(200, 32)], VECTORS)
    assert list(report) == ["first"]
    assert model.again is model.first
    assert type(model.first) is PackedLinear
    assert torch.equal(model.one.weight, weight)
    assert model.other.weight is model.one.weight


class Scaled(nn.Linear):
    """Not what nn.Linear computes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


class Scale(nn.Linear):
    """A number of each layer's own, which a small layer of the class does not show."""

    scale = 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * super().forward(x)


def test_a_class_that_computes_something_else_is_not_taken_for_linear():
    layer = Scale(3, 2)
    layer.scale = 3.0
    assert not coverage.is_linear(Scaled(3, 2))
    assert not coverage.is_linear(layer)
    assert coverage.is_linear(nn.modules.linear.NonDynamicallyQuantizableLinear(3, 2))
    model = nn.Sequential(nn.Linear(16, 16), Scaled(16, 16)).eval()
    with pytest.raises(MismatchError, match=r"Scaled \(1.weight"):
        quantize_model(model, [torch.randn(200, 16)], VECTORS)


def test_attention_that_reads_a_weight_works():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 512, batch_first=True).eval()
    x = torch.randn(2, 100, 32)
    with torch.no_grad():
        before = layer(x)
        report = quantize_model(layer, [x], VECTORS)
        assert list(report) == ["linear1", "linear2"]  # the projections are only read
        assert float((layer(x) - before).norm() / before.norm()) < 0.1


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("method", ["rtn", "gptvq"])
def test_a_folder_is_packed_and_runs(name, method, tmp_path, text, byte_tokenizer):
    model = model_of(CONFIGS[name])
    model.save_pretrained(tmp_path / "model")
    byte_tokenizer.save_pretrained(tmp_path / "model")
    plan = QuantizationPlan(options=RTN if method == "rtn" else VECTORS, windows=4, length=40)
    report = compress_model(tmp_path / "model", tmp_path / "out", plan, text=text, device="cpu")
    packed = opening.load(tmp_path / "out")
    layers = [m for m in packed.modules() if isinstance(m, PackedLinear)]
    numel = sum(layer.in_features * layer.out_features for layer in layers)
    assert report["share"] == pytest.approx(numel / sum(v.numel() for v in model.parameters()))
    assert 0 < report["check"]["distance"] < 0.4
    assert error(packed, logits(model)) < 0.4
    plain = packed.dequantize()
    assert error(plain, logits(opening.load(tmp_path / "out"))) < 1e-4


def test_the_command_prints_the_share_and_the_card_has_it(base, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["compress", str(base), "--method", "rtn", "--bits", "4", "--out", str(out)]) == 0
    share = json.loads((out / "report.json").read_text())["share"]
    assert f"{share:.1%} of the weights packed" in capsys.readouterr().out
    card = (out / "README.md").read_text()
    assert f"({share:.1%} of the model's)" in card
    assert "distance of the logits from the base's, relative, 16 tokens" in card


def wrong(monkeypatch, answer):
    """Let packed layers answer something else."""
    usual = PackedLinear.forward
    monkeypatch.setattr(PackedLinear, "forward", lambda self, x: answer(usual(self, x)))


def crash(y):
    raise AttributeError("no attribute 'frobnicate'")


FAULTS = {
    "crash": (crash, r"layers.0.self_attn.q_proj \(PackedLinear\) in .*frobnicate"),
    "nan": (lambda y: y * float("nan"), r"NaN or infinity, first in .*q_proj \(PackedLinear\)"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_model_that_does_not_run_leaves_no_checkpoint(fault, base, tmp_path, monkeypatch):
    answer, message = FAULTS[fault]
    with monkeypatch.context() as patch:
        wrong(patch, answer)
        with pytest.raises(MismatchError, match=message):
            compress_model(base, tmp_path / "out", QuantizationPlan(options=RTN), device="cpu")
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["work"]
    resumed = compress_model(
        base, tmp_path / "out", QuantizationPlan(options=RTN), device="cpu", resume=True
    )
    assert resumed["check"]["distance"] < 0.2


@pytest.mark.parametrize("fault", FAULTS)
def test_in_memory_the_model_is_as_it_was(fault, monkeypatch):
    answer, message = FAULTS[fault]
    model = model_of(CONFIGS["llama-tied"])
    before = logits(model)
    with monkeypatch.context() as patch:
        wrong(patch, answer)
        with pytest.raises(MismatchError, match=message):
            quantize_model(model, [{"input_ids": IDS}] * 4, VECTORS)
    assert torch.equal(logits(model), before)
    assert not any(isinstance(module, PackedLinear) for module in model.modules())


def test_what_is_too_far_is_refused(base, tmp_path, monkeypatch):
    usual = PackedLinear.dequantize
    monkeypatch.setattr(
        PackedLinear, "dequantize", lambda self, *a: usual(self, *a).roll(1, 0) * 30
    )
    monkeypatch.setattr(verify, "FARTHEST", 1.0)  # behind a norm, answers keep their size
    with pytest.raises(MismatchError, match=r"times their own size away.*largest error.*proj"):
        compress_model(base, tmp_path / "out", QuantizationPlan(options=RTN), device="cpu")
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 4)).eval()
    with pytest.raises(MismatchError, match="times their own size away"):
        quantize_model(model, [torch.randn(200, 16)], VECTORS)


@pytest.mark.parametrize("embeddings", [0, 8])
def test_a_head_stored_under_another_name_is_the_models_head(embeddings, tmp_path):
    """GPT-NeoX is saved with `embed_out.weight` for what the model calls `lm_head.weight`."""
    model = model_of(GPTNeoXConfig(intermediate_size=64, **SMALL))
    model.save_pretrained(tmp_path / "model")
    plan = QuantizationPlan(options=RTN, embeddings=embeddings)
    report = compress_model(tmp_path / "model", tmp_path / "out", plan, device="cpu")
    packed = opening.load(tmp_path / "out")
    assert error(packed, logits(model)) < 0.3
    assert 0 < report["check"]["distance"] < 0.3
    tables = sum(table.weight.numel() for table in (model.lm_head, model.gpt_neox.embed_in))
    rest = sum(value.numel() for value in model.parameters()) - tables
    assert report["share"] == pytest.approx(report["weights"] / (rest + tables))


def test_a_model_saved_without_its_head_class_is_packed(tmp_path):
    """As Bloom is on the Hub: `h.0...` for what the model calls `transformer.h.0...`."""
    model = model_of(BloomConfig(hidden_size=32, n_layer=2, n_head=4, **COMMON))
    model.transformer.save_pretrained(tmp_path / "model")
    plan = QuantizationPlan(options=RTN)
    compress_model(tmp_path / "model", tmp_path / "out", plan, device="cpu")
    assert error(opening.load(tmp_path / "out"), logits(model)) < 0.3


def test_a_missing_norm_is_named_before_it_is_computed_with(base, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(base, folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MissingWeightsError, match=r"no tensor 'model.norm.weight': get the whole"):
        compress_model(folder, tmp_path / "out", QuantizationPlan(options=RTN), device="cpu")
