"""One adapter on every class that transformers and peft open its base with."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM, GPT2Config, LlamaConfig

import zoo.quantization  # noqa: F401  # transformers opens what is packed
from zoo.adapters import SparseAdapter, Switcher, sidecar
from zoo.adapters.conversion import from_full_finetune
from zoo.adapters.sparse import fingerprint
from zoo.errors import MismatchError
from zoo.quantization.language.job import compress_model
from zoo.quantization.options import LayerOptions
from zoo.quantization.plan import QuantizationPlan

peft = pytest.importorskip("peft")

# peft 0.21 asks transformers 5.23 by a name that it will drop.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
COMMON = {"vocab_size": 256, "bos_token_id": None, "eos_token_id": None}
CONFIGS = {
    "llama": LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, **COMMON),
    "gpt2": GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, **COMMON),
}  # fmt: skip
CHANGED = {
    "llama": "model.layers.0.self_attn.q_proj.weight",
    "gpt2": "transformer.h.0.attn.c_attn.weight",
}
IDS = torch.arange(20)[None]


def saved(kind: str, folder: Path) -> Path:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(CONFIGS[kind]).save_pretrained(folder)
    return folder


def tuned(kind: str, folder: Path) -> tuple[Any, SparseAdapter]:
    """Return a tuned model, and its change as an adapter."""
    base = AutoModelForCausalLM.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.get_parameter(CHANGED[kind]).view(-1)[:60:3] += 0.5
    return model, from_full_finetune(base, model, 0.05)


def hidden(model: Any) -> Tensor:
    with torch.no_grad():
        states: Tensor = model(IDS, output_hidden_states=True).hidden_states[-1]
    return states


def lora(model: Any, kind: str, wraps: bool) -> Any:
    """Return a model with a fresh LoRA, which adds nothing, on the changed layer or beside it."""
    layers = {"llama": ("q_proj", "v_proj"), "gpt2": ("c_attn", "c_fc")}[kind]
    flat = {"fan_in_fan_out": kind == "gpt2"}
    config = peft.LoraConfig(r=2, target_modules=[layers[0 if wraps else 1]], **flat)
    return peft.get_peft_model(model, config).eval()


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("way", ["bare", "wrapped", "beside"])
def test_an_adapter_of_a_language_model_fits(way: str, kind: str, tmp_path: Path) -> None:
    folder = saved(kind, tmp_path)
    model, adapter = tuned(kind, folder)
    if way == "bare":
        other = AutoModel.from_pretrained(folder)
    else:
        other = lora(AutoModelForCausalLM.from_pretrained(folder), kind, way == "wrapped")
    before, bits = hidden(other), fingerprint(other)
    switcher = Switcher(other)
    switcher.register("tuned", adapter)
    with switcher.using("tuned"):
        torch.testing.assert_close(hidden(other), hidden(model), rtol=0, atol=1e-6)
        assert not torch.equal(hidden(other), before)
    assert switcher.verify() == bits
    assert torch.equal(hidden(other), before)


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_adapter_of_a_bare_model_fits_the_one_with_a_head(kind: str, tmp_path: Path) -> None:
    folder = saved(kind, tmp_path)
    model, _ = tuned(kind, folder)
    adapter = from_full_finetune(AutoModel.from_pretrained(folder), model.base_model, 0.05)
    assert not any(name.startswith(CHANGED[kind].partition(".")[0]) for name in adapter.tensors)
    whole = AutoModelForCausalLM.from_pretrained(folder)
    switcher = Switcher(whole)
    switcher.register("tuned", adapter)
    with switcher.using("tuned"):
        torch.testing.assert_close(hidden(whole), hidden(model), rtol=0, atol=1e-6)


def test_other_names_of_another_base_are_still_refused(tmp_path: Path) -> None:
    folder = saved("llama", tmp_path)
    _, adapter = tuned("llama", folder)
    torch.manual_seed(1)
    switcher = Switcher(AutoModel.from_config(CONFIGS["llama"]))
    switcher.register("tuned", adapter)
    with pytest.raises(MismatchError, match="differs from the base"):
        switcher.activate("tuned")


def test_beside_the_codes_of_a_packed_model_without_its_head(tmp_path: Path) -> None:
    folder = saved("llama", tmp_path / "model")
    _, adapter = tuned("llama", folder)
    plan = QuantizationPlan(options=LayerOptions(method="rtn", bits=4))
    compress_model(folder, tmp_path / "packed", plan, device="cpu")
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "packed")
    bare = AutoModel.from_pretrained(tmp_path / "packed")
    before = hidden(bare)
    sidecar.attach(whole, adapter)
    sidecar.attach(bare, adapter)
    assert torch.equal(hidden(bare), hidden(whole))
    assert not torch.equal(hidden(bare), before)
    assert torch.equal(hidden(sidecar.detach(bare)), before)
