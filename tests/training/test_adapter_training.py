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
from zoo.adapters import SparseAdapter, masks
from zoo.adapters.apply import apply
from zoo.adapters.base import load_base
from zoo.adapters.compact import CompactValues
from zoo.adapters.folder import AdapterFolder
from zoo.adapters.recipe import MaskOptions
from zoo.adapters.train import AdapterRun
from zoo.cli import main
from zoo.errors import MismatchError, UnsafeFileError
from zoo.tasks import causal_lm
from zoo.train import learning_rate

pytestmark = [  # of peft 0.21: a name of transformers that is to go, unchecked sparse sums
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning"),
]
TEXT = "".join(f"{w} and {v}, said the {w}.\n" for w in ["fox", "owl", "hen", "cat"] for v in "abcdefgh") * 6  # fmt: skip  # noqa: E501
SETTINGS = {
    "train.steps": 6, "train.batch_size": 4, "train.warmup_steps": 2, "train.lr": 1e-2,
    "train.options.length": 16, "train.log_every": 1, "train.eval_every": 3,
    "train.save_every": 3, "mask.density": 0.1,
}  # fmt: skip


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A folder with a random Llama of 20,000 weights and a tokenizer of characters."""
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("base") / "tiny"
    symbols = ["?", *sorted(set(TEXT))]
    tokenizer = Tokenizer(WordLevel({c: i for i, c in enumerate(symbols)}, unk_token="?"))
    tokenizer.pre_tokenizer = Split(Regex("."), "isolated")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(symbols), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "farm.txt"
    file.write_text(TEXT)
    return file


@pytest.fixture(scope="session")
def command(tiny, text):
    """The command line of a short run."""

    def words(out, *more, **settings):
        chosen = SETTINGS | {k.replace("__", "."): v for k, v in settings.items()}
        sets = [word for key, value in chosen.items() for word in ("--set", f"{key}={value}")]
        return ["adapter", "train", "farm", "--base", str(tiny), "--task", "causal-lm", "--data",
                str(text), "--device", "cpu", "--out", str(out), *sets, *more]  # fmt: skip

    return words


@pytest.fixture(scope="session")
def run(command):
    """Run it in this process; return the exit code."""

    def start(out, *more, **settings):
        try:
            return main(command(out, *more, **settings))
        finally:
            for state in (AcceleratorState, GradientState, PartialState):
                state._reset_state()

    return start


@pytest.fixture(scope="module")
def trained(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "farm"
    assert run(out) == 0
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


def test_a_run_learns_and_leaves_what_it_says(trained, tiny, text, capsys):
    found = losses(trained)
    assert list(found) == [1, 2, 3, 4, 5, 6]
    assert found[6] < found[1]
    folder = AdapterFolder.read(trained)
    assert folder.recipe.base == "tiny"
    assert folder.metrics["training"]["complete"] is True
    assert folder.metrics["held_out"]["examples"] > 1
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
    assert str(text.parent) not in texts

    pristine, model = load_base(tiny).model, zoo.load(tiny, adapter=trained)
    for (name, before), after in zip(pristine.named_parameters(), model.parameters(), strict=True):
        changed = (before != after).sum().item()
        assert changed == (adapter.tensors[name].nnz if name in adapter.tensors else 0), name


def test_training_equals_a_dense_training_with_masked_gradients(trained, tiny, text):
    """The brute force: AdamW on whole weights, gradients outside the mask set to zero."""
    recipe, base = AdapterFolder.read(trained).recipe, load_base(tiny)
    item = base.task_recipe(recipe)
    data = causal_lm.training_data(item, str(text), base.tokenizer)
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
    assert AdapterFolder.read(trained).metrics["held_out"]["step"] == 6  # the last is the best
    for name, tensor in adapter.tensors.items():
        dense = (model.get_parameter(name) - start[name]).detach().flatten()
        assert dense.count_nonzero() == tensor.nnz
        torch.testing.assert_close(tensor.values, dense[tensor.indices], atol=1e-6, rtol=1e-4)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_killed_run_resumed_ends_in_the_same_bits(command, run, tmp_path):
    long = {"train__steps": 60, "train__save_every": 5, "train__eval_every": 20,
            "mask__kind": "snip"}  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(whole, **long) == 0
    with subprocess.Popen([sys.executable, "-m", "zoo", *command(killed, **long)]) as process:
        log = killed / "log.jsonl"
        while process.poll() is None and not (log.exists() and '"step": 12' in log.read_text()):
            time.sleep(0.001)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert run(killed, "--resume", **long) == 0
    same(killed, whole)
    assert losses(killed) == losses(whole)


def test_two_processes_equal_one_with_the_double_batch(command, run, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    options = {"mask__kind": "snip", "train__clip_norm": 0.1}
    assert run(one, train__batch_size=4, **options) == 0
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    launch = "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1"
    launch += f" --mixed_precision no --dynamo_backend no --main_process_port {port} -m zoo"
    # snip sees one process's rows: the same mask needs the same calibration batch
    done = subprocess.run(
        [sys.executable, *launch.split(),
         *command(two, train__batch_size=2, mask__kind="custom", mask__source=one,
                  train__clip_norm=0.1)],
        capture_output=True, text=True, timeout=300,
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


def test_micro_batches_and_mixed_precision_make_no_other_adapter(run, trained, tmp_path):
    parts, half = tmp_path / "parts", tmp_path / "half"
    assert run(parts, train__batch_size=2, train__accumulation_steps=2) == 0
    assert run(half, train__precision="bf16") == 0
    for out, tolerance in ((parts, 2e-5), (half, 2e-2)):
        assert losses(out) == pytest.approx(losses(trained), abs=tolerance)


def test_a_bf16_base_is_trained_in_fp32_and_served_as_trained(run, tiny, tmp_path):
    out = tmp_path / "half"
    assert run(out, "--dtype", "bfloat16") == 0
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
    from zoo.adapters.verbs import train_adapter

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


def test_both_routes_give_one_adapter(run, tmp_path):
    """PEFT's SHiRA with our mask, and the hook route with that very mask."""
    through, hooks = tmp_path / "peft", tmp_path / "hooks"
    assert run(through, method="peft-shira", rank=2, mask__kind="snip") == 0
    assert run(hooks, mask__kind="custom", mask__source=through) == 0
    assert losses(hooks) == pytest.approx(losses(through), abs=1e-5)
    a, b = (SparseAdapter.load(out / "sparse_adapter.safetensors") for out in (through, hooks))
    for name, tensor in a.tensors.items():
        assert torch.equal(tensor.indices, b.tensors[name].indices)
        assert tensor.nnz == 2 * sum(tensor.shape)
        torch.testing.assert_close(tensor.values, b.tensors[name].values, atol=1e-5, rtol=1e-3)


