"""Thirty-one configurations: each compresses, opens in a fresh process, and runs."""

import json
import os
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, GptOssConfig

from tests.llm import configurations
from tests.llm.configurations import CASES, HEADER, LLAMA, answer, compressed
from zoo.errors import MismatchError
from zoo.quantization.generic import quantize_model
from zoo.quantization.language.job import compress_model
from zoo.quantization.options import LayerOptions
from zoo.quantization.packed import PackedLinear
from zoo.quantization.plan import QuantizationPlan

QUICK = ("OPT, projected", "GPT-2", "Mixtral", "T5")
VECTORS = LayerOptions(bits=4, dim=1, group_size=256, iterations=2)
INTEGERS = LayerOptions(method="gptq", bits=4)


def rows_of(names, tmp_path):
    """The rows of the table, of models that a fresh process opened and ran."""
    every = list(CASES)
    rows = {name: compressed(name, tmp_path / str(every.index(name))) for name in names}
    done = subprocess.run(
        [sys.executable, configurations.__file__, str(tmp_path)],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == set(names)
    for name, (same, off) in found.items():
        assert same < 1e-5, name
        assert 0 < off < 0.4, name
    return rows


def guide(repository):
    text = (repository / "docs/guides/language-models.md").read_text(encoding="utf-8")
    return text.partition("<!-- configurations -->")[2].partition("<!-- /configurations -->")[0]


def test_a_handful_open_in_a_fresh_process_and_stand_in_the_guide(tmp_path, repository):
    for row in rows_of(QUICK, tmp_path).values():
        assert row in guide(repository)


@pytest.mark.slow
def test_every_configuration_opens_in_a_fresh_process(tmp_path, repository):
    rows = rows_of(tuple(CASES), tmp_path)
    assert len(rows) == 31
    made = HEADER + "\n".join(rows.values())
    stale = "python -m tests.llm.configurations prints the guide's table of configurations"
    assert guide(repository).strip() == made.strip(), stale


# Each layout of weights once, each method on two of them.
@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param("Mixtral", VECTORS, id="Mixtral-gptvq"),
        pytest.param("Mixtral", INTEGERS, id="Mixtral-gptq", marks=pytest.mark.slow),
        pytest.param("Qwen3-MoE", VECTORS, id="Qwen3-MoE-gptvq", marks=pytest.mark.slow),
        pytest.param("Qwen3-MoE", INTEGERS, id="Qwen3-MoE-gptq"),
        pytest.param("GPT-2", VECTORS, id="GPT-2-gptvq"),
        pytest.param("GPT-2", INTEGERS, id="GPT-2-gptq", marks=pytest.mark.slow),
        pytest.param("T5", VECTORS, id="T5-gptvq", marks=pytest.mark.slow),
        pytest.param("T5", INTEGERS, id="T5-gptq"),
    ],
)
def test_in_memory_they_are_calibrated_saved_and_turned_back(name, options, tmp_path):
    case = CASES[name]
    model = case.model()
    before, state = answer(model, case), {k: v.clone() for k, v in model.state_dict().items()}
    plan = QuantizationPlan(options=options, least_tokens=4)
    report = quantize_model(model, [case.inputs()] * 2, plan)
    packed = answer(model, case)
    assert 0 < (packed - before).norm() / before.norm() < 0.3
    if case.kind == "mixture":  # each expert is a layer, with inputs of its own
        experts = [name for name in report if ".experts." in name]
        assert len(experts) == 2 * 2 * 4
        assert not any(report[name]["notes"] for name in experts)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert torch.equal(answer(again, case), packed)
    plain = again.dequantize()
    assert {k: v.shape for k, v in plain.state_dict().items()} == {
        k: v.shape for k, v in state.items()
    }
    assert type(plain.get_submodule("")) is type(model)
    assert (answer(plain, case) - packed).norm() / packed.norm() < 1e-5
    plain.save_pretrained(tmp_path / "plain")
    floats = type(model).from_pretrained(tmp_path / "plain")
    assert (answer(floats, case) - packed).norm() / packed.norm() < 1e-5


def test_experts_that_are_skipped_stay_in_one_tensor():
    case = CASES["Mixtral"]
    model = case.model()
    plan = QuantizationPlan(options=VECTORS, skip=("*experts*",), least_tokens=4)
    quantize_model(model, [case.inputs()], plan)
    assert model.model.layers[0].mlp.experts.gate_up_proj.shape == (4, 128, 32)
    assert type(model.model.layers[0].self_attn.q_proj) is PackedLinear


def test_after_a_failure_experts_are_in_one_tensor_again(monkeypatch):
    case = CASES["Mixtral"]
    model = case.model()
    before = answer(model, case)
    weight = model.model.layers[0].mlp.experts.down_proj
    with monkeypatch.context() as patch:
        patch.setattr(PackedLinear, "forward", lambda self, x: x * float("nan"))
        with pytest.raises(MismatchError):
            quantize_model(model, [case.inputs()], VECTORS)
    assert model.model.layers[0].mlp.experts.down_proj is weight
    assert torch.equal(answer(model, case), before)


def test_experts_of_another_form_are_refused_for_the_true_reason(tmp_path):
    sizes = {**LLAMA, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2}
    AutoModelForCausalLM.from_config(GptOssConfig(**sizes)).save_pretrained(tmp_path / "model")
    plan = QuantizationPlan(options=LayerOptions(method="rtn", bits=4))
    with pytest.raises(MismatchError, match=r"GptOssExperts .*cannot be packed") as refusal:
        compress_model(tmp_path / "model", tmp_path / "out", plan, device="cpu")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "plan", "reason"),
    [
        ("ViT", QuantizationPlan(options=VECTORS), "takes pixel_values, and a text is none"),
        ("BERT", QuantizationPlan(options=VECTORS, rotate="heads"), "--rotate works on decoders"),
    ],
)
def test_what_a_model_packed_whole_cannot_do_is_said(name, plan, reason, tmp_path, text):
    CASES[name].model().save_pretrained(tmp_path / "model")
    with pytest.raises(MismatchError, match=reason):
        compress_model(tmp_path / "model", tmp_path / "out", plan, text=text, device="cpu")
    assert not (tmp_path / "out").exists()
