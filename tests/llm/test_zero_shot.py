"""lm-eval on packed models: its own adapter for transformers opens them, and so does ours."""

import json

import pytest
import torch

import zoo
from zoo.cli import main
from zoo.data.text import tokenizer
from zoo.errors import MismatchError, MissingExtraError
from zoo.quantization.language import opening
from zoo.quantization.language.job import compress_model
from zoo.quantization.options import LayerOptions
from zoo.quantization.plan import QuantizationPlan
from zoo.tasks.text_generation import zero_shot

TASK = """
task: animals
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_target: answer
doc_to_choice: ["dog", "fox"]
metric_list: [{{metric: acc}}]
"""
QUESTIONS = [
    {"question": "The quick brown", "answer": 1},
    {"question": "jumps over the lazy", "answer": 0},
    {"question": "and it does not mind the", "answer": 0},
]


@pytest.fixture(scope="module")
def packed(base, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "out"
    compress_model(
        base, out, QuantizationPlan(options=LayerOptions(method="rtn", bits=4)), device="cpu"
    )
    words = tokenizer(out)
    words.eos_token = "!"  # lm-eval begins texts without a context with it
    words.save_pretrained(out)
    return out


@pytest.fixture
def task(tmp_path):
    data = tmp_path / "animals.jsonl"
    data.write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))
    path = tmp_path / "animals.yaml"
    path.write_text(TASK.format(data=data))
    return str(path)


def by_hand(model, words) -> float:
    """The share of questions whose right word is the likelier one."""
    right = 0
    for question in QUESTIONS:
        scores = []
        for word in ("dog", "fox"):
            text = words(question["question"])["input_ids"]
            more = words(f" {word}")["input_ids"]
            with torch.no_grad():
                odds = model(torch.tensor([text + more])).logits[0].log_softmax(-1)
            scores.append(sum(odds[len(text) - 1 + i, t].item() for i, t in enumerate(more)))
        right += scores.index(max(scores)) == question["answer"]
    return right / len(QUESTIONS)


def test_a_packed_model_answers_as_by_hand(packed, base, text, task, capsys):
    pytest.importorskip("lm_eval", reason="lm-eval is not installed")
    model, words = opening.load(packed), tokenizer(packed)
    found = zero_shot.zero_shot(model, words, [task])
    assert found["animals"]["acc"] == pytest.approx(by_hand(model, words))
    protocol = {"length": 32, "windows": 2, "tasks": [task], "limit": 2}
    assert set(zoo.evaluate(packed, text, **protocol)["tasks"]) == {"animals"}
    given = ["--data", str(text), "--length", "32", "--windows", "2", "--tasks", task, "--json"]
    assert main(["evaluate", str(packed), *given]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed[printed.index("{") :])["tasks"] == found
    with pytest.raises(MismatchError, match="no task 'no-such-task'"):
        zero_shot.zero_shot(model, words, ["no-such-task"])


def test_without_lm_eval_the_answer_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lm_eval", None)
    with pytest.raises(MissingExtraError, match=r"pip install .*lm-eval$"):
        zero_shot.zero_shot(None, None, ["piqa"])


@pytest.mark.parametrize("kind", ["plain", "packed"])
def test_the_line_comes_before_the_model_is_loaded(kind, packed, base, text, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lm_eval", None)
    for owner in ("files.LanguageModel", "networks.Network"):
        monkeypatch.setattr(f"zoo.artifacts.{owner}.load", None)
    folder = {"plain": base, "packed": packed}[kind]
    assert main(["evaluate", str(folder), "--data", str(text), "--tasks", "piqa"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("zoo: zero-shot tasks need lm-eval; type: ")
    assert said.count("\n") == 1
