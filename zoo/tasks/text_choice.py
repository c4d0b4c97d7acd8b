"""Text classification by a language model: which of a few words comes next.

Each example is a prompt that ends where the answer's single token would follow; the label whose
token is likeliest is the answer, and training raises its probability among all tokens. Formats of
GLUE files (`train.options.format`): "rte", "sst2", "cola".
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.data.text import PADDING, Texts, draw, fingerprint, one_of, read_tsv
from zoo.data.text import forward as all_logits
from zoo.errors import MismatchError, UnknownNameError
from zoo.registry.recipe import Recipe, Train
from zoo.tasks.contract import Demo, Metric, TaskFacts, Trial, recipe_of, short
from zoo.tasks.text_generation import demo

__all__ = [
    "FACTS",
    "batch",
    "demo",
    "evaluate",
    "forward",
    "loss",
    "training_data",
    "trial",
    "validate",
]

FACTS = TaskFacts(
    name="text-choice",
    pipeline_tag="text-generation",
    sample="example",
    metrics=(Metric(key="accuracy", name="accuracy", hub_type="accuracy"),),
    select_by="accuracy",
    beside=("standard_error",),
    adapter=Train(
        steps=200, batch_size=16, lr=1e-3, warmup_steps=10, clip_norm=1.0, log_every=10,
        eval_every=50, save_every=25, options={"length": 128, "format": "sst2"},
    ),
    demo=Demo(
        kind="text", title="Text", takes="prompt", gives="text",
        packages=("transformers", "gguf"),
    ),
)  # fmt: skip
_BATCH = 16
_GROUP = 8  # steps
_HELD_OUT = 200  # examples of the training file; the dev file is for the final figure
Example = tuple[str, int]


def _rte(row: list[str]) -> Example:
    prompt = f"{row[1]}\nQuestion: {row[2]} True or False?\nAnswer:"
    return prompt, 0 if row[3] == "entailment" else 1


def _sst2(row: list[str]) -> Example:
    return f"Review: {row[0].strip()}\nSentiment:", int(row[1])


def _cola(row: list[str]) -> Example:
    return f"Sentence: {row[3]}\nIs this grammatical? Answer:", int(row[1])


# reader of a row, number of header rows, the labels' words
_FORMATS: dict[str, tuple[Callable[[list[str]], Example], int, tuple[str, ...]]] = {
    "rte": (_rte, 1, (" True", " False")),
    "sst2": (_sst2, 1, (" negative", " positive")),
    "cola": (_cola, 0, (" No", " Yes")),
}


def training_data(recipe: Recipe, source: str, tokenizer: Any = None) -> Texts:
    """Return the examples of `train.tsv` in a folder; every k-th is held out, 200 in all.

    Raises:
        UnknownNameError: `train.options.format` is not known.
        MismatchError: there is no such file, or its rows have another format.

    """
    folder = Path(source).expanduser()
    path = one_of(folder, "train.tsv", "train.tsv.gz")
    examples, choices = _examples(recipe, path, tokenizer)
    stride = max(2, len(examples) // _HELD_OUT)
    held = examples[::stride][:_HELD_OUT]
    train = [example for number, example in enumerate(examples) if number % stride]
    digest = fingerprint(examples, choices)
    facts = {
        "source": f"{folder.name}/{path.name}",
        "examples": len(train),
        "held_out": len(held),
        "sha256": digest,
    }
    return Texts(train, held, digest, facts, choices)


def _examples(
    recipe: Recipe, path: Path, tokenizer: Any
) -> tuple[list[tuple[list[int], int]], list[int]]:
    """Return (token ids, label) per row, of the last `length` tokens; and label tokens."""
    name, length = str(recipe.train.options["format"]), int(recipe.train.options["length"])
    if name not in _FORMATS:
        known = ", ".join(_FORMATS)
        raise UnknownNameError.near("train.options.format", name, _FORMATS, f"known: {known}")
    read, header, words = _FORMATS[name]
    choices = []
    for word in words:
        ids = tokenizer(word, add_special_tokens=False)["input_ids"]
        choices.append(ids[0])
    if len(set(choices)) != len(words):
        raise MismatchError(f"the tokenizer gives {words} the same first token; choose other words")
    try:
        pairs = [read(row) for row in read_tsv(path)[header:]]
    except (IndexError, ValueError) as error:
        raise MismatchError(f"{path} is not of the format {name!r}: {error}") from error
    if len(pairs) < 4:
        raise MismatchError(f"{path} holds {len(pairs)} examples; expected more")
    prompts = tokenizer([text for text, _ in pairs], add_special_tokens=False)["input_ids"]
    return [(ids[-length:], label) for ids, (_, label) in zip(prompts, pairs, strict=True)], choices


def _padded(examples: list[tuple[list[int], int]]) -> Tensor:
    longest = max(len(ids) for ids, _ in examples)
    return torch.tensor([[PADDING] * (longest - len(ids)) + ids for ids, _ in examples])


def batch(data: Texts, recipe: Recipe, step: int, rows: range, total: int) -> tuple[Tensor, Tensor]:
    """Return prompts `(len(rows), T)`, padded on the left, and answers `(len(rows), 1)`."""
    numbers = _dealt(data, total, recipe.train.seed, step)[rows.start : rows.stop]
    chosen = [data.train[number] for number in numbers]
    return _padded(chosen), torch.tensor([[data.choices[label]] for _, label in chosen])


def _dealt(data: Texts, total: int, seed: int, step: int) -> list[int]:
    """Return the row numbers of a step; the rows of `_GROUP` steps are dealt out by length.

    A batch of similar lengths has little padding, which saves two fifths of a step on GLUE. The
    order of the batches is random; everything is a function of (seed, step).
    """
    group, place = divmod(step, _GROUP)
    numbers = draw(total * _GROUP, len(data.train), seed, group).tolist()
    numbers.sort(key=lambda number: (len(data.train[number][0]), number))
    generator = torch.Generator().manual_seed((seed << 20) + group % (1 << 20))
    first = int(torch.randperm(_GROUP, generator=generator)[place]) * total
    return numbers[first : first + total]


def forward(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return the logits `(N, 1, V)` of the next token."""
    return all_logits(model, inputs, last=1)


