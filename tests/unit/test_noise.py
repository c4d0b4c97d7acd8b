"""Noise of analog arrays, the blocks against it, and the analyses of noise and attacks."""

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.errors import MismatchError, UnknownNameError
from zoo.graph.lower import lower
from zoo.models.blocks.noise import Chip, Noise, limits, sites
from zoo.models.denoised import BLOCKS, Denoised, DepthwiseBlock, NoisyNetwork
from zoo.registry.checkpoint import Checkpoint
from zoo.resilience.defending import difference, wilson
from zoo.resilience.insertion import chosen, parameters, share, solved
from zoo.resilience.methods.denoise import Options
from zoo.resilience.noise import borne, limits_of, parse
from zoo.runtime.floating import FloatNetwork
from zoo.tasks import task_of

RESNET = "zoo.models.mlperf_tiny:ResNet8"
SITES = ["stem.conv", "first.0.conv", "second.1.conv"]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return zoo.load("mlperf-tiny-ic.cifar10")


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(12, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty painted pictures under any label, and again under those that the network gives them."""
    return known("mlperf-tiny-ic.cifar10", tmp_path_factory.mktemp("pictures"))


def known(ref: str, folder: Path) -> Path:
    """The data of a task's trial, each file once more under the label that a network gives it."""
    recipe = zoo.checkpoint(ref).recipe
    data = task_of(recipe).trial(folder, recipe).data
    for number, file in enumerate(sorted(data.rglob("*.*"))):
        label = zoo.run(ref, file).best[0][0]
        if (data / label).is_dir():
            shutil.copy(file, data / label / f"own{number:03}{file.suffix}")
    return data


def chip(text: str, found: dict[str, float], seed: int = 0, **more: Any) -> Chip:
    return Chip(parse(text), found, torch.Generator().manual_seed(seed), **more)


def test_noise_has_the_size_that_is_typed() -> None:
    layer = nn.Conv2d(3, 5, 1)
    y = torch.full((200, 5, 8, 8), 2.0)
    found = {"a": 4.0}
    for text, deviation in (
        ("gauss:0.1", 0.4),
        ("factor:0.1", 0.2),
        ("gauss:0.1,factor:0.1", 0.447),
    ):
        made = chip(text, found).perturbed("a", layer, y)
        assert float((made - y).std()) == pytest.approx(deviation, rel=0.05)
        assert abs(float((made - y).mean())) < 0.02
    averaged = chip("gauss:0.1", found, reads=4).perturbed("a", layer, y)
    assert float((averaged - y).std()) == pytest.approx(0.2, rel=0.05)


def test_a_pattern_belongs_to_a_chip_and_fresh_noise_to_none() -> None:
    layer, y, found = nn.Linear(3, 5), torch.zeros(7, 5), {"a": 1.0, "b": 1.0}
    one, two = chip("pattern:0.1", found, 1), chip("pattern:0.1", found, 2)
    first = one.perturbed("a", layer, y)
    assert torch.equal(first, one.perturbed("a", layer, y))
    assert (first == first[:1]).all()  # the same for every input
    assert not torch.equal(first, one.perturbed("b", layer, y))
    assert not torch.equal(first, two.perturbed("a", layer, y))
    one.renew()
    assert not torch.equal(first, one.perturbed("a", layer, y))
    fresh = chip("gauss:0.1", found)
    assert not torch.equal(fresh.perturbed("a", layer, y), fresh.perturbed("a", layer, y))


def test_noise_leaves_no_trace_and_none_is_none(network: nn.Module, images: Tensor) -> None:
    found = limits_of(network, images)
    assert set(found) == set(sites(network))
    assert len(found) == 10
    with torch.no_grad():
        clean = network(images)
        with chip("gauss:0.05", found).inside(network):
            noisy = network(images)
        with chip("gauss:0,pattern:0", found).inside(network):
            torch.testing.assert_close(network(images), clean)
        assert torch.equal(network(images), clean)
    assert (noisy - clean).abs().max() > 0.1
    labels = clean.argmax(1)
    same = borne(network, images, labels, parse("gauss:0.05"), found, chips=2, level=0.0)
    assert same.accuracy == 1
    many = borne(network, images, labels, parse("gauss:0.08"), found, chips=3, seed=5)
    again = borne(network, images, labels, parse("gauss:0.08"), found, chips=3, seed=5)
    assert torch.equal(many.right, again.right)
    assert many.accuracy < 1
    assert 0 < many.standard_error < 0.5
    one = borne(network, images, labels, parse("gauss:0.08"), found, chips=1, only="classifier")
    assert one.accuracy >= many.accuracy


@pytest.mark.parametrize("kind", BLOCKS)
def test_blocks_start_as_nothing_and_count_their_parameters(
    kind: str, network: nn.Module, images: Tensor
) -> None:
    made = Denoised(RESNET, {"num_classes": 10}, dict.fromkeys(SITES, kind)).eval()
    made.network.load_state_dict({**made.network.state_dict(), **network.state_dict()})
    with torch.no_grad():
        torch.testing.assert_close(made(images), network(images), atol=1e-5, rtol=1e-5)
    added = sum(v.numel() for v in made.parameters()) - sum(v.numel() for v in network.parameters())
    assert added == sum(parameters(kind, width) for width in (16, 16, 32))
    expected = {"channel": 2 * 16, "depthwise": 10 * 16}
    assert parameters(kind, 16) == expected.get(kind, 4 * 16 + 4 + 9 * 16 + 4 + 4 * 16 + 16)
    assert set(sites(made.network)) == set(sites(network))  # blocks are digital
    torch.testing.assert_close(limits(made.network, [images]), limits(network, [images]))
    graph = lower(made, (1, 3, 32, 32))
    with torch.no_grad():
        expected_logits = made(images[:1])
    found = FloatNetwork(graph)(images[:1].permute(0, 2, 3, 1))
    assert isinstance(found, Tensor)
    torch.testing.assert_close(found, expected_logits, atol=1e-4, rtol=1e-4)


def test_noise_meets_the_sums_before_a_block() -> None:
    made = Denoised(RESNET, {"num_classes": 10}, {"stem.conv": "channel"}).eval()
    block = made.blocks["stem.conv"]
    with torch.no_grad():
        block.mix.weight.zero_()  # type: ignore[union-attr, operator]
        x = torch.rand(1, 3, 32, 32)
        clean = made(x)
        only = chip("gauss:0.5", limits(made.network, [x]))
        with only.inside(made.network, "stem.conv"):
            assert torch.equal(made(x), clean)  # a gain of 0 takes it away


def test_regression_finds_the_filter_that_made_a_map() -> None:
    torch.manual_seed(0)
    made, noisy = DepthwiseBlock(2), torch.randn(4, 2, 20, 20)
    true = nn.Conv2d(2, 2, 3, padding=1, groups=2)
    with torch.no_grad():
        clean = true(noisy)
    solved(made, noisy, clean)
    torch.testing.assert_close(made.mix.weight, true.weight, atol=1e-4, rtol=1e-4)
    assert true.bias is not None
    assert made.mix.bias is not None
    torch.testing.assert_close(made.mix.bias, true.bias, atol=1e-4, rtol=1e-4)
    dead = torch.zeros(2, 2, 8, 8)  # a channel that says nothing: stays as it is
    solved(made, dead, dead)
    assert made.mix.weight.isfinite().all()


@pytest.mark.parametrize(("budget", "block"), [(40, "auto"), (600, "auto"), (1942, "bottleneck")])
def test_blocks_stay_within_their_budget(
    budget: int, block: str, network: nn.Module, images: Tensor
) -> None:
    found = limits_of(network, images)
    put = chosen(network, images, parse("gauss:0.05"), found, budget, block)
    widths = {name: s.out_channels for name, s in sites(network).items() if name in put}
    spent = sum(parameters(kind, widths[name]) for name, kind in put.items())
    assert 0 < spent <= budget
    left = budget - spent
    kinds = ["channel", "depthwise"] if block == "auto" else [block]
    others = [
        s.out_channels for n, s in sites(network).items() if n not in put and n != "classifier"
    ]  # type: ignore[union-attr]
    assert all(parameters(kinds[0], int(width)) > left for width in others)
    assert list(put) == [name for name in sites(network) if name in put]


def test_a_budget_too_small_says_what_a_block_takes(network: nn.Module, images: Tensor) -> None:
    found = limits_of(network, images)
    with pytest.raises(MismatchError, match="smallest block has 32"):
        chosen(network, images, parse("gauss:0.05"), found, 31, "auto")


@pytest.mark.parametrize(
    ("learns", "trained"), [("blocks", ["block"]), ("biases", ["bias"]), ("all", [""])]
)
def test_training_touches_what_it_says(learns: Any, trained: list[str], images: Tensor) -> None:
    made = Denoised(RESNET, {"num_classes": 10}, {"stem.conv": "channel"})
    noise = {"kinds": ["gauss"], "sizes": [0.05]}
    form = made.trainable(noise=noise, learns=learns).train()
    assert isinstance(form, NoisyNetwork)
    form(images[:2]).square().sum().backward()
    for name, value in form.denoised.named_parameters():
        moved = value.grad is not None and bool(value.grad.abs().sum() > 0)
        assert moved <= any(word in name for word in trained)
    assert any(value.grad is not None for value in form.parameters())
    form.eval()
    with torch.no_grad():
        torch.testing.assert_close(form(images[:2]), form.deployed()(images[:2]))
    with pytest.raises(ValueError, match="nothing to train"):
        Denoised(RESNET, {"num_classes": 10}, {}).trainable(noise=noise, learns="blocks")


@pytest.mark.parametrize("kind", ["gauss", "factor", "pattern"])
def test_nothing_is_gained_in_training_by_larger_outputs(kind: str) -> None:
    made = Denoised(RESNET, {"num_classes": 10}, {"stem.conv": "channel"})
    form = made.trainable(noise={"kinds": [kind], "sizes": [0.1]}, learns="blocks")
    layer, y = sites(made.network)["stem.conv"], torch.rand(2, 16, 8, 8, requires_grad=True)
    noisy = []
    for times in (1.0, 3.0):
        form.chip.renew()
        torch.manual_seed(0)
        noisy.append(form.chip.perturbed("stem.conv", layer, times * y))
    torch.testing.assert_close(noisy[1], 3 * noisy[0])
    ratio = noisy[0].square().sum() / y.square().sum()  # noise to signal, whatever the scale
    (slope,) = torch.autograd.grad(ratio, y)
    assert float((slope * y).sum().detach()) == pytest.approx(0, abs=1e-4)


def test_a_denoised_checkpoint_loads_runs_and_is_examined(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "denoised"
    made = zoo.compress(
        "mlperf-tiny-ic.cifar10", out, method="denoise", data=pictures, noise="gauss:0.1",
        max_params="2.5%", steps=4, batch_size=4,
    )  # fmt: skip
    facts = made.metrics["compression"]
    assert 0 < facts["added_parameters"] <= 0.025 * facts["parameters"]
    assert facts["added_macs"] > 0
    assert not (out / "run").exists()
    loaded = zoo.load(out)
    assert isinstance(loaded, Denoised)
    assert zoo.evaluate(out, pictures)["images"] == 120
    found = zoo.reliability(out, data=pictures, noise="gauss:0.1", chips=2)
    assert found.estimates["drop"].low <= found.estimates["drop"].value
    again = zoo.compress(
        "mlperf-tiny-ic.cifar10", tmp_path / "again", method="denoise", data=pictures,
        noise="gauss:0.1", steps=4, batch_size=4,
    )  # fmt: skip
    for one, two in zip(made.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, two)
    int8 = zoo.compress(out, tmp_path / "int8", method="int8", data=pictures)
    assert int8.quantization is not None
    with pytest.raises(MismatchError, match="compressed already"):
        zoo.compress(out, tmp_path / "twice", method="denoise", data=pictures)


def test_biases_alone_keep_the_network_what_it_is(pictures: Path, tmp_path: Path) -> None:
    made = zoo.compress(
        "mlperf-tiny-ic.cifar10", tmp_path / "out", method="denoise", data=pictures,
        learns="biases", steps=2, batch_size=4,
    )  # fmt: skip
    before = zoo.checkpoint("mlperf-tiny-ic.cifar10")
    assert isinstance(before, Checkpoint)
    assert made.recipe.model == before.recipe.model
    for name, value in made.state_dict().items():
        assert torch.equal(value, before.state_dict()[name]) == (not name.endswith("bias"))


def test_a_config_names_no_other_network() -> None:
    for network in ("os:path", "zoo.models.mlperf_tiny:itertools", "torch.nn:Linear"):
        with pytest.raises((ValueError, TypeError)):
            Denoised(network, {}, {})
    with pytest.raises(ValueError, match="after a convolution"):
        Denoised(RESNET, {"num_classes": 10}, {"classifier": "channel"})
    with pytest.raises(ValueError, match="after a convolution"):
        Denoised(RESNET, {"num_classes": 10}, {"no.such": "channel"})


@pytest.mark.parametrize(
    ("text", "says"),
    [("gauss", "missing"), ("gauss:-0.1", "0 to 1"), ("gauss:1.5", "0 to 1"), ("gauss:x", "0 to 1"),
     ("gauss:nan", "0 to 1"), ("gauss:0.1,gauss:0.2", "twice")],
)  # fmt: skip
def test_noise_that_cannot_be_is_refused(text: str, says: str) -> None:
    with pytest.raises(MismatchError, match=says):
        parse(text)


def test_unknown_noise_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="gauss"):
        parse("gaus:0.1")


@pytest.mark.parametrize(
    ("options", "says"),
    [({"noise": "gauss:0"}, "none"), ({"max_params": "0"}, "max_params"), ({"steps": -1}, "steps"),
     ({"max_params": "200%"}, "max_params"), ({"max_params": "1.5"}, "max_params"),
     ({"max_params": "some"}, "max_params"), ({"lr": 0.0}, "lr"),
     ({"learns": "all", "steps": 0}, "0 steps")],
)  # fmt: skip
def test_options_that_cannot_be_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(MismatchError, match=says):
        Options(**options)


def test_a_share_of_parameters() -> None:
    assert [share(text, 77_706) for text in ("2.5%", "1500", "100%")] == [1942, 1500, 77_706]


def test_what_denoise_does_not_take(pictures: Path, tmp_path: Path) -> None:
    for ref, says in (
        ("mlperf-tiny-ic.cifar10-int8", "float weights"),
        ("sesr-m3-x2.bsds", "classifiers"),
    ):
        with pytest.raises(MismatchError, match=says):
            zoo.compress(ref, tmp_path / "out", method="denoise", data=pictures)
    with pytest.raises(MismatchError, match="--data"):
        zoo.compress("mlperf-tiny-ic.cifar10", tmp_path / "out", method="denoise")


def test_attacks_and_defences_stand_in_one_table(pictures: Path, tmp_path: Path) -> None:
    found = zoo.reliability(
        "mlperf-tiny-ic.cifar10-int8", data=pictures, samples=30, attack="pgd:eps=4/255,steps=3",
        defend="jpeg:75,wavelet:0.02,sesr-m3-x2.bsds", adaptive=True,
    )  # fmt: skip
    rows = found.tables["pipeline"]
    start = "jpeg:75,wavelet:0.02"
    assert [row["pipeline"] for row in rows] == [
        "none", "jpeg:75", start, f"{start},nearest:2", f"{start},bicubic:2",
        f"{start},sesr-m3-x2.bsds",
    ]  # fmt: skip
    assert rows[0]["grey_box"] == rows[0]["adaptive"]  # nothing to know of
    for row in rows:
        assert all(0 <= float(row[key] or 0) <= 100 for key in ("clean", "grey_box", "adaptive"))
    assert found.estimates["adaptive"].value == pytest.approx(
        float(rows[-1]["adaptive"] or 0), abs=0.01
    )
    assert any("float weights" in note for note in found.notes)
    path = found.save(tmp_path / "strip.png")
    assert path.stat().st_size > 1000
    small = zoo.reliability(
        "mlperf-tiny-ic.cifar10", data=pictures, samples=20, attack="fgsm", shrink=2,
        defend="sesr-m3-x2.bsds",
    )  # fmt: skip
    assert small.facts["pixels"] == [16, 16]


@pytest.mark.parametrize(
    ("ref", "options", "says"),
    [
        ("mlperf-tiny-ic.cifar10", {"attack": "pgd:eps=8"}, "eps=8/255"),
        ("mlperf-tiny-ic.cifar10", {"attack": "fgsm", "shrink": 9}, "1 to 4"),
        ("mlperf-tiny-ic.cifar10", {"attack": "fgsm", "shrink": 3}, "shrunk by 3"),
        (
            "mlperf-tiny-ic.cifar10",
            {"attack": "fgsm", "shrink": 2, "defend": "nearest:4"},
            "4 times",
        ),
        ("mlperf-tiny-ic.cifar10", {"attack": "fgsm", "noise": "gauss:0.1"}, "two analyses"),
        ("mlperf-tiny-ic.cifar10", {"noise": "gauss:0.1", "chips": 1}, "chips"),
        ("sesr-m3-x2.bsds", {"attack": "fgsm"}, "no right and wrong"),
    ],
)
def test_what_cannot_be_examined_is_refused(
    ref: str, options: dict[str, Any], says: str, pictures: Path
) -> None:
    with pytest.raises(MismatchError, match=says):
        zoo.reliability(ref, data=pictures, **options)


def test_sounds_are_not_attacked(tmp_path: Path) -> None:
    data = known("micronet-kws-s.fsdd", tmp_path)
    with pytest.raises(MismatchError, match="pixels"):
        zoo.reliability("micronet-kws-s.fsdd", data=data, attack="fgsm")
    found = zoo.reliability("micronet-kws-s.fsdd-int8", data=data, noise="pattern:0.01", chips=2)
    assert any("float weights" in note for note in found.notes)


def test_intervals_by_hand() -> None:
    """Wilson's for 8 of 10, from Brown, Cai and DasGupta (2001): 0.490 to 0.943."""
    right = torch.tensor([True] * 8 + [False] * 2)
    share_, low, high = wilson(right)
    assert (share_, round(low, 3), round(high, 3)) == (0.8, 0.49, 0.943)
    other = torch.tensor([True] * 6 + [False] * 3 + [True])
    value, low, high = difference(right, other)
    assert value == pytest.approx(0.1)
    wide = 1.959964 * math.sqrt(3 - 1 / 10) / 10  # 2 gained, 1 lost
    assert (low, high) == (pytest.approx(0.1 - wide), pytest.approx(0.1 + wide))
    assert difference(right, right) == (0, 0, 0)
    assert Noise("gauss", 0.1) == parse("gauss:0.1")[0]
