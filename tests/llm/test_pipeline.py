"""The streaming pipeline: what comes out, what a kill costs, what is refused, how much memory."""

import hashlib
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.limits import HANGS_SECONDS
from zoo.errors import MismatchError, MissingWeightsError, UnsafeFileError
from zoo.quantization.language import blocks, opening
from zoo.quantization.language.calibration import windows
from zoo.quantization.language.job import compress_model
from zoo.quantization.options import LayerOptions
from zoo.quantization.plan import QuantizationPlan

JOBS = Path(__file__).parent / "jobs.py"
PLAN = runpy.run_path(str(JOBS))["PLAN"]
OPTIONS = PLAN.options


def job(*words: object, **environment: str) -> subprocess.Popen[str]:
    """Start a job of `jobs.py`."""
    return subprocess.Popen(
        [sys.executable, str(JOBS), *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(JOBS.parents[2]), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def digests(folder: Path) -> dict[str, str]:
    """What must be equal, byte by byte, however often a job was interrupted."""
    kept = [f for f in sorted(folder.rglob("*")) if f.is_file() and f.name != "report.json"]
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in kept}


@pytest.fixture(scope="module")
def done(base, text, tmp_path_factory):
    out = tmp_path_factory.mktemp("done") / "out"
    return out, compress_model(base, out, PLAN, text=text, device="cpu")


def test_the_result_opens_and_counts_its_bits(done, base):
    out, report = done
    model = opening.load(out)
    packed = [m for m in model.modules() if type(m).__name__ == "PackedLinear"]
    assert len(packed) == 21
    stored = sum(t.numel() * t.element_size() for m in packed for t in m.stored().values())
    assert report["packed_bytes"] == stored
    assert report["bits_per_weight"] == 8 * stored / report["weights"]
    header = int.from_bytes((out / "model.safetensors").read_bytes()[:8], "little")
    size = (out / "model.safetensors").stat().st_size
    assert size == 8 + header + report["tensor_bytes"]
    assert not (out / "work").exists()
    tensors, original = load_file(out / "model.safetensors"), load_file(base / "model.safetensors")
    for name in set(tensors) & set(original):  # embeddings and norms are untouched
        assert torch.equal(tensors[name], original[name])


def test_layers_see_quantized_predecessors_and_share_inputs(tiny_model):
    model = tiny_model()
    name, found = blocks.find_blocks(model)
    ids = torch.arange(32)[None]
    calls = blocks.record_calls(model, found, ids)
    hidden = blocks.first_hidden(model, found, ids)
    assert (name, len(calls)) == ("model.layers", 3)
    attention = [f"self_attn.{x}_proj" for x in "qkv"]
    order = blocks.call_order(found[0], [lambda: calls[0](found[0], hidden)])
    assert blocks.levels(found[0], order) == [
        [attention],
        [["self_attn.o_proj"]],
        [["mlp.gate_proj", "mlp.up_proj"]],
        [["mlp.down_proj"]],
    ]
    with torch.no_grad():  # block by block is the same as the whole model
        for block, call in zip(found, calls, strict=True):
            hidden = call(block, hidden)
        logits = model.lm_head(model.model.norm(hidden))
        torch.testing.assert_close(logits, model(ids).logits, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("moment", "count"),
    [
        pytest.param("_forward", 1, marks=pytest.mark.slow),
        ("_save", 2),
        pytest.param("_write", 3, marks=pytest.mark.slow),
    ],
)
def test_a_killed_job_goes_on_to_the_same_bytes(done, base, text, tmp_path, moment, count):
    out = tmp_path / "out"
    killed = job("kill", base, out, text, moment, count)
    error = killed.communicate()[1]
    assert killed.returncode == -signal.SIGKILL, error
    assert not (out / "config.json").exists()
    if count > 1:
        with pytest.raises(MismatchError, match="holds an unfinished job; add --resume"):
            compress_model(base, out, PLAN, text=text, device="cpu")
    compress_model(base, out, PLAN, text=text, resume=True, device="cpu")
    assert digests(out) == digests(done[0])


def test_damage_is_not_sent_to_resume(tiny_model, tmp_path):
    model = tiny_model()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    model.save_pretrained(tmp_path / "model")
    plan = QuantizationPlan(options=LayerOptions(method="rtn", bits=4))
    with pytest.raises(MismatchError, match=r"block 1 of 3 failed: .*layers.1.mlp.up_proj") as said:
        compress_model(tmp_path / "model", tmp_path / "out", plan, device="cpu")
    assert "--resume would fail here too" in str(said.value)
    assert "--resume continues" not in str(said.value)
    assert "\n" not in str(said.value)


def test_lost_hidden_states_are_made_again(done, base, text, tmp_path, monkeypatch):
    from zoo.quantization.language.pipeline import Job

    out = tmp_path / "out"
    write = Job._write

    def full(self, index, *args):
        if index == 2:
            raise OSError(28, "No space left on device")
        write(self, index, *args)

    monkeypatch.setattr(Job, "_write", full)
    with pytest.raises(MismatchError, match=r"block 2 of 3 failed: .*No space.*--resume continues"):
        compress_model(base, out, PLAN, text=text, device="cpu")
    monkeypatch.setattr(Job, "_write", write)
    for file in (out / "work").glob("hidden_*.bin"):
        file.unlink()
    compress_model(base, out, PLAN, text=text, resume=True, device="cpu")
    assert digests(out) == digests(done[0])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"options": LayerOptions(bits=3, dim=2, group_size=1024, iterations=4)}, "plan.options"),
        ({"windows": 3}, "calibration was"),
        ({"seed": 1}, "calibration was"),
        ({"rest_dtype": "bfloat16"}, "plan.rest_dtype"),
    ],
)
def test_resuming_something_else_is_refused_by_name(
    base, text, tmp_path, monkeypatch, change, field
):
    import dataclasses

    from zoo.quantization.language.pipeline import Job

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(Job, "_block", lambda self, index: self._save(next=0) or 1 / 0)
        with pytest.raises(ZeroDivisionError):
            compress_model(base, out, PLAN, text=text, device="cpu")
    other = dataclasses.replace(PLAN, **change)
    with pytest.raises(MismatchError, match=rf"cannot go on: .*{field}"):
        compress_model(base, out, other, text=text, resume=True, device="cpu")


