"""Other libraries and the zoo through one hub, step by step; a program, like `client_steps`.

What they push, `zoo.pull` reads; what the zoo pushes, their `from_pretrained` loads.
Prints {step: "ok" or the error} as JSON.
"""

import json
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import zoo

WORK = Path(tempfile.mkdtemp())


def same(ours: Any, theirs: Any) -> None:
    assert type(ours) is type(theirs)
    left, right = ours.state_dict(), theirs.state_dict()
    assert set(left) == set(right)
    assert all(torch.equal(left[name], right[name]) for name in left)


def bert() -> Any:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        vocab_size=16, max_position_embeddings=8,
    )  # fmt: skip
    return BertModel(config).eval()


def transformers_theirs() -> None:
    model = bert()
    model.push_to_hub("me/bert")
    same(type(model).from_pretrained(zoo.pull("me/bert")), model)


def transformers_ours() -> None:
    model = bert()
    model.save_pretrained(WORK / "bert")
    zoo.push(WORK / "bert", "me/bert2")
    same(type(model).from_pretrained("me/bert2"), model)


def transformers_shards() -> None:
    model = bert()
    model.save_pretrained(WORK / "shards", max_shard_size="2kB")
    zoo.push(WORK / "shards", "me/shards")
    folder = zoo.pull("me/shards")
    assert isinstance(folder, Path)
    assert len(list(folder.glob("*.safetensors"))) > 1
    same(type(model).from_pretrained(folder), model)
    same(type(model).from_pretrained("me/shards"), model)


def lora() -> Any:
    from peft import LoraConfig, get_peft_model

    made = get_peft_model(bert(), LoraConfig(target_modules=["query"], r=2))
    made.peft_config["default"].base_model_name_or_path = "me/bert2"
    for name, value in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value)
    return made.eval()


def peft_theirs() -> None:
    from peft import PeftModel

    model = lora()
    model.push_to_hub("me/lora")
    same(PeftModel.from_pretrained(bert(), zoo.pull("me/lora")), model)


def peft_ours() -> None:
    from peft import PeftModel

    model = lora()
    model.save_pretrained(WORK / "lora")
    (WORK / "lora" / "README.md").unlink()  # theirs names no base model
    zoo.push(WORK / "lora", "me/lora2")
    same(PeftModel.from_pretrained(bert(), "me/lora2"), model)


def unet() -> Any:
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, norm_num_groups=4,
        block_out_channels=(8, 8), down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip


def diffusers_theirs() -> None:
    model = unet()
    model.push_to_hub("me/unet")
    same(type(model).from_pretrained(zoo.pull("me/unet")), model)


def diffusers_ours() -> None:
    model = unet()
    model.save_pretrained(WORK / "unet")
    zoo.push(WORK / "unet", "me/unet2")
    same(type(model).from_pretrained("me/unet2"), model)


def diffusers_pipeline() -> None:
    """Both ways; its parts lie in folders of their own."""
    from diffusers import DDPMPipeline, DDPMScheduler

    pipeline = DDPMPipeline(unet(), DDPMScheduler(num_train_timesteps=4))
    pipeline.push_to_hub("me/ddpm")
    pulled = zoo.pull("me/ddpm")
    same(DDPMPipeline.from_pretrained(pulled).unet, pipeline.unet)
    pipeline.save_pretrained(WORK / "ddpm")
    zoo.push(WORK / "ddpm", "me/ddpm2")
    again = DDPMPipeline.from_pretrained("me/ddpm2")
    same(again.unet, pipeline.unet)
    assert again.scheduler.config.num_train_timesteps == 4


def tiny() -> Any:
    from huggingface_hub import PyTorchModelHubMixin

    class Tiny(torch.nn.Module, PyTorchModelHubMixin, tags=["edge"], license="mit"):
        def __init__(self, width: int = 3) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(width, 2)

    return Tiny(width=4).eval()


def mixin_theirs() -> None:
    model = tiny()
    model.push_to_hub("me/tiny")
    same(type(model).from_pretrained(zoo.pull("me/tiny"), strict=True), model)


def mixin_ours() -> None:
    model = tiny()
    model.save_pretrained(WORK / "tiny")
    zoo.push(WORK / "tiny", "me/tiny2")
    same(type(model).from_pretrained("me/tiny2", strict=True), model)


def quantized_shards() -> None:
    """A language model that `zoo compress` made, in several files, opened by transformers."""
    from tokenizers import Tokenizer, models
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
    from transformers import PreTrainedTokenizerFast as Fast

    from zoo.quantization.language.job import compress_model

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        vocab_size=256, max_position_embeddings=64, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(WORK / "llama")
    words = Tokenizer(models.BPE(vocab={chr(i): i for i in range(256)}, merges=[]))
    Fast(tokenizer_object=words).save_pretrained(WORK / "llama")
    defaults = compress_model.__kwdefaults__
    assert defaults is not None
    defaults["shard_bytes"] = 40_000
    made = zoo.compress(WORK / "llama", WORK / "q", method="rtn", license="mit")
    zoo.push(made, "me/q")
    pulled = zoo.checkpoint("me/q").path
    assert len(list(pulled.glob("*.safetensors"))) > 1
    card = (pulled / "README.md").read_text()
    assert "| phone-npu-4tops | memory of any size |" in card
    ids = torch.arange(20).reshape(1, 20)
    expected = made.load()(ids).logits
    with torch.no_grad():
        assert torch.equal(
            AutoModelForCausalLM.from_pretrained("me/q").eval()(ids).logits, expected
        )
        assert torch.equal(zoo.load("me/q")(ids).logits, expected)


STEPS: list[Callable[[], None]] = [
    transformers_theirs, transformers_ours, transformers_shards, peft_theirs, peft_ours,
    diffusers_theirs, diffusers_ours, diffusers_pipeline, mixin_theirs, mixin_ours,
    quantized_shards,
]  # fmt: skip


def main() -> None:
    """Run the steps but those that are named."""
    results = {}
    for step in STEPS:
        if step.__name__ in sys.argv[1:]:
            continue
        try:
            step()
            results[step.__name__] = "ok"
        except Exception:
            results[step.__name__] = traceback.format_exc(limit=-4)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
