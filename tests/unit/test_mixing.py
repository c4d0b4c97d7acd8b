"""Pictures mixed in pairs and partly erased."""

import numpy as np
import pytest
import torch

from zoo.data.mixing import mixed
from zoo.errors import MismatchError

TOTAL, LABELS = 400, 5


def samples():
    """Pictures of one value each, their number, so that what is mixed can be read from them."""
    values = torch.arange(TOTAL).float() + 1
    truth = torch.nn.functional.one_hot(torch.arange(TOTAL) % LABELS, LABELS).float()
    return values[:, None, None, None].expand(-1, 3, 12, 10).contiguous(), truth


def dice():
    return np.random.Generator(np.random.Philox(key=[0, 7]))


@pytest.mark.parametrize(
    "options",
    [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0, "erase": 0.25}],
    ids=["mixup", "cutmix", "all"],
)
def test_a_sample_is_the_same_however_rows_are_split(options):
    inputs, truth = samples()
    whole = mixed(inputs, truth, options, dice(), range(TOTAL), TOTAL)
    for rows in (range(2), range(96, 200)):
        part = slice(rows.start, rows.stop)
        for one, all_ in zip(
            mixed(inputs[part], truth[part], options, dice(), rows, TOTAL), whole, strict=True
        ):
            torch.testing.assert_close(one, all_[part], atol=0, rtol=0)


def test_mixup_mixes_pictures_and_labels_alike():
    inputs, truth = samples()
    pictures, labels = mixed(inputs, truth, {"mixup": 0.8}, dice(), range(TOTAL), TOTAL)
    share = labels[::2].gather(1, truth[::2].argmax(1)[:, None])[:, 0]
    expected = share * inputs[::2, 0, 0, 0] + (1 - share) * inputs[1::2, 0, 0, 0]
    torch.testing.assert_close(pictures[::2], expected[:, None, None, None].expand(-1, 3, 12, 10))
    torch.testing.assert_close(labels.sum(1), torch.ones(TOTAL))
    assert 0.45 < share.mean() < 0.55
    assert share.min() < 0.1
    assert share.max() > 0.9


def test_cutmix_cuts_one_part_and_counts_its_pixels():
    inputs, truth = samples()
    pictures, labels = mixed(inputs, truth, {"cutmix": 1.0}, dice(), range(TOTAL), TOTAL)
    own = (pictures == inputs).float().mean((1, 2, 3))
    torch.testing.assert_close(labels.gather(1, truth.argmax(1)[:, None])[:, 0], own)
    assert ((pictures == inputs) | (pictures == inputs[torch.arange(TOTAL) ^ 1])).all()
    assert 0.05 < (own == 1).float().mean() + (own < 0.5).float().mean() < 0.95
    cut = (pictures != inputs)[:, 0]  # a rectangle: as many places as rows times columns
    assert (cut.sum((1, 2)) == cut.any(2).sum(1) * cut.any(1).sum(1)).all()


def test_a_share_of_pictures_is_erased_in_part_and_labels_stay():
    inputs, truth = samples()
    pictures, labels = mixed(inputs, truth, {"erase": 0.25}, dice(), range(TOTAL), TOTAL)
    changed = (pictures != inputs).float().mean((1, 2, 3))
    assert 0.18 < (changed > 0).float().mean() < 0.32
    assert changed.max() < 0.45
    assert labels.equal(truth)
    noise = pictures[pictures != inputs]
    assert abs(noise.mean()) < 0.1
    assert abs(noise.std() - 1) < 0.1


def test_nothing_is_altered_without_options():
    inputs, truth = samples()
    pictures, labels = mixed(inputs, truth, {}, dice(), range(TOTAL), TOTAL)
    assert pictures is inputs
    assert labels is truth


@pytest.mark.parametrize(
    ("options", "rows", "message"),
    [
        ({"mixup": -1}, range(4), "mixup -1"),
        ({"erase": 1.5}, range(4), "erase 1.5"),
        ({"mixup": 0.8, "cutmix": 1.0}, range(3), "batch_size is odd, and mixup and cutmix mix"),
        ({"cutmix": 1.0}, range(1, 3), "batch_size is odd, and cutmix mix"),
    ],
)
def test_refuses_options_and_odd_batches(options, rows, message):
    inputs, truth = samples()
    part = slice(rows.start, rows.stop)
    with pytest.raises(MismatchError, match=message):
        mixed(inputs[part], truth[part], options, dice(), rows, TOTAL)