def test_a_changed_model_is_refused_by_name(base, text, tmp_path, monkeypatch):
    from zoo.quantization.language.pipeline import Job

    copy, out = tmp_path / "copy", tmp_path / "out"
    shutil.copytree(base, copy)
    with monkeypatch.context() as patch:
        patch.setattr(Job, "_block", lambda self, index: self._save(next=0) or 1 / 0)
        with pytest.raises(ZeroDivisionError):
            compress_model(copy, out, PLAN, text=text, device="cpu")
    tensors = load_file(copy / "model.safetensors")
    tensors["model.norm.weight"] += 1
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MismatchError, match=r"model.shards.model.safetensors.sha256 was"):
        compress_model(copy, out, PLAN, text=text, resume=True, device="cpu")


def test_shards_in_and_out(done, text, tmp_path, tiny_model, byte_tokenizer):
    many = tmp_path / "many"
    tiny_model().save_pretrained(many, max_shard_size="60KB")
    byte_tokenizer.save_pretrained(many)
    assert len(list(many.glob("*.safetensors"))) > 2
    out = tmp_path / "out"
    compress_model(many, out, PLAN, text=text, device="cpu", shard_bytes=40_000)
    assert len(list(out.glob("*.safetensors"))) > 2
    ids = torch.arange(40)[None]
    with torch.no_grad():
        torch.testing.assert_close(
            opening.load(out)(ids).logits, opening.load(done[0])(ids).logits, atol=0, rtol=0
        )


@pytest.mark.slow
def test_two_processes_give_the_bytes_of_one(done, base, text, tmp_path):
    out = tmp_path / "out"
    environment = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(29500 + os.getpid() % 2000),
        "ACCELERATE_USE_CPU": "true",
    }
    jobs = [
        job("run", base, out, text, RANK=str(rank), LOCAL_RANK=str(rank), **environment)
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=HANGS_SECONDS)[1] for process in jobs]
    assert [process.returncode for process in jobs] == [0, 0], errors
    assert json.loads((out / "report.json").read_text())["processes"] == 2
    assert digests(out) == digests(done[0])


def test_overrides_skips_and_types(base, text, tmp_path):
    plan = QuantizationPlan(
        options=OPTIONS,
        overrides={
            "*.1.mlp.down_proj": {"bits": 3},
            "*.2.self_attn.*": {"method": "gptq", "bits": 4, "dim": 1},
        },
        skip=("*.0.mlp.*",),
        windows=4,
        length=48,
        rest_dtype="bfloat16",
    )
    report = compress_model(base, tmp_path / "out", plan, text=text, device="cpu")
    model = opening.load(tmp_path / "out")
    layers = model.model.layers
    assert type(layers[0].mlp.up_proj) is torch.nn.Linear
    assert layers[1].mlp.down_proj.options.bits == 3
    assert layers[2].self_attn.q_proj.options.method == "gptq"
    assert layers[2].mlp.up_proj.options.bits == 2
    assert model.dtype == torch.bfloat16
    assert layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    assert report["plan"]["skip"] == ["*.0.mlp.*"]


