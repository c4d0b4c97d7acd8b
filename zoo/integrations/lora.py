"""LoRA by peft on packed bases, QLoRA style: codes stay as they are, the low ranks are trained."""

import warnings
from typing import Any

from peft import LoraConfig
from peft.tuners.lora import Linear

from zoo.errors import MismatchError
from zoo.quantization.packed import PackedLinear


class PackedLora(Linear):  # type: ignore[misc]
    """peft's LoRA layer around a `PackedLinear`; it cannot be merged into codes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with warnings.catch_warnings():  # peft finds the sizes, and warns of the class
            warnings.filterwarnings("ignore", "Unsupported layer type", UserWarning)
            super().__init__(*args, **kwargs)

    def merge(self, *_: Any, **__: Any) -> None:
        """Raise: codes cannot take the product of two low ranks.

        Raises:
            MismatchError: always; it says what to do instead.

        """
        raise MismatchError(
            "LoRA cannot be merged into packed weights; take it off with model.unload(), or merge "
            "it into the decoded model: model.dequantize() of the base, then PeftModel and "
            "merge_and_unload()"
        )

    def unmerge(self) -> None:
        """Do nothing: nothing is ever merged."""


def on_packed(config: LoraConfig) -> LoraConfig:
    """Let a LoRA configuration take packed layers as its targets; return it.

    ```python
    from peft import LoraConfig
    from zoo.integrations.lora import on_packed

    config = on_packed(LoraConfig(target_modules=["q_proj", "v_proj"]))  # for get_peft_model
    ```

    For `PeftModel.from_pretrained`, give `config=on_packed(LoraConfig.from_pretrained(folder))`.
    """
    config._register_custom_module({PackedLinear: PackedLora})
    return config
