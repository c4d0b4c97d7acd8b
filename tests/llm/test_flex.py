"""Which layers take inputs of 8 bits: what rounding them costs, and who keeps 16."""

from pathlib import Path

import pytest
import torch

from zoo.errors import MismatchError
from zoo.quantization.activations import rounded
from zoo.quantization.language import blocks
from zoo.quantization.language.finetune import logits_of
from zoo.quantization.language.flex import choose, losses, output_errors, overrides
from zoo.quantization.options import LayerOptions
from zoo.quantization.plan import QuantizationPlan

IDS = torch.randint(0, 256, (3, 48), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model(tiny_model):
    """A model one of whose layers has inputs with an outlier in every token."""
    model = tiny_model(2)
    gain = model.model.layers[1].post_attention_layernorm.weight
    gain.data[7] = 60.0
    return model


def names_of(model) -> list[str]:
    return [name for name in blocks.linears(model) if name.startswith("model.layers.")]


def test_errors_are_those_of_the_outputs(model) -> None:
    name, seen = "model.layers.1.mlp.up_proj", []
    layer = model.get_submodule(name)
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
    with torch.no_grad():
        for window in IDS:
            logits_of(model, window[None])
        x = torch.cat(seen)
        wanted = (layer(rounded(x, 64, None)) - layer(x)).square().mean(0)
    handle.remove()
    torch.testing.assert_close(
        output_errors(model, {name: 64}, IDS)[name], wanted, rtol=1e-3, atol=0
    )


def test_outliers_keep_16_bits(model) -> None:
    expected = losses(model, dict.fromkeys(names_of(model), 64), IDS)
    assert all(loss > 0 for loss in expected.values())
    behind = {f"model.layers.1.mlp.{name}_proj" for name in ("up", "down")}
    total = sum(model.get_submodule(n).weight.numel() for n in expected)
    share = sum(model.get_submodule(n).weight.numel() for n in behind) / total
    chosen = choose(model, expected, share)
    assert {name for name, kind in chosen.items() if kind == "float"} == behind
    assert set(choose(model, expected, 0).values()) == {"int8"}
    assert set(choose(model, expected, 1).values()) == {"float"}


def test_what_is_expected_ranks_what_is_measured(model) -> None:
    """The divergence with one layer's inputs rounded, for the most and the least sensitive."""
    expected = losses(model, dict.fromkeys(names_of(model), 64), IDS, seed=3)
    ranked = sorted(expected, key=lambda name: expected[name])

    def measured(name: str) -> float:
        with torch.no_grad():
            plain = torch.cat([logits_of(model, w[None])[0] for w in IDS]).log_softmax(1)
            handle = model.get_submodule(name).register_forward_pre_hook(
                lambda _, args: (rounded(args[0], 64, None),)
            )
            found = torch.cat([logits_of(model, w[None])[0] for w in IDS]).log_softmax(1)
            handle.remove()
        return float((plain.exp() * (plain - found)).sum(1).double().mean())

    assert measured(ranked[-1]) > 5 * measured(ranked[0])


def test_a_share_is_a_share(model) -> None:
    with pytest.raises(MismatchError, match="0 to 1"):
        choose(model, {names_of(model)[0]: 1.0}, 1.5)


def test_overrides_keep_what_the_plan_says(base: Path) -> None:
    plan = QuantizationPlan(
        options=LayerOptions(method="rtn", bits=4), skip=("*.q_proj",),
        overrides={"*.1.*": {"group_size": 32}},
    )  # fmt: skip
    found = overrides(base, plan, IDS, 0.05)
    assert len(found) == 18
    assert not any("q_proj" in name for name in found)
    for name, settings in found.items():
        assert settings.get("group_size") == (32 if ".1." in name else None)
    kinds = [settings["activations"] for settings in found.values()]
    assert set(kinds) == {"float", "int8"}
    assert kinds.count("float") < kinds.count("int8")
