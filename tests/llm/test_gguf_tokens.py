"""Tokenizers in GGUF files: llama.cpp, and an imported folder, read texts as the original does."""

import json

import gguf
import pytest
import torch
from transformers import AutoTokenizer

import zoo
from tests.llm.llama_cpp import LlamaCpp
from tests.llm.small import FACTS, PLAYS, SENTENCES, byte_pairs, random_model, sentence_pieces
from zoo.data.text import tokenizer as tokenizer_of
from zoo.deploy.gguf import convert
from zoo.deploy.language import words
from zoo.deploy.language.gguf_file import export
from zoo.errors import MismatchError

TOKENIZERS = {name: lambda name=name: byte_pairs(name) for name in words.CUTS} | {
    "sentencepiece": lambda: sentence_pieces(True),
    "sentencepiece, no space first": lambda: sentence_pieces(False),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_llama_cpp_and_an_imported_folder_read_texts_alike(name, tmp_path):
    tokenizer = TOKENIZERS[name]()
    tokenizer.save_pretrained(tmp_path)
    model = random_model("llama", vocab_size=len(tokenizer), num_hidden_layers=1)
    file = export(model, tmp_path, tmp_path / "tiny.gguf", facts=FACTS).path
    runtime, back = LlamaCpp(file), convert(file, tmp_path / "back")
    again = AutoTokenizer.from_pretrained(back)
    for sentence in [*SENTENCES, *PLAYS.read_text()[20000:23000].split("\n\n")]:
        wanted = tokenizer(sentence)["input_ids"]
        assert runtime.tokens(sentence) == wanted
        assert again(sentence)["input_ids"] == wanted
    for key, value in zoo.load(back).state_dict().items():
        assert torch.equal(value, model.state_dict()[key])
    file = export(model, back, tmp_path / "again.gguf", facts=FACTS)  # no token too many
    assert len(gguf.GGUFReader(file.path).get_field("tokenizer.ggml.tokens").data) == len(tokenizer)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"normalizer": {"type": "Lowercase"}}, "Lowercase"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "cuts texts in a way"),
        ({"model": {"type": "Unigram", "vocab": []}}, "'Unigram'"),
    ],
)
def test_tokenizers_that_llama_cpp_lacks_are_refused(change, reason, tokens, tmp_path):
    content = json.loads((tokens / words.FILE).read_text()) | change
    (tmp_path / words.FILE).write_text(json.dumps(content))
    with pytest.raises(MismatchError, match=reason):
        export(random_model("llama"), tmp_path, tmp_path / "x.gguf", facts=FACTS)


@pytest.mark.parametrize(
    "content",
    [
        "null",
        '""',
        "{",
        '{"model": {"type": "BPE"}}',
        '{"added_tokens": 5, "model": {"type": "BPE", "vocab": [], "merges": {}}}',
        '{"added_tokens": [], "model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b c"]}}',
    ],
)
def test_a_damaged_tokenizer_is_refused(content, tmp_path):
    random_model("llama").save_pretrained(tmp_path)
    (tmp_path / words.FILE).write_text(content)
    with pytest.raises(MismatchError, match=r"tokenizer"):
        export(random_model("llama"), tmp_path, tmp_path / "x.gguf", facts=FACTS)
    with pytest.raises(MismatchError, match="no tokenizer that can be used"):
        tokenizer_of(tmp_path)


def test_pieces_that_are_joined_in_another_order_are_refused(tmp_path):
    sentence_pieces(True).save_pretrained(tmp_path)
    content = json.loads((tmp_path / words.FILE).read_text())
    names = list(content["model"]["vocab"])
    long = next(
        n for n in reversed(list(names)) if len(n) == 3 and n[:2] in names and n[1:] in names
    )
    pair = [long[:1], long[1:]]
    content["model"]["merges"] = [p for p in content["model"]["merges"] if list(p) != pair]
    (tmp_path / words.FILE).write_text(json.dumps(content))
    model = random_model("llama", vocab_size=len(names))
    with pytest.raises(MismatchError, match="as a SentencePiece model would"):
        export(model, tmp_path, tmp_path / "x.gguf", facts=FACTS)