def test_rounding_needs_no_text(base, tmp_path):
    plan = QuantizationPlan(options=LayerOptions(method="rtn", bits=4, dim=1))
    compress_model(base, tmp_path / "out", plan, device="cpu")
    ids = torch.arange(40)[None]
    with torch.no_grad():
        loss = (opening.load(tmp_path / "out")(ids).logits - opening.load(base)(ids).logits).abs()
    assert 0 < loss.max() < 0.2


@pytest.mark.slow
def test_memory_does_not_grow_with_the_blocks(text, tmp_path, tiny_model, byte_tokenizer):
    peaks = {}
    for count in (2, 8):
        folder = tmp_path / f"base{count}"
        wide = {"hidden_size": 256, "intermediate_size": 1024}
        tiny_model(count, **wide).save_pretrained(folder)
        byte_tokenizer.save_pretrained(folder)
        printed, error = job("run", folder, tmp_path / f"out{count}", text).communicate()
        assert printed, error
        peaks[count] = int(printed)
    assert peaks[8] < 1.1 * peaks[2]


# --- bad input ---


def test_damaged_weights_are_named(base, text, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(base, copy)
    tensors = load_file(copy / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MismatchError, match=r"model.layers.1.mlp.up_proj.weight holds NaN"):
        compress_model(copy, tmp_path / "out", PLAN, text=text, device="cpu")
    assert json.loads((tmp_path / "out/work/state.json").read_text())["next"] == 1


def test_damaged_activations_are_named(base, text, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(base, copy)
    tensors = load_file(copy / "model.safetensors")
    tensors["model.layers.1.post_attention_layernorm.weight"][0] = float("inf")
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MismatchError, match=r"inputs of model.layers.1.mlp.gate_proj: .*Hessian"):
        compress_model(copy, tmp_path / "out", PLAN, text=text, device="cpu")


def test_what_cannot_be_calibrated_is_refused(base, tmp_path):
    short = tmp_path / "short.txt"
    short.write_text("too short")
    for plan, path, message in (
        (PLAN, short, "9 tokens, less than one window of 48"),
        (PLAN, None, "give one with --data TEXT"),
        (QuantizationPlan(options=OPTIONS, length=300), short, "takes at most 256"),
    ):
        with pytest.raises(MismatchError, match=message):
            compress_model(base, tmp_path / "out", plan, text=path, device="cpu")
    with pytest.raises(MismatchError, match="less than one window"):
        windows(torch.arange(10), count=2, length=10, seed=0)


def test_folders_that_are_no_model_are_refused(base, tmp_path):
    with pytest.raises(MissingWeightsError, match="is not the folder of a language model"):
        compress_model(tmp_path, tmp_path / "out", PLAN)
    broken = tmp_path / "broken"
    shutil.copytree(base, broken)
    (broken / "model.safetensors").write_bytes(b"no tensors at all")
    with pytest.raises(UnsafeFileError, match="not a whole safetensors file"):
        compress_model(broken, tmp_path / "out", PLAN)
    (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    with pytest.raises(UnsafeFileError, match="pickles"):
        compress_model(broken, tmp_path / "out", PLAN)


def test_a_missing_tensor_is_named(base, text, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(base, copy)
    tensors = load_file(copy / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MissingWeightsError, match=r"model.layers.1.mlp.up_proj.weight"):
        compress_model(copy, tmp_path / "out", PLAN, text=text, device="cpu")


def test_quantizing_twice_is_refused(done, text, base, tmp_path):
    with pytest.raises(MismatchError, match="is already quantized"):
        compress_model(done[0], tmp_path / "out", PLAN, text=text, device="cpu")
    with pytest.raises(MismatchError, match="holds a finished model"):
        compress_model(base, done[0], PLAN, text=text, device="cpu")


def test_a_model_without_blocks_is_refused():
    flat = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    with pytest.raises(MismatchError, match="quantize_model"):
        blocks.find_blocks(flat)


def test_a_remote_code_model_is_refused(base, text, tmp_path, rewrite):
    copy = tmp_path / "copy"
    shutil.copytree(base, copy)
    rewrite(copy / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.Evil"})
    (copy / "evil.py").write_text("raise SystemExit('ran')")
    with pytest.raises(MismatchError, match="not a configuration transformers knows"):
        compress_model(copy, tmp_path / "out", PLAN, text=text)
