"""Any network with linear layers: a vision transformer, and a mixture of experts."""

import copy

import pytest
import torch
from torch import nn
from transformers import ViTConfig, ViTModel

from zoo.errors import MismatchError
from zoo.integrations.bridge import unpack
from zoo.quantization.generic import quantize_model
from zoo.quantization.options import LayerOptions
from zoo.quantization.packed import PackedLinear
from zoo.quantization.plan import QuantizationPlan

OPTIONS = LayerOptions(bits=4, dim=2, group_size=1024, iterations=4)


class Mixture(nn.Module):
    """Two experts; the sign of the first channel chooses, and every token may choose the same."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(channels, channels) for _ in range(2))
        self.last = nn.Linear(channels, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            chosen = (x[:, 0] > 0) == bool(index)
            if chosen.any():
                out[chosen] = expert(x[chosen])
        return self.last(out)


def test_a_vision_transformer():
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        image_size=32,
        patch_size=8,
    )
    model = ViTModel(config, add_pooling_layer=False).eval()
    pictures = torch.rand(8, 3, 32, 32)  # of 17 tokens each: a layer needs 128
    with torch.no_grad():
        before = model(pictures).last_hidden_state
    report = quantize_model(
        model, [{"pixel_values": picture[None]} for picture in pictures], OPTIONS
    )
    assert len(report) == 12
    assert all(facts["relative_error"] < 0.05 and not facts["notes"] for facts in report.values())
    assert not any(type(module) is nn.Linear for module in model.modules())
    with torch.no_grad():
        after = model(pictures).last_hidden_state
    assert 0 < (after - before).norm() / before.norm() < 0.3


def test_experts_that_saw_few_tokens_do_without_statistics(caplog):
    torch.manual_seed(0)
    model = Mixture()
    inputs = torch.randn(300, 16)
    inputs[:, 0] = inputs[:, 0].abs()  # all choose expert 1 ...
    inputs[0, 0] = -1.0  # ... but one
    report = quantize_model(
        model, inputs.split(100), QuantizationPlan(options=OPTIONS, skip=("last",))
    )
    assert list(report) == ["experts.0", "experts.1"]
    assert report["experts.0"]["notes"] == [
        "only 1 calibration tokens came here: H is the identity"
    ]
    assert report["experts.1"]["notes"] == []
    assert "experts.0: only 1 calibration tokens" in caplog.text
    assert type(model.experts[0]) is PackedLinear
    assert type(model.last) is nn.Linear


def test_what_cannot_be_quantized_is_refused():
    with pytest.raises(MismatchError, match=r"no nn\.Linear"):
        quantize_model(nn.Sequential(nn.Conv2d(1, 1, 3)), [], OPTIONS)
    with pytest.raises(MismatchError, match="none were given"):
        quantize_model(Mixture(), [], OPTIONS)
    broken = Mixture()
    broken.experts[1].weight.data[0, 0] = float("inf")
    with pytest.raises(MismatchError, match=r"experts.1.weight holds NaN or infinity"):
        quantize_model(broken, [torch.randn(200, 16)], OPTIONS)


def _unet():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    model = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(16, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        layers_per_block=1,
    )
    return model.eval(), {"sample": torch.rand(1, 1, 8, 8), "timestep": 3}


def _mixin():
    from huggingface_hub import PyTorchModelHubMixin

    class Shared(nn.Module, PyTorchModelHubMixin):
        def __init__(self, width: int = 16):
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, 4))

        def forward(self, x):
            return self.inner(x)

    return Shared().eval(), (torch.randn(300, 16),)


@pytest.mark.parametrize("make", [_unet, _mixin])
def test_a_library_that_could_not_read_codes_does_not_write_them(make, tmp_path):
    model, batch = make()
    skip = () if make is _mixin else ("*conv*",)
    plan = QuantizationPlan(options=LayerOptions(method="rtn", bits=4), skip=skip)
    kept = copy.deepcopy(model)
    quantize_model(model, [batch], plan)
    with pytest.raises(MismatchError, match=r"is packed, .*keep model\.state_dict\(\)") as raised:
        model.save_pretrained(tmp_path / "packed")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "packed").exists()
    quantize_model(kept, [batch], plan)
    kept.load_state_dict(model.state_dict())
    unpack(model)
    model.save_pretrained(tmp_path / "floats")
    again = type(model).from_pretrained(tmp_path / "floats").eval()
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
