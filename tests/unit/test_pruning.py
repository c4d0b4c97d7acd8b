"""Pruning by magnitude: masks, filters that really go, and what is refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import zoo
from zoo.cards import parts as card_parts
from zoo.cli import main
from zoo.compression import filters, masks
from zoo.compression.methods import magnitude
from zoo.errors import MismatchError
from zoo.files import write_json
from zoo.graph.trace import trace
from zoo.models.forms import training_form
from zoo.models.structured.narrow import narrow, sizes_of
from zoo.models.structured.network import VERSION
from zoo.registry.checkpoint import Checkpoint, build

Options = magnitude.Options
NETWORKS = {  # with residuals, depthwise layers, slopes, a flattened picture, tokens
    "mlperf-tiny-ic": (1, 3, 32, 32),
    "sesr-m3-x2": (1, 1, 24, 24),
    "mlperf-tiny-kws": (1, 1, 49, 10),
    "mlperf-tiny-ad": (1, 640),
    "vit-tiny-fashion": (1, 1, 28, 28),
}


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return build(zoo.find(name))


@pytest.mark.parametrize(("share", "by_layer"), [(0.1, False), (0.5, True), (0.97, False)])
def test_the_largest_weights_stay(share: float, by_layer: bool) -> None:
    torch.manual_seed(0)
    weights = {"a": torch.randn(8, 9), "b": 3 * torch.randn(40)}
    chosen = masks.masks(weights, share, by_layer=by_layer)
    groups = [[name] for name in weights] if by_layer else [list(weights)]
    for names in groups:
        values = torch.cat([weights[name].flatten().abs() for name in names])
        stay = torch.cat([chosen[name].flatten() for name in names])
        assert int(stay.sum()) == round(share * len(values))
        assert values[stay].min() >= values[~stay].max()


def test_equal_weights_are_still_counted() -> None:
    chosen = masks.masks({"a": torch.ones(4, 5)}, 0.25, by_layer=False)
    assert int(chosen["a"].sum()) == 5


def test_most_go_at_first() -> None:
    """Zhu and Gupta's cubic, by hand: 0.1 + 0.9 (1 - k/4)^3."""
    found = masks.stages(0.1, 4)
    assert found == pytest.approx([0.1 + 0.9 * x**3 for x in (0.75, 0.5, 0.25, 0.0)])
    assert masks.stages(0.3, 1) == pytest.approx([0.3])


def cut(name: str, keep: float = 0.5) -> tuple[nn.Module, nn.Module, Any, Any]:
    dense = network(name)
    found = filters.channels(dense, NETWORKS[name])
    chosen = filters.kept(dense, found, keep)
    small, _ = filters.without(dense, found, chosen)
    return dense, small, found, chosen


@pytest.mark.parametrize("name", NETWORKS)
def test_without_filters_it_computes_what_zeros_would(name: str) -> None:
    """The shrunk network is the dense one with the same filters at zero: nothing else changed."""
    dense, small, found, chosen = cut(name)
    x = torch.rand(2, *NETWORKS[name][1:])
    with torch.no_grad():
        for number, one in enumerate(found):
            gone = torch.ones(one.count, dtype=torch.bool)
            gone[chosen[number]] = False
            for layer in (*one.made_by, *one.carried_by):
                dense.get_submodule(layer).get_parameter("weight")[gone] = 0
                if getattr(dense.get_submodule(layer), "bias", None) is not None:
                    dense.get_submodule(layer).get_parameter("bias")[gone] = 0
        torch.testing.assert_close(small(x), dense(x), atol=1e-5, rtol=1e-4)
    before, after = trace(dense, NETWORKS[name]).macs, trace(small, NETWORKS[name]).macs
    assert after < 0.8 * before


@pytest.mark.parametrize("name", ["mlperf-tiny-ic", "mlperf-tiny-kws", "sesr-m3-x2"])
def test_channels_go_together_as_torch_pruning_has_it(name: str) -> None:
    peer = pytest.importorskip("torch_pruning")
    dense = network(name)
    x = torch.rand(2, *NETWORKS[name][1:])
    graph = peer.DependencyGraph().build_dependency(dense, example_inputs=x)
    modules = dict(dense.named_modules())
    names = {module: name for name, module in modules.items()}
    for one in filters.channels(dense, NETWORKS[name]):
        layer = modules[one.made_by[0]]
        how = (
            peer.prune_conv_out_channels
            if isinstance(layer, nn.Conv2d)
            else (peer.prune_linear_out_channels)
        )
        group = graph.get_pruning_group(layer, how, idxs=[0])
        theirs = {names[d.target.module] for d, _ in group if d.target.module in names}
        ours = {*one.made_by, *one.carried_by, *(reader for reader, _ in one.read_by)}
        assert ours == theirs


