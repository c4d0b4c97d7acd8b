"""Operators without division and root: errors, whole numbers against floats, and what they count.

The bounds follow from the algorithm: an index of b bits leaves half a step, and Mitchell's
log2(1 + f) ~ f is 0.086 too low at worst.
"""

import copy
from collections import Counter

import pytest
import torch
from torch import nn

from zoo.errors import MismatchError, UnknownNameError
from zoo.models.approximate import floats, integers, layers, tables
from zoo.models.approximate.counted import CountedInts, leading_one
from zoo.models.approximate.swap import swap_ops
from zoo.registry.catalogue import find
from zoo.registry.checkpoint import build

WIDE = torch.logspace(-6, 6, 100_001, dtype=torch.float64)


@pytest.mark.parametrize("bits", [3, 4, 6])
def test_errors_are_those_of_half_a_step_of_the_table(bits):
    half = 2.0 ** -(bits + 1)
    mitchell = (floats.rsqrt(WIDE, bits, "mitchell") * WIDE.sqrt() - 1).abs().max()
    assert 0.03 < mitchell < 2 ** (half + 0.0861 / 2) - 1 + 1e-9
    assert (floats.rsqrt(WIDE, bits, "mantissa") * WIDE.sqrt() - 1).abs().max() < half / 2 + 1e-4
    assert (floats.reciprocal(WIDE, bits) * WIDE - 1).abs().max() < half


def test_pade_is_exact_about_zero_and_nothing_below_its_range():
    z = torch.linspace(-1, 1, 101, dtype=torch.float64)
    about = (12 + 6 * z + z * z) / (12 - 6 * z + z * z)
    torch.testing.assert_close(about, z.exp(), rtol=0.004, atol=0)
    torch.testing.assert_close(floats.exponential(z, 12), about, rtol=2**-12, atol=0)
    assert float(floats.exponential(torch.tensor([-3.001]), 4)) == 0


@pytest.mark.parametrize("curve", ["gelu", "silu"])
def test_pieces_are_joined_and_meet_the_curve_at_its_ends(curve):
    reach = tables.REACH[curve]
    x = torch.linspace(-2 * reach, 2 * reach, 2**16, dtype=torch.float64)
    worst = [
        float((floats.bent(x, curve, n) - tables.exact(curve, x)).abs().max()) for n in (8, 16, 32)
    ]
    assert worst[0] > 3 * worst[1] > 6 * worst[2]
    assert worst[1] < (0.02 if curve == "gelu" else 0.04)
    ends = torch.tensor([-reach - 1.0, -float(reach), 0.0, reach, reach + 1.0])
    assert floats.bent(ends, curve, 16).tolist() == pytest.approx([0, 0, 0, reach, reach + 1])
    step = x[1] - x[0]
    assert floats.bent(x, curve, 8).diff().abs().max() < 2 * step  # no jumps


def test_whole_numbers_are_the_floats_to_a_bound_on_all_inputs_of_16_bits():
    x = torch.arange(-(2**15), 2**15) / 2.0**12  # [-8, 8)
    for curve, segments in (("gelu", 16), ("gelu", 8), ("silu", 64)):
        fixed = layers.Bent(curve, segments, "fixed")(x)
        assert (fixed - floats.bent(x, curve, segments)).abs().max() < 2 * 2.0**-12
    mixed = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    rows = x[mixed].view(-1, 64)
    for bits in (3, 4, 6):
        fixed = layers.ShiftSoftmax(bits, form="fixed")(rows)
        # Within a place of the table: rounded inputs may fall into the next.
        assert (fixed - floats.softmax(rows, bits)).abs().max() < 2.0**-bits
        norm = nn.LayerNorm(64)
        one, two = (
            layers.Standardized(norm, 1e-6, bits, centred=True, form=form, root="mantissa")(rows)
            for form in ("float", "fixed")
        )
        assert (one - two).abs().max() < 2.0**-bits


@pytest.mark.parametrize("form", ["float", "fixed"])
def test_large_logits_give_one_weight_and_masks_none(form):
    rows = torch.tensor([[0.0, 50.0, -50.0, 1.0], [5.0, float("-inf"), 4.0, -3e38]])
    found = layers.ShiftSoftmax(6, form=form)(rows)
    assert found[0].tolist() == pytest.approx([0, 1, 0, 0], abs=0.01)
    assert found[1, 1] == found[1, 3] == 0
    torch.testing.assert_close(found, rows.softmax(-1), atol=0.04, rtol=0)
    torch.testing.assert_close(found.sum(1), torch.ones(2), atol=0.01, rtol=0)


def test_constant_tokens_are_standardized_to_zero():
    for form in ("float", "fixed"):
        layer = layers.Standardized(
            nn.LayerNorm(8), 1e-6, 4, centred=True, form=form, root="mitchell"
        )
        assert layer(torch.full((2, 8), 3.0)).abs().max() < 2e-3


