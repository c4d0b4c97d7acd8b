"""EfficientNet-Lite-B0 from timm's tensors: names typed here as timm has them."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import zoo
from zoo.cli import main
from zoo.errors import MismatchError, MissingWeightsError, UnsafeFileError
from zoo.models.ran.efficientnet_lite import EfficientNetLite

STAGES = (1, 2, 2, 3, 3, 4, 1)  # blocks of each; the first stage's has no expansion


def theirs() -> list[tuple[str, str]]:
    """Each convolution of timm's `tf_efficientnet_lite0` with its norm, in order."""
    pairs = [("conv_stem", "bn1")]
    for stage, count in enumerate(STAGES):
        for place in range(count):
            parts = ("conv_dw", "conv_pw") if stage == 0 else ("conv_pw", "conv_dw", "conv_pwl")
            pairs += [
                (f"blocks.{stage}.{place}.{part}", f"blocks.{stage}.{place}.bn{number}")
                for number, part in enumerate(parts, 1)
            ]
    return [*pairs, ("conv_head", "bn2")]


@pytest.fixture(scope="module")
def form() -> EfficientNetLite:
    torch.manual_seed(0)
    made = EfficientNetLite(7).trainable().eval()
    for layer in made.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for value in (layer.weight.data, layer.running_var):
                value.uniform_(0.5, 1.5)  # type: ignore[union-attr]
            for value in (layer.bias.data, layer.running_mean):
                value.normal_(0, 0.1)  # type: ignore[union-attr]
    return made


@pytest.fixture(scope="module")
def state(form: EfficientNetLite) -> dict[str, Tensor]:
    """The form's tensors under timm's names: layer for layer, in the order of their use."""
    parts = (form.stem, form.blocks, form.top)
    layers = [layer for part in parts for layer in part.modules()]
    convs = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    norms = [layer for layer in layers if isinstance(layer, nn.BatchNorm2d)]
    found: dict[str, Tensor] = {}
    for (conv, norm), mine, beside in zip(theirs(), convs, norms, strict=True):
        found |= {f"{conv}.{key}": value.contiguous() for key, value in mine.state_dict().items()}
        found |= {f"{norm}.{key}": value.contiguous() for key, value in beside.state_dict().items()}
    last = form.classifier.state_dict().items()
    return found | {f"classifier.{key}": value.contiguous() for key, value in last}


def test_it_computes_what_the_tensors_say(
    form: EfficientNetLite, state: dict[str, Tensor], tmp_path: Path
) -> None:
    save_file(state, tmp_path / "lite.safetensors")
    made = zoo.import_timm(tmp_path / "lite.safetensors", tmp_path / "made")
    assert made.recipe.preprocessing["labels"] == [f"class {number}" for number in range(7)]
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(zoo.load(made.path)(x), form(x), atol=1e-4, rtol=1e-4)
    assert f"efficientnet-lite-b0.{made.tag}" in (made.path / "README.md").read_text()


@pytest.mark.parametrize("change", ["missing", "more", "shape", "classifier"])
def test_other_tensors_are_told(change: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    other = dict(state)
    match change:
        case "missing":
            del other["blocks.2.1.bn3.weight"]
        case "more":
            other["blocks.2.1.se.conv_reduce.weight"] = torch.zeros(1)
        case "shape":
            other["conv_head.weight"] = torch.zeros(1280, 160, 1, 1)
        case "classifier":
            other = {name: value for name, value in other.items() if "classifier" not in name}
    save_file(other, tmp_path / "lite.safetensors")
    with pytest.raises(MismatchError, match="does not hold the tensors of timm's tf_effic"):
        zoo.import_timm(tmp_path / "lite.safetensors", tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_files_that_cannot_be_meant(
    state: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    junk, good = tmp_path / "junk.safetensors", tmp_path / "good.safetensors"
    junk.write_bytes(b"junk" * 9)
    save_file(state, good)
    for file, out, kind in (
        (tmp_path / "none.safetensors", "made", MissingWeightsError),
        (junk, "made", UnsafeFileError),
        (good, ".", MismatchError),
    ):
        with pytest.raises(kind):
            zoo.import_timm(file, tmp_path / out)
        assert main(["import", str(file), "--out", str(tmp_path / out)]) == 1
        assert capsys.readouterr().err.count("\n") == 1
