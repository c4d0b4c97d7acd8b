"""SmolLM2-135M-Instruct in 2 to 4 bits per weight (GPTVQ, arXiv 2402.15319)."""

from zoo.registry.presets import PRESETS
from zoo.registry.recipe import Compress, Recipe

RECIPES = tuple(
    Recipe(
        name=f"smollm2-135m-{preset}",
        summary=f"SmolLM2-135M-Instruct, {options['dim']}D codebooks, {options['bits']} bits "
        "per weight",
        task="text-generation",
        subtask="text-generation",
        model="transformers:LlamaForCausalLM",
        args={},
        input_shape=(1, 1024),
        preprocessing={"tokenizer": "of the base model"},
        make=Compress(
            base="HuggingFaceTB/SmolLM2-135M-Instruct",
            method=str(options["method"]),
            options={key: value for key, value in options.items() if key != "method"}
            | {"windows": 16, "embeddings": 8},
        ),
        default_tag="wikitext2",
        paper="2402.15319",
    )
    for preset, options in PRESETS.items()
)
