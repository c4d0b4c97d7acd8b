"""Models of transformers that do not write text: by the command, as their users meet it."""

import json

import pytest
import torch
import transformers as t

import zoo
from zoo.artifacts.resolution import resolve
from zoo.cli import main
from zoo.quantization.packed import PackedLinear

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
         "num_attention_heads": 4}  # fmt: skip
WORDS = {**SMALL, "vocab_size": 256, "max_position_embeddings": 64}
PICTURE = {**SMALL, "image_size": 16, "patch_size": 8}
PAIR = {"vocab_size": 256, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
        "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48, "max_position_embeddings": 64, "pad_token_id": 0,
        "decoder_start_token_id": 0}  # fmt: skip
SEGFORMER = {"num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1],
             "hidden_sizes": [16, 32], "patch_sizes": [3, 3], "strides": [2, 2],
             "num_attention_heads": [2, 4], "mlp_ratios": [2, 2],
             "decoder_hidden_size": 16}  # fmt: skip
CASES = {
    "BertForMaskedLM": (t.BertConfig, WORDS, "fill-mask"),
    "BertModel": (t.BertConfig, WORDS, "feature-extraction"),
    "RobertaForQuestionAnswering": (t.RobertaConfig, WORDS, "question-answering"),
    "ElectraForTokenClassification": (t.ElectraConfig, WORDS, "token-classification"),
    "BartForConditionalGeneration": (t.BartConfig, PAIR, "summarization"),
    "MarianMTModel": (t.MarianConfig, PAIR, "translation"),
    "CLIPModel": (t.CLIPConfig, {"text_config": WORDS, "vision_config": PICTURE},
                  "feature-extraction"),
    "ASTForAudioClassification": (t.ASTConfig, {**SMALL, "max_length": 64, "num_mel_bins": 32},
                                  "audio-classification"),
    "ViTForImageClassification": (t.ViTConfig, PICTURE, "image-classification"),
    "SegformerForSemanticSegmentation": (t.SegformerConfig, SEGFORMER, None),
}  # fmt: skip


def saved(kind, folder, **changes):
    config, settings, _ = CASES[kind]
    torch.manual_seed(0)
    getattr(t, kind)(config(**{**settings, **changes})).eval().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", CASES)
def test_the_command_packs_it_and_transformers_opens_it(kind, tmp_path, capsys):
    base, out = saved(kind, tmp_path / "Base_1"), tmp_path / "out"
    words = ["compress", str(base), "--method", "rtn", "--bits", "4", "--out", str(out)]
    assert main([*words, "--set", "group_size=16", "--device", "cpu"]) == 0
    assert "bits per packed weight" in capsys.readouterr().out
    opened = getattr(t, kind).from_pretrained(out)
    layers = [m for m in opened.modules() if isinstance(m, PackedLinear)]
    assert layers
    model = zoo.load(out)
    assert type(model) is type(opened)
    state = opened.state_dict()
    assert all(torch.equal(v, state[n]) for n, v in model.state_dict().items())
    task = CASES[kind][2] or "image-segmentation"
    card = (out / "README.md").read_text()
    assert f"pipeline_tag: {task}\n" in card
    assert f"import {kind}\n" in card
    assert "AutoTokenizer" not in card
    assert "perplexit" not in card
    assert main(["card", "--check", str(out)]) == 0
    capsys.readouterr()
    for more in (["run", str(out), "x"], ["evaluate", str(out), "--data", str(out)]):
        assert main(more) == 1
        said = capsys.readouterr().err
        assert said.count("\n") == 1, said


def test_before_it_is_packed_the_zoo_says_what_it_can_do(tmp_path, capsys):
    base = saved("BertForMaskedLM", tmp_path / "bert")
    assert type(zoo.load(base)).__name__ == "BertForMaskedLM"
    assert resolve(base).recipe is None
    for words in (["run", str(base), "x"], ["estimate", str(base)], ["show", str(base)]):
        assert main(words) == 1
        said = capsys.readouterr().err
        assert said.count("\n") == 1, said
        assert "format_version" not in said
    words = ["compress", str(base), "--method", "rtn", "--out", str(tmp_path / "out")]
    assert main([*words, "--test", str(tmp_path / "some.txt")]) == 1
    assert "--test measures perplexity" in capsys.readouterr().err


def test_an_input_that_its_code_does_not_take_is_said(tmp_path, capsys, monkeypatch):
    base = saved("BertModel", tmp_path / "bert")

    def fail(*_, **__):
        raise IndexError("index out of range\nin self")

    monkeypatch.setattr(t.BertModel, "forward", fail)
    words = ["compress", str(base), "--method", "rtn", "--out", str(tmp_path / "out")]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "BertModel does not take the input_ids that zoo compress makes (IndexError" in said
    assert said.count("\n") == 1


def test_a_config_of_another_library_is_still_none_of_the_zoo(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["X"], "layers": 3}))
    assert main(["show", str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
