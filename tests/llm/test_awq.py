"""AWQ: scales that fold exactly, and that make rounding cost less."""

import json
from pathlib import Path

import pytest
import torch

from zoo.cli import main
from zoo.errors import MismatchError
from zoo.quantization.core import quantize_matrix
from zoo.quantization.hessian import Hessian
from zoo.quantization.language import blocks, folds, opening
from zoo.quantization.language.awq import ALPHAS, choose
from zoo.quantization.language.folds import Fold
from zoo.quantization.language.job import compress_model
from zoo.quantization.options import LayerOptions
from zoo.quantization.plan import QuantizationPlan

IDS = torch.arange(40)[None] * 5 % 256
RTN = LayerOptions(method="rtn", bits=3, group_size=32)
SIZES = {
    "vocab_size": 256, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": None, "tie_word_embeddings": False,
    "max_position_embeddings": 64,
}  # fmt: skip
LLAMA = {**SIZES, "intermediate_size": 80, "num_key_value_heads": 2, "head_dim": 12}
QKV, UP = "self_attn.q_proj", "mlp.gate_proj"


def family(name: str, sizes: dict):
    """A random model with gains and biases that count."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**sizes)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    for value in model.parameters():
        if value.ndim == 1:
            value.data = 0.5 + torch.rand_like(value)
    return model


def places(model) -> tuple[torch.nn.Module, list[Fold], object]:
    """The first block of a model, its places for scales, and what runs it."""
    _, parts = blocks.find_blocks(model)
    with torch.no_grad():
        call = blocks.record_calls(model, parts, IDS)[0]
        hidden = blocks.first_hidden(model, parts, IDS)

    def run() -> torch.Tensor:
        with torch.no_grad():
            return call(parts[0], hidden)

    return parts[0], folds.find(parts[0], run), run


@pytest.mark.parametrize(
    ("name", "sizes", "expected"),
    [
        ("Llama", LLAMA, {QKV: "input_layernorm", "self_attn.o_proj": "self_attn.v_proj",
                          UP: "post_attention_layernorm", "mlp.down_proj": "mlp.up_proj"}),
        ("Gemma2", LLAMA, {QKV: "input_layernorm", "self_attn.o_proj": "self_attn.v_proj",
                           UP: "pre_feedforward_layernorm", "mlp.down_proj": "mlp.up_proj"}),
        # A layer norm with a bias; ReLU lets a scale through, GELU does not.
        ("OPT", {**SIZES, "ffn_dim": 80, "word_embed_proj_dim": 48, "pad_token_id": 1},
         {QKV: "self_attn_layer_norm", "self_attn.out_proj": "self_attn.v_proj",
          "fc1": "final_layer_norm", "fc2": "fc1"}),
        ("GPTNeoX", {**SIZES, "intermediate_size": 80},
         {"attention.query_key_value": "input_layernorm",
          "mlp.dense_h_to_4h": "post_attention_layernorm"}),
    ],
)  # fmt: skip
def test_places_are_found_and_exact(name: str, sizes: dict, expected: dict) -> None:
    block, found, run = places(family(name, sizes))
    firsts = {next(n for n in expected if n in fold.layers): fold.before for fold in found}
    assert firsts == expected
    usual = run()
    before = {key: value.clone() for key, value in block.state_dict().items()}
    for fold in found:
        folds.apply(block, fold, torch.rand(int(fold.channels.max()) + 1) * 3 + 0.3)
    assert sum(not torch.equal(v, before[k]) for k, v in block.state_dict().items()) >= 4
    torch.testing.assert_close(run(), usual, rtol=2e-4, atol=2e-4)


def test_a_shared_head_is_read_by_its_queries() -> None:
    _, found, _ = places(family("Llama", LLAMA))
    heads = next(f for f in found if f.before == "self_attn.v_proj").channels.view(4, 12)
    assert heads[:, 0].tolist() == [0, 0, 12, 12]


def test_the_equation_of_the_scale_is_the_papers() -> None:
    """Equation 5, and what it is searched by, computed with loops over a layer's outputs."""
    torch.manual_seed(0)
    x = torch.randn(200, 32) * torch.logspace(-1, 1.5, 32)
    weight = torch.randn(24, 32)
    seen = Hessian(32)
    seen.update(x)
    fold = Fold("norm", ("layer",), torch.arange(32))
    chosen = choose(fold, [(weight, RTN)], seen.finish(), seen.magnitude())
    losses = {}
    for alpha in ALPHAS:
        scale = torch.tensor([float(x[:, j].abs().mean()) ** alpha for j in range(32)])
        scale /= (scale.max() * scale.min()) ** 0.5
        rounded = quantize_matrix(weight * scale, None, RTN).dequantize()
        losses[alpha] = float(((x / scale) @ rounded.T - x @ weight.T).square().sum())
        if alpha == chosen.alpha:
            torch.testing.assert_close(chosen.scale, scale, rtol=1e-4, atol=1e-5)
    assert chosen.alpha == min(losses, key=losses.get) > 0
    assert chosen.after < 0.7 * chosen.before
    # tr(E H E^T) with H = 2/n X^T X is the outputs' squared error.
    assert chosen.after == pytest.approx(losses[chosen.alpha] * 2 / 200, rel=1e-3)
    assert chosen.before == pytest.approx(losses[0.0] * 2 / 200, rel=1e-3)


