"""What the text tasks share: reading files, blocks of tokens, scores of next tokens."""

import csv
import gzip
import hashlib
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import MismatchError

IGNORED = -100  # the label that the loss ignores, as in transformers
PADDING = -1  # in inputs: no token


@dataclass(frozen=True)
class Texts:
    """Tokenized examples.

    Attributes:
        train: rows that batches are drawn from.
        held_out: rows never trained on; they choose the checkpoint.
        fingerprint: SHA-256 over files and tokens.
        facts: what a card says about the data.
        choices: for a choice task, the token of each label.

    """

    train: Any
    held_out: Any
    fingerprint: str
    facts: dict[str, Any]
    choices: list[int] = field(default_factory=list)


def read_text(path: Path) -> str:
    """Return the text of a file; `.gz` is unpacked."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MismatchError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    except (UnicodeDecodeError, OSError, EOFError) as error:
        raise MismatchError(f"{path} is not UTF-8 text: {error}") from error


def tokenize(folder: Path, text: str) -> Tensor:
    """Return the token ids (n,) of a text, as split by the tokenizer of the model in `folder`."""
    ids: list[int] = tokenizer(folder)(text, verbose=False)["input_ids"]
    return torch.tensor(ids, dtype=torch.int64)


def tokenizer(folder: Path) -> Any:
    """Return the tokenizer in a model's folder; code in the folder is never run."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # what the library tokenizers raises of a file has no class
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise MismatchError(f"{folder} has no tokenizer that can be used: {first}") from error


def read_tsv(path: Path) -> list[list[str]]:
    """Return the rows of a tab-separated file; quotes have no meaning."""
    reader = csv.reader(io.StringIO(read_text(path)), delimiter="\t", quoting=csv.QUOTE_NONE)
    return [row for row in reader if row]


def one_of(folder: Path, *names: str) -> Path:
    """Return the first of these files that exists."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise MismatchError(f"{folder} has none of {', '.join(names)}")


def fingerprint(*parts: Any) -> str:
    """Return the SHA-256 of parts, as text."""
    state = hashlib.sha256()
    for part in parts:
        state.update(f"{part}\0".encode())
    return state.hexdigest()


def draw(total: int, size: int, seed: int, step: int) -> Tensor:
    """Return the row numbers, below `size`, of one optimizer step's `total` samples.

    Each epoch is a new permutation; the result depends only on (seed, step).
    """
    numbers = torch.arange(step * total, (step + 1) * total)
    epochs = numbers // size
    rows = torch.empty_like(numbers)
    for epoch in epochs.unique().tolist():
        generator = torch.Generator().manual_seed((seed << 20) + int(epoch) % (1 << 20))
        order = torch.randperm(size, generator=generator)
        here = epochs == epoch
        rows[here] = order[numbers[here] % size]
    return rows


def forward(model: nn.Module, inputs: Tensor, last: int = 0) -> Tensor:
    """Return logits `(N, T, V)` of token ids `(N, T)`; `PADDING` is on the left.

    `last` asks only for the logits of the last positions, which saves most of a large vocabulary's
    matrix product.
    """
    mask = inputs >= 0
    options: dict[str, Any] = {"logits_to_keep": last} if last else {}
    if not bool(mask.all()):
        options["attention_mask"] = mask.long()
    return model(input_ids=inputs.clamp(min=0), use_cache=False, **options).logits


def next_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross entropy, in nats, of `targets` `(N, T)` under `logits` `(N, T, V)`."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
