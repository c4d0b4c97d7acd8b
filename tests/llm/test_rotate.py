"""Rotations that fold: the same model, fewer outliers, refusals where they do not fold."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import zoo
from zoo.cli import main
from zoo.errors import MismatchError
from zoo.quantization.core import quantize_matrix
from zoo.quantization.language import opening
from zoo.quantization.language.incoherence import generator, orthogonal, readers
from zoo.quantization.language.job import compress_model
from zoo.quantization.language.rotate import Rotation, rotate_model
from zoo.quantization.language.source import Source
from zoo.quantization.options import LayerOptions
from zoo.quantization.plan import QuantizationPlan

IDS = torch.arange(48)[None] * 5 % 256
TOLERANCE = 2e-5  # of logits up to 1.5, in float32
OPTIONS = LayerOptions(bits=2, dim=2, group_size=1024, iterations=3, update_steps=2)
PLAN = QuantizationPlan(options=OPTIONS, windows=2, length=32, rotate="heads")


def randomized(model):
    """Give gains and biases values that count."""
    torch.manual_seed(1)
    for name, value in model.named_parameters():
        if name.endswith("bias"):
            value.data = torch.randn_like(value) / 4
        elif value.ndim == 1:
            value.data = 0.5 + torch.rand_like(value)
    return model


def family(name: str):
    """A tiny random model of another family, all of one size."""
    import transformers

    torch.manual_seed(0)
    sizes = {
        "vocab_size": 256, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12,
        "max_position_embeddings": 64, "bos_token_id": None, "eos_token_id": None,
        "pad_token_id": None, "tie_word_embeddings": False,
    }  # fmt: skip
    config = getattr(transformers, f"{name}Config")
    return getattr(transformers, f"{name}ForCausalLM")(config(**sizes)).eval()


def logits(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        return opening.load(folder, dtype=torch.float32)(IDS).logits


@pytest.mark.parametrize("size", [1, 2, 9, 12, 64, 80, 97, 576])
def test_every_width_has_a_rotation(size: int) -> None:
    turn = orthogonal(size, generator(0, "a"))
    torch.testing.assert_close(turn @ turn.T, torch.eye(size, dtype=turn.dtype))
    assert torch.equal(turn, orthogonal(size, generator(0, "a")))
    if size > 2:
        assert not torch.equal(turn, orthogonal(size, generator(0, "b")))
        assert not torch.equal(turn, orthogonal(size, generator(1, "a")))
    if size == 64:  # all entries alike
        torch.testing.assert_close(turn.abs(), torch.full_like(turn, 1 / 8))


def test_outliers_are_spread() -> None:
    torch.manual_seed(0)
    weight = torch.randn(48, 576, dtype=torch.float64)
    weight[:, 5] *= 30
    weight[7, 100] = 80
    turned = weight @ orthogonal(576, generator(0, "stream"))

    def peak(values: torch.Tensor) -> float:
        return float(values.abs().max() / values.square().mean().sqrt())

    def kurtosis(values: torch.Tensor) -> float:
        return float((values / values.std()).pow(4).mean())

    assert peak(weight) > 20
    assert peak(turned) < 8
    assert kurtosis(weight) > 50
    assert kurtosis(turned) < 8
    options = LayerOptions(method="rtn", bits=4, group_size=64)
    errors = [
        quantize_matrix(w.float(), None, options).report.relative_error for w in (weight, turned)
    ]
    assert errors[1] < errors[0]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"attention_bias": True, "mlp_bias": True},
        {"tie_word_embeddings": False, "num_key_value_heads": 1},
        {"hidden_size": 36, "head_dim": 18, "num_key_value_heads": 4},
    ],
    ids=["grouped-tied", "biases", "one-value-head-untied", "odd-heads"],
)
@pytest.mark.parametrize("which", ["heads", "all-untied"])
def test_a_rotated_model_computes_the_same(tiny_model, tmp_path, changes, which) -> None:
    randomized(tiny_model(2, **changes)).save_pretrained(tmp_path / "base", max_shard_size="50KB")
    rotate_model(tmp_path / "base", tmp_path / "turned", which, seed=3)
    before, after = logits(tmp_path / "base"), logits(tmp_path / "turned")
    torch.testing.assert_close(after, before, rtol=0, atol=TOLERANCE)
    old, new = Source(tmp_path / "base"), Source(tmp_path / "turned")
    value, query = (f"model.layers.1.self_attn.{x}_proj.weight" for x in "vq")

    def change(name: str) -> float:
        return float((old.tensors([name])[name] - new.tensors([name])[name]).abs().max())

    assert change(value) > 0.01
    assert (change(query) > 0.01) == (which != "heads")
    if which == "heads":
        assert set(old.files) == set(new.files)
    else:
        assert "lm_head.weight" in new.files
        assert set(new.tensors(["model.norm.weight"])["model.norm.weight"].tolist()) == {1.0}


@pytest.mark.parametrize("name", ["Mistral", "Qwen2", "Qwen3", "Gemma"])
def test_other_families(name: str, tmp_path: Path) -> None:
    randomized(family(name)).save_pretrained(tmp_path / "base")
    rotate_model(tmp_path / "base", tmp_path / "turned", "all")
    before, after = logits(tmp_path / "base"), logits(tmp_path / "turned")
    torch.testing.assert_close(after, before, rtol=0, atol=TOLERANCE * float(before.abs().max()))


@pytest.mark.parametrize(
    ("name", "which", "message"),
    [
        ("Gemma2", "all", "post_attention_layernorm feeds no linear layer"),
        ("StableLm", "all", r"model.norm is a LayerNorm, not an RMS norm"),
        ("GPTNeoX", "heads", r"gpt_neox.layers.0 \(GPTNeoXLayer\) has no attention"),
        ("Cohere", "all", "CohereLayerNorm, not an RMS norm"),
    ],
)
def test_models_into_which_it_does_not_fold(name, which, message, tmp_path) -> None:
    family(name).save_pretrained(tmp_path / "base")
    with pytest.raises(MismatchError, match=message):
        rotate_model(tmp_path / "base", tmp_path / "turned", which)
    assert not (tmp_path / "turned" / "config.json").exists()


def test_a_block_that_computes_something_else_is_noticed(base, tmp_path, monkeypatch) -> None:
    """What reads the stream behind the back of names and shapes shows in the numbers."""
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    forward = LlamaDecoderLayer.forward
    monkeypatch.setattr(
        LlamaDecoderLayer, "forward", lambda self, h, *a, **k: forward(self, h, *a, **k) + h.abs()
    )
    with pytest.raises(MismatchError, match=r"model.layers.0 .*gives other hidden states"):
        rotate_model(base, tmp_path / "turned", "all-untied")


def test_a_tied_head_costs_bytes(base, tmp_path) -> None:
    with pytest.raises(MismatchError, match="65,536 bytes more in the file; take --rotate heads"):
        rotate_model(base, tmp_path / "turned", "all")  # 256 x 64 x 4
    plan = QuantizationPlan(options=LayerOptions(method="rtn", bits=4), rotate="all-untied")
    sizes = [
        compress_model(base, tmp_path / name, p, device="cpu")["tensor_bytes"]
        for name, p in (("a", plan), ("b", QuantizationPlan(options=plan.options)))
    ]
    assert sizes[0] - sizes[1] == 65536


def test_wrong_words_and_damaged_weights(base, tmp_path) -> None:
    with pytest.raises(MismatchError, match="rotate is 'legs'; expected one of heads, all"):
        rotate_model(base, tmp_path / "turned", "legs")
    with pytest.raises(MismatchError, match="rotate is 'legs'"):
        QuantizationPlan(options=OPTIONS, rotate="legs")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    with pytest.raises(MismatchError, match="holds something else"):
        rotate_model(base, tmp_path / "full", "heads")
    tensors = load_file(base / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 3] = float("nan")
    (tmp_path / "nan").mkdir()
    save_file(tensors, tmp_path / "nan" / "model.safetensors", {"format": "pt"})
    (tmp_path / "nan" / "config.json").write_text((base / "config.json").read_text())
    with pytest.raises(MismatchError, match=r"layers.1.mlp.up_proj.weight holds NaN"):
        rotate_model(tmp_path / "nan", tmp_path / "turned", "heads")


def test_a_parameter_of_no_linear_layer_is_refused() -> None:
    class Experts(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate_up = torch.nn.Parameter(torch.zeros(2, 8, 8))

    block = torch.nn.Sequential(torch.nn.RMSNorm(8), Experts())
    with pytest.raises(MismatchError, match=r"b.1.gate_up belongs to a Experts and to no linear"):
        readers(block, "b", 8, lambda: block)


DYING = """
import os, signal, sys
from pathlib import Path
import zoo.quantization.language.rotate as rotate
from zoo.quantization.language.job import compress_model
from zoo.quantization.options import LayerOptions
from zoo.quantization.plan import QuantizationPlan
original = rotate.Rotation.block
def block(self, index):
    if index == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, index)
