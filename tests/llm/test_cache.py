"""Keys and values in 8 and 4 bits: what is rounded, how far, and what transformers does with it."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import zoo
from zoo.cli import main
from zoo.errors import MismatchError
from zoo.tasks.text_generation.cache import GROUP, WINDOW, Rounded, RoundedLayer, cache_for
from zoo.tasks.text_generation.perplexity import CHUNK, perplexity

IDS = (torch.arange(256)[None] * 37 + torch.arange(256) ** 2) % 256


def states(tokens: int, batch: int = 2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys whose channels differ in size, and values whose tokens do."""
    dice = torch.Generator().manual_seed(seed)
    keys = torch.randn(batch, 3, tokens, 6, generator=dice) * torch.logspace(-1, 2, 6)
    values = torch.randn(batch, 3, tokens, 6, generator=dice) * (1 + torch.arange(tokens)[:, None])
    return keys, values


@given(
    blocks=st.integers(1, 3), channels=st.integers(1, 9), axis=st.sampled_from([-1, -2]),
    bits=st.sampled_from([4, 8]), size=st.floats(1e-3, 1e3), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_rounding_is_within_half_a_step(
    blocks: int, channels: int, axis: int, bits: int, size: float, seed: int
) -> None:
    dice = torch.Generator().manual_seed(seed)
    x = torch.randn(1, 2, blocks * GROUP, channels, generator=dice) * size
    rounded = Rounded.of(x, bits, axis)
    by_group = x.unflatten(2, (-1, GROUP))
    span = by_group.amax(axis, keepdim=True) - by_group.amin(axis, keepdim=True)
    # Ends and steps are halves: 2^-11 of what they stand for, and steps are not below 6.2e-5.
    room = (
        span / (2**bits - 1) / 2 + by_group.abs().amax(axis, keepdim=True) / 1000 + span / 1000
        + 6.2e-5
    )  # fmt: skip
    off = (rounded.values(torch.float32) - x).abs().unflatten(2, (-1, GROUP))
    assert (off <= room).all()
    assert rounded.codes.numel() * 8 == x.numel() * bits


def test_what_is_constant_stays() -> None:
    x = torch.full((1, 1, GROUP, 4), -3.5)
    for axis in (-1, -2):
        assert torch.equal(Rounded.of(x, 4, axis).values(torch.float32), x)


@pytest.mark.parametrize("bits", [4, 8])
def test_old_tokens_are_rounded_once_and_the_last_not_at_all(bits: int) -> None:
    keys, values = states(3 * GROUP + WINDOW + 5)
    layer, total = RoundedLayer(bits), keys.shape[2]
    first = WINDOW + GROUP - 1
    got = layer.update(keys[:, :, :first], values[:, :, :first])
    assert torch.equal(got[0], keys[:, :, :first])
    assert layer.old is None  # nothing to round yet
    for t in range(first, total):
        got = layer.update(keys[:, :, t : t + 1], values[:, :, t : t + 1])
        assert got[0].shape[2] == layer.get_seq_length() == t + 1
    assert layer.get_mask_sizes(4) == (total + 4, 0)
    old = 3 * GROUP
    wanted = [Rounded.of(keys[:, :, :old], bits, -2), Rounded.of(values[:, :, :old], bits, -1)]
    for found, rounded, exact in zip(got, wanted, (keys, values), strict=True):
        assert torch.equal(found[:, :, :old], rounded.values(torch.float32))
        assert torch.equal(found[:, :, old:], exact[:, :, old:])
    # A step per channel and group of keys, and per token of values; 8 bits are 17 times finer.
    limit = (1 / 15 if bits == 4 else 1 / 255) / 2
    assert 0 < float((got[0] - keys).norm() / keys.norm()) < 6 * limit


def test_it_takes_the_bytes_that_it_says() -> None:
    keys, values = states(4 * GROUP + WINDOW, batch=1)
    sizes = {}
    for bits in (4, 8):
        layer = RoundedLayer(bits)
        assert layer.nbytes == 0
        layer.update(keys, values)
        rows, old = 3 * 6, 4 * GROUP
        codes = 2 * rows * old * bits // 8
        halves = 2 * 2 * (4 * rows + 3 * old)  # scale and low, of keys and of values
        assert layer.nbytes == codes + halves + 4 * 2 * rows * WINDOW
        sizes[bits] = layer.nbytes
    assert sizes[4] < sizes[8] < keys.nbytes + values.nbytes


def test_batches_and_beams_are_chosen_from_rounded_tokens_too() -> None:
    keys, values = states(2 * GROUP + WINDOW + 3)
    usual = RoundedLayer(4)
    before = usual.update(keys, values)[0].shape
    none = keys[:, :, :0], values[:, :, :0]
    whole = usual.update(*none)
    for name, argument, index in [
        ("reorder_cache", torch.tensor([1, 1]), [1, 1]),
        ("batch_select_indices", torch.tensor([1]), [1]),
        ("batch_repeat_interleave", 2, [0, 0, 1, 1]),
    ]:
        layer = RoundedLayer(4)
        layer.update(keys, values)
        getattr(layer, name)(argument)
        batch = len(index)
        got = layer.update(*(x[:1].expand(batch, -1, -1, -1) for x in none))
        for found, wanted in zip(got, whole, strict=True):
            assert torch.equal(found, wanted[index])
    assert before[2] == usual.get_seq_length()
    usual.offload()
    usual.prefetch()
    usual.reset()
    assert usual.get_seq_length() == usual.nbytes == 0
    assert torch.equal(usual.update(keys, values)[0], keys)


@pytest.mark.parametrize("removed", [1, WINDOW + 3, WINDOW + 10, GROUP + WINDOW + 10, 10_000])
def test_cropping_leaves_what_comes_before(removed: int) -> None:
    keys, values = states(2 * GROUP + WINDOW + 3)
    layer = RoundedLayer(8)
    layer.update(keys, values)
    whole = layer.update(keys[:, :, :0], values[:, :, :0])
    layer.crop(-removed)
    left = max(0, keys.shape[2] - removed)
    assert layer.get_seq_length() == left
    got = layer.update(keys[:, :, :1], values[:, :, :1])
    for found, wanted, new in zip(got, whole, (keys, values), strict=True):
        assert torch.equal(found[:, :, :left], wanted[:, :, :left])
        assert torch.equal(found[:, :, left:], new[:, :, :1])


def test_a_model_attends_to_the_rounded_tokens(tiny_model) -> None:
    """Token by token as `generate` calls it, against full attention over what the cache holds."""
    model = tiny_model(2)
    plain = model(IDS).logits.detach()
    for bits, most in ((8, 0.02), (4, 0.3)):
        cache = cache_for(model, bits)
        with torch.no_grad():
            parts = [
                model(IDS[:, t : t + 1], past_key_values=cache, use_cache=True).logits
                for t in range(256)
            ]
        logits = torch.cat(parts, 1)
        exact = WINDOW + GROUP
        torch.testing.assert_close(logits[:, :exact], plain[:, :exact], rtol=1e-4, atol=1e-4)
        far = float((logits - plain).norm() / plain.norm())
        assert 0 < far < most
        assert cache.get_seq_length() == 256


def test_generate_takes_it_with_beams_and_batches(tiny_model) -> None:
    model = tiny_model(2)
    ids = IDS[:, :200].view(2, 100)
    common = {"max_new_tokens": 60, "do_sample": False, "pad_token_id": 0}
    mask = torch.ones_like(ids)
    plain = model.generate(ids, attention_mask=mask, **common)
    cache = cache_for(model, 8)
    found = model.generate(ids, attention_mask=mask, past_key_values=cache, **common)
    assert found.shape == plain.shape
    assert float((found == plain).float().mean()) > 0.9
    assert any(layer.old is not None for layer in cache.layers)
    beams = model.generate(
        ids, attention_mask=mask, past_key_values=cache_for(model, 8), num_beams=3, **common
    )
    assert beams.shape == plain.shape


def test_perplexity_through_a_cache(tiny_model) -> None:
    model = tiny_model(2)
    stream = torch.cat([IDS[0], IDS[0].flip(0)])
    plain = perplexity(model, stream, length=256)
    found = {bits: perplexity(model, stream, length=256, cache_bits=bits) for bits in (4, 8)}
    assert found[8]["perplexity"] == pytest.approx(plain["perplexity"], rel=0.01)
    assert found[8]["protocol"] == plain["protocol"] + ", keys and values in 8 bits"
    assert found[4]["tokens"] == plain["tokens"]
    assert found[4]["cache_bytes"] < found[8]["cache_bytes"] < 2 * 2 * 2 * 16 * 256 * 4
    short = perplexity(model, stream, length=2 * CHUNK + 3, cache_bits=4)  # nothing is rounded yet
    same = perplexity(model, stream, length=2 * CHUNK + 3)
    assert short["perplexity"] == pytest.approx(same["perplexity"], rel=1e-5)


def test_sliding_layers_keep_their_window() -> None:
    import transformers

    config = transformers.Gemma2Config(
        vocab_size=256, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, sliding_window=16,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Gemma2ForCausalLM(config).eval()
    cache = cache_for(model, 8)
    kinds = [isinstance(layer, RoundedLayer) for layer in cache.layers]
    assert kinds == [False, True]
    with torch.no_grad():
        model(IDS[:, :200], past_key_values=cache, use_cache=True)
    assert cache.layers[0].keys.shape[2] < 20
    assert cache.nbytes > cache.layers[1].nbytes > 0


def test_models_without_keys_and_values_are_refused() -> None:
    import transformers

    config = transformers.MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1)
    with pytest.raises(MismatchError, match="mamba"):
        cache_for(transformers.MambaForCausalLM(config), 8)
    t5 = transformers.T5Config(vocab_size=64, d_model=16, d_kv=4, d_ff=16, num_layers=1,
                               num_heads=2)  # fmt: skip
    with pytest.raises(MismatchError, match="no decoder"):
        cache_for(transformers.T5ForConditionalGeneration(t5), 4)


def test_bits_are_4_or_8(tiny_model) -> None:
    with pytest.raises(MismatchError, match="4 or 8"):
        cache_for(tiny_model(1), 3)


def test_the_commands(
    base: Path, text: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["run", str(base), "The quick", "--cache-bits", "4"]) == 0
    data = ["--data", str(text), "--length", "256", "--windows", "1"]
    capsys.readouterr()
    assert main(["evaluate", str(base), *data, "--cache-bits", "8"]) == 0
    out = capsys.readouterr().out
    assert "cache_bytes: " in out
    assert "keys and values in 8 bits" in out
    assert zoo.run(str(base), "The quick", tokens=3, cache_bits=8).tokens == 3
    with pytest.raises(MismatchError, match="cache_bits"):
        zoo.run("sesr-m5-x2", torch.zeros(1, 1, 8, 8), cache_bits=4)
    with pytest.raises(SystemExit):
        main(["run", str(base), "The quick", "--cache-bits", "3"])