def test_equal_inputs_need_no_scale() -> None:
    torch.manual_seed(0)
    fold = Fold("norm", ("layer",), torch.arange(32))
    weight = torch.randn(8, 32)
    chosen = choose(fold, [(weight, RTN)], torch.eye(32), torch.full((32,), 0.7))
    assert chosen.alpha == 0
    assert chosen.before == chosen.after
    assert torch.equal(chosen.scale, torch.ones(32))
    never = choose(fold, [(weight, RTN)], torch.zeros(32, 32), torch.zeros(32))
    assert torch.isfinite(never.scale).all()
    assert (never.scale > 0).all()


@pytest.fixture
def outliers(tmp_path: Path, tiny_model, byte_tokenizer) -> Path:
    """A model whose norms give a few channels large values, as those of real ones do."""
    model = tiny_model(2)
    for name, value in model.named_parameters():
        if name.endswith("layernorm.weight"):
            value.data[::16] = 20.0
    folder = tmp_path / "outliers"
    model.save_pretrained(folder)
    byte_tokenizer.save_pretrained(folder)
    return folder


def distance(folder: Path, base: Path) -> float:
    with torch.no_grad():
        logits = [opening.load(f, dtype=torch.float32)(IDS).logits for f in (folder, base)]
    return float((logits[0] - logits[1]).norm() / logits[1].norm())


@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_scaled_models_are_nearer(method: str, outliers: Path, text: Path, tmp_path: Path) -> None:
    options = LayerOptions(method=method, bits=3, group_size=64)
    far = {}
    for awq in (False, True):
        plan = QuantizationPlan(options=options, windows=4, length=64, awq=awq)
        report = compress_model(outliers, tmp_path / f"{awq}", plan, text=text)
        far[awq] = distance(tmp_path / f"{awq}", outliers)
        assert ("awq" in report) is awq
    assert far[True] < far[False]
    made = json.loads((tmp_path / "True" / "config.json").read_text())
    usual = json.loads((tmp_path / "False" / "config.json").read_text())
    # The layout is the usual one, but an adapter of the base is not for scaled weights.
    assert made["quantization_config"].pop("base_tensors") == {}
    for config in (made, usual):
        config["quantization_config"].pop("digests")
        config["quantization_config"].pop("base_tensors", None)
    assert made == usual
    assert not (tmp_path / "True" / "work").exists()


def test_a_killed_job_goes_on(
    outliers: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = QuantizationPlan(options=RTN, windows=2, length=32, awq=True)
    compress_model(outliers, tmp_path / "whole", plan, text=text)
    from zoo.quantization.language import awq

    calls = []
    usual = awq.scale_block

    def dies(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return usual(*args)

    monkeypatch.setattr(awq, "scale_block", dies)
    with pytest.raises(KeyboardInterrupt):
        compress_model(outliers, tmp_path / "killed", plan, text=text)
    monkeypatch.setattr(awq, "scale_block", usual)
    with pytest.raises(MismatchError, match="--resume"):
        compress_model(outliers, tmp_path / "killed", plan, text=text)
    compress_model(outliers, tmp_path / "killed", plan, text=text, resume=True)
    one, other = (tmp_path / n / "model.safetensors" for n in ("whole", "killed"))
    assert one.read_bytes() == other.read_bytes()


def test_bfloat16_embeddings_and_tuning_go_with_it(
    outliers: Path, text: Path, tmp_path: Path
) -> None:
    model = opening.load(outliers, dtype=torch.bfloat16)
    base = tmp_path / "half"
    model.save_pretrained(base)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (base / name).write_bytes((outliers / name).read_bytes())
    plan = QuantizationPlan(
        options=RTN, windows=2, length=32, awq=True, rotate="heads", embeddings=8, tune_steps=2,
        tune_length=32,
    )  # fmt: skip
    report = compress_model(base, tmp_path / "out", plan, text=text)
    assert report["tuning"]["divergence_after"] <= report["tuning"]["divergence_before"]
    assert distance(tmp_path / "out", base) < 1


def test_what_it_refuses(
    base: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(MismatchError, match="codebooks are fitted"):
        QuantizationPlan(options=LayerOptions(bits=2, dim=2), awq=True)
    mixed = {"*.down_proj": {"method": "gptvq", "bits": 2, "dim": 2}}
    with pytest.raises(MismatchError, match="codebooks are fitted"):
        QuantizationPlan(options=RTN, awq=True, overrides=mixed)
    command = ["compress", str(base), "--method", "rtn", "--bits", "4", "--awq"]
    assert main([*command, "--out", str(tmp_path / "a")]) == 1
    assert "--data" in capsys.readouterr().err
    assert main([*command, "--out", str(tmp_path / "b"), "--data", str(text), "--windows", "2",
                 "--length", "32"]) == 0  # fmt: skip