rotate.Rotation.block = block
base, out, text = map(Path, sys.argv[1:])
options = LayerOptions(bits=2, dim=2, group_size=1024, iterations=3, update_steps=2)
plan = QuantizationPlan(options=options, windows=2, length=32, rotate="heads")
compress_model(base, out, plan, text=text, device="cpu")
"""


@pytest.fixture
def interrupt(monkeypatch):
    """Runs a job up to the second block of its rotation."""

    def run(base: Path, out: Path, text: Path) -> None:
        original = Rotation.block

        def block(self, index):
            if index == 1:
                raise KeyboardInterrupt
            return original(self, index)

        with monkeypatch.context() as patch:
            patch.setattr(Rotation, "block", block)
            with pytest.raises(KeyboardInterrupt):
                compress_model(base, out, PLAN, text=text, device="cpu")

    return run


@pytest.fixture
def kill(repository):
    """Does the same in a process of its own, which is killed."""

    def run(*paths: Path) -> None:
        killed = subprocess.run(
            [sys.executable, "-c", DYING, *paths],
            env={**os.environ, "PYTHONPATH": str(repository)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr

    return run


@pytest.mark.parametrize("stop", ["interrupt", pytest.param("kill", marks=pytest.mark.slow)])
def test_a_job_that_was_stopped_goes_on_to_the_same_bytes(
    base, text, tmp_path, stop, request
) -> None:
    report = compress_model(base, tmp_path / "whole", PLAN, text=text, device="cpu")
    assert report["model"] == Source(base).facts()
    out = tmp_path / "out"
    request.getfixturevalue(stop)(base, out, text)
    done = sorted(file.name for file in (out / "work" / "rotated").glob("model*.safetensors"))
    assert done == ["model-00001-of-00004.safetensors", "model-00002-of-00004.safetensors"]
    stamp = (out / "work" / "rotated" / done[1]).stat().st_mtime_ns
    other = QuantizationPlan(options=OPTIONS, windows=2, length=32, rotate="heads", seed=1)
    with pytest.raises(MismatchError, match="another rotation: seed was 0 and is 1"):
        compress_model(base, out, other, text=text, resume=True, device="cpu")
    assert (out / "work" / "rotated" / done[1]).stat().st_mtime_ns == stamp
    compress_model(base, out, PLAN, text=text, resume=True, device="cpu")
    for name in ("model.safetensors", "config.json"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_memory_is_that_of_a_block(base, tmp_path, monkeypatch) -> None:
    """No two blocks are ever asked for at once, and every file holds one."""
    rotate_model(base, tmp_path / "turned", "heads")
    index = json.loads((tmp_path / "turned" / "model.safetensors.index.json").read_text())
    files: dict[str, set[str]] = {}
    for name, file in index["weight_map"].items():
        files.setdefault(file, set()).add(".".join(name.split(".")[:3]))
    assert sorted(map(len, files.values())) == [1, 1, 1, 2]  # embedding and last norm together
    rotation = Rotation(Source(base), "heads", 0)
    assert all(value.is_meta for value in rotation.model.parameters())


def test_the_command_and_stock_transformers(base, text, tmp_path, capsys) -> None:
    from transformers import AutoModelForCausalLM

    out = tmp_path / "out"
    words = f"compress {base} --out {out} --bits 4 --dim 2 --data {text} --rotate heads "
    words += "--windows 2 --length 32 --set iterations=2 --set update_steps=2"
    assert main(words.split()) == 0
    model = AutoModelForCausalLM.from_pretrained(out)
    assert type(model.model.layers[0].self_attn.o_proj).__name__ == "PackedLinear"
    with torch.no_grad():
        off = (model(IDS).logits - logits(base)).square().mean() / logits(base).square().mean()
    assert off < 0.02  # 4 bits: close, without any rotation at run time
    card = (out / "README.md").read_text()
    assert "rotate heads" in card
    assert "--rotate heads" in card
    assert zoo.checkpoint(out).metrics["compression"]["plan"]["rotate"] == "heads"
    capsys.readouterr()
    assert main([*words.replace("heads", "all").split()[:-4], "--out", str(tmp_path / "no")]) == 1
    assert "65,536 bytes more in the file" in capsys.readouterr().err
