"""Mixed precision and end-to-end tuning as parts of a job: budgets, gains, kills, refusals."""

import hashlib
from pathlib import Path

import pytest
import torch

from zoo.errors import MismatchError
from zoo.quantization.language import finetune, opening
from zoo.quantization.language.job import compress_model
from zoo.quantization.options import LayerOptions
from zoo.quantization.plan import QuantizationPlan

OPTIONS = LayerOptions(bits=2, dim=2, group_size=1024, iterations=4)


def plan(**changes: object) -> QuantizationPlan:
    return QuantizationPlan(
        **{"options": OPTIONS, "windows": 4, "length": 48, "tune_length": 48, **changes}
    )


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_a_budget_is_kept_and_spent(base, text, tmp_path):
    report = compress_model(base, tmp_path / "out", plan(budget=3.0), text=text, device="cpu")
    assert 2.8 < report["bits_per_weight"] <= 3.0
    chosen = {item["options"].get("bits", 2) for item in report["layers"].values()}
    assert len(chosen) > 1, "one precision for all layers is not an allocation"
    stored = {
        layer.options.bits
        for layer in opening.load(tmp_path / "out").modules()
        if type(layer).__name__ == "PackedLinear"
    }
    assert stored == chosen


def test_overrides_come_before_the_budget(base, text, tmp_path):
    mine = plan(budget=3.0, overrides={"*.0.mlp.*": {"bits": 4, "group_size": 4096}})
    report = compress_model(base, tmp_path / "out", mine, text=text, device="cpu")
    assert report["layers"]["model.layers.0.mlp.up_proj"]["options"]["bits"] == 4


def test_tuning_helps_takes_no_bits_and_survives_a_kill(base, text, tmp_path, monkeypatch):
    plain = compress_model(base, tmp_path / "plain", plan(), text=text, device="cpu")
    tuned = plan(tune_steps=30, tune_lr=0.02)
    report = compress_model(base, tmp_path / "tuned", tuned, text=text, device="cpu")
    facts = report["tuning"]
    assert facts["divergence_after"] < 0.9 * facts["divergence_before"]
    assert report["bits_per_weight"] == plain["bits_per_weight"]
    before, after = (opening.load(tmp_path / name) for name in ("plain", "tuned"))
    left, right = before.state_dict(), after.state_dict()
    codes = [name for name in left if name.endswith(".codes")]
    assert codes
    assert all(torch.equal(left[name], right[name]) for name in codes)
    for name in ("model.norm.weight", "model.layers.1.input_layernorm.weight"):
        assert not torch.equal(left[name], right[name]), name
        assert left[name].dtype == right[name].dtype

    save = finetune._save

    def dies(*args: object) -> None:
        save(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(finetune, "_save", dies)
        with pytest.raises(KeyboardInterrupt):
            compress_model(base, tmp_path / "again", tuned, text=text, device="cpu")
    assert not (tmp_path / "again" / "config.json").exists()
    compress_model(base, tmp_path / "again", tuned, text=text, device="cpu", resume=True)
    assert digest(tmp_path / "again") == digest(tmp_path / "tuned")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 1.0}, "even the cheapest choices take"),
        ({"budget": 3.0, "options": LayerOptions(method="gptq", bits=3)}, "method='gptvq'"),
        ({"tune_steps": 5, "tune_length": 250}, "tuning takes more than 750"),
        ({"tune_steps": -1}, "tune_steps is -1"),
    ],
)
def test_what_cannot_be_shared_or_tuned_is_refused(base, tmp_path, changes, message):
    short = tmp_path / "short.txt"
    short.write_text("A text of some length, but of no great one. " * 12)
    with pytest.raises(MismatchError, match=message):
        compress_model(base, tmp_path / "out", plan(**changes), text=short, device="cpu")


