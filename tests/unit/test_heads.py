"""`zoo.load(..., num_classes=N)`: the body is kept, the last layer is new, bad numbers refused."""

import pytest
import torch

import zoo
from tests.recipes import slow_but_for_one_of_each_kind, smaller
from zoo import registry
from zoo.artifacts import heads
from zoo.errors import MismatchError
from zoo.registry.recipe import Recipe

SHIPPED = ["micronet-kws-s.fsdd", "mlperf-tiny-ic", "ran-e-32", "ran-i-micro"]
CLASSIFIERS = [
    recipe for recipe in registry.all_recipes().values() if heads.ARGUMENT in recipe.args
]


@pytest.mark.parametrize("ref", SHIPPED)
def test_the_body_stays_and_the_head_is_new(ref: str) -> None:
    recipe = zoo.checkpoint(ref).recipe
    x = torch.rand(2, *recipe.input_shape[1:])
    with torch.inference_mode():
        features = zoo.load(ref, num_classes=0)(x)
        seven = zoo.load(ref, num_classes=7)
        own = zoo.load(ref)
        logits = own(x)
        assert seven(x).shape == (2, 7)
        last = [m for m in own.modules() if isinstance(m, torch.nn.Linear)][-1]
        torch.testing.assert_close(last(features), logits, rtol=1e-4, atol=1e-4)
        new = [m for m in seven.modules() if isinstance(m, torch.nn.Linear)][-1]
        torch.testing.assert_close(seven(x), new(features), rtol=1e-4, atol=1e-4)
        assert torch.equal(zoo.load(ref, num_classes=logits.shape[1])(x), logits)


@pytest.mark.parametrize("recipe", slow_but_for_one_of_each_kind(CLASSIFIERS))
def test_every_classifier_takes_a_number_of_classes(recipe: Recipe) -> None:
    five, six = (
        zoo.load(smaller(recipe), pretrained=False, num_classes=number).state_dict()
        for number in (5, 6)
    )
    grown = [name for name in five if five[name].shape != six[name].shape]
    assert grown
    for name in grown:  # one row, or one for each node of a tree
        assert len(six[name]) - len(five[name]) in (1, len(five[name]) // 5)


@pytest.mark.parametrize(
    ("ref", "classes", "words"),
    [
        ("sesr-m5-x2", 4, "sesr-m5-x2 tells no classes apart; leave num_classes out"),
        ("mlperf-tiny-ic", 1, "expected at least 2, or 0 for features"),
        ("mlperf-tiny-ic", -3, "expected at least 2, or 0 for features"),
        ("mlperf-tiny-ic", "10", "num_classes is '10'; expected a whole number"),
        ("mlperf-tiny-ic.cifar10-int8", 4, "computes in integers, for its own classes; take"),
    ],
)
def test_what_cannot_be_is_refused(ref: str, classes: int, words: str) -> None:
    with pytest.raises(MismatchError, match=words) as caught:
        zoo.load(ref, num_classes=classes)
    assert "\n" not in str(caught.value)


def test_adapters_keep_their_classes() -> None:
    with pytest.raises(MismatchError, match="leave num_classes out"):
        zoo.load("sesr-m5-x2", adapter="sesr-m5-x2-text", num_classes=3)