def loss(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross entropy of the answer's token, in nats."""
    return F.cross_entropy(output.flatten(0, 1), target.flatten())


@torch.no_grad()
def answers(model: nn.Module, data: Texts, rows: list[Any]) -> list[bool]:
    """Say for each row whether the likeliest label is its own."""
    device = next(model.parameters()).device
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))  # little padding
    correct = [False] * len(rows)
    for first in range(0, len(order), _BATCH):
        part = order[first : first + _BATCH]
        logits = forward(model, _padded([rows[i] for i in part]).to(device))[:, -1]
        best = logits[:, data.choices].argmax(-1).tolist()
        for i, label in zip(part, best, strict=True):
            correct[i] = label == rows[i][1]
    return correct


def validate(model: nn.Module, data: Texts, recipe: Recipe) -> dict[str, float]:
    """Return the accuracy on the held-out examples."""
    right = answers(model, data, list(data.held_out))
    return {"accuracy": sum(right) / len(right)}


def evaluate(
    model: nn.Module, recipe: Recipe, data: Path | str, tokenizer: Any = None
) -> dict[str, Any]:
    """Return accuracy with its standard error on `dev.tsv` of a folder, and each answer."""
    path = one_of(Path(data).expanduser(), "dev.tsv", "dev.tsv.gz")
    rows, choices = _examples(recipe, path, tokenizer)
    right = answers(model, Texts([], [], "", {}, choices), rows)
    accuracy = sum(right) / len(right)
    return {
        "examples": len(right),
        "accuracy": accuracy,
        "standard_error": math.sqrt(accuracy * (1 - accuracy) / len(right)),
        "right": right,
        "protocol": f"likeliest first token of {len(choices)} labels, prompts as "
        f"{recipe.train.options['format']}",
    }


def trial(folder: Path, recipe: Recipe | None = None) -> Trial:
    """Write sentences with a label in the format of CoLA, and a tiny language model."""
    from zoo.tasks.text_generation.tiny import SENTENCES, tiny_model

    assert FACTS.adapter is not None
    rows = [["s", str(number % 2), "", text] for number, text in enumerate(SENTENCES * 2)]
    for part in ("train", "dev"):
        table = "".join("\t".join(row) + "\n" for row in rows)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{part}.tsv").write_text(table, encoding="utf-8")
    seen = "".join(prompt for prompt, _ in map(_cola, rows)) + "".join(_FORMATS["cola"][2])
    model, tokenizer = tiny_model(folder / "model", seen)
    own = short(recipe or recipe_of(model, FACTS, FACTS.adapter), length=24, format="cola")
    return Trial(recipe=own, model=model, data=folder, tokenizer=tokenizer)