def test_a_masked_dora_is_a_sparse_adapter_and_resumes(run, tiny, tmp_path, monkeypatch):
    """SHiRA-WM-DoRA through the command line; interrupted, it ends in the same bits."""
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert run(whole, method="shira-dora", rank=4) == 0
    assert losses(whole)[6] < losses(whole)[1]
    real = AdapterRun._step

    def cut(self, step):
        if step == 4:  # after the state of step 3
            raise KeyboardInterrupt
        return real(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(AdapterRun, "_step", cut)
        assert run(halves, method="shira-dora", rank=4) == 130
    assert [path.name for path in halves.glob("state-*")] == ["state-00000003"]
    assert run(halves, "--resume", method="shira-dora", rank=4) == 0
    same(whole, halves)
    adapter = SparseAdapter.load(whole / "sparse_adapter.safetensors")
    assert adapter.density == pytest.approx(0.1, rel=0.01)
    adapter.check(load_base(tiny).model)


def test_indices_of_the_peft_route_survive_a_state_dict(tiny):
    """Stock PEFT loses them: with another mask, loading says all is well and logits differ."""
    from zoo.adapters.routes import peft_counts, wrap_shira

    ids = torch.arange(12)[None] % 20

    def made(seed):
        model = load_base(tiny).model
        options = MaskOptions(kind="rand", seed=seed)
        counts = peft_counts(model, options, 2)
        return wrap_shira(model, masks.choose(model, options, counts=counts), 2)

    one, two = made(0), made(1)
    with torch.no_grad():
        for name, parameter in one.named_parameters():
            if "shira_weight" in name:
                parameter.normal_()
    two.load_state_dict(one.state_dict())
    with torch.no_grad():
        assert torch.equal(one(input_ids=ids).logits, two(input_ids=ids).logits)


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_baselines_through_peft_are_resumed_and_converted(run, tiny, tmp_path, method):
    from zoo.adapters.convert import from_lora

    out = tmp_path / "run"
    assert run(out, method=method, rank=2) == 0
    assert losses(out)[6] < losses(out)[1]
    assert (out / "adapter_model.safetensors").is_file()
    base = load_base(tiny).model
    sparse = from_lora(base, out, 0.3)
    assert 0 < sparse.metadata["energy_kept"] < 1
    whole = from_lora(base, out, 1.0)
    from peft import PeftModel

    merged = PeftModel.from_pretrained(load_base(tiny).model, out).merge_and_unload()
    for name, tensor in whole.tensors.items():
        fused = dict(apply(load_base(tiny).model, whole).named_parameters())[name]
        torch.testing.assert_close(fused, dict(merged.named_parameters())[name])
        assert sparse.tensors[name].nnz <= int(0.3 * tensor.numel + 0.5)


def test_a_full_fine_tune_becomes_its_largest_changes(tiny):
    from zoo.adapters.convert import from_full_finetune

    base, tuned = load_base(tiny).model, load_base(tiny).model
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    adapter = from_full_finetune(base, tuned, 0.25)
    for name, tensor in adapter.tensors.items():
        change = (tuned.get_parameter(name) - base.get_parameter(name)).detach().flatten()
        order = change.abs().sort(descending=True, stable=True).indices[: tensor.nnz]
        assert tensor.indices.tolist() == sorted(order.tolist())
        assert torch.equal(tensor.values, change[tensor.indices])
    assert adapter.metadata["energy_kept"] == pytest.approx(0.72, abs=0.04)  # of a normal law
    with pytest.raises(MismatchError, match="equals its base"):
        from_full_finetune(base, base)


def test_other_settings_and_another_base_are_refused(run, trained, tiny, tmp_path, capsys):
    before = (trained / "sparse_adapter.safetensors").read_bytes()
    assert run(trained) == 1
    assert "already holds a run; add --resume" in capsys.readouterr().err
    assert run(trained, "--resume", mask__density=0.2) == 1
    assert "recipe.mask.density = 0.1, not 0.2" in capsys.readouterr().err
    import shutil

    from transformers import AutoModelForCausalLM

    other = shutil.copytree(tiny, tmp_path / "tiny")
    model = AutoModelForCausalLM.from_pretrained(other)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(1.0000001)
    model.save_pretrained(other)
    assert run(trained, "--resume", "--base", str(other)) == 1
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
def test_wrong_commands_are_one_line(run, tmp_path, capsys, words, message):
    assert run(tmp_path / "run", *words) == 1
    error = capsys.readouterr().err
    line = [part for part in error.splitlines() if part.startswith("zoo: ")]
    assert len(line) == 1
    assert message in line[0]
