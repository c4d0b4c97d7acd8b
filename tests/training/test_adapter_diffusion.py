"""Adapters of a diffusion model: trained, loaded, switched and fused on a diffusers pipeline."""

import copy
import gzip
import json

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

import zoo
from zoo.adapters import Switcher, fuse, registry
from zoo.adapters.apply import apply
from zoo.adapters.folder import AdapterFolder
from zoo.adapters.recipe import AdapterRecipe
from zoo.adapters.sparse import fingerprint
from zoo.artifacts import adapters as adapter_refs
from zoo.artifacts.base import load_base
from zoo.cli import main
from zoo.errors import MismatchError, UnknownNameError
from zoo.tasks import denoising
from zoo.verbs.adapters import evaluate_adapter

SETTINGS = {
    "train.steps": 12, "train.batch_size": 16, "train.lr": 3e-3, "train.warmup_steps": 1,
    "train.ema_decay": 0, "train.eval_every": 6, "train.save_every": 6, "mask.density": 0.3,
    "mask.kind": "snip",
}  # fmt: skip


def idx(array):
    return (
        b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
    )


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Files like Fashion-MNIST's: bars (class 0) and blocks (class 1)."""
    folder = tmp_path_factory.mktemp("data") / "shapes"
    folder.mkdir()
    dice = np.random.default_rng(0)
    for part, count in (("train", 1200), ("t10k", 80)):
        labels = dice.integers(0, 2, count).astype(np.uint8)
        images = np.zeros((count, 28, 28), np.uint8)
        for image, label in zip(images, labels, strict=True):
            x, y = dice.integers(2, 16, 2)
            image[y : y + 10, x : x + (10 if label else 3)] = dice.integers(150, 255)
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    return folder


@pytest.fixture(scope="module")
def unet():
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=28, in_channels=1, out_channels=1, layers_per_block=1,
        block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=8,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def trained(unet, pictures, tmp_path_factory):
    """Two adapters of one base: another class, another look."""
    place = tmp_path_factory.mktemp("diffusion")
    unet.save_pretrained(place / "unet")
    for name, options in (("blocks", {"classes": "1"}), ("ghosts", {"look": "negative"})):
        chosen = SETTINGS | {f"train.options.{k}": v for k, v in options.items()}
        sets = [word for key, value in chosen.items() for word in ("--set", f"{key}={value}")]
        words = ["adapter", "train", name, "--base", str(place / "unet"), "--task", "denoising",
                 "--data", str(pictures), "--device", "cpu",
                 "--out", str(place / name)]  # fmt: skip
        try:
            assert main([*words, *sets]) == 0
        finally:
            for state in (AcceleratorState, GradientState, PartialState):
                state._reset_state()
    return place


def test_each_adapter_is_better_on_what_it_was_trained_for(trained, pictures, capsys):
    capsys.readouterr()
    for name in ("blocks", "ghosts"):
        item = AdapterFolder.read(trained / name).recipe
        base = load_base(trained / "unet")
        before = denoising.evaluate(base.model, base.task_recipe(item), pictures)["noise_error"]
        after = evaluate_adapter(base, adapter_refs.adapter(trained / name), str(pictures), item)
        assert after["noise_error"] < 0.9 * before
        assert after["pictures"] == (80 if name == "ghosts" else pytest.approx(40, abs=15))
        kinds = {len(t.shape) for t in adapter_refs.adapter(trained / name).tensors.values()}
        assert {2, 4} <= kinds  # linear layers and convolutions
        card = (trained / name / "README.md").read_text()
        assert "unconditional-image-generation" in card
        assert "shapes, classes" in card