def test_nothing_divides_and_no_root_is_taken():
    """The very functions that compute take numbers that can do neither."""
    counts: Counter[str] = Counter()
    x = layers.whole(torch.randn(5, 32, generator=torch.Generator().manual_seed(0)))
    counted = CountedInts(x, counts)
    for name, run in {
        "softmax": lambda v: integers.softmax(v, 4),
        "layernorm": lambda v: integers.standardized(v, 4, 1e-6, "mitchell", centred=True),
        "rmsnorm": lambda v: integers.standardized(v, 6, 1e-6, "mantissa", centred=False),
        "gelu": lambda v: integers.bent(v, "gelu", 16),
        "silu": lambda v: integers.bent(v, "silu", 64),
    }.items():
        found = run(counted)
        assert torch.equal(found.value, run(x)), name
    known = {"add", "multiply", "shift", "compare", "select", "leading one", "look up"}
    assert set(counts) == known
    refused = [lambda: counted / 2, lambda: counted // 2, lambda: counted**0.5,
               lambda: counted % 2, lambda: 1 / counted, lambda: torch.sqrt(counted)]  # fmt: skip
    for use in refused:
        with pytest.raises(TypeError):
            use()


def test_operations_are_counted_by_the_element():
    gelu = layers.operations("gelu", 16, 96)
    assert gelu["multiply"] == 96
    assert gelu["table bytes"] == 64
    assert gelu["divide"] == gelu["root"] == 0
    norm, root = layers.operations("layernorm", 4, 48), layers.operations("rmsnorm", 4, 48)
    assert norm["multiply"] - root["multiply"] == 1  # the mean's
    assert layers.operations("softmax", 4, 16)["leading one"] == 17


def test_the_leading_one_of_every_width():
    values = [1, 2, 3, 2**15 - 1, 2**15, 2**40 + 5, 2**62]
    assert leading_one(torch.tensor(values)).tolist() == [v.bit_length() - 1 for v in values]


def test_a_vision_transformer_is_swapped_and_keeps_its_weights():
    torch.manual_seed(0)
    model = build(find("vit-tiny-fashion")).eval()
    x = torch.randn(4, 1, 28, 28)
    exact = model(x)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    small = copy.deepcopy(model)
    ops = {"layernorm": 6, "softmax": 6, "gelu": 64}
    assert swap_ops(small, ops, root="mantissa") == {"layernorm": 9, "softmax": 4, "gelu": 4}
    assert state.keys() == small.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in small.state_dict().items())
    assert 0 < (small(x) - exact).abs().max() < 0.1 * exact.abs().max()
    fixed = copy.deepcopy(model)
    swap_ops(fixed, ops, root="mantissa", form="fixed")
    assert (fixed(x) - small(x)).abs().max() < 0.1 * exact.abs().max()
    small.train()(x).sum().backward()  # gradients pass, as those of the exact functions
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in small.parameters())
    with pytest.raises(MismatchError, match="no layernorm that can be exchanged"):
        swap_ops(small, {"layernorm": 4})


def test_a_language_model_is_swapped_too():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    ids = torch.arange(24).view(2, 12)
    padded = torch.ones_like(ids)
    padded[0, :5] = 0
    with torch.no_grad():
        exact = model(ids, attention_mask=padded).logits
        done = swap_ops(model, {"rmsnorm": 12, "softmax": 12, "silu": 1024}, root="mantissa")
        about = model(ids, attention_mask=padded).logits
        assert done == {"rmsnorm": 5, "softmax": 2, "silu": 2}
        difference = (about - exact)[padded.bool()].abs()
        assert 0 < difference.mean() < 0.1 * exact.std()  # Pade's error remains
        first = model(ids[:1, :6]).logits
        torch.testing.assert_close(model(ids[:1]).logits[:, :6], first, atol=1e-4, rtol=1e-3)
        text = model.generate(ids[:1, :6], max_new_tokens=4, do_sample=False, pad_token_id=0)
        assert text.shape == (1, 10)
    with pytest.raises(MismatchError, match="no softmax that can be exchanged"):
        swap_ops(model, {"softmax": 12})


def test_capped_scores_stay_capped():
    """Gemma 2 bends its scores before the softmax."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=1, head_dim=8,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=1.0,
        attn_logit_softcapping=0.5, final_logit_softcapping=None, attn_implementation="eager",
    )  # fmt: skip
    model, ids = Gemma2ForCausalLM(config).eval(), torch.arange(12)[None]
    with torch.no_grad():
        exact = model(ids).logits
        swap_ops(model, {"softmax": 12})
        about = model(ids).logits
    assert 0 < (about - exact).abs().max() < 0.05 * exact.abs().max()


class Plus(nn.LayerNorm):
    """Not what its name says."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 2


@pytest.mark.parametrize(
    ("ops", "options", "message"),
    [
        ({"layernrm": 4}, {}, "did you mean layernorm"),
        ({"layernorm": 0}, {}, "layernorm is 0; expected bits, 1 to 12"),
        ({"softmax": 4.5}, {}, "softmax is 4.5"),
        ({"gelu": 7}, {}, "even number of straight pieces, 2 to 1024"),
        ({"gelu": 12}, {"form": "fixed"}, "takes a power of two"),
        ({"gelu": 16}, {"form": "fix"}, "form is 'fix'"),
        ({"silu": 16}, {}, "Sequential has no silu"),
        ({"layernorm": 4}, {}, "Sequential has no layernorm"),
    ],
)
def test_what_does_not_fit_is_refused_by_one_line(ops, options, message):
    with pytest.raises((MismatchError, UnknownNameError), match=message):
        swap_ops(nn.Sequential(Plus(8), nn.GELU()), ops, **options)
