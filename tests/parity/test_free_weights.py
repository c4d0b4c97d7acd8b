"""The weights that a product may ship: what they lose, and whether the bare name may mean them."""

import pytest

import zoo
from zoo import registry

MOST_LOST_DB = 0.10  # on each set, for the bare name to mean the free weights
FREE = [name for name in registry.names("sesr-*") if "free" in registry.shipped_tags(name)]
REST = ("photos", "bsds")  # the best float weights are those of the first tag that ships


def recorded(ref, pictures):
    return zoo.checkpoint(ref).metrics["evaluations"][pictures]["psnr_y_db"]


@pytest.mark.parametrize("name", FREE)
def test_the_bare_name_means_the_free_weights_where_they_lose_little(name):
    best = next((tag for tag in REST if tag in registry.shipped_tags(name)), "free")
    lost = [
        recorded(f"{name}.{best}", pictures) - recorded(f"{name}.free", pictures)
        for pictures in ("Set5", "BSDS500 held out")
    ]
    assert (registry.find(name).default_tag == "free") == (max(lost) <= MOST_LOST_DB)


@pytest.mark.parametrize("name", FREE)
def test_nothing_for_research_only_taught_them(name):
    checkpoint = zoo.checkpoint(f"{name}.free")
    train = checkpoint.recipe.train
    assert all(ref is None or ref.endswith(".free") for ref in (train.init, train.teacher))
    assert checkpoint.config["data"]["source"] == "free-photos"


@pytest.mark.data
@pytest.mark.parametrize("name", FREE)
def test_set5_is_what_the_card_says(name, shared_data):
    scale = registry.find(name).args["scale"]
    found = zoo.evaluate(f"{name}.free", shared_data / "sr-test" / "Set5" / f"{scale}x")
    assert found["psnr_y_db"] == pytest.approx(recorded(f"{name}.free", "Set5"), abs=1e-5)
