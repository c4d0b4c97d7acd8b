"""Recipes: what is refused, and with which words."""

import dataclasses

import pytest

from zoo.errors import MismatchError
from zoo.registry import find
from zoo.registry.recipe import Recipe, Train

SESR = find("sesr-m5-x2")


def test_a_recipe_says_what_it_is():
    assert SESR.family == "sesr"
    assert SESR.input_shape == (1, 1, 360, 640)
    assert Recipe.from_json(SESR.to_json()) == SESR


def test_a_tiny_form_is_no_part_of_the_record():
    tiny = SESR.in_tiny_form()
    assert (tiny.args["channels"], tiny.train.options["patch_size"]) == (4, 16)
    assert tiny.args["scale"] == SESR.args["scale"]
    assert "tiny" not in SESR.to_json()
    bare = dataclasses.replace(SESR, tiny={})
    assert bare == SESR
    assert bare.in_tiny_form() == SESR
    with pytest.raises(MismatchError, match="unknown field 'tiny'"):
        Recipe.from_json({**SESR.to_json(), "tiny": {}})
    with pytest.raises(MismatchError, match="tiny has 'steps'; expected args and train"):
        dataclasses.replace(SESR, tiny={"steps": {}})
    with pytest.raises(MismatchError, match=r"no setting 'speed'"):
        dataclasses.replace(SESR, tiny={"train": {"speed": 1}}).in_tiny_form()


@pytest.mark.parametrize("name", ["", "Sesr", "sesr_m5", "-a", "a-", "a--b", "a/b", "a.b", "a\n"])
def test_a_name_is_lower_case_words_with_hyphens(name):
    with pytest.raises(MismatchError, match="is not a name"):
        dataclasses.replace(SESR, name=name)
    with pytest.raises(MismatchError, match="is not a name"):
        dataclasses.replace(SESR, default_tag=name)


@pytest.mark.parametrize("model", ["SESR", "zoo.models.sesr", "a:b:c", "a:b.c", "../a:b", ""])
def test_a_model_is_a_module_and_a_class(model):
    with pytest.raises(MismatchError, match="expected 'module:class'"):
        dataclasses.replace(SESR, model=model)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("batch_size", 0),
        ("accumulation_steps", -1),
        ("log_every", 0),
        ("eval_every", 0),
        ("save_every", 0),
        ("patience", -1),
        ("lr", 0.0),
        ("lr", -1.0),
        ("lr", float("nan")),
        ("lr", float("inf")),
        ("warmup_steps", -1),
        ("weight_decay", -0.1),
        ("weight_decay", float("nan")),
        ("clip_norm", -1.0),
        ("clip_norm", float("inf")),
        ("ema_decay", 1.0),
        ("ema_decay", -0.1),
        ("seed", -1),
        ("seed", 2**32),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(field, value):
    with pytest.raises(MismatchError, match=rf"train\.{field} is .*; expected"):
        dataclasses.replace(SESR.train, **{field: value})


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("lr", "1e-3", 1e-3),
        ("train.lr", "1", 1.0),
        ("train.lr", 2, 2.0),
        ("steps", "100", 100),
        ("train.precision", "bf16", "bf16"),
        ("init", "none", None),
        ("init", "sesr-m3-x2", "sesr-m3-x2"),
    ],
)
def test_an_override_is_read_as_the_type_of_its_field(key, text, value):
    found = getattr(SESR.override({key: text}).train, key.removeprefix("train."))
    assert found == value
    assert type(found) is type(value)


def test_an_override_reaches_an_option_and_nothing_else():
    before = SESR.train.options["patch_size"]
    changed = SESR.override({"train.options.patch_size": "16"})
    assert changed.train.options["patch_size"] == 16
    assert changed.train.options["expansion"] == SESR.train.options["expansion"]
    assert SESR.train.options["patch_size"] == before != 16
    assert dataclasses.replace(changed, make=SESR.train) == SESR


@pytest.mark.parametrize(
    "key",
    ["", "rate", "train.rate", "train.options.depth", "train.lr.x", "name", "train."],
)
def test_an_override_of_nothing_known_lists_what_is_known(key):
    with pytest.raises(MismatchError) as caught:
        SESR.override({key: "1"})
    for part in (f"no setting {key!r}; known: ", "train.lr", "train.options.patch_size"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("key", "text", "wanted"),
    [
        ("train.steps", "many", "int"),
        ("train.steps", "1.5", "int"),
        ("train.steps", 2.5, "int"),
        ("train.steps", True, "int"),
        ("train.lr", "fast", "float"),
        ("train.lr", "nan", "float"),
        ("train.lr", "inf", "float"),
        ("train.lr", True, "float"),
        pytest.param("train.lr", 10**400, "float", id="huge"),
        ("train.precision", "fp8", "no, bf16 or fp16"),
        ("train.options.patch_size", "big", "int"),
    ],
)
def test_an_override_of_the_wrong_type_says_what_is_expected(key, text, wanted):
    with pytest.raises(MismatchError) as caught:
        SESR.override({key: text})
    assert str(caught.value) == f"{key} is {text!r}; expected {wanted}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 1}, "recipe has unknown field 'colour'; known: args, "),
        ({"name": 5}, "recipe.name is 5; expected str"),
        ({"input_shape": [1, "x"]}, "recipe.input_shape is 'x'; expected int"),
        ({"input_shape": 4}, "recipe.input_shape is 4; expected tuple"),
        ({"args": []}, "recipe.args is []; expected Mapping"),
        ({"train": None}, "recipe.train is None; expected Train"),
        ({"train": {"steps": 1, "lr": 1}}, "recipe.train: missing 1 required .* 'batch_size'"),
        ({"train": {"speed": 1}}, "recipe.train has unknown field 'speed'; known: "),
        ({"train": {"steps": "x"}}, "recipe.train.steps is 'x'; expected int"),
    ],
)
def test_json_that_is_no_recipe_is_refused_by_the_place(change, message):
    with pytest.raises(MismatchError) as caught:
        Recipe.from_json(SESR.to_json() | change)
    caught.match("^" + message.replace("[", r"\[").replace("]", r"\]"))


def test_a_missing_field_is_named():
    value = SESR.to_json()
    del value["model"]
    with pytest.raises(MismatchError, match=r"recipe: missing 1 required .* 'model'"):
        Recipe.from_json(value)


def test_training_settings_are_only_what_was_given_and_the_defaults():
    train = Train(steps=1, batch_size=2, lr=3.0)
    assert (train.accumulation_steps, train.precision, train.init) == (1, "no", None)
