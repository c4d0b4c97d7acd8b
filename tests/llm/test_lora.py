"""peft's LoRA on a packed base: it trains, the codes stay, and merging says why not."""

import pytest
import torch
from transformers import AutoModelForCausalLM

peft = pytest.importorskip("peft")

from zoo.errors import MismatchError  # noqa: E402
from zoo.integrations.lora import PackedLora, on_packed  # noqa: E402
from zoo.quantization.language.job import compress_model  # noqa: E402
from zoo.quantization.options import LayerOptions  # noqa: E402
from zoo.quantization.packed import PackedLinear  # noqa: E402
from zoo.quantization.plan import QuantizationPlan  # noqa: E402

# peft 0.21 asks transformers 5.23 by a name that it will drop.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
IDS = torch.arange(40)[None]


@pytest.fixture(scope="module")
def packed(base, tmp_path_factory):
    out = tmp_path_factory.mktemp("lora") / "packed"
    plan = QuantizationPlan(options=LayerOptions(method="rtn", bits=4))
    compress_model(base, out, plan, device="cpu")
    return out


def config():
    return on_packed(peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))


def test_it_trains_saves_loads_and_is_taken_off(packed, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(packed)
    with torch.no_grad():
        before = model(IDS).logits
    codes = {k: v.clone() for k, v in model.state_dict().items() if k.endswith("codes")}
    torch.manual_seed(0)
    tuned = peft.get_peft_model(model, config())
    layers = [m for m in tuned.modules() if isinstance(m, PackedLora)]
    assert len(layers) == 6
    assert all(isinstance(layer.get_base_layer(), PackedLinear) for layer in layers)
    optimizer = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], 1e-2)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = tuned(IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    tuned.eval()
    with torch.no_grad():
        after = tuned(IDS).logits
    tuned.save_pretrained(tmp_path / "adapter")
    with pytest.raises(MismatchError, match="cannot be merged into packed weights"):
        tuned.merge_and_unload()
    plain = tuned.unload()
    with torch.no_grad():
        assert torch.equal(plain(IDS).logits, before)
    state = plain.state_dict()
    assert all(torch.equal(state[name], value) for name, value in codes.items())
    again = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(packed), tmp_path / "adapter", config=config()
    )
    with torch.no_grad():
        torch.testing.assert_close(again(IDS).logits, after)


def test_merged_into_the_decoded_model(packed):
    model = AutoModelForCausalLM.from_pretrained(packed).dequantize()
    tuned = peft.get_peft_model(model, config()).eval()
    for name, value in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.02)
    with torch.no_grad():
        expected = tuned(IDS).logits
        torch.testing.assert_close(
            tuned.merge_and_unload()(IDS).logits, expected, atol=1e-4, rtol=0
        )