def test_a_pipeline_switches_and_fuses_and_has_its_base_back(trained, unet):
    from diffusers import DDIMPipeline, DDIMScheduler

    scheduler = DDIMScheduler(denoising.STEPS, beta_schedule=denoising.SCHEDULE)
    pipe = DDIMPipeline(unet=load_base(trained / "unet").model, scheduler=scheduler)
    pipe.set_progress_bar_config(disable=True)

    def drawn(unet=None):
        pipe.unet = unet or pipe.unet
        return pipe(
            batch_size=2, num_inference_steps=3, output_type="np",
            generator=torch.Generator().manual_seed(0),
        ).images  # fmt: skip

    live, base = pipe.unet, fingerprint(pipe.unet)
    before = drawn()
    switcher = Switcher(live)
    made = {name: adapter_refs.adapter(trained / name) for name in ("blocks", "ghosts")}
    for name in made:
        switcher.register(name, trained / name)
    seen = [before]
    for what in ({"blocks": 1.0}, {"ghosts": 1.0}, {"blocks": 0.7, "ghosts": 0.4}):
        switcher.activate(what, strategy="sum")
        switched = drawn()
        fresh = load_base(trained / "unet").model
        both = apply(fresh, fuse(made, fresh, {name: what.get(name, 0.0) for name in made}))
        assert np.array_equal(switched, drawn(copy.deepcopy(both)))
        pipe.unet = live
        assert not any(np.array_equal(switched, other) for other in seen)
        seen.append(switched)
    switcher.deactivate()
    assert np.array_equal(drawn(), before)
    assert fingerprint(live) == base
    assert fingerprint(zoo.load(trained / "unet", adapter=trained / "blocks")) != base


def test_looks_by_hand():
    picture = torch.zeros(1, 5, 5, dtype=torch.uint8)
    picture[0, 1:4, 1:4] = 255
    plain, negative = denoising.looks(picture, "plain"), denoising.looks(picture, "negative")
    assert plain.shape == (1, 1, 5, 5)
    assert (plain.min(), plain.max()) == (-1, 1)
    assert torch.equal(negative, -plain)
    outline = denoising.looks(picture, "outline")
    assert outline[0, 0, 2, 2] == -1  # the inside
    assert outline[0, 0, 1, 1] == 1


def test_batches_are_a_function_of_the_step(pictures, trained):
    item = load_base(trained / "unet").task_recipe(registry.recipe_for("x-y", "b", "denoising", {}))
    data = denoising.training_data(item, str(pictures))
    one, two = (denoising.batch(data, item, 3, range(8), 8) for _ in range(2))
    other = denoising.batch(data, item, 4, range(8), 8)
    assert torch.equal(one[0], two[0])
    assert not torch.equal(one[0], other[0])
    noisy, noise = one
    level = denoising._noise_levels()[noisy[:, 1, 0, 0].long()].view(-1, 1, 1, 1)
    clean = (noisy[:, :1] - (1 - level).sqrt() * noise) / level.sqrt()
    seen = level.flatten() > 1e-3  # below, single precision has lost the picture
    assert clean[seen].abs().max() < 1.01


def recipe(**options):
    made = AdapterRecipe.from_json(registry.recipe_for("x-y", "b", "denoising", {}).to_json())
    return made.override({f"train.options.{key}": value for key, value in options.items()})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"classes": "shoes"}, MismatchError, "expected numbers"),
        ({"classes": "7"}, MismatchError, "has 0 such pictures"),
        ({"look": "oil"}, UnknownNameError, "known: plain, outline, negative"),
    ],
)
def test_wrong_options_are_told(options, error, message, pictures):
    with pytest.raises(error, match=message):
        denoising.training_data(recipe(**options), str(pictures))


def test_wrong_files_are_told(tmp_path):
    with pytest.raises(MismatchError, match="has none of"):
        denoising.training_data(recipe(), str(tmp_path))
    for kind in ("images-idx3", "labels-idx1"):
        (tmp_path / f"train-{kind}-ubyte").write_bytes(json.dumps([1] * 99).encode())
    with pytest.raises(MismatchError, match="does not begin like an idx file"):
        denoising.training_data(recipe(), str(tmp_path))
