"""Card checks: the Hub's metadata rules offline, and every number a fact."""

import pytest

from zoo import verbs as api
from zoo.cards.check import front_matter, metadata_problems, problems, unknown_numbers
from zoo.cards.model import render
from zoo.cli import main
from zoo.registry import find
from zoo.registry.checkpoint import Checkpoint, build


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    recipe = find("sesr-m5-x2")
    metrics = {
        "held_out": {"psnr_y_db": 30.123456, "ssim_y": 0.912345, "images": 20},
        "evaluations": {"Set5": {"psnr_y_db": 37.4512, "ssim_y": 0.9581, "images": 5}},
    }
    folder = tmp_path_factory.mktemp("card") / "run"
    return Checkpoint.write(
        folder,
        recipe,
        build(recipe).state_dict(),
        metrics,
        license="CC-BY-4.0",
        data={"sha256": "1e99999999" + "0" * 54},  # a digest that reads as a gigantic number
    )


@pytest.mark.parametrize("repo", [None, "me/model-9000"])
def test_a_rendered_card_has_no_mistake(made, repo):
    assert problems(render(made, repo=repo), made) == []


@pytest.mark.parametrize(
    "text", ["37.45 dB", "37.451 dB", "37.4512", "37 dB", "5 images", "30.12", "0.91", "~37.5 dB"]
)
def test_a_fact_may_be_rounded(made, text):
    assert unknown_numbers(f"---\nlicense: mit\n---\n{text}\n", made) == []


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("37.46 dB", "37.46"),
        ("99.9 dB", "99.9"),
        ("PSNR=38.11", "38.11"),
        ("| Set5 | 37.55 |", "37.55"),
        ("(0.9591)", "0.9591"),
        ("12,345,678 MACs", "12,345,678"),
        ("3e99", "3e99"),
        ("-77", "77"),
        ("a" * 20 + "1", "a" * 20 + "1"),
        ("4 " + "0" * 64, "0" * 64),
    ],
)
def test_a_number_that_is_no_fact_is_found(made, text, number):
    assert unknown_numbers(f"---\nlicense: mit\n---\n{text}\n", made) == [number]


def test_every_changed_digit_of_a_card_is_found(made):
    card = render(made)
    places = [i for i in range(len(card) - 6) if card[i : i + 5] in ("30.12", "37.45")]
    assert len(places) >= 4
    for place in places:
        digit = str((int(card[place + 4]) + 5) % 10)
        assert unknown_numbers(card[: place + 4] + digit + card[place + 5 :], made)


@pytest.mark.parametrize(
    ("matter", "said"),
    [
        ("license: apache", "license 'apache' is not an id"),
        ("license: other", "needs license_name"),
        ("license: mit\nbase_model: a/b/c", "base_model holds 'a/b/c'"),
        ("license: mit\ndatasets: [1]", "datasets holds 1"),
        ("license: mit\ntags: [1.5]", "tags holds something other than text"),
        ("license: mit\npipeline_tag: [a]", "pipeline_tag is not text"),
        ("base_model: a/b\nbase_model_relation: child", "base_model_relation is 'child'"),
        ("base_model_relation: adapter", "base_model_relation without base_model"),
        ("co2_eq_emissions: {emissions: .nan}", "is not finite"),
        ("model-index: {}", "model-index is not a list"),
        ("model-index: [{}]", "needs a name and a list of results"),
        ("model-index: [{name: a, results: [{}]}]", r"needs task.type and dataset.type"),
        (
            "model-index: [{name: a, results: [{task: {type: t}, dataset: {type: d}, metrics: "
            "[{type: psnr, value: high}]}]}]",
            "needs metrics with a type and a number",
        ),
        ("a: &x [1]\nb: *x", "anchor or alias"),
        ("- a", "not a YAML mapping"),
        ("a: [", "is not valid YAML"),
    ],
)
def test_metadata_the_hub_would_refuse_is_named(matter, said):
    (found,) = problems(f"---\n{matter}\n---\n# x\n")
    assert said in found


def test_good_metadata_passes():
    text = (
        "---\nlicense: other\nlicense_name: x\nlicense_link: LICENSE\nbase_model: [a/b, gpt2]\n"
        "base_model_relation: quantized\ntags: [a]\nlanguage: en\ndatasets: a/b\n---\n"
    )
    assert metadata_problems(front_matter(text)) == []
    assert problems("# no metadata\n") == [
        "a card starts with metadata between two lines of three hyphens"
    ]


def test_a_token_in_a_card_is_found():
    assert "token" in problems(f"---\nlicense: mit\n---\nhf_{'a' * 20}\n")[0]


def test_the_command_checks_the_card_that_is_there(made, capsys):
    assert main(["card", str(made.path), "--check"]) == 1
    assert "there is no README.md" in capsys.readouterr().out
    made.write_card(render(made))
    assert main(["card", str(made.path), "--check"]) == 0
    made.write_card(render(made) + "Reaches 99.9 dB\n")
    assert main(["card", str(made.path), "--check"]) == 1
    out = capsys.readouterr()
    assert "the number 99.9 is neither in the checkpoint's metrics nor computed from it" in out.out
    assert "has 1 mistake" in out.err
    assert api.check_card(made.path)
