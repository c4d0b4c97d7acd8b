"""Training adapters: equal to a masked full training, exact resume, and both routes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

import zoo
from tests.limits import HANGS_SECONDS
from zoo.adapters import SparseAdapter, masks
from zoo.adapters.apply import apply
from zoo.adapters.compact import CompactValues
from zoo.adapters.folder import AdapterFolder
from zoo.adapters.recipe import MaskOptions
from zoo.artifacts.base import load_base
from zoo.errors import MismatchError, UnsafeFileError
from zoo.tasks import causal_lm
from zoo.training.loop import Run, learning_rate

pytestmark = [  # of peft 0.21: a name of transformers that is to go, unchecked sparse sums
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning"),
]


@pytest.fixture(scope="module")
def trained(train_tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "farm"
    assert train_tiny(out) == 0
    return out


def losses(out):
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def same(one, two):
    a, b = (SparseAdapter.load(out / "sparse_adapter.safetensors") for out in (one, two))
    assert list(a.tensors) == list(b.tensors)
    for name, tensor in a.tensors.items():
        assert torch.equal(tensor.indices, b.tensors[name].indices)
        assert torch.equal(tensor.values, b.tensors[name].values)


def test_a_run_learns_and_leaves_what_it_says(trained, tiny, farm_text, capsys):
    found = losses(trained)
    assert list(found) == [1, 2, 3, 4, 5, 6]
    assert found[6] < found[1]
    folder = AdapterFolder.read(trained)
    assert folder.recipe.base == "tiny"
    assert folder.metrics["training"]["complete"] is True
    assert folder.metrics["held_out"]["blocks"] > 1
    assert folder.metrics["switch"]["median_ms"] > 0
    adapter = SparseAdapter.load(folder.file)
    assert "model.embed_tokens.weight" not in adapter.tensors  # tied to the output
    assert folder.metrics["trained_values"] == adapter.nnz
    for tensor in adapter.tensors.values():
        assert tensor.nnz == int(0.1 * tensor.numel + 0.5)
    card = (trained / "README.md").read_text()
    assert "base_model: tiny\nbase_model_relation: adapter" in card
    assert f"{adapter.nnz:,} in 14 tensors" in card
    texts = "".join(p.read_text() for p in trained.iterdir() if p.suffix in (".json", ".md"))
    assert str(tiny.parent) not in texts  # no path of this machine
    assert str(farm_text.parent) not in texts

    pristine, model = load_base(tiny).model, zoo.load(tiny, adapter=trained)
    for (name, before), after in zip(pristine.named_parameters(), model.parameters(), strict=True):
        changed = (before != after).sum().item()
        assert changed == (adapter.tensors[name].nnz if name in adapter.tensors else 0), name


def test_training_equals_a_dense_training_with_masked_gradients(trained, tiny, farm_text):
    """The brute force: AdamW on whole weights, gradients outside the mask set to zero."""
    recipe, base = AdapterFolder.read(trained).recipe, load_base(tiny)
    item = base.task_recipe(recipe)
    data = causal_lm.training_data(item, str(farm_text), base.tokenizer)
    model = base.model.train()
    indices = masks.choose(model, recipe.mask)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.requires_grad_(False)
    weights = [model.get_parameter(name).requires_grad_() for name in indices]
    optimizer = torch.optim.AdamW(weights, lr=1.0, weight_decay=0.0)
    for step in range(6):
        inputs, targets = causal_lm.batch(data, item, step, range(4), 4)
        causal_lm.loss(causal_lm.forward(model, inputs), targets).backward()
        for name, weight in zip(indices, weights, strict=True):
            kept = torch.zeros_like(weight)
            kept.view(-1)[indices[name]] = 1
            weight.grad *= kept
        total = torch.stack([w.grad.norm() for w in weights]).norm()  # clip_norm 1
        for weight in weights:
            weight.grad *= min(1.0, 1.0 / (total.item() + 1e-6))
        optimizer.param_groups[0]["lr"] = learning_rate(recipe.train, step)
        optimizer.step()
        optimizer.zero_grad()
    adapter = SparseAdapter.load(trained / "sparse_adapter.safetensors")
    assert AdapterFolder.read(trained).metrics["held_out"]["step"] == 6  # the last one is the best
    for name, tensor in adapter.tensors.items():
        dense = (model.get_parameter(name) - start[name]).detach().flatten()
        assert dense.count_nonzero() == tensor.nnz
        torch.testing.assert_close(tensor.values, dense[tensor.indices], atol=1e-6, rtol=1e-4)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_killed_run_resumed_ends_in_the_same_bits(tiny_command, train_tiny, tmp_path):
    long = {"train__steps": 60, "train__save_every": 5, "train__eval_every": 20,
            "mask__kind": "snip"}  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert train_tiny(whole, **long) == 0
    with subprocess.Popen([sys.executable, "-m", "zoo", *tiny_command(killed, **long)]) as process:
        log = killed / "log.jsonl"
        while process.poll() is None and not (log.exists() and '"step": 12' in log.read_text()):
            time.sleep(0.001)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert train_tiny(killed, "--resume", **long) == 0
    same(killed, whole)
    assert losses(killed) == losses(whole)


@pytest.mark.slow
def test_two_processes_equal_one_with_the_double_batch(tiny_command, train_tiny, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    options = {"mask__kind": "snip", "train__clip_norm": 0.1}
    assert train_tiny(one, train__batch_size=4, **options) == 0
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    launch = "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1"
    launch += f" --mixed_precision no --dynamo_backend no --main_process_port {port} -m zoo"
    # snip sees one process's rows: the same mask needs the same calibration batch
    done = subprocess.run(
        [sys.executable, *launch.split(),
         *tiny_command(two, train__batch_size=2, mask__kind="custom", mask__source=one,
                  train__clip_norm=0.1)],
        capture_output=True, text=True, timeout=HANGS_SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("held out:") == 1  # one process speaks
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    a, b = (SparseAdapter.load(out / "sparse_adapter.safetensors") for out in (one, two))
    for name, tensor in a.tensors.items():
        assert torch.equal(tensor.indices, b.tensors[name].indices)
        torch.testing.assert_close(tensor.values, b.tensors[name].values, atol=2e-5, rtol=1e-3)
    facts = AdapterFolder.read(two).metrics["training"]
    assert (facts["processes"], facts["samples_per_step"]) == (2, 4)


def test_micro_batches_and_mixed_precision_make_no_other_adapter(train_tiny, trained, tmp_path):
    parts, half = tmp_path / "parts", tmp_path / "half"
    assert train_tiny(parts, train__batch_size=2, train__accumulation_steps=2) == 0
    assert train_tiny(half, train__precision="bf16") == 0
    for out, tolerance in ((parts, 2e-5), (half, 2e-2)):
        assert losses(out) == pytest.approx(losses(trained), abs=tolerance)


def test_a_bf16_base_is_trained_in_fp32_and_served_as_trained(train_tiny, tiny, tmp_path):
    out = tmp_path / "half"
    assert train_tiny(out, "--dtype", "bfloat16") == 0
    adapter = SparseAdapter.load(out / "sparse_adapter.safetensors")
    assert all(t.values.dtype == torch.float32 for t in adapter.tensors.values())
    base = load_base(tiny, torch.bfloat16).model
    compact = CompactValues(base, {n: t.indices for n, t in adapter.tensors.items()})
    compact.write(base, torch.cat([t.values for t in adapter.tensors.values()]))
    served = apply(load_base(tiny, torch.bfloat16).model, adapter)
    assert all(
        torch.equal(a, b) for a, b in zip(base.parameters(), served.parameters(), strict=True)
    )
    compact.restore(base)
    pristine = load_base(tiny, torch.bfloat16).model
    assert all(
        torch.equal(a, b) for a, b in zip(base.parameters(), pristine.parameters(), strict=True)
    )


def test_the_optimizer_sees_nnz_and_one_dense_gradient_is_alive(tiny):
    model = load_base(tiny).model
    compact = CompactValues(model, masks.choose(model, MaskOptions(density=0.05)))
    handles = compact.attach(model)
    most = 0

    def count(_):
        nonlocal most
        most = max(most, sum(p.grad is not None for p in model.parameters()))

    handles += [
        p.register_post_accumulate_grad_hook(count) for p in model.parameters() if p.requires_grad
    ]
    ids = torch.arange(16)[None] % 20
    model(input_ids=ids, labels=ids).loss.backward()
    assert most == 0  # the gathering hook runs first and drops it
    assert sum(p.numel() for p in compact.trained.parameters()) == len(compact.flat)
    assert compact.values.grad.count_nonzero() > 0.9 * len(compact.flat)
    for handle in handles:
        handle.remove()


def test_convolutions_and_their_network_are_trained_without_wrappers(pictures, tmp_path):
    from zoo.verbs.adapters import train_adapter

    settings = {"train.steps": 3, "train.eval_every": 3, "train.options.patch_size": 16,
                "mask.kind": "block", "mask.block": 4, "mask.density": 0.2}  # fmt: skip
    try:
        folder = train_adapter(
            "small-pictures", tmp_path / "run", data=str(pictures), base="sesr-m3-x2",
            task="super-resolution", device="cpu", settings=settings,
        )  # fmt: skip
    finally:
        for state in (AcceleratorState, GradientState, PartialState):
            state._reset_state()
    model = zoo.load("sesr-m3-x2", adapter=folder.path)
    assert type(model) is type(zoo.load("sesr-m3-x2"))
    changed = sum(
        (a != b).sum().item()
        for a, b in zip(model.parameters(), zoo.load("sesr-m3-x2").parameters(), strict=True)
    )
    assert changed == SparseAdapter.load(folder.file).nnz
    origin = zoo.checkpoint("sesr-m3-x2")  # what starts from weights is bound by their licence
    expected = f"not stated; started from sesr-m3-x2.{origin.tag}: {origin.license}"
    assert folder.recipe.data["license"] == expected


def test_a_masked_dora_is_a_sparse_adapter_and_resumes(train_tiny, tiny, tmp_path, monkeypatch):
    """SHiRA-WM-DoRA through the command line; interrupted, it ends in the same bits."""
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert train_tiny(whole, method="shira-dora", rank=4) == 0
    assert losses(whole)[6] < losses(whole)[1]
    real = Run._step

    def cut(self, step):
        if step == 4:  # after the state of step 3
            raise KeyboardInterrupt
        return real(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_step", cut)
        assert train_tiny(halves, method="shira-dora", rank=4) == 130
    assert [path.name for path in halves.glob("state-*")] == ["state-00000003"]
    assert train_tiny(halves, "--resume", method="shira-dora", rank=4) == 0
    same(whole, halves)
    adapter = SparseAdapter.load(whole / "sparse_adapter.safetensors")
    assert adapter.density == pytest.approx(0.1, rel=0.01)
    adapter.check(load_base(tiny).model)


def test_other_settings_and_another_base_are_refused(train_tiny, trained, tiny, tmp_path, capsys):
    before = (trained / "sparse_adapter.safetensors").read_bytes()
    assert train_tiny(trained) == 1
    assert "already holds a run; add --resume" in capsys.readouterr().err
    assert train_tiny(trained, "--resume", mask__density=0.2) == 1
    assert "recipe.mask.density = 0.1, not 0.2" in capsys.readouterr().err
    import shutil

    from transformers import AutoModelForCausalLM

    other = shutil.copytree(tiny, tmp_path / "tiny")
    model = AutoModelForCausalLM.from_pretrained(other)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(1.0000001)
    model.save_pretrained(other)
    assert train_tiny(trained, "--resume", "--base", str(other)) == 1
    assert "trained on another base" in capsys.readouterr().err
    assert (trained / "sparse_adapter.safetensors").read_bytes() == before
    with pytest.raises(MismatchError, match="differs from the base"):
        zoo.load(other, adapter=trained)


def test_a_changed_file_is_not_loaded(trained, tmp_path):
    import shutil

    copy = shutil.copytree(trained, tmp_path / "copy")
    data = bytearray((copy / "sparse_adapter.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "sparse_adapter.safetensors").write_bytes(data)
    with pytest.raises(UnsafeFileError, match="tampered"):
        AdapterFolder.read(copy)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "mask.kind=magnitude"], "unknown mask.kind 'magnitude'"),
        (["--set", "train.options.length=100000"], "too short for blocks"),
        (["--data", "missing.txt"], "missing.txt cannot be read"),
        (["--base", "./nowhere"], "no model"),
        (["--task", "painting"], "unknown task 'painting'"),
        (["--set", "nonsense"], "expected KEY=VALUE"),
        (["--dtype", "int8"], "unknown dtype"),
        (["--set", "method=lora", "--set", "mask.include=model.embed_tokens.weight"], "Embedding"),
        (["--data", "rendered:cats"], "unknown kind of picture 'cats'"),
    ],
)
def test_wrong_commands_are_one_line(train_tiny, tmp_path, capsys, words, message):
    assert train_tiny(tmp_path / "run", *words) == 1
    error = capsys.readouterr().err
    line = [part for part in error.splitlines() if part.startswith("zoo: ")]
    assert len(line) == 1
    assert message in line[0]
