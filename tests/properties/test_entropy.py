"""Huffman codes of bf16 exponents: lossless for any bits, safe for any file."""

import heapq
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.errors import UnsafeFileError
from zoo.quantization import entropy
from zoo.quantization.entropy import CHUNK, LONGEST, code_lengths
from zoo.quantization.kernels import matvec


def numbers(count, seed, spread):
    """Random bits, with exponents concentrated as in weights or not at all."""
    dice = np.random.default_rng(seed)
    bits = dice.integers(0, 1 << 16, count, dtype=np.uint16)
    if spread:
        exponents = np.clip(dice.normal(120, spread, count), 0, 255).astype(np.uint16)
        bits = bits & 0x807F | exponents << 7
    return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)


def same(found, wanted):
    return torch.equal(found.view(torch.int16), wanted.view(torch.int16))


@pytest.mark.parametrize("spread", [0, 0.001, 1.5, 20])
@pytest.mark.parametrize("count", [1, 7, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK + 123, 300 * CHUNK])
def test_every_bit_comes_back_with_and_without_the_kernel(count, spread):
    values = numbers(count, count, spread)
    coded = entropy.encode(values)
    entropy.check(coded, count)
    assert same(entropy.decode(coded, values.shape), values)
    assert same(entropy.decode_numpy(coded).view(torch.bfloat16), values)
    if spread == 1.5 and count > CHUNK:
        assert sum(part.nbytes for part in coded.values()) < 0.72 * values.nbytes


def test_the_kernel_is_there():
    if matvec.library() is None:
        pytest.skip("no C compiler")
    assert hasattr(matvec.library(), "zoo_entropy_decode")


def test_all_65536_numbers_come_back():
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    coded = entropy.encode(every.view(256, 256))
    assert same(entropy.decode(coded, (256, 256)).flatten(), every)


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=40))
@settings(deadline=None)
def test_lengths_are_those_of_the_best_code(counts):
    lengths = code_lengths(counts)
    used = [count for count in counts if count]
    assert [n == 0 for n in lengths] == [c == 0 for c in counts]
    assert all(n <= LONGEST for n in lengths)
    if len(used) < 2:
        return
    assert sum(2.0**-n for n in lengths if n) == 1
    heap, ties = [(c, i, 0) for i, c in enumerate(used)], itertools.count(len(used))
    heapq.heapify(heap)
    cost, depth = 0, 0  # Huffman's own tree, whose cost is the sum of its inner nodes
    while len(heap) > 1:
        (a, _, x), (b, _, y) = heapq.heappop(heap), heapq.heappop(heap)
        cost, depth = cost + a + b, max(depth, x + 1, y + 1)
        heapq.heappush(heap, (a + b, next(ties), max(x, y) + 1))
    ours = sum(c * n for c, n in zip(counts, lengths, strict=True))
    assert ours == cost if depth <= LONGEST else ours >= cost


def test_short_codes_of_steep_counts_are_best_by_trying_all():
    counts, longest = [1, 2, 4, 8, 16], 3
    best = min(
        sum(c * n for c, n in zip(counts, lengths, strict=True))
        for lengths in itertools.product(range(1, longest + 1), repeat=len(counts))
        if sum(2.0**-n for n in lengths) <= 1
    )
    found = code_lengths(counts, longest)
    assert max(found) <= longest
    assert sum(c * n for c, n in zip(counts, found, strict=True)) == best


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_damage_is_refused_or_gives_other_numbers_but_never_more(data):
    values = numbers(9 * CHUNK + 5, 3, 1.5)
    coded = {name: part.clone() for name, part in entropy.encode(values).items()}
    name = data.draw(st.sampled_from(["stream", "starts", "lengths"]))
    place = data.draw(st.integers(0, len(coded[name]) - 1))
    coded[name][place] = data.draw(st.integers(0, 255 if name != "starts" else 2**40))
    try:
        entropy.check(coded, values.numel())
        found = entropy.decode(coded, values.shape)
        assert same(entropy.decode_numpy(coded).view(torch.bfloat16), found)
    except UnsafeFileError:
        return
    assert found.shape == values.shape


def test_parts_of_another_size_are_refused():
    coded = entropy.encode(numbers(100, 0, 1.5))
    for name, change in (
        ("rest", coded["rest"][:-1]),
        ("stream", coded["stream"][:-1]),
        ("starts", coded["starts"][:-1]),
        ("lengths", torch.full((256,), 3, dtype=torch.uint8)),
        ("lengths", coded["lengths"].long()),
        ("lengths", torch.zeros(256, dtype=torch.uint8)),
    ):
        with pytest.raises(UnsafeFileError):
            entropy.check({**coded, name: change}, 100)