def test_both_need_a_text(base, tmp_path):
    rounded = QuantizationPlan(options=LayerOptions(method="rtn", bits=4), tune_steps=3)
    with pytest.raises(MismatchError, match="--data TEXT"):
        compress_model(base, tmp_path / "out", rounded, device="cpu")


def test_a_budget_that_nothing_can_spend_is_refused(base, text, tmp_path):
    with pytest.raises(MismatchError, match=r"budget is 9 bits .* dearest choices take only 4"):
        compress_model(base, tmp_path / "out", plan(budget=9.0), text=text, device="cpu")


@pytest.mark.parametrize("flag", ["skip", "override"])
def test_a_pattern_without_a_match_is_refused(flag, base, text, tmp_path):
    changes = {"skip": ("*.qproj",)} if flag == "skip" else {"overrides": {"*.qproj": {"bits": 4}}}
    with pytest.raises(MismatchError, match=rf"--{flag} '\*\.qproj' matches no layer .*q_proj"):
        compress_model(base, tmp_path / "out", plan(**changes), text=text, device="cpu")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"method": "rtn", "grid": "posit4"}, marks=pytest.mark.slow),
        {"method": "rtn", "grid": "mxfp4"},
        pytest.param({"method": "rtn", "bits": 3, "group_size": 32}, marks=pytest.mark.slow),
        {"method": "gptvq", "bits": 2, "dim": 2, "group_size": 1024, "iterations": 4},
    ],
    ids=lambda changes: changes.get("grid", changes["method"]),
)
def test_training_the_weights_helps_more_and_takes_no_bits(base, text, tmp_path, changes):
    reports = {}
    for rate in (0.0, 0.003):
        options = LayerOptions(**changes)
        mine = plan(options=options, tune_steps=24, tune_lr=0.002, tune_weights=rate)
        reports[rate] = compress_model(base, tmp_path / f"{rate}", mine, text=text, device="cpu")
    kept, trained = reports[0.0], reports[0.003]
    assert trained["bits_per_weight"] == kept["bits_per_weight"]
    facts = trained["tuning"]
    assert facts["divergence_before"] == kept["tuning"]["divergence_before"]
    assert facts["divergence_after"] < 0.9 * facts["divergence_before"]
    assert facts["divergence_after"] < kept["tuning"]["divergence_after"]
    left, right = (opening.load(tmp_path / f"{rate}").state_dict() for rate in reports)
    codes = [name for name in left if name.endswith(".codes") and "embed" not in name]
    assert any(not torch.equal(left[name], right[name]) for name in codes)


def test_weights_are_trained_in_the_steps_of_tuning():
    with pytest.raises(MismatchError, match="add --tune STEPS"):
        plan(tune_weights=0.001)
    with pytest.raises(MismatchError, match="tune_weights is -1"):
        plan(tune_weights=-1.0, tune_steps=2)


def test_latent_weights_start_where_nothing_changes(tiny_model):
    from zoo.quantization.core import quantize_matrix
    from zoo.quantization.language.student import Student

    model = tiny_model()
    name = "model.layers.1.mlp.down_proj"
    weight = model.get_parameter(f"{name}.weight").detach()
    x = torch.randn(300, weight.shape[1]) @ torch.randn(weight.shape[1], weight.shape[1])
    for options in (
        LayerOptions(method="gptq", grid="nf4", act_order=True),
        LayerOptions(method="gptq", grid="pvq"),
        OPTIONS,
    ):
        matrix = quantize_matrix(weight, 2 / len(x) * x.T @ x, options)
        student = Student(tiny_model(), {name: matrix}, norms=False, weights=True)
        student.load()
        assert torch.equal(student.weights[name].detach(), matrix.dequantize())
        assert torch.equal(student.rounded()[name].codes, matrix.codes)
        floats = weight if matrix.order is None else weight[:, matrix.order]
        same = student.latent[name][:, : weight.shape[1]] == floats
        assert 0.1 < same.float().mean() < 1  # error feedback took other codes than the nearest
