"""`generate` is one pass: no text is written half with one adapter and half with another."""

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import AutoModelForCausalLM, LogitsProcessor, LogitsProcessorList

from zoo.adapters import SparseAdapter, Switcher
from zoo.adapters.sparse import base_tensors

START = torch.tensor([[1, 2, 3]])
SETTINGS = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}


def adapter(model, seed):
    """Changes that are large enough to change every token."""
    dice = torch.Generator().manual_seed(seed)
    tensors = base_tensors(model)
    names = [f"model.layers.{layer}.mlp.down_proj.weight" for layer in range(2)]
    where = {name: torch.arange(tensors[name].numel()) for name in names}
    return SparseAdapter.from_tensors(
        {n: (w, torch.randn(len(w), generator=dice)) for n, w in where.items()}, model
    )


class Interrupted(LogitsProcessor):
    """Lets another thread try to switch after the fourth token."""

    def __init__(self, switcher):
        self.switcher, self.count, self.thread = switcher, 0, None
        self.switched = threading.Event()

    def switch(self):
        self.switcher.activate("two")
        self.switched.set()

    def __call__(self, ids, scores):
        self.count += 1
        if self.count == 4:
            self.thread = threading.Thread(target=self.switch)
            self.thread.start()
            self.early = self.switched.wait(0.3)
        return scores


@pytest.fixture
def switched(tiny):
    model = AutoModelForCausalLM.from_pretrained(tiny).eval()
    switcher = Switcher(model)
    for seed, name in enumerate(("one", "two")):
        switcher.register(name, adapter(model, seed))
    return model, switcher


@pytest.mark.parametrize("way", ["plain", "compiled", "peft"])
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is:FutureWarning")
def test_a_switch_waits_for_the_last_token(switched, way, monkeypatch):
    model, switcher = switched
    if way != "plain":
        switcher.close()
        if way == "compiled":
            model = torch.compile(model, backend="eager")
        else:
            import peft

            model = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"])).eval()
        switcher = Switcher(model)
        for seed, name in enumerate(("one", "two")):
            switcher.register(name, adapter(model, seed))
    pure = {}
    for name in ("two", "one"):
        switcher.activate(name)
        pure[name] = model.generate(input_ids=START, **SETTINGS)
    assert not torch.equal(pure["one"], pure["two"])
    interrupted = Interrupted(switcher)
    written = model.generate(
        input_ids=START, logits_processor=LogitsProcessorList([interrupted]), **SETTINGS
    )
    interrupted.thread.join(10)
    assert torch.equal(written, pure["one"])
    assert not interrupted.early
    assert switcher.active == {"two": 1.0}
    assert torch.equal(model.generate(input_ids=START, **SETTINGS), pure["two"])


def test_copies_have_their_own_and_close_leaves_nothing(switched):
    model, switcher = switched
    switcher.activate("one")
    written = model.generate(START, **SETTINGS)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with ThreadPoolExecutor(1) as pool, switcher._gate.exclusive():  # it has no part in this
            done = pool.submit(other.generate, START, **SETTINGS)
            assert torch.equal(done.result(20), written)
    switcher.close()
    assert "generate" not in vars(model)


def test_a_thread_that_generates_may_switch_itself(switched):
    model, switcher = switched

    class Own(LogitsProcessor):
        def __call__(self, ids, scores):
            switcher.activate("two")
            return scores

    model.generate(START, logits_processor=LogitsProcessorList([Own()]), **SETTINGS)
    assert switcher.active == {"two": 1.0}
