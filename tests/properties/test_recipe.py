"""Recipes survive JSON and overrides; every text is a ref of one form or an error."""

import contextlib
import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.errors import MismatchError
from zoo.registry import find
from zoo.registry.recipe import Recipe, Train
from zoo.registry.refs import NameRef, PathRef, RepoRef, parse

NAMES = st.from_regex(r"[a-z0-9]{1,5}(-[a-z0-9]{1,5}){0,3}", fullmatch=True)
WORDS = st.from_regex(r"[A-Za-z0-9_.-]{1,20}", fullmatch=True)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
MAPPINGS = st.dictionaries(st.text(), VALUES, max_size=4)
POSITIVE = st.integers(1, 10**9)
BOUNDED = st.floats(0, 1e30)
TRAIN = st.builds(
    Train,
    steps=POSITIVE,
    batch_size=POSITIVE,
    lr=st.floats(1e-30, 1e30),
    warmup_steps=st.integers(0, 10**9),
    weight_decay=BOUNDED,
    ema_decay=st.floats(0, 1, exclude_max=True),
    clip_norm=BOUNDED,
    accumulation_steps=POSITIVE,
    precision=st.sampled_from(["no", "bf16", "fp16"]),
    seed=st.integers(0, 2**32 - 1),
    init=st.none() | NAMES.filter(lambda name: name != "none"),
    options=MAPPINGS,
)
RECIPES = st.builds(
    Recipe,
    name=NAMES,
    summary=st.text(),
    task=st.text(),
    subtask=st.text(),
    model=st.from_regex(r"[a-z]+(\.[a-z_]+){0,2}:[A-Za-z]+", fullmatch=True),
    args=MAPPINGS,
    input_shape=st.lists(st.integers(), max_size=4).map(tuple),
    preprocessing=MAPPINGS,
    make=TRAIN,
    default_tag=NAMES,
    paper=st.text(),
    license=st.text(),
)


@given(RECIPES)
def test_a_recipe_survives_json(recipe):
    text = json.dumps(recipe.to_json(), allow_nan=False)
    again = Recipe.from_json(json.loads(text))
    assert again == recipe
    assert [type(v) for v in vars(again.train).values()] == [
        type(v) for v in vars(recipe.train).values()
    ]


@given(RECIPES, TRAIN)
def test_overrides_as_texts_equal_overrides_as_values(recipe, settings):
    values = {k: v for k, v in dataclasses.asdict(settings).items() if k != "options"}
    by_value = recipe.override(values)
    by_text = recipe.override({f"train.{key}": str(value).lower() for key, value in values.items()})
    assert by_value == by_text
    assert dataclasses.replace(by_value.train, options={}) == dataclasses.replace(
        settings, options={}
    )
    assert dataclasses.replace(by_value, make=recipe.train) == recipe


@given(st.text(), SCALARS)
def test_an_unknown_setting_is_an_error_that_repeats_it(key, value):
    recipe = find("sesr-m5-x2")
    known = {field.name for field in dataclasses.fields(Train)}
    if key.removeprefix("train.").removeprefix("options.") in known | set(recipe.train.options):
        return
    with pytest.raises(MismatchError) as caught:
        recipe.override({key: value})
    assert repr(key) in str(caught.value)


@given(st.sampled_from([field.name for field in dataclasses.fields(Train)]), VALUES)
def test_an_override_gives_a_valid_recipe_or_a_mismatch(name, value):
    try:
        changed = find("sesr-m5-x2").override({name: value})
    except MismatchError:
        return
    assert Recipe.from_json(changed.to_json()) == changed


@given(st.dictionaries(st.sampled_from([f.name for f in dataclasses.fields(Recipe)]), VALUES))
def test_any_json_is_a_recipe_or_a_mismatch(change):
    try:
        recipe = Recipe.from_json(find("sesr-m5-x2").to_json() | change)
    except MismatchError:
        return
    assert Recipe.from_json(recipe.to_json()) == recipe


@given(NAMES, NAMES)
def test_names_and_tags_are_read_back(name, tag):
    assert parse(name) == NameRef(name)
    assert parse(f"{name}.{tag}") == NameRef(name, tag)


@given(WORDS, WORDS, WORDS)
def test_repositories_and_revisions_are_read_back(org, repo, revision):
    text = f"{org}/{repo}"
    if org in (".", "..") or Path(text).exists():
        return
    assert parse(text) == RepoRef(text)
    assert parse(f"{text}@{revision}") == RepoRef(text, revision)


@given(st.sampled_from(["./", "../", "/"]), st.text())
def test_a_path_is_a_path_whatever_follows(start, rest):
    assert parse(start + rest) == PathRef(Path(start + rest))


@given(st.text())
def test_any_text_is_one_form_or_a_mismatch(text):
    with contextlib.suppress(MismatchError):
        assert isinstance(parse(text), NameRef | RepoRef | PathRef)