def test_filters_that_stay_are_a_multiple() -> None:
    dense = network("mlperf-tiny-ic")
    found = filters.channels(dense, NETWORKS["mlperf-tiny-ic"])
    chosen = filters.kept(dense, found, 0.6, 8)
    assert {len(indices) % 8 for indices in chosen.values()} == {0}
    free = filters.kept(dense, found, 0.6)
    assert any(len(indices) % 8 for indices in free.values())
    odd = Odd().eval()
    (one,) = filters.channels(odd, (1, 1, 8, 8))
    with pytest.raises(MismatchError, match="smaller --multiple"):  # 6 filters are no 8
        filters.kept(odd, [one], 0.9, 8)


class Odd(nn.Module):
    """Layers that are called twice, concatenated and reshaped: none of them may shrink."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.twice = nn.Conv2d(4, 4, 3, padding=1)
        self.free = nn.Conv2d(8, 6, 1)
        self.last = nn.Linear(6 * 64, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = torch.cat([self.twice(self.twice(x)), x], 1)
        return self.last(self.free(x).relu().flatten(1))


def test_what_is_not_understood_stays() -> None:
    torch.manual_seed(0)
    odd = Odd().eval()
    (one,) = filters.channels(odd, (1, 1, 8, 8))
    assert one == filters.Channels(6, ["free"], [], [("last", 64)])
    small, sizes = filters.without(odd, [one], filters.kept(odd, [one], 0.5))
    assert sizes == {"free": [3, 8], "last": [3, 192]}
    assert small(torch.rand(2, 1, 8, 8)).shape == (2, 3)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "pictures"
    folder.mkdir()
    dice = np.random.default_rng(0)
    for number in range(24):
        pixels = np.kron(dice.integers(0, 255, (8, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    monkeypatch.setattr(card_parts, "TARGETS", card_parts.TARGETS[:1])  # each takes a second
    recipe = dataclasses.replace(zoo.find("sesr-m3-x2"), input_shape=NETWORKS["sesr-m3-x2"])
    facts = {"source": "nothing", "images": 1, "held_out": [], "sha256": "0"}
    torch.manual_seed(0)
    tensors = build(recipe).state_dict()
    return Checkpoint.write(tmp_path / "base", recipe, tensors, {}, data=facts, license="mit")


def test_a_schedule_ends_with_as_many_zeros(base: Checkpoint, data: Path, tmp_path: Path) -> None:
    made = zoo.compress(
        base.path, tmp_path / "out", method="magnitude", keep=0.3, repair="gradient",
        repair_steps=7, stages=3, data=data,
    )  # fmt: skip
    model, source = zoo.load(made.path), zoo.load(base.path)
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    weights = [model.get_submodule(name).get_parameter("weight") for name in layers]
    left = sum(int(w.count_nonzero()) for w in weights)
    assert left == round(0.3 * sum(w.numel() for w in weights))
    assert any(not torch.equal(a, b) for a, b in zip(
        model.state_dict().values(), source.state_dict().values(), strict=True))  # fmt: skip
    facts = made.metrics["compression"]
    assert facts["numbers"] == facts["base_numbers"]  # stored whole: nothing smaller is claimed
    assert (made.path / "model.safetensors").stat().st_size == (
        (base.path / "model.safetensors").stat().st_size
    )
    assert made.metrics["base"]["bytes"] == 4 * facts["numbers"]
    assert "zeros are stored and computed like others" in (made.path / "README.md").read_text()
    assert facts["repair"]["after"] <= facts["repair"]["before"]


def test_filters_that_went_are_gone_from_the_checkpoint(
    base: Checkpoint, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    typed = ["compress", str(base.path), "--method", "magnitude-filters", "--keep", "0.5"]
    typed += ["--repair", "gradient", "--repair-steps", "4", "--data", str(data)]
    assert main([*typed, "--out", str(out)]) == 0
    made = zoo.checkpoint(out)
    assert made.recipe.name == "sesr-m3-x2-filters-50"
    facts = made.metrics["compression"]
    model = zoo.load(out)
    assert facts["numbers"] == sum(p.numel() for p in model.parameters())
    assert facts["numbers"] < 0.55 * facts["base_numbers"]
    assert facts["macs"] < 0.55 * facts["base_macs"]
    assert f"{facts['macs']:,} of {facts['base_macs']:,} MACs" in capsys.readouterr().out
    assert zoo.estimate(out, "ethos-u55-256", method="roofline").macs == facts["macs"]
    assert training_form(model.module if hasattr(model, "module") else made.load(), {}) is not None
    zoo.export(out, tmp_path / "a.tflite", format="tflite")
    x = torch.rand(1, 1, 24, 24)
    file = zoo.load(tmp_path / "a.tflite")
    ours = model(x).permute(0, 2, 3, 1)
    torch.testing.assert_close(file(x.permute(0, 2, 3, 1)), ours, atol=1e-5, rtol=1e-4)
    ints = zoo.compress(out, tmp_path / "int8", method="int8", data=data)
    assert zoo.load(ints.path)(x).shape == (1, 1, 48, 48)
    with pytest.raises(
        MismatchError, match=r"structure of its own already .*; give the model it was made"
    ):
        zoo.compress(out, tmp_path / "again", method="magnitude", keep=0.5)


def test_a_narrowed_network_trains_as_it_is(base: Checkpoint, tmp_path: Path) -> None:
    made = zoo.compress(base.path, tmp_path / "out", method="magnitude", keep=0.5, structured=True)
    model = made.load()
    assert training_form(model, {"expansion": 8}) is model


def test_sizes_and_tensors_that_disagree_are_refused(base: Checkpoint, tmp_path: Path) -> None:
    made = zoo.compress(base.path, tmp_path / "out", method="magnitude", keep=0.5, structured=True)
    file = made.path / "config.json"
    config = json.loads(file.read_text())
    structure = config["recipe"]["structure"]
    assert structure["version"] == 2

    def load(**changes: Any) -> None:
        recipe = {**config["recipe"], "structure": {**structure, **changes}}
        write_json(file, {**config, "recipe": recipe})
        zoo.load(made.path)

    first = structure["narrowed"]["first"]
    with pytest.raises(MismatchError, match=r"structure and tensors disagree: first.weight is"):
        load(narrowed={**structure["narrowed"], "first": [first[0] - 1, 1]})
    with pytest.raises(MismatchError, match="'first' \\[17, 1\\] channels; it has"):
        load(narrowed={**structure["narrowed"], "first": [17, 1]})
    with pytest.raises(MismatchError, match=r"'nowhere' .* which is not there"):
        load(narrowed={"nowhere": [1, 1]})
    with pytest.raises(MismatchError, match=r"'first' .* which is a Conv2d"):
        load(narrowed={"first": [3]})
    with pytest.raises(MismatchError, match="expected \\[outputs, inputs\\]"):
        load(narrowed={"first": [0, 1]})
    with pytest.raises(
        MismatchError, match=f"has version {VERSION + 1}; this zoo reads 1 to {VERSION} "
    ):
        load(version=VERSION + 1)
    with pytest.raises(MismatchError, match="expected version and forms"):
        load(version=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 0}, "keep is 0; expected a share between 0 and 1"),
        ({"keep": 1.5}, "keep is 1.5; expected a share"),
        ({"stages": 0}, "stages is 0; expected 1 or more"),
        ({"structured": True, "by_layer": True}, "leave by_layer"),
        ({"repair": "gradient", "repair_steps": 3}, "5 stages do not fit in 3 repair_steps"),
        ({"layers": ()}, "layers is empty"),
        ({"multiple": 8}, "multiple is 8; expected 1 or more, of filters: add --structured"),
        ({"multiple": 0, "structured": True}, "multiple is 0; expected 1 or more"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(MismatchError, match=message):
        Options(**options)


def test_what_cannot_be_pruned_is_refused(base: Checkpoint, data: Path, tmp_path: Path) -> None:
    dense = network("sesr-m3-x2")
    with pytest.raises(MismatchError, match="no layer called 'last' has filters that can be"):
        filters.channels(dense, NETWORKS["sesr-m3-x2"], ("last",))
    found = filters.channels(dense, NETWORKS["sesr-m3-x2"])
    with pytest.raises(MismatchError, match="less than what is left with the fewest filters"):
        filters.kept(dense, found, 0.001)
    with pytest.raises(MismatchError, match="no layer is called 'x\\*'; there are first"):
        zoo.compress(base.path, tmp_path / "o", method="magnitude", layers=("x*",))
    with pytest.raises(MismatchError, match="learns from data: add --data"):
        zoo.compress(base.path, tmp_path / "o", method="magnitude", repair="gradient")
    ints = zoo.compress(base.path, tmp_path / "int8", method="int8", data=data)
    with pytest.raises(MismatchError, match="computes in integers"):
        zoo.compress(ints.path, tmp_path / "o", method="magnitude")
    with pytest.raises(MismatchError, match="expected sizes by layers"):
        sizes_of({"narrowed": [1]})
    with pytest.raises(MismatchError, match="which is a ModuleList"):
        narrow(dense, {"body": [1, 1]})
